#pragma once
// Cells: 64-bit counters of which every thread has its own, so that adding to one is a load, an addition and a store of memory that
// no other thread writes. A slot is a counter's place in the arrays of all threads; the counter's value is the sum over them, and
// of what ended threads left behind. Cells only grow: who wants to know what was added since remembers the last sum.
//
//   thread 1   [ 12 | 0 | 7 ]
//   thread 2   [  3 | 5 ]            a thread's array reaches as far as the slots it has used
//   ended      [ 40 | 0 | 1 ]
//   slot          0   1   2
//
// An array that was outgrown stays, and counts: a signal handler may have made it grow while its thread was about to add.
// Histograms have slots, too: there a thread has a shard of buckets. Here is what adds; src/telemetry/cell_registry.hpp has the rest.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#include "weir/telemetry/detail/histogram_scheme.hpp"

#if defined(__SANITIZE_THREAD__)
#define WEIR_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WEIR_THREAD_SANITIZER 1
#endif
#endif

namespace weir::inline v0::detail {

using Cell = std::atomic<std::int64_t>;

inline constexpr std::uint32_t no_cell = UINT32_MAX;

/// Sums of counters wrap.
inline std::int64_t wrapping_add(std::int64_t a, std::int64_t b) noexcept {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
}
inline std::int64_t wrapping_subtract(std::int64_t a, std::int64_t b) noexcept {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) - static_cast<std::uint64_t>(b));
}

/// Adds to what only this thread writes. One instruction, so that a signal handler's own addition is never lost.
[[gnu::always_inline]] inline void add_alone(Cell& cell, std::int64_t amount) noexcept {
#if defined(__x86_64__) && !defined(WEIR_THREAD_SANITIZER)
  static_assert(sizeof cell == sizeof amount);
  asm volatile("addq %1, %0" : "+m"(cell) : "er"(amount) : "cc");
#else
  cell.store(wrapping_add(cell.load(std::memory_order_relaxed), amount), std::memory_order_relaxed);
#endif
}
inline void add_alone(std::atomic<double>& sum, double amount) noexcept {
  sum.store(sum.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
}

struct HistogramShard;
struct KeyEntry;
struct ThreadCells;

/// The keys that a thread has used by their text, and their entries: four places for a key, the oldest goes.
struct KeyCache {
  static constexpr std::size_t ways = 4, sets = 256;
  struct Line {
    std::uint64_t hash[ways]{};
    KeyEntry* entry[ways]{};
    std::uint32_t next = 0;
  };
  Line lines[sets];
};

/// A thread's arrays, as it finds them itself. Trivially destructible and constant-initialized: usable until the thread's last instruction.
struct ThreadTelemetry {
  Cell* cells;
  HistogramShard** shards;
  KeyCache* keys;
  std::uint32_t cells_size, shards_size;
  bool busy;     // holds a lock of this system: a signal handler that comes now may not
  bool adding;   // stands on an entry of the cache: a signal handler that comes now may not replace it
  bool forking;  // holds all locks
  ThreadCells* mine;
};
WEIR_SHARED_STATE inline constinit thread_local ThreadTelemetry thread_telemetry{};

/// For what a signal handler on the same thread must find in this order.
[[gnu::always_inline]] inline void signal_fence() noexcept { std::atomic_signal_fence(std::memory_order_seq_cst); }

/// Says to signal handlers on this thread that a lock is held.
class TelemetryBusy {
 public:
  TelemetryBusy() noexcept : before_(std::exchange(thread_telemetry.busy, true)) { signal_fence(); }
  ~TelemetryBusy() {
    signal_fence();
    thread_telemetry.busy = before_;
  }
  TelemetryBusy(const TelemetryBusy&) = delete;
  TelemetryBusy& operator=(const TelemetryBusy&) = delete;

 private:
  const bool before_;
};

/// What one thread has recorded in one histogram. Written by its thread, read by all.
struct alignas(64) HistogramShard {
  static constexpr double end = 72057594037927936.0;  // 2^56: of the last bucket
  static constexpr double largest_in_sum = 1e290;     // an infinite sum would hide all that comes after it
  struct Row {                                        // an octave
    std::array<Cell, HistogramScheme::per_octave> counts{};
    std::atomic<double> sum{0};
  };
  struct Extremes {
    std::atomic<std::uint64_t> cycle{0};  // that they are of
    std::atomic<double> min{0}, max{0};

    void note(double value, std::uint64_t now) noexcept {
      if (cycle.load(std::memory_order_relaxed) != now) [[unlikely]] {
        min.store(value, std::memory_order_relaxed);
        max.store(value, std::memory_order_relaxed);
        cycle.store(now, std::memory_order_release);
        return;
      }
      if (value < min.load(std::memory_order_relaxed)) min.store(value, std::memory_order_relaxed);
      if (value > max.load(std::memory_order_relaxed)) max.store(value, std::memory_order_relaxed);
    }
  };

  std::array<std::atomic<Row*>, HistogramScheme::octaves> rows{};
  Cell zeros{0};
  std::atomic<double> outside_sum{0};  // of what lies beyond the buckets
  Extremes extremes[2];                // of cycles with an even and with an odd number: one is read while the other is written

  ~HistogramShard() {
    for (auto& row : rows) delete row.load(std::memory_order_relaxed);
  }
  /// False: no memory. Requires: value >= 0.
  [[gnu::always_inline]] bool record(double value, std::uint64_t now) noexcept {
    const auto bucket = static_cast<unsigned>(HistogramScheme::position(value) - 1);
    if (bucket >= HistogramScheme::buckets - 1) [[unlikely]]
      return record_at_an_end(value, now);
    Row* row = rows[bucket / HistogramScheme::per_octave].load(std::memory_order_relaxed);
    if (row == nullptr) [[unlikely]] {
      row = first_row(bucket / HistogramScheme::per_octave);
      if (row == nullptr) return false;
    }
    add_alone(row->counts[bucket % HistogramScheme::per_octave], 1);
    add_alone(row->sum, value);
    extremes[now & 1].note(value, now);
    return true;
  }
  template <class F>
  void for_each_row(F f) {
    for (std::size_t octave = 0; octave < rows.size(); ++octave)
      if (Row* const row = rows[octave].load(std::memory_order_acquire)) f(octave, *row);
  }
  /// Made if need be; nullptr without memory.
  Row* row(std::size_t octave) noexcept {
    TelemetryBusy busy;
    Row* row = rows[octave].load(std::memory_order_relaxed);
    if (row != nullptr) return row;
    row = new (std::nothrow) Row{};
    rows[octave].store(row, std::memory_order_release);
    return row;
  }

 private:
  /// In the zero bucket, in the last one, or beyond it.
  [[gnu::noinline]] bool record_at_an_end(double value, std::uint64_t now) noexcept {
    if (HistogramScheme::position(value) == 0) {
      add_alone(zeros, 1);
      add_alone(outside_sum, value);
    } else {
      Row* last = rows.back().load(std::memory_order_relaxed);
      if (last == nullptr) last = first_row(rows.size() - 1);
      if (last == nullptr) return false;
      add_alone(last->counts.back(), 1);
      add_alone(value > end ? outside_sum : last->sum, value < largest_in_sum ? value : largest_in_sum);
    }
    extremes[now & 1].note(value, now);
    return true;
  }
  /// Not in a signal handler that interrupted this system.
  [[gnu::noinline]] Row* first_row(std::size_t octave) noexcept { return thread_telemetry.busy ? nullptr : row(octave); }
};

/// Every thread's cells: the process's one, made when it is first needed.
class CellRegistry;
WEIR_SHARED_STATE inline constinit std::atomic<CellRegistry*> shared_cell_registry{nullptr};

}  // namespace weir::inline v0::detail
