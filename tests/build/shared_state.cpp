// Loads a library that was compiled with hidden visibility and asks it for its view of this process and thread.
#include "shared_state.hpp"

#include <dlfcn.h>
#include <cstdio>

int main(int argc, char** argv) {
  void* const plugin = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : nullptr;
  if (plugin == nullptr) return std::fprintf(stderr, "cannot load the plugin: %s\n", dlerror()), 1;
  const auto current_span = reinterpret_cast<unsigned long (*)()>(dlsym(plugin, "plugin_current_span"));
  const auto fill = reinterpret_cast<void (*)(SharedState&)>(dlsym(plugin, "plugin_shared_state"));
  if (current_span == nullptr || fill == nullptr) return std::fprintf(stderr, "not our plugin: %s\n", dlerror()), 1;

  int failures = 0;
  const SharedState ours = shared_state();
  SharedState theirs{};
  fill(theirs);
  for (std::size_t i = 0; i < std::size(ours.address); ++i) {
    if (ours.address[i] != theirs.address[i]) ++failures, std::fprintf(stderr, "the plugin has its own copy of number %zu\n", i);
  }
  weir::ContextScope scope({weir::TraceId{1, 2}, weir::SpanId{42}});
  if (current_span() != 42) ++failures, std::fputs("the plugin does not see the program's context\n", stderr);
  return failures != 0;
}
