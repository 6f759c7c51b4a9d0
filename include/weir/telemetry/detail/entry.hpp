#pragma once
// KeyEntry: one key of numbers (a counter, a gauge or a histogram) and its slot. Whoever refers to one keeps it alive: the buffer's
// table, handles, and the caches in which threads keep the keys that they use by their text.

#include <atomic>
#include <cfloat>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "weir/telemetry/detail/cells.hpp"

namespace weir::inline v0::detail {

enum class NumberKind : std::uint8_t { counter, gauge, histogram };
enum class GaugeState : std::uint8_t { never, set, taken };

/// What is not the short way is virtual, so that code which counts needs no library.
struct KeyEntry {
  static constexpr std::uint64_t unclaimed = UINT64_MAX;

  // Read by whoever adds.
  const NumberKind kind;
  std::uint32_t slot = no_cell;
  std::atomic<std::uint64_t> claimed{unclaimed};  // the buffer's epoch in which adding by the key needs no lock
  const std::uint64_t buffer;                     // the id of the buffer
  const std::uint64_t hash;
  const std::string key, unit;
  std::atomic<std::uint64_t> histogram_cycle{1};

  std::atomic<std::uint32_t> refs{1}, handles{0};
  Cell shared{0};                // what was added without a cell
  std::atomic<double> value{0};  // a gauge's
  std::atomic<GaugeState> gauge{GaugeState::never};
  std::atomic<std::uint64_t> lost{0}, invalid{0};

  KeyEntry(NumberKind k, std::string_view text, std::string_view u, std::uint64_t h, std::uint64_t id)
      : kind(k), buffer(id), hash(h), key(text), unit(u) {}
  virtual ~KeyEntry() = default;
  KeyEntry(const KeyEntry&) = delete;
  KeyEntry& operator=(const KeyEntry&) = delete;

  /// Requires: neither the registry's nor the buffer's lock is held.
  void unref() noexcept {
    if (refs.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    TelemetryBusy busy;
    delete this;
  }

  [[gnu::always_inline]] void add(std::int64_t amount) noexcept {
    const ThreadTelemetry& thread = thread_telemetry;
    if (slot < thread.cells_size) [[likely]] {
      signal_fence();
      add_alone(thread.cells[slot], amount);
    } else {
      add_slowly(amount);
    }
  }
  /// Where the thread has no cell yet, or can have none.
  virtual void add_slowly(std::int64_t amount) noexcept = 0;
  /// The thread's shard, made if need be; nullptr without memory.
  virtual HistogramShard* make_shard() noexcept = 0;
  // A payload marks a gauge as taken and then reads its value: whoever changes it after that marks it as set again.
  void set_gauge(double number) noexcept {
    value.store(number, std::memory_order_relaxed);
    gauge.exchange(GaugeState::set, std::memory_order_acq_rel);
  }
  void add_to_gauge(double amount) noexcept {
    double before = value.load(std::memory_order_relaxed);
    while (!value.compare_exchange_weak(before, before + amount, std::memory_order_relaxed)) {}
    gauge.exchange(GaugeState::set, std::memory_order_acq_rel);
  }
  [[gnu::always_inline]] void record(double number) noexcept {
    if (!(number >= 0 && number <= DBL_MAX)) [[unlikely]] {
      invalid.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    const ThreadTelemetry& thread = thread_telemetry;
    HistogramShard* shard = nullptr;
    if (slot < thread.shards_size) [[likely]] {
      signal_fence();
      shard = thread.shards[slot];
    }
    if (shard == nullptr) [[unlikely]]
      shard = make_shard();
    if (shard == nullptr || !shard->record(number, histogram_cycle.load(std::memory_order_relaxed))) [[unlikely]]
      lost.fetch_add(1, std::memory_order_relaxed);
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

}  // namespace weir::inline v0::detail
