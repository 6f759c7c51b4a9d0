#include "weir/trace/socket_path.hpp"

#include <unistd.h>
#include <cstdlib>

namespace weir::inline v0 {

std::string default_socket_directory() {
  const char* const runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && *runtime == '/') return std::string(runtime) + "/weir";
  return "/tmp/weir-" + std::to_string(::geteuid());
}

std::string default_socket_path() {
  const char* const given = std::getenv("WEIR_SOCKET");
  if (given != nullptr && *given != '\0') return given;
  return default_socket_directory() + "/weir.sock";
}

std::string view_socket_path(std::string_view socket_path) {
  constexpr std::string_view ending = ".sock";
  if (socket_path.ends_with(ending)) socket_path.remove_suffix(ending.size());
  return std::string(socket_path) + "-view.sock";
}

std::string default_view_socket_path() { return view_socket_path(default_socket_path()); }

}  // namespace weir::inline v0
