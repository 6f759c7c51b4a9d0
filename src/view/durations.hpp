#pragma once
// Durations: how often, how long in total, at most, and a percentile, in bounded memory: for weir/view/analysis.hpp.
//
//   up to 128 of them   as they are: percentiles are exact
//   more                counted in buckets, 64 to each power of two. A percentile is then the middle of its bucket and wrong by
//                       less than 1/128 of itself (0.8 %); below 128 ns exact. 512 bytes for each power of two that occurs, at most 30 KiB

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class Durations {
 public:
  static constexpr std::size_t max_exact = 128;

  /// One below zero counts as zero.
  void add(std::chrono::nanoseconds duration);

  std::uint64_t count() const { return count_; }
  /// Exact; at most what the type holds (292 years).
  std::chrono::nanoseconds total() const { return std::chrono::nanoseconds{static_cast<std::int64_t>(total_)}; }
  std::chrono::nanoseconds max() const { return std::chrono::nanoseconds{static_cast<std::int64_t>(max_)}; }
  /// By nearest rank: the smallest one that at least `percent` of all do not exceed. 0 when there are none.
  std::chrono::nanoseconds percentile(unsigned percent) const;

 private:
  static constexpr unsigned sub_bits = 6;
  using Block = std::array<std::uint64_t, 1u << sub_bits>;
  using Blocks = std::array<std::unique_ptr<Block>, 64 - sub_bits>;

  void count_in_bucket(std::uint64_t value);

  std::uint64_t count_ = 0, total_ = 0, max_ = 0, min_ = ~std::uint64_t{0};
  std::vector<std::uint64_t> exact_;
  std::unique_ptr<Blocks> blocks_;  // null while exact_ has them all
};

}  // namespace weir::inline v0::detail
