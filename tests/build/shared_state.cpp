// Loads a library that was compiled with hidden visibility and asks it for its view of this thread.
#include <dlfcn.h>
#include <cstdio>

#include "weir/core/context.hpp"

int main(int argc, char** argv) {
  void* const plugin = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : nullptr;
  if (plugin == nullptr) return std::fprintf(stderr, "cannot load the plugin: %s\n", dlerror()), 1;
  const auto current_span = reinterpret_cast<unsigned long (*)()>(dlsym(plugin, "plugin_current_span"));
  const auto state_address = reinterpret_cast<const void* (*)()>(dlsym(plugin, "plugin_state_address"));
  if (current_span == nullptr || state_address == nullptr) return std::fprintf(stderr, "not our plugin: %s\n", dlerror()), 1;

  weir::ContextScope scope({weir::TraceId{1, 2}, weir::SpanId{42}});
  if (state_address() != &weir::detail::thread_state) return std::fputs("the plugin has a thread state of its own\n", stderr), 1;
  if (current_span() != 42) return std::fputs("the plugin does not see the program's context\n", stderr), 1;
  return 0;
}
