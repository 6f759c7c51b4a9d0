#pragma once
// Clock and ticks. Spans are stamped in ticks, the cheapest clock of the machine; whoever reads them turns ticks into wall
// time with a TickCalibration.
//
//   ticks ─ the time stamp counter, where the kernel itself keeps time with it (8 ns)
//         ─ else nanoseconds of the steady clock (20 ns)
//         ─ or a Clock of the test's own, whose ticks are wall-clock nanoseconds
//
//   wall = anchor.wall + (ticks - anchor.ticks) * nanoseconds per tick      re-anchored about once a second

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <thread>

#include "weir/core/version.hpp"

namespace weir::inline v0 {

/// Wall-clock time (Unix epoch, UTC) in nanoseconds.
using Timestamp = std::chrono::time_point<std::chrono::system_clock, std::chrono::nanoseconds>;

/// The time, as a seam for tests. Thread-safety: shared: safe. Must not throw.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual Timestamp now() const noexcept = 0;
};

/// Stands still until it is told otherwise. Thread-safety: shared: safe.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(Timestamp start = Timestamp{}) noexcept : nanos_(start.time_since_epoch().count()) {}
  Timestamp now() const noexcept override { return Timestamp{std::chrono::nanoseconds{nanos_.load(std::memory_order_relaxed)}}; }
  void set(Timestamp time) noexcept { nanos_.store(time.time_since_epoch().count(), std::memory_order_relaxed); }
  void advance(std::chrono::nanoseconds by) noexcept { nanos_.fetch_add(by.count(), std::memory_order_relaxed); }

 private:
  std::atomic<std::int64_t> nanos_;
};

namespace detail {

inline std::uint64_t read_tsc() noexcept {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#else
  return 0;
#endif
}

/// True when the kernel uses the time stamp counter as its clock: then it is synchronized, constant and never stops.
inline bool tsc_trusted() noexcept {
#if defined(__x86_64__) && defined(__linux__)
  static const bool trusted = [] {
    std::FILE* file = std::fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");
    if (file == nullptr) return false;
    char name[16] = {};
    const std::size_t size = std::fread(name, 1, sizeof name - 1, file);
    std::fclose(file);
    return size >= 3 && std::strncmp(name, "tsc\n", 4) == 0;
  }();
  return trusted;
#else
  return false;
#endif
}

/// Reads ticks from one source. Two Tickers made with the same argument in one process give comparable ticks.
/// Thread-safety: a value.
class Ticker {
 public:
  enum class Source : std::uint8_t { tsc, steady, clock };

  /// `clock`: nullptr for the machine's own.
  explicit Ticker(const Clock* clock = nullptr) noexcept
      : source_(clock != nullptr ? Source::clock
                : tsc_trusted()  ? Source::tsc
                                 : Source::steady),
        clock_(clock) {}
  /// `source`: not Source::clock.
  constexpr explicit Ticker(Source source) noexcept : source_(source), clock_(nullptr) {}

  [[gnu::always_inline]] std::uint64_t now() const noexcept {
    if (source_ == Source::tsc) [[likely]]
      return read_tsc();
    return now_slowly();
  }
  Source source() const noexcept { return source_; }

 private:
  [[gnu::noinline]] std::uint64_t now_slowly() const noexcept {
    if (source_ == Source::clock) return static_cast<std::uint64_t>(clock_->now().time_since_epoch().count());
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count());
  }

  Source source_;
  const Clock* clock_;
};

/// What turns the ticks of a process into wall time, here or in another one.
struct TickScale {
  std::uint64_t ticks = 0;    // at this point
  std::int64_t wall = 0;      // it was this time: ns since the Unix epoch
  double nanos_per_tick = 1;  // 1: exactly

  /// Times that int64 nanoseconds cannot hold become the nearest that they can.
  Timestamp to_time(std::uint64_t at) const noexcept {
    auto nanos = static_cast<std::int64_t>(at - ticks);  // either sign
    if (nanos_per_tick != 1) {
      const double exact = static_cast<double>(nanos) * nanos_per_tick;
      constexpr double limit = 9.2e18;
      nanos = static_cast<std::int64_t>(exact < -limit ? -limit : exact > limit ? limit : exact);
    }
    std::int64_t sum = 0;
    if (__builtin_add_overflow(wall, nanos, &sum)) sum = nanos < 0 ? INT64_MIN : INT64_MAX;
    return Timestamp{std::chrono::nanoseconds{sum}};
  }
};

/// Turns ticks into wall time. A step of the wall clock is followed at the next update; spans already converted keep their
/// times. Thread-safety: Distinct objects: safe. Shared: unsafe but for to_time().
class TickCalibration {
 public:
  explicit TickCalibration(Ticker ticker) noexcept : ticker_(ticker), base_(take_anchor()), anchor_(base_) {}

  /// Takes a new anchor if the last one is old: often in the first second, once a second from then on. The first update
  /// within a millisecond of the construction waits for the rest of it, because a rate needs a distance.
  void update() noexcept {
    if (ticker_.source() == Ticker::Source::clock) return;
    Anchor next = take_anchor();
    if (next.steady - base_.steady < min_baseline && next.steady - anchor_.steady < min_baseline) {
      std::this_thread::sleep_for(std::chrono::nanoseconds{min_baseline});
      next = take_anchor();
    }
    const std::int64_t age = anchor_.steady - base_.steady;
    const std::int64_t patience = age < update_interval ? age : update_interval;
    if (next.steady - anchor_.steady < patience) return;
    if (ticker_.source() == Ticker::Source::tsc && next.ticks > base_.ticks) {
      nanos_per_tick_ = static_cast<double>(next.steady - base_.steady) / static_cast<double>(next.ticks - base_.ticks);
    }
    if (next.steady - base_.steady > max_baseline) base_ = anchor_;  // follow a rate that changes
    anchor_ = next;
  }

  /// Of the latest anchor.
  TickScale scale() const noexcept {
    if (ticker_.source() == Ticker::Source::clock) return {};
    return {anchor_.ticks, anchor_.wall, ticker_.source() == Ticker::Source::tsc ? nanos_per_tick_ : 1};
  }
  Timestamp to_time(std::uint64_t ticks) const noexcept { return scale().to_time(ticks); }

  const Ticker& ticker() const noexcept { return ticker_; }

 private:
  struct Anchor {
    std::uint64_t ticks = 0;
    std::int64_t steady = 0;  // ns
    std::int64_t wall = 0;    // ns since the Unix epoch
  };
  static constexpr std::int64_t min_baseline = 1'000'000, update_interval = 1'000'000'000, max_baseline = 16'000'000'000;

  template <class C>
  static std::int64_t nanos_of() noexcept {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(C::now().time_since_epoch()).count();
  }

  /// The three clocks read around each other; the tightest of a few tries, so that an interruption in between is not kept.
  Anchor take_anchor() const noexcept {
    Anchor best;
    std::uint64_t best_width = UINT64_MAX;
    for (int i = 0; i < 4; ++i) {
      const std::uint64_t before = ticker_.now();
      const std::int64_t steady = nanos_of<std::chrono::steady_clock>(), wall = nanos_of<std::chrono::system_clock>();
      const std::uint64_t width = ticker_.now() - before;
      if (width < best_width) best = {before + width / 2, steady, wall}, best_width = width;
    }
    return best;
  }

  Ticker ticker_;
  Anchor base_;    // the rate is measured from here
  Anchor anchor_;  // the latest
  double nanos_per_tick_ = 0;
};

}  // namespace detail

}  // namespace weir::inline v0
