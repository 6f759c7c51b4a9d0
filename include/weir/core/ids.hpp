#pragma once
// TraceId and SpanId as W3C Trace Context defines them: 16 and 8 bytes, written as 32 and 16 lower-case hex digits, all
// zero meaning "none". (Ids that come from elsewhere may have any form; the collector keeps those as text.)

#include <sys/random.h>
#include <atomic>
#include <bit>
#include <chrono>
#include <compare>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "weir/core/version.hpp"

namespace weir::inline v0 {

namespace detail {

/// Eight lower-case hex digits as they lie in memory: the value is spread to one nibble per byte, and all become digits at once.
inline std::uint64_t hex_digits(std::uint32_t value) noexcept {
  constexpr std::uint64_t ones = 0x0101010101010101;
  std::uint64_t x = value;
  x = (x << 16 | x) & 0x0000ffff0000ffff;
  x = (x << 8 | x) & 0x00ff00ff00ff00ff;
  x = (x << 4 | x) & 0x0f0f0f0f0f0f0f0f;
  const std::uint64_t letters = (x + 6 * ones) >> 4 & ones;  // 1 where the nibble is above 9
  x += '0' * ones + letters * ('a' - '9' - 1);
  return std::endian::native == std::endian::little ? __builtin_bswap64(x) : x;
}

/// Writes 16 lower-case hex digits.
inline void put_hex(char* out, std::uint64_t value) noexcept {
  const std::uint64_t digits[] = {hex_digits(static_cast<std::uint32_t>(value >> 32)), hex_digits(static_cast<std::uint32_t>(value))};
  std::memcpy(out, digits, sizeof digits);
}

/// Reads exactly 16 lower-case hex digits.
inline bool parse_hex(const char* in, std::uint64_t& value) noexcept {
  value = 0;
  for (int i = 0; i < 16; ++i) {
    const char c = in[i];
    const unsigned digit = c >= '0' && c <= '9' ? unsigned(c - '0') : c >= 'a' && c <= 'f' ? unsigned(c - 'a') + 10 : 16;
    if (digit == 16) return false;
    value = value << 4 | digit;
  }
  return true;
}

inline std::uint64_t split_mix(std::uint64_t& state) noexcept {  // Steele, Lea, Flood 2014
  std::uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

/// A seed that, with overwhelming likelihood, no other call in this or another process gets.
inline std::uint64_t random_seed() noexcept {
  static std::atomic<std::uint64_t> calls{0};
  std::uint64_t state = 0;
  if (::getentropy(&state, sizeof state) != 0) {  // a kernel without it: time and address space layout are what is left
    state = static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()) ^
            reinterpret_cast<std::uintptr_t>(&state) << 20;
  }
  state += calls.fetch_add(0x9E3779B97F4A7C15u, std::memory_order_relaxed);
  return split_mix(state);
}

}  // namespace detail

/// Thread-safety: a value.
struct TraceId {
  std::uint64_t high = 0, low = 0;

  constexpr bool valid() const noexcept { return (high | low) != 0; }
  friend constexpr auto operator<=>(const TraceId&, const TraceId&) = default;
  std::string hex() const {
    std::string text(32, '0');
    detail::put_hex(text.data(), high);
    detail::put_hex(text.data() + 16, low);
    return text;
  }
  /// The id in 32 lower-case hex digits, or the invalid id for anything else.
  static TraceId from_hex(std::string_view text) noexcept {
    TraceId id;
    if (text.size() != 32 || !detail::parse_hex(text.data(), id.high) || !detail::parse_hex(text.data() + 16, id.low)) return {};
    return id;
  }
};

/// Thread-safety: a value.
struct SpanId {
  std::uint64_t value = 0;

  constexpr bool valid() const noexcept { return value != 0; }
  friend constexpr auto operator<=>(const SpanId&, const SpanId&) = default;
  std::string hex() const {
    std::string text(16, '0');
    detail::put_hex(text.data(), value);
    return text;
  }
  static SpanId from_hex(std::string_view text) noexcept {
    SpanId id;
    return text.size() == 16 && detail::parse_hex(text.data(), id.value) ? id : SpanId{};
  }
};

}  // namespace weir::inline v0
