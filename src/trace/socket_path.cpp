#include "weir/trace/socket_path.hpp"

#include <unistd.h>
#include <cstdlib>

#include "net/unix_socket.hpp"
#include "trace/socket_variable.hpp"

namespace weir::inline v0 {

namespace {

/// Empty: not set.
std::string_view given_socket() {
  const char* const given = std::getenv("WEIR_SOCKET");
  return given != nullptr ? given : "";
}

bool is_usable(std::string_view path) { return path.starts_with('/') && path.size() <= net::max_socket_path; }

}  // namespace

std::optional<std::string> detail::socket_variable() {
  const std::string_view given = given_socket();
  return is_usable(given) ? std::optional<std::string>(given) : std::nullopt;
}

std::string detail::socket_variable_complaint() {
  const std::string_view given = given_socket();
  if (given.empty() || is_usable(given)) return {};
  return "WEIR_SOCKET=" + std::string(given) + " is ignored: it takes an absolute path of at most " + std::to_string(net::max_socket_path) +
         " bytes";
}

std::string default_socket_directory() {
  const char* const runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && *runtime == '/') return std::string(runtime) + "/weir";
  return "/tmp/weir-" + std::to_string(::geteuid());
}

std::string default_socket_path() {
  if (auto given = detail::socket_variable()) return *std::move(given);
  return default_socket_directory() + "/weir.sock";
}

std::string view_socket_path(std::string_view socket_path) {
  constexpr std::string_view ending = ".sock";
  if (socket_path.ends_with(ending)) socket_path.remove_suffix(ending.size());
  return std::string(socket_path) + "-view.sock";
}

std::string default_view_socket_path() { return view_socket_path(default_socket_path()); }

}  // namespace weir::inline v0
