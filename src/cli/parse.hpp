#pragma once
// The values of options as people write them. Errors are one sentence that says how to write it.

#include <sys/types.h>
#include <string>

#include "text/quantity.hpp"
#include "weir/core/result.hpp"

namespace weir::cli {

using detail::parse_bytes;
using detail::parse_count;
using detail::parse_duration;

/// A number from 0 to 1.
Result<double> parse_ratio(const std::string& text);
/// A number, or the name of a user of this system.
Result<uid_t> parse_user(const std::string& text);

}  // namespace weir::cli
