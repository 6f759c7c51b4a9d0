#include "weir/trace/socket_path.hpp"

#include <unistd.h>
#include <cstdlib>

namespace weir::inline v0 {

std::string default_socket_path() {
  const char* given = std::getenv("WEIR_SOCKET");
  if (given != nullptr && *given != '\0') return given;
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && *runtime == '/') return std::string(runtime) + "/weir/weir.sock";
  return "/tmp/weir-" + std::to_string(::getuid()) + "/weir.sock";
}

std::string view_socket_path(std::string_view socket_path) {
  const std::size_t slash = socket_path.rfind('/');
  return std::string(socket_path.substr(0, slash == std::string_view::npos ? 0 : slash + 1)) + "weir-view.sock";
}

}  // namespace weir::inline v0
