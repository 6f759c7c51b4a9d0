#pragma once
// The values of options as people write them. Errors are one sentence that says how to write it.

#include <sys/types.h>
#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>

#include "weir/core/result.hpp"

namespace weir::cli {

/// "4096", "64KiB", "256MiB", "2GiB" (letters of any case).
Result<std::size_t> parse_bytes(std::string_view text);
/// "500ms", "60s", "5m", "1h"; at most a year.
Result<std::chrono::milliseconds> parse_duration(std::string_view text);
/// A whole number from 1 on.
Result<std::size_t> parse_count(std::string_view text);
/// A number, or the name of a user of this system.
Result<uid_t> parse_user(const std::string& text);

}  // namespace weir::cli
