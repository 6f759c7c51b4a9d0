#pragma once
// InstanceId: which installation of a program is speaking, as a UUID (RFC 9562). A telemetry server knows instances by it and
// nothing else, so that it should stay the same over restarts: keep it in a file.
//
//   weir::Result<weir::InstanceId> id = weir::InstanceId::from_file("/var/lib/checkout/instance");

#include <cstdint>
#include <string>
#include <string_view>

#include "weir/core/ids.hpp"
#include "weir/core/result.hpp"

namespace weir::inline v0 {

/// Thread-safety: a value.
class InstanceId {
 public:
  constexpr InstanceId() noexcept = default;  ///< nil: all zero, nobody's

  /// Version 4, from the system's random numbers.
  static InstanceId random() noexcept {
    const std::uint64_t high = detail::random_seed(), low = detail::random_seed();
    return InstanceId((high & ~std::uint64_t{0xf000}) | 0x4000, (low & ~(std::uint64_t{3} << 62)) | std::uint64_t{1} << 63);
  }
  /// "6ba7b810-9dad-11d1-80b4-00c04fd430c8", letters of either case. Anything else is the nil id.
  static InstanceId parse(std::string_view text) noexcept {
    if (text.size() != text_size || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-') return {};
    std::uint64_t halves[2] = {};
    int digits = 0;
    for (const char c : text) {
      if (c == '-') continue;
      const char lower = c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c;
      if (!((lower >= '0' && lower <= '9') || (lower >= 'a' && lower <= 'f')) || digits == 32) return {};
      std::uint64_t& half = halves[digits++ / 16];
      half = half << 4 | static_cast<std::uint64_t>(lower <= '9' ? lower - '0' : lower - 'a' + 10);
    }
    return digits == 32 ? InstanceId(halves[0], halves[1]) : InstanceId();
  }
  /// The id in the first line of a file; the file is made, with a random one, if it is not there. Several processes that
  /// start at once get the same. Error: it cannot be read or written, or holds something else. (weir::weir)
  static Result<InstanceId> from_file(const std::string& path);

  constexpr bool valid() const noexcept { return (high_ | low_) != 0; }
  std::string to_string() const {
    char hex[32];
    detail::put_hex(hex, high_);
    detail::put_hex(hex + 16, low_);
    const std::string_view digits(hex, sizeof hex);
    std::string text;
    text.reserve(text_size);
    text.append(digits.substr(0, 8)).append("-").append(digits.substr(8, 4)).append("-").append(digits.substr(12, 4));
    return text.append("-").append(digits.substr(16, 4)).append("-").append(digits.substr(20));
  }

  friend constexpr auto operator<=>(const InstanceId&, const InstanceId&) = default;

 private:
  static constexpr std::size_t text_size = 36;
  constexpr InstanceId(std::uint64_t high, std::uint64_t low) noexcept : high_(high), low_(low) {}

  std::uint64_t high_ = 0, low_ = 0;
};

}  // namespace weir::inline v0
