#pragma once
// KeyEntry: one key of numbers (a counter, a gauge or a histogram) and its slot. Whoever refers to one keeps it alive: the buffer's
// table, handles, and the caches in which threads keep the keys that they use by their text.

#include <atomic>
#include <cfloat>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "weir/core/detail/exceptions.hpp"
#include "weir/core/detail/immortal.hpp"
#include "weir/telemetry/detail/cells.hpp"

namespace weir::inline v0::detail {

/// The process's.
WEIR_SHARED_STATE inline CellRegistry& cell_registry() noexcept {
  static Immortal<CellRegistry> registry;
  return registry.value;
}

/// Says to signal handlers on this thread that a lock is held.
class TelemetryBusy {
 public:
  TelemetryBusy() noexcept : before_(std::exchange(thread_telemetry.busy, true)) { std::atomic_signal_fence(std::memory_order_seq_cst); }
  ~TelemetryBusy() {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    thread_telemetry.busy = before_;
  }
  TelemetryBusy(const TelemetryBusy&) = delete;
  TelemetryBusy& operator=(const TelemetryBusy&) = delete;

 private:
  const bool before_;
};

enum class NumberKind : std::uint8_t { counter, gauge, histogram };

struct KeyEntry {
  // Read by whoever adds.
  const NumberKind kind;
  std::uint32_t slot = no_cell;
  std::atomic<std::uint64_t> claimed{UINT64_MAX};  // the buffer's epoch in which adding by the key needs no lock
  const std::uint64_t buffer;                      // the id of the buffer
  const std::uint64_t hash;
  const std::string key;
  std::atomic<std::uint64_t> histogram_cycle{1};

  std::atomic<std::uint32_t> refs{1}, handles{0};
  Cell shared{0};                // what was added without a cell
  std::atomic<double> value{0};  // a gauge's
  std::atomic<bool> set{false};
  std::atomic<std::uint64_t> lost{0}, invalid{0};

  // Guarded by the buffer's mutex.
  bool pinned = false;  // has or had a handle: counts as an item of every cycle
  bool disabled = false;
  std::uint64_t cycle = 0;  // in which it counts as an item
  std::string unit;
  // Guarded by the buffer's take mutex: what payloads have had.
  std::int64_t taken = 0;
  std::int64_t taken_zeros = 0;
  double taken_sum = 0;
  std::vector<std::int64_t> taken_buckets;  // from taken_first on
  int taken_first = 0;

  KeyEntry(NumberKind k, std::string_view text, std::uint64_t h, std::uint64_t id) : kind(k), buffer(id), hash(h), key(text) {}
  ~KeyEntry() {
    if (slot == no_cell) return;
    kind == NumberKind::histogram ? cell_registry().give_shard_slot(slot) : cell_registry().give_slot(slot);
  }

  /// Requires: neither the registry's nor the buffer's lock is held.
  void unref() noexcept {
    if (refs.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    TelemetryBusy busy;
    delete this;
  }

  [[gnu::always_inline]] void add(std::int64_t amount) noexcept {
    const ThreadTelemetry& thread = thread_telemetry;
    if (slot < thread.cells_size) [[likely]]
      add_alone(thread.cells[slot], amount);
    else
      add_slowly(amount);
  }
  [[gnu::noinline]] void add_slowly(std::int64_t amount) noexcept {
    Cell* const cell = slot != no_cell ? cell_registry().cell(slot) : nullptr;
    if (cell != nullptr)
      add_alone(*cell, amount);
    else
      shared.fetch_add(amount, std::memory_order_relaxed);
  }
  void set_gauge(double number) noexcept {
    value.store(number, std::memory_order_relaxed);
    if (!set.load(std::memory_order_relaxed)) set.store(true, std::memory_order_release);
  }
  void add_to_gauge(double amount) noexcept {
    double before = value.load(std::memory_order_relaxed);
    while (!value.compare_exchange_weak(before, before + amount, std::memory_order_relaxed)) {}
    if (!set.load(std::memory_order_relaxed)) set.store(true, std::memory_order_release);
  }
  [[gnu::always_inline]] void record(double number) noexcept {
    if (!(number >= 0 && number <= DBL_MAX)) [[unlikely]] {
      invalid.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    const ThreadTelemetry& thread = thread_telemetry;
    HistogramShard* shard = slot < thread.shards_size ? thread.shards[slot] : nullptr;
    if (shard == nullptr) [[unlikely]]
      shard = cell_registry().shard(slot);
    Cell* const cell = shard != nullptr ? shard->cell(HistogramScheme::position(number)) : nullptr;
    if (cell == nullptr) [[unlikely]] {
      lost.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    add_alone(*cell, 1);
    shard->sum.store(shard->sum.load(std::memory_order_relaxed) + number, std::memory_order_relaxed);
    shard->note(number, histogram_cycle.load(std::memory_order_relaxed));
  }
};

/// What a handle holds. Thread-safety: a value.
class KeyHandle {
 public:
  KeyHandle() noexcept = default;
  /// Takes over a reference and a handle that were counted already.
  explicit KeyHandle(KeyEntry* entry) noexcept : entry_(entry) {}
  KeyHandle(const KeyHandle& other) noexcept : entry_(other.entry_) {
    if (entry_ == nullptr) return;
    entry_->refs.fetch_add(1, std::memory_order_relaxed);
    entry_->handles.fetch_add(1, std::memory_order_relaxed);
  }
  KeyHandle(KeyHandle&& other) noexcept : entry_(std::exchange(other.entry_, nullptr)) {}
  KeyHandle& operator=(KeyHandle other) noexcept {
    std::swap(entry_, other.entry_);
    return *this;
  }
  ~KeyHandle() {
    if (entry_ == nullptr) return;
    entry_->handles.fetch_sub(1, std::memory_order_relaxed);
    entry_->unref();
  }
  KeyEntry* operator->() const noexcept { return entry_; }
  explicit operator bool() const noexcept { return entry_ != nullptr; }

 private:
  KeyEntry* entry_ = nullptr;
};

inline std::uint32_t CellRegistry::take(Slots& slots) noexcept {
  Lock lock(*this);
  WEIR_TRY {
    if (!slots.free.empty()) {
      const std::uint32_t slot = slots.free.back();
      slots.free.pop_back();
      return slot;
    }
    if (slots.used == max_slots) return no_cell;
    // Room for what must not fail later: giving slots back, and the end of a thread.
    slots.free.reserve(slots.used + 1);
    if (&slots == &counters_)
      ended_.resize(slots.used + 1);
    else
      ended_shards_.resize(slots.used + 1);
    return slots.used++;
  }
  WEIR_CATCH_ALL { return no_cell; }
}

inline ThreadCells* CellRegistry::mine() noexcept {
  ThreadTelemetry& thread = thread_telemetry;
  if (thread.mine != nullptr) return thread.mine;
  auto* const mine = new (std::nothrow) ThreadCells;
  if (mine == nullptr) return nullptr;
  Lock lock(*this);
  // A key's destructor runs after those of all thread_local objects, which may still count.
  if (!has_key_) has_key_ = pthread_key_create(&thread_end_, end_thread) == 0;
  if (has_key_) pthread_setspecific(thread_end_, mine);
  mine->next = threads_;
  if (threads_ != nullptr) threads_->previous = mine;
  threads_ = mine;
  return thread.mine = mine;
}

/// Makes `array` reach `index`: the thread's own, which the others read under the lock.
template <class T, class Move>
T* grown(std::unique_ptr<T[]>& array, std::uint32_t& size, std::uint32_t index, Move move) noexcept {
  std::uint32_t wanted = size < 64 ? 64 : size;
  while (wanted <= index) wanted *= 2;
  std::unique_ptr<T[]> larger(new (std::nothrow) T[wanted]{});
  if (!larger) return nullptr;
  for (std::uint32_t i = 0; i < size; ++i) move(larger[i], array[i]);
  array.swap(larger);
  size = wanted;
  return larger.release();  // the old one, to be freed when nobody reads it
}

inline Cell* CellRegistry::cell(std::uint32_t slot) noexcept {
  ThreadTelemetry& thread = thread_telemetry;
  if (thread.busy && slot >= thread.cells_size) return nullptr;
  TelemetryBusy busy;
  ThreadCells* const own = mine();
  if (own == nullptr) return nullptr;
  std::unique_ptr<Cell[]> old;
  if (slot >= own->cells_size) {
    Lock lock(*this);
    old.reset(grown(own->cells, own->cells_size, slot,
                    [](Cell& to, Cell& from) { to.store(from.load(std::memory_order_relaxed), std::memory_order_relaxed); }));
    if (slot >= own->cells_size) return nullptr;
    thread.cells = own->cells.get();
    thread.cells_size = own->cells_size;
  }
  return &own->cells[slot];
}

inline HistogramShard* CellRegistry::shard(std::uint32_t slot) noexcept {
  ThreadTelemetry& thread = thread_telemetry;
  if (thread.busy) return nullptr;
  TelemetryBusy busy;
  ThreadCells* const own = mine();
  if (own == nullptr) return nullptr;
  std::unique_ptr<HistogramShard> made(new (std::nothrow) HistogramShard);
  if (!made) return nullptr;
  std::unique_ptr<HistogramShard*[]> old;
  Lock lock(*this);
  if (slot >= own->shards_size) {
    old.reset(grown(own->shards, own->shards_size, slot, [](HistogramShard*& to, HistogramShard* from) { to = from; }));
    if (slot >= own->shards_size) return nullptr;
  }
  thread.shards = own->shards.get();
  thread.shards_size = own->shards_size;
  if (own->shards[slot] == nullptr) own->shards[slot] = made.release();
  return own->shards[slot];
}

inline KeyCache* CellRegistry::keys() noexcept {
  ThreadCells* const own = mine();
  if (own == nullptr) return nullptr;
  if (!own->keys) {
    own->keys.reset(new (std::nothrow) KeyCache);
    thread_telemetry.keys = own->keys.get();
  }
  return own->keys.get();
}

inline void CellRegistry::end_thread(void* cells) noexcept {
  std::unique_ptr<ThreadCells> ended(static_cast<ThreadCells*>(cells));
  CellRegistry& registry = cell_registry();
  thread_telemetry = {};
  TelemetryBusy busy;
  {
    Lock lock(registry);
    (ended->previous != nullptr ? ended->previous->next : registry.threads_) = ended->next;
    if (ended->next != nullptr) ended->next->previous = ended->previous;
    for (std::uint32_t i = 0; i < ended->cells_size && i < registry.ended_.size(); ++i)
      registry.ended_[i] += ended->cells[i].load(std::memory_order_relaxed);
    for (std::uint32_t i = 0; i < ended->shards_size; ++i) {
      HistogramShard* const shard = std::exchange(ended->shards[i], nullptr);
      if (shard == nullptr) continue;
      if (registry.ended_shards_[i]) {
        registry.ended_shards_[i]->absorb(*shard);
        delete shard;
      } else {
        registry.ended_shards_[i].reset(shard);
      }
    }
  }
  if (!ended->keys) return;
  for (KeyCache::Line& line : ended->keys->lines)
    for (KeyEntry* entry : line.entry)
      if (entry != nullptr) entry->unref();
}

}  // namespace weir::inline v0::detail
