#pragma once
// TraceId and SpanId as W3C Trace Context defines them: 16 and 8 bytes, written as 32 and 16 lower-case hex digits, all
// zero meaning "none". (Ids that come from elsewhere may have any form; the collector keeps those as text.)

#include <atomic>
#include <compare>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>

#include "weir/core/version.hpp"

namespace weir::inline v0 {

namespace detail {

inline void put_hex(char* out, std::uint64_t value) noexcept {
  for (int i = 15; i >= 0; --i, value >>= 4) out[i] = "0123456789abcdef"[value & 15];
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

/// A seed that no other call in this process, and with overwhelming likelihood in no other process, gets.
inline std::uint64_t random_seed() {
  static std::atomic<std::uint64_t> counter{0};
  std::random_device device;
  std::uint64_t state = (std::uint64_t{device()} << 32 | device()) + counter.fetch_add(0x9E3779B97F4A7C15u, std::memory_order_relaxed);
  return split_mix(state);
}

}  // namespace detail

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
