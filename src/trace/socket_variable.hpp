#pragma once
// WEIR_SOCKET: what it says, and what to tell who has set it to something that is no path of a socket. Thread-safety: as getenv.

#include <optional>
#include <string>

namespace weir::inline v0::detail {

/// Nothing: it is not set, empty, or ignored.
std::optional<std::string> socket_variable();
/// Why it is ignored, and what it takes; empty: it is not.
std::string socket_variable_complaint();

}  // namespace weir::inline v0::detail
