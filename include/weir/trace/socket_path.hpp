#pragma once
// Where the sockets are when nobody says: services, the collector and the command line look in the same place.
//
//   $WEIR_SOCKET, else $XDG_RUNTIME_DIR/weir/weir.sock, else /tmp/weir-<uid>/weir.sock
//   the view server's: weir-view.sock beside it

#include <string>
#include <string_view>

namespace weir::inline v0 {

/// The collector's socket. Reads the environment at each call.
std::string default_socket_path();
/// The view server's socket that belongs to a collector's.
std::string view_socket_path(std::string_view socket_path);

}  // namespace weir::inline v0
