#pragma once
// Sizes, durations and counts as people write them, on the command line and in files. Errors are one sentence that says how to
// write it. Free functions; thread-safe.

#include <chrono>
#include <cstddef>
#include <optional>
#include <string_view>

#include "weir/core/result.hpp"

namespace weir::inline v0::detail {

/// "'<text>' <advice>", with std::errc::invalid_argument.
Error wrong_value(std::string_view text, std::string_view advice);
/// The number at the start of `text`, which is cut off it.
std::optional<std::size_t> take_number(std::string_view& text) noexcept;

/// "4096", "64KiB", "256MiB", "2GiB" (letters of any case).
Result<std::size_t> parse_bytes(std::string_view text);
/// "500ms", "60s", "5m", "1h"; at most a year.
Result<std::chrono::milliseconds> parse_duration(std::string_view text);
/// A whole number from 1 on.
Result<std::size_t> parse_count(std::string_view text);

}  // namespace weir::inline v0::detail
