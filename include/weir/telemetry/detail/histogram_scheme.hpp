#pragma once
// Where a value belongs in a histogram: see weir/telemetry/histogram_data.hpp.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

struct HistogramScheme {
  static constexpr int scale = 5, per_octave = 1 << scale;
  static constexpr int min_exponent = -40, max_exponent = 56, octaves = max_exponent - min_exponent;
  static constexpr int first_bucket = min_exponent * per_octave, buckets = octaves * per_octave;

  /// 2^(k/32) - 1 as the mantissa bits of a double, rounded down.
  static constexpr std::array<std::uint64_t, per_octave + 1> bounds{
      0x0000000000000, 0x059b0d3158574, 0x0b5586cf9890f, 0x11301d0125b50, 0x172b83c7d517a,       0x1d4873168b9aa, 0x2387a6e756238,
      0x29e9df51fdee1, 0x306fe0a31b715, 0x371a7373aa9ca, 0x3dea64c123422, 0x44e086061892d,       0x4bfdad5362a27, 0x5342b569d4f81,
      0x5ab07dd485429, 0x6247eb03a5584, 0x6a09e667f3bcc, 0x71f75e8ec5f73, 0x7a11473eb0186,       0x82589994cce12, 0x8ace5422aa0db,
      0x93737b0cdc5e4, 0x9c49182a3f090, 0xa5503b23e255c, 0xae89f995ad3ad, 0xb7f76f2fb5e46,       0xc199bdd85529c, 0xcb720dcef9069,
      0xd5818dcfba487, 0xdfc97337b9b5e, 0xea4afa2a490d9, 0xf50765b6e4540, std::uint64_t{1} << 52};

  /// For the top six bits of a mantissa: how many bounds lie below all mantissas that begin so. No two bounds begin alike.
  static constexpr std::array<std::uint8_t, 64> bounds_below = [] {
    std::array<std::uint8_t, 64> below{};
    for (std::size_t top = 0; top < 64; ++top)
      for (int k = 0; k < per_octave; ++k)
        if (bounds[static_cast<std::size_t>(k)] < top << 46) ++below[top];
    return below;
  }();

  /// 0: at most 2^-40, which is the zero bucket's; else 1 + the bucket, counted from first_bucket. Requires: value >= 0.
  static int position(double value) noexcept {
    const auto bits = std::bit_cast<std::uint64_t>(value);
    const std::uint64_t mantissa = bits & ((std::uint64_t{1} << 52) - 1);
    const int octave = static_cast<int>(bits >> 52 & 0x7ff) - 1023 - min_exponent;  // -0 is 0
    if (static_cast<unsigned>(octave) >= static_cast<unsigned>(octaves)) [[unlikely]]
      return octave < 0 ? 0 : buckets;
    const std::uint8_t below = bounds_below[mantissa >> 46];
    return octave * per_octave + below + (mantissa > bounds[below] ? 1 : 0);
  }
};

}  // namespace weir::inline v0::detail
