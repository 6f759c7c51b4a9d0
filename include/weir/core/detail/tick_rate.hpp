#pragma once
// TickRate: durations out of ticks, for whoever has no thread that keeps a TickCalibration up to date.
//
// The rate is what has gone by since the TickRate was made, on both clocks, and is taken anew whenever that has grown by an
// eighth. So a duration, which cannot be longer, is never wrong by more than reading two clocks at once is: some 0.1 µs.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

#include "weir/core/clock.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: shared: safe.
class TickRate {
 public:
  /// `clock`: nullptr for the machine's own. Must outlive this.
  explicit TickRate(const Clock* clock = nullptr) noexcept : ticker_(clock), base_(read()) {
    due_.store(base_.ticks, std::memory_order_relaxed);
  }

  std::uint64_t now() const noexcept { return ticker_.now(); }
  /// 0 if the clock was set back meanwhile. Requires: neither is older than this.
  double seconds(std::uint64_t begin, std::uint64_t end) noexcept {
    const auto ticks = static_cast<std::int64_t>(end - begin);
    if (ticks <= 0) return 0;
    if (ticker_.source() != Ticker::Source::tsc) return static_cast<double>(ticks) * 1e-9;
    if (end >= due_.load(std::memory_order_relaxed)) [[unlikely]]
      update();
    return static_cast<double>(ticks) * seconds_per_tick_.load(std::memory_order_relaxed);
  }

 private:
  struct Both {
    std::uint64_t ticks = 0;
    std::int64_t steady = 0;  // ns
  };
  static constexpr std::uint64_t max_pause = std::uint64_t{1} << 34;  // ticks: some seconds, to follow a rate that changes

  /// The tightest of a few tries, so that an interruption between the clocks does not count.
  Both read() const noexcept {
    Both best;
    std::uint64_t best_width = UINT64_MAX;
    for (int i = 0; i < 4; ++i) {
      const std::uint64_t before = ticker_.now();
      const std::int64_t steady = std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
      const std::uint64_t width = ticker_.now() - before;
      if (width < best_width) best = {before + width / 2, steady}, best_width = width;
    }
    return best;
  }
  [[gnu::noinline]] void update() noexcept {
    const Both here = read();
    if (here.ticks <= base_.ticks) return;
    const std::uint64_t distance = here.ticks - base_.ticks;
    seconds_per_tick_.store(static_cast<double>(here.steady - base_.steady) / static_cast<double>(distance) * 1e-9,
                            std::memory_order_relaxed);
    due_.store(here.ticks + std::min(distance / 8, max_pause), std::memory_order_relaxed);
  }

  const Ticker ticker_;
  const Both base_;
  std::atomic<double> seconds_per_tick_{0};
  std::atomic<std::uint64_t> due_{0};  // the ticks from which on the rate is taken anew
};

}  // namespace weir::inline v0::detail
