#pragma once
// Where the sockets are when nobody says: services, the collector and the command line look in the same place.
//
//   directory           $XDG_RUNTIME_DIR/weir, else /tmp/weir-<uid>
//   collector's socket  $WEIR_SOCKET, else weir.sock in that directory
//   view socket         beside the collector's: NAME.sock -> NAME-view.sock
//
// A WEIR_SOCKET that is no absolute path of at most 107 bytes is ignored; SocketSender and the command line say so.
// All of them read the environment at each call and create nothing.

#include <string>
#include <string_view>

#include "weir/core/version.hpp"

namespace weir::inline v0 {

std::string default_socket_directory();
std::string default_socket_path();
/// The view server's socket that belongs to a collector's.
std::string view_socket_path(std::string_view socket_path);
/// view_socket_path(default_socket_path()).
std::string default_view_socket_path();

}  // namespace weir::inline v0
