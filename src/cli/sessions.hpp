#pragma once
// Which view server to look at, when nobody says.

#include <string>
#include <vector>

#include "weir/core/result.hpp"

namespace weir::cli {

/// View sockets (*view.sock) in `directory` on which somebody listens, sorted. Removes nothing.
std::vector<std::string> live_sessions(const std::string& directory);

/// What to tell who gives this for a view socket and there is one beside it, as beside a socket for services; empty: nothing.
std::string socket_for_services(const std::string& given);

/// Says so if WEIR_SOCKET is set to something that is ignored.
void hint_at_socket_variable();

/// The session that $WEIR_SOCKET names if it is live, else the only live one, else the one that the user picks (on a
/// terminal). Errors: none (no_such_file_or_directory), or several and nobody to ask; the message says what to do.
/// `can_wait`: the command that asks has --follow.
Result<std::string> find_session(bool can_wait = true);

}  // namespace weir::cli
