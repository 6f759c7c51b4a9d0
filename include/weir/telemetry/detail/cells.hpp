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
// Histograms have slots, too: there a thread has a shard of buckets.

#include <pthread.h>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "weir/core/version.hpp"
#include "weir/telemetry/histogram_data.hpp"

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

/// A thread's arrays, as the others find them.
struct ThreadCells {
  std::unique_ptr<Cell[]> cells;
  std::uint32_t cells_size = 0;
  std::unique_ptr<HistogramShard*[]> shards;
  std::uint32_t shards_size = 0;
  std::unique_ptr<KeyCache> keys;  // of the thread alone
  ThreadCells *previous = nullptr, *next = nullptr;

  ~ThreadCells() {
    for (std::uint32_t i = 0; i < shards_size; ++i) delete shards[i];
  }
};

/// The same as the thread itself finds them. Trivially destructible and constant-initialized: usable until the thread's last instruction.
struct ThreadTelemetry {
  Cell* cells;
  HistogramShard** shards;
  KeyCache* keys;
  std::uint32_t cells_size, shards_size;
  bool busy;  // holds a lock of this system: a signal handler that comes now may not
  ThreadCells* mine;
};
WEIR_SHARED_STATE inline constinit thread_local ThreadTelemetry thread_telemetry{};

/// Every thread's cells, and which slots are in use. Thread-safety: shared: safe. Never destroyed.
class CellRegistry {
 public:
  /// Cells that each thread may have of either kind; counters beyond it share one.
  static constexpr std::uint32_t max_slots = 65'536;

  class Lock {
   public:
    explicit Lock(CellRegistry& registry) noexcept : mutex_(registry.mutex_) { pthread_mutex_lock(&mutex_); }
    ~Lock() { pthread_mutex_unlock(&mutex_); }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    pthread_mutex_t& mutex_;
  };

  /// A slot whose cells are all 0; no_cell if there is none.
  std::uint32_t take_slot() noexcept { return take(counters_); }
  std::uint32_t take_shard_slot() noexcept { return take(histograms_); }
  /// Requires: nobody adds to it any more.
  void give_slot(std::uint32_t slot) noexcept {
    Lock lock(*this);
    for (ThreadCells* t = threads_; t != nullptr; t = t->next)
      if (slot < t->cells_size) t->cells[slot].store(0, std::memory_order_relaxed);
    if (slot < ended_.size()) ended_[slot] = 0;
    counters_.free.push_back(slot);  // has room: see take
  }
  void give_shard_slot(std::uint32_t slot) noexcept {
    Lock lock(*this);
    for (ThreadCells* t = threads_; t != nullptr; t = t->next)
      if (slot < t->shards_size) delete std::exchange(t->shards[slot], nullptr);
    if (slot < ended_shards_.size()) ended_shards_[slot].reset();
    histograms_.free.push_back(slot);
  }

  /// The calling thread's cell, made if need be; nullptr without memory.
  Cell* cell(std::uint32_t slot) noexcept;
  HistogramShard* shard(std::uint32_t slot) noexcept;
  KeyCache* keys() noexcept;

  /// Adds up the cells of `count` slots into `sums`.
  void sum(const std::uint32_t* slots, std::int64_t* sums, std::size_t count) noexcept {
    Lock lock(*this);
    for (std::size_t i = 0; i < count; ++i) sums[i] = slots[i] < ended_.size() ? ended_[slots[i]] : 0;
    for (ThreadCells* t = threads_; t != nullptr; t = t->next)
      for (std::size_t i = 0; i < count; ++i)
        if (slots[i] < t->cells_size) sums[i] += t->cells[slots[i]].load(std::memory_order_relaxed);
  }
  /// Calls f(shard) for each thread's, and that of the ended ones. f must not use the registry.
  template <class F>
  void for_each_shard(std::uint32_t slot, F f) {
    Lock lock(*this);
    if (slot < ended_shards_.size() && ended_shards_[slot]) f(*ended_shards_[slot]);
    for (ThreadCells* t = threads_; t != nullptr; t = t->next)
      if (slot < t->shards_size && t->shards[slot] != nullptr) f(*t->shards[slot]);
  }

  /// Calls f(shard) for that of the ended threads. False: no memory.
  template <class F>
  bool add_to_ended(std::uint32_t slot, F f) noexcept {
    Lock lock(*this);
    if (slot >= ended_shards_.size()) return false;
    if (!ended_shards_[slot]) ended_shards_[slot].reset(new (std::nothrow) HistogramShard);
    if (!ended_shards_[slot]) return false;
    f(*ended_shards_[slot]);
    return true;
  }

  // For fork.
  void lock() noexcept { pthread_mutex_lock(&mutex_); }
  void unlock() noexcept { pthread_mutex_unlock(&mutex_); }
  /// In the child: everything is 0 again.
  void forget() noexcept {
    for (ThreadCells* t = threads_; t != nullptr; t = t->next) {
      for (std::uint32_t i = 0; i < t->cells_size; ++i) t->cells[i].store(0, std::memory_order_relaxed);
      for (std::uint32_t i = 0; i < t->shards_size; ++i)
        if (t->shards[i] != nullptr) t->shards[i]->clear();
    }
    for (std::int64_t& sum : ended_) sum = 0;
    for (auto& shard : ended_shards_)
      if (shard) shard->clear();
  }

 private:
  struct Slots {
    std::uint32_t used = 0;  // ever
    std::vector<std::uint32_t> free;
  };

  std::uint32_t take(Slots& slots) noexcept;
  ThreadCells* mine() noexcept;
  static void end_thread(void* cells) noexcept;

  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  // Guarded by mutex_, as are the sizes and pointers of all ThreadCells; the threads read their own without.
  ThreadCells* threads_ = nullptr;
  Slots counters_, histograms_;
  std::vector<std::int64_t> ended_;
  std::vector<std::unique_ptr<HistogramShard>> ended_shards_;
  pthread_key_t thread_end_{};
  bool has_key_ = false;
};

}  // namespace weir::inline v0::detail
