#pragma once
// HistogramData: how often values of which size were recorded, as payloads hold it. The buckets are those of OpenTelemetry's
// exponential histogram at scale 5: 32 to each power of two, so that a bucket's end is 2.19 % above its beginning.
//
//   bucket i holds  2^(i/32) < value ≤ 2^((i+1)/32)        from 2^-40 (1e-12) to 2^56 (7e16)
//
// A quantile is wrong by no more than 1.1 % of itself. Two histograms add up bucket by bucket, whoever recorded them.
// Source: OpenTelemetry metrics data model, "ExponentialHistogram".

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "weir/telemetry/detail/histogram_scheme.hpp"

namespace weir::inline v0 {

namespace detail {
class HistogramTotals;
}

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
    const auto rank = q > 0 ? static_cast<std::uint64_t>(std::ceil(std::min(q, 1.0) * static_cast<double>(count_))) : 0;  // NaN is 0
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
  friend class detail::HistogramTotals;

  std::uint64_t count_ = 0, zero_count_ = 0;
  double sum_ = 0, min_ = 0, max_ = 0;
  int first_ = 0;
  std::vector<std::uint64_t> counts_;  // without zeros at either end
};

}  // namespace weir::inline v0
