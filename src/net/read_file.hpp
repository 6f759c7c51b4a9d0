#pragma once
// Whole files that people write for programs: configurations, policies (private to src).

#include <cstddef>
#include <string>
#include <string_view>

#include "weir/core/result.hpp"

namespace weir::inline v0::net {

/// What the regular file at `path` holds. Errors begin with "cannot read <what> '<path>'": as the system says it, no regular file,
/// larger than `max_bytes`. Never blocks on a FIFO.
Result<std::string> read_file(const std::string& path, std::string_view what, std::size_t max_bytes = 1u << 20);

}  // namespace weir::inline v0::net
