#pragma once
// CellRegistry: every thread's cells, and which slots are in use. What adds is in weir/telemetry/detail/cells.hpp.

#include <pthread.h>

#include <array>
#include <bit>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "telemetry/histogram_totals.hpp"
#include "weir/telemetry/detail/entry.hpp"

namespace weir::inline v0::detail {

/// What fork() finds locked, and the child empties. Nobody may allocate there.
class ForkMember {
 public:
  virtual void lock_first() noexcept = 0;
  virtual void lock_second() noexcept = 0;
  virtual void unlock() noexcept = 0;
  virtual void in_child() noexcept = 0;
  ForkMember *previous_member = nullptr, *next_member = nullptr;

 protected:
  ~ForkMember() = default;
};

/// All buffers, and then the cells: the child of a fork has the locks free, nothing in its buffers, and their keys and handles as they
/// were. Thread-safety: shared: safe.
class Forks {
 public:
  void add(ForkMember& member) noexcept;
  void remove(ForkMember& member) noexcept;

 private:
  template <class F>
  void each(F f) {
    for (ForkMember* member = first_; member != nullptr; member = member->next_member) f(*member);
  }
  static void prepare() noexcept;
  static void in_parent() noexcept;
  static void in_child() noexcept;

  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  ForkMember* first_ = nullptr;
  bool registered_ = false;
};

/// A thread's arrays, as the others find them.
struct ThreadCells {
  static constexpr std::size_t sizes = 11;  // 64, 128 … 65,536
  static constexpr std::uint32_t size(std::size_t which) noexcept { return 64u << which; }
  /// The smallest that reaches a slot.
  static constexpr std::size_t which(std::uint32_t slot) noexcept { return static_cast<std::size_t>(std::bit_width(slot / 64)); }

  std::array<std::unique_ptr<Cell[]>, sizes> cells;              // what was added is the sum over them
  std::array<std::unique_ptr<HistogramShard*[]>, sizes> shards;  // the largest has all
  HistogramShard** all_shards = nullptr;
  std::uint32_t shards_size = 0;
  std::unique_ptr<KeyCache> keys;  // of the thread alone
  ThreadCells *previous = nullptr, *next = nullptr;

  ~ThreadCells() {
    for (std::uint32_t i = 0; i < shards_size; ++i) delete all_shards[i];
  }
  /// Calls f(cells, size) for each array.
  template <class F>
  void for_each_array(F f) const {
    for (std::size_t i = 0; i < sizes; ++i)
      if (cells[i]) f(cells[i].get(), size(i));
  }
};

/// Every thread's cells, and which slots are in use. Pointers are nullptr without memory, and in a signal handler that interrupted
/// this system. Thread-safety: shared: safe. Never destroyed.
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
    TelemetryBusy busy_;
    pthread_mutex_t& mutex_;
  };

  /// A slot whose cells are all 0; no_cell if there is none.
  std::uint32_t take_slot() noexcept { return take(counters_); }
  std::uint32_t take_shard_slot() noexcept { return take(histograms_); }
  /// Requires: nobody adds to it any more.
  void give_slot(std::uint32_t slot) noexcept {
    Lock lock(*this);
    for (ThreadCells* t = threads_; t != nullptr; t = t->next)
      t->for_each_array([slot](Cell* cells, std::uint32_t size) {
        if (slot < size) cells[slot].store(0, std::memory_order_relaxed);
      });
    if (slot < ended_.size()) ended_[slot] = 0;
    counters_.free.push_back(slot);  // has room: see take
  }
  void give_shard_slot(std::uint32_t slot) noexcept {
    Lock lock(*this);
    for (ThreadCells* t = threads_; t != nullptr; t = t->next)
      if (slot < t->shards_size) delete std::exchange(t->all_shards[slot], nullptr);
    if (slot < ended_shards_.size()) ended_shards_[slot].reset();
    histograms_.free.push_back(slot);
  }

  /// The calling thread's, made if need be.
  Cell* cell(std::uint32_t slot) noexcept;
  HistogramShard* shard(std::uint32_t slot) noexcept;
  KeyCache* keys() noexcept;

  /// Adds up the cells of `count` slots into `sums`.
  void sum(const std::uint32_t* slots, std::int64_t* sums, std::size_t count) noexcept {
    Lock lock(*this);
    for (std::size_t i = 0; i < count; ++i) sums[i] = slots[i] < ended_.size() ? ended_[slots[i]] : 0;
    for (ThreadCells* t = threads_; t != nullptr; t = t->next)
      t->for_each_array([&](const Cell* cells, std::uint32_t size) {
        for (std::size_t i = 0; i < count; ++i)
          if (slots[i] < size) sums[i] = wrapping_add(sums[i], cells[slots[i]].load(std::memory_order_relaxed));
      });
  }
  /// Calls f(shard) for each thread's, and that of the ended ones. f must not use the registry.
  template <class F>
  void for_each_shard(std::uint32_t slot, F f) {
    Lock lock(*this);
    if (slot < ended_shards_.size() && ended_shards_[slot]) f(*ended_shards_[slot]);
    for (ThreadCells* t = threads_; t != nullptr; t = t->next)
      if (slot < t->shards_size && t->all_shards[slot] != nullptr) f(*t->all_shards[slot]);
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

  Forks& forks() noexcept { return forks_; }
  std::uint64_t next_buffer_id() noexcept { return last_buffer_id_.fetch_add(1, std::memory_order_relaxed) + 1; }

  // For fork.
  void lock() noexcept { pthread_mutex_lock(&mutex_); }
  void unlock() noexcept { pthread_mutex_unlock(&mutex_); }
  /// In the child: everything is 0 again.
  void forget() noexcept {
    for (ThreadCells* t = threads_; t != nullptr; t = t->next) {
      t->for_each_array([](Cell* cells, std::uint32_t size) {
        for (std::uint32_t i = 0; i < size; ++i) cells[i].store(0, std::memory_order_relaxed);
      });
      for (std::uint32_t i = 0; i < t->shards_size; ++i)
        if (t->all_shards[i] != nullptr) clear_shard(*t->all_shards[i]);
    }
    for (std::int64_t& sum : ended_) sum = 0;
    for (auto& shard : ended_shards_)
      if (shard) clear_shard(*shard);
  }

 private:
  struct Slots {
    std::uint32_t used = 0;  // ever
    std::vector<std::uint32_t> free;
  };

  std::uint32_t take(Slots& slots) noexcept;
  ThreadCells* mine() noexcept;
  static void end_thread(void* cells) noexcept;

  Forks forks_;
  std::atomic<std::uint64_t> last_buffer_id_{0};
  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  // Guarded by mutex_, as are the arrays of all ThreadCells; the threads read their own without.
  ThreadCells* threads_ = nullptr;
  Slots counters_, histograms_;
  std::vector<std::int64_t> ended_;
  std::vector<std::unique_ptr<HistogramShard>> ended_shards_;
  pthread_key_t thread_end_{};
  bool has_key_ = false;
};

/// The process's.
CellRegistry& cell_registry() noexcept;

}  // namespace weir::inline v0::detail
