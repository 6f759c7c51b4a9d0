#include "text/quantity.hpp"

#include <array>
#include <charconv>
#include <cstdint>
#include <limits>
#include <string>
#include <system_error>
#include <utility>

#include "text/ascii.hpp"

namespace weir::inline v0::detail {

namespace {

/// `text` as a number times the factor of one of the units.
template <std::size_t N>
std::optional<std::size_t> scaled(std::string_view text, const std::array<std::pair<std::string_view, std::size_t>, N>& units,
                                  std::size_t limit) {
  const std::optional<std::size_t> number = take_number(text);
  if (!number) return std::nullopt;
  const std::string given = lower(text);
  for (const auto& [unit, factor] : units) {
    if (given != unit) continue;
    if (*number > limit / factor) return std::nullopt;
    return *number * factor;
  }
  return std::nullopt;
}

using Units = std::pair<std::string_view, std::size_t>;

}  // namespace

Error wrong_value(std::string_view text, std::string_view advice) {
  return Error{std::make_error_code(std::errc::invalid_argument), "'" + std::string(text) + "' " + std::string(advice)};
}

std::optional<std::size_t> take_number(std::string_view& text) noexcept {
  std::size_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{}) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return number;
}

Result<std::size_t> parse_bytes(std::string_view text) {
  constexpr std::array units{Units{"", 1}, Units{"b", 1}, Units{"kib", 1u << 10}, Units{"mib", 1u << 20}, Units{"gib", 1u << 30}};
  const auto bytes = scaled(text, units, std::numeric_limits<std::size_t>::max());
  if (!bytes || *bytes == 0) return wrong_value(text, "is not a size: write bytes as 4096, 64KiB, 256MiB or 2GiB");
  return *bytes;
}

Result<std::chrono::milliseconds> parse_duration(std::string_view text) {
  constexpr std::array units{Units{"ms", 1}, Units{"s", 1000}, Units{"m", 60'000}, Units{"min", 60'000}, Units{"h", 3'600'000}};
  const auto count = scaled(text, units, 365ull * 24 * 3'600'000);
  if (!count) return wrong_value(text, "is not a duration: write it as 500ms, 60s, 5m or 1h");
  return std::chrono::milliseconds{static_cast<std::int64_t>(*count)};
}

Result<std::size_t> parse_count(std::string_view text) {
  std::string_view rest = text;
  const auto number = take_number(rest);
  if (!number || *number == 0 || !rest.empty()) return wrong_value(text, "is not a number from 1 on");
  return *number;
}

}  // namespace weir::inline v0::detail
