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
// Histograms have slots, too: there a thread has a shard of buckets. Here is what adds; src/telemetry/cell_registry.hpp has the rest.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>

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

/// Adds to what only this thread writes. One instruction, so that a signal handler's own addition is never lost.
[[gnu::always_inline]] inline void add_alone(Cell& cell, std::int64_t amount) noexcept {
#if defined(__x86_64__) && !defined(WEIR_THREAD_SANITIZER)
  static_assert(sizeof cell == sizeof amount);
  asm volatile("addq %1, %0" : "+m"(cell) : "er"(amount) : "cc");
#else
  cell.store(cell.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
#endif
}

/// What one thread has recorded in one histogram. Written by its thread, read by all.
struct HistogramShard {
  using Row = std::array<Cell, HistogramScheme::per_octave>;  // an octave's buckets

  std::array<std::atomic<Row*>, HistogramScheme::octaves> rows{};
  Cell zeros{0};
  std::atomic<double> sum{0};
  std::atomic<std::uint64_t> cycle{0};  // that min and max are of
  std::atomic<double> min{0}, max{0};

  ~HistogramShard() {
    for (auto& row : rows) delete row.load(std::memory_order_relaxed);
  }
  /// The cell of HistogramScheme::position(value); nullptr without memory.
  [[gnu::always_inline]] Cell* cell(int position) noexcept {
    if (position == 0) [[unlikely]]
      return &zeros;
    const auto bucket = static_cast<unsigned>(position - 1);
    Row* row = rows[bucket / HistogramScheme::per_octave].load(std::memory_order_relaxed);
    if (row == nullptr) [[unlikely]]
      row = add_row(bucket / HistogramScheme::per_octave);
    return row != nullptr ? &(*row)[bucket % HistogramScheme::per_octave] : nullptr;
  }
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
  template <class F>
  void for_each_row(F f) {
    for (std::size_t octave = 0; octave < rows.size(); ++octave)
      if (Row* const row = rows[octave].load(std::memory_order_acquire)) f(octave, *row);
  }
  void clear() noexcept {
    for_each_row([](std::size_t, Row& row) {
      for (Cell& cell : row) cell.store(0, std::memory_order_relaxed);
    });
    zeros.store(0, std::memory_order_relaxed);
    sum.store(0, std::memory_order_relaxed);
    cycle.store(0, std::memory_order_relaxed);
  }
  /// Takes over what another, that nobody writes any more, has recorded.
  void absorb(HistogramShard& other) noexcept {
    other.for_each_row([&](std::size_t octave, Row& row) {
      for (std::size_t i = 0; i < row.size(); ++i)
        if (const std::int64_t count = row[i].load(std::memory_order_relaxed); count != 0)
          if (Cell* const mine = cell(static_cast<int>(octave * HistogramScheme::per_octave + i) + 1)) add_alone(*mine, count);
    });
    add_alone(zeros, other.zeros.load(std::memory_order_relaxed));
    sum.store(sum.load(std::memory_order_relaxed) + other.sum.load(std::memory_order_relaxed), std::memory_order_relaxed);
    if (const std::uint64_t theirs = other.cycle.load(std::memory_order_relaxed);
        theirs >= cycle.load(std::memory_order_relaxed) && theirs != 0) {
      note(other.min.load(std::memory_order_relaxed), theirs);
      note(other.max.load(std::memory_order_relaxed), theirs);
    }
  }

 private:
  [[gnu::noinline]] Row* add_row(std::size_t octave) noexcept {
    Row* const row = new (std::nothrow) Row{};
    rows[octave].store(row, std::memory_order_release);
    return row;
  }
};

struct KeyEntry;
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

struct ThreadCells;

/// A thread's arrays, as it finds them itself. Trivially destructible and constant-initialized: usable until the thread's last instruction.
struct ThreadTelemetry {
  Cell* cells;
  HistogramShard** shards;
  KeyCache* keys;
  std::uint32_t cells_size, shards_size;
  bool busy;  // holds a lock of this system: a signal handler that comes now may not
  ThreadCells* mine;
};
WEIR_SHARED_STATE inline constinit thread_local ThreadTelemetry thread_telemetry{};

/// Every thread's cells: the process's one, made when it is first needed.
class CellRegistry;
WEIR_SHARED_STATE inline constinit std::atomic<CellRegistry*> shared_cell_registry{nullptr};

}  // namespace weir::inline v0::detail
