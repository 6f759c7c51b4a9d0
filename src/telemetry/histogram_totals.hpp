#pragma once
// HistogramTotals: what the shards of all threads have of a histogram, which a payload compares with what the ones before had.
//
//   Histogram::record ─▶ a shard per thread ─▶ totals ─▶ less what was taken ─▶ HistogramData

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "weir/telemetry/detail/cells.hpp"
#include "weir/telemetry/histogram_data.hpp"

namespace weir::inline v0::detail {

/// Adds to a shard what a payload had. Returns how many values there was no memory for. Requires: nobody else writes to the shard.
inline std::uint64_t add_to_shard(HistogramShard& shard, const HistogramData& data, std::uint64_t now) noexcept {
  constexpr auto width = static_cast<std::size_t>(HistogramScheme::per_octave);
  if (data.count() == 0) return 0;
  const auto first = static_cast<std::size_t>(data.first_bucket() - HistogramScheme::first_bucket);
  std::uint64_t lost = 0;
  HistogramShard::Row* last = nullptr;
  for (std::size_t i = 0; i < data.counts().size(); ++i) {
    if (data.counts()[i] == 0) continue;
    last = shard.row((first + i) / width);
    if (last != nullptr)
      add_alone(last->counts[(first + i) % width], static_cast<std::int64_t>(data.counts()[i]));
    else
      lost += data.counts()[i];
  }
  add_alone(shard.zeros, static_cast<std::int64_t>(data.zero_count()));
  // Most of a sum is of the largest values.
  add_alone(last != nullptr && data.max() <= HistogramShard::end ? last->sum : shard.outside_sum,
            std::min(data.sum(), HistogramShard::largest_in_sum));
  shard.extremes[now & 1].note(data.min(), now);
  shard.extremes[now & 1].note(data.max(), now);
  return lost;
}

/// Moves what one shard has into another. Needs no memory. Requires: nobody else writes to them.
inline void move_shard(HistogramShard& from, HistogramShard& to) noexcept {
  from.for_each_row([&](std::size_t octave, HistogramShard::Row& row) {
    HistogramShard::Row* const into = to.rows[octave].load(std::memory_order_relaxed);
    if (into == nullptr) {
      to.rows[octave].store(from.rows[octave].exchange(nullptr, std::memory_order_relaxed), std::memory_order_release);
      return;
    }
    for (std::size_t i = 0; i < row.counts.size(); ++i) add_alone(into->counts[i], row.counts[i].load(std::memory_order_relaxed));
    add_alone(into->sum, row.sum.load(std::memory_order_relaxed));
  });
  add_alone(to.zeros, from.zeros.load(std::memory_order_relaxed));
  add_alone(to.outside_sum, from.outside_sum.load(std::memory_order_relaxed));
  for (std::size_t i = 0; i < 2; ++i) {
    const HistogramShard::Extremes& extremes = from.extremes[i];
    const std::uint64_t cycle = extremes.cycle.load(std::memory_order_relaxed);
    if (cycle == 0 || cycle < to.extremes[i].cycle.load(std::memory_order_relaxed)) continue;
    to.extremes[i].note(extremes.min.load(std::memory_order_relaxed), cycle);
    to.extremes[i].note(extremes.max.load(std::memory_order_relaxed), cycle);
  }
}

/// Allocates nothing.
inline void clear_shard(HistogramShard& shard) noexcept {
  shard.for_each_row([](std::size_t, HistogramShard::Row& row) {
    for (Cell& cell : row.counts) cell.store(0, std::memory_order_relaxed);
    row.sum.store(0, std::memory_order_relaxed);
  });
  shard.zeros.store(0, std::memory_order_relaxed);
  shard.outside_sum.store(0, std::memory_order_relaxed);
  for (HistogramShard::Extremes& each : shard.extremes) each.cycle.store(0, std::memory_order_relaxed);
}

/// What payloads have had of a histogram.
struct HistogramTaken {
  int first = 0;                     // octave
  std::vector<std::int64_t> counts;  // whole octaves
  std::vector<double> sums;          // of each octave
  std::int64_t zeros = 0;
  double outside_sum = 0;

  void clear() noexcept {
    std::fill(counts.begin(), counts.end(), 0);
    std::fill(sums.begin(), sums.end(), 0.0);
    zeros = 0;
    outside_sum = 0;
  }
};

/// What the shards of a histogram have together. Large: one for all histograms of a payload.
class HistogramTotals {
 public:
  /// Begins with another histogram, of which payloads have had `taken`.
  void begin(const HistogramTaken& taken, std::uint64_t cycle) noexcept {
    for (int octave = first_; octave < end_; ++octave) {
      sums_[index(octave)] = 0;
      std::fill_n(&counts_[index(octave * width)], width, 0);
    }
    first_ = taken.first;
    end_ = taken.first + static_cast<int>(taken.sums.size());
    cycle_ = cycle;
    zeros_ = 0;
    outside_sum_ = 0;
    noted_ = false;
  }
  void add(HistogramShard& shard) noexcept {
    shard.for_each_row([&](std::size_t at, HistogramShard::Row& row) {
      const auto octave = static_cast<int>(at);
      if (first_ == end_) first_ = end_ = octave;
      first_ = std::min(first_, octave);
      end_ = std::max(end_, octave + 1);
      for (int i = 0; i < width; ++i) counts_[index(octave * width + i)] += row.counts[index(i)].load(std::memory_order_relaxed);
      sums_[at] += row.sum.load(std::memory_order_relaxed);
    });
    zeros_ += shard.zeros.load(std::memory_order_relaxed);
    outside_sum_ += shard.outside_sum.load(std::memory_order_relaxed);
    const HistogramShard::Extremes& extremes = shard.extremes[cycle_ & 1];
    if (extremes.cycle.load(std::memory_order_acquire) != cycle_) return;
    const double least = extremes.min.load(std::memory_order_relaxed), most = extremes.max.load(std::memory_order_relaxed);
    min_ = noted_ ? std::min(min_, least) : least;
    max_ = noted_ ? std::max(max_, most) : most;
    noted_ = true;
  }
  /// Whether there is more than what was taken. A sum without its count waits for it.
  bool more_than(const HistogramTaken& taken) const noexcept {
    if (zeros_ != taken.zeros) return true;
    for (int i = first_ * width; i < end_ * width; ++i)
      if (counts_[index(i)] != count(taken, i)) return true;
    return false;
  }
  /// What there is more.
  HistogramData less(const HistogramTaken& taken) const {
    HistogramData data;
    int begin = first_ * width, end = end_ * width;
    const auto added = [&](int i) { return static_cast<std::uint64_t>(counts_[index(i)] - count(taken, i)); };
    while (begin < end && added(begin) == 0) ++begin;
    while (end > begin && added(end - 1) == 0) --end;
    data.counts_.reserve(index(end - begin));
    data.count_ = data.zero_count_ = static_cast<std::uint64_t>(zeros_ - taken.zeros);
    data.first_ = begin < end ? HistogramScheme::first_bucket + begin : 0;
    for (int i = begin; i < end; ++i) {
      data.counts_.push_back(added(i));
      data.count_ += added(i);
    }
    data.sum_ = outside_sum_ - taken.outside_sum;
    for (int octave = first_; octave < end_; ++octave) {
      const int at = octave - taken.first;
      const bool known = at >= 0 && at < static_cast<int>(taken.sums.size());
      data.sum_ += sums_[index(octave)] - (known ? taken.sums[index(at)] : 0);
    }
    bound(data);
    return data;
  }
  HistogramTaken taken() const {
    HistogramTaken all;
    all.first = first_;
    all.counts.assign(counts_.begin() + first_ * width, counts_.begin() + end_ * width);
    all.sums.assign(sums_.begin() + first_, sums_.begin() + end_);
    all.zeros = zeros_;
    all.outside_sum = outside_sum_;
    return all;
  }

 private:
  static constexpr int width = HistogramScheme::per_octave;
  static constexpr std::size_t index(int i) noexcept { return static_cast<std::size_t>(i); }
  static std::int64_t count(const HistogramTaken& taken, int i) noexcept {
    const int at = i - taken.first * width;
    return at >= 0 && at < static_cast<int>(taken.counts.size()) ? taken.counts[index(at)] : 0;
  }
  /// Sets the extremes, within the buckets: a value that was recorded in this moment may be in the one and not in the other.
  void bound(HistogramData& data) const noexcept {
    const double zero_end = std::exp2(HistogramScheme::min_exponent);
    const auto upper = [](int bucket) {
      return bucket == HistogramScheme::first_bucket + HistogramScheme::buckets - 1 ? std::numeric_limits<double>::max()
                                                                                    : HistogramData::upper(bucket);
    };
    const bool buckets = !data.counts_.empty();
    const int first = data.first_, last = first + static_cast<int>(data.counts_.size()) - 1;
    const double min_low = data.zero_count_ != 0 ? 0 : data.lower(first), min_high = data.zero_count_ != 0 ? zero_end : upper(first);
    const double max_low = buckets ? data.lower(last) : 0, max_high = buckets ? upper(last) : zero_end;
    data.min_ = std::clamp(noted_ ? min_ : min_low, min_low, min_high);
    data.max_ = std::clamp(noted_ ? max_ : max_low, max_low, max_high);
  }

  std::array<std::int64_t, HistogramScheme::buckets> counts_{};
  std::array<double, HistogramScheme::octaves> sums_{};
  int first_ = 0, end_ = 0;  // the octaves that were used
  std::uint64_t cycle_ = 0;
  std::int64_t zeros_ = 0;
  double outside_sum_ = 0;
  double min_ = 0, max_ = 0;
  bool noted_ = false;
};

}  // namespace weir::inline v0::detail
