#pragma once
// HistogramData: how often values of which size were recorded, as payloads hold it. The buckets are those of OpenTelemetry's
// exponential histogram at scale 5: 32 to each power of two, so that a bucket's end is 2.19 % above its beginning.
//
//   bucket i holds  2^(i/32) < value ≤ 2^((i+1)/32)        from 2^-40 (1e-12) to 2^56 (7e16)
//
// A quantile is wrong by no more than 1.1 % of itself. Two histograms add up bucket by bucket, whoever recorded them.
// Source: OpenTelemetry metrics data model, "ExponentialHistogram".

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "weir/core/version.hpp"

namespace weir::inline v0 {

namespace detail {

struct HistogramAccess;

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

}  // namespace detail

/// Thread-safety: a value.
class HistogramData {
 public:
  static constexpr int scale = detail::HistogramScheme::scale;  ///< of OpenTelemetry

  std::uint64_t count() const noexcept { return count_; }
  double sum() const noexcept { return sum_; }
  /// Of what was recorded, exactly, or to the bucket where a value was recorded in the very moment of the payload. 0 if nothing was.
  double min() const noexcept { return min_; }
  double max() const noexcept { return max_; }
  /// The value below which the part `q` (0 to 1) of all values is. 0 if nothing was recorded.
  double quantile(double q) const noexcept {
    if (count_ == 0) return 0;
    const auto rank = static_cast<std::uint64_t>(std::ceil(std::clamp(q, 0.0, 1.0) * static_cast<double>(count_)));
    std::uint64_t seen = zero_count_;
    if (rank <= seen) return min_;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (rank <= seen) {
        const int bucket = first_ + static_cast<int>(i);
        return std::clamp(std::sqrt(lower(bucket) * upper(bucket)), min_, max_);
      }
    }
    return max_;
  }

  /// Values of at most 2^-40.
  std::uint64_t zero_count() const noexcept { return zero_count_; }
  /// How often each bucket was hit, from bucket first_bucket() on.
  std::span<const std::uint64_t> counts() const noexcept { return counts_; }
  int first_bucket() const noexcept { return first_; }
  /// Between which values a bucket lies.
  static double lower(int bucket) noexcept { return std::exp2(static_cast<double>(bucket) / detail::HistogramScheme::per_octave); }
  static double upper(int bucket) noexcept { return lower(bucket + 1); }

  /// Adds what another recorded.
  HistogramData& operator+=(const HistogramData& other) {
    if (other.count_ == 0) return *this;
    min_ = count_ == 0 ? other.min_ : std::min(min_, other.min_);
    max_ = count_ == 0 ? other.max_ : std::max(max_, other.max_);
    count_ += other.count_;
    zero_count_ += other.zero_count_;
    sum_ += other.sum_;
    if (other.counts_.empty()) return *this;
    if (counts_.empty()) first_ = other.first_;
    const int first = std::min(first_, other.first_);
    const int end = std::max(first_ + static_cast<int>(counts_.size()), other.first_ + static_cast<int>(other.counts_.size()));
    counts_.insert(counts_.begin(), static_cast<std::size_t>(first_ - first), 0);
    counts_.resize(static_cast<std::size_t>(end - first));
    first_ = first;
    for (std::size_t i = 0; i < other.counts_.size(); ++i) counts_[static_cast<std::size_t>(other.first_ - first) + i] += other.counts_[i];
    return *this;
  }

  friend bool operator==(const HistogramData&, const HistogramData&) = default;

 private:
  friend struct detail::HistogramAccess;

  std::uint64_t count_ = 0, zero_count_ = 0;
  double sum_ = 0, min_ = 0, max_ = 0;
  int first_ = 0;
  std::vector<std::uint64_t> counts_;  // without zeros at either end
};

}  // namespace weir::inline v0
