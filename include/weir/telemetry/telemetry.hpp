#pragma once
// Telemetry: a buffer of named values. Code adds to it, an Emitter (emitter.hpp) empties it into a payload now and then.
//
//   auto telemetry = weir::Telemetry::create(weir::InstanceId::random());   // or weir::telemetry(), the process's own
//   telemetry->increment("requests");
//   telemetry->set("version", "1.4.2");
//   weir::Counter requests = telemetry->counter("requests");                // for hot paths
//   requests.increment();
//
//   add, Counter ─────▶ a cell per thread ──┐
//   Histogram ────────▶ buckets per thread ─┼─ take() ─▶ Payload ─▶ Emitter
//   set, append … ────▶ the cycle's values ─┘
//
// A cycle is the time between two payloads. A key keeps the kind of its first use in a cycle: a call of another kind does
// nothing, and is counted and logged. A key that has a handle keeps its kind for good. Every increment is in exactly one payload, and
// taking one stops no writer: cells only ever grow, and a payload is what they grew by.

#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "weir/core/clock.hpp"
#include "weir/core/logger.hpp"
#include "weir/core/result.hpp"
#include "weir/telemetry/detail/buffer.hpp"
#include "weir/telemetry/instance_id.hpp"

namespace weir::inline v0 {

struct TelemetryOptions {
  /// Keys that are neither stored nor sent, for good. A key is governed by itself and by what stands before its first ':':
  /// "tls_hello" disables "tls_hello:ab12", too.
  std::vector<std::string> disabled_keys{};
  /// Keys, nested keys, list items and distinct values of sets in one payload. What is new beyond it is dropped and counted.
  std::size_t max_items = 100'000;
  /// Bytes of keys and values in one payload, and 64 for each item.
  std::size_t max_bytes = 64u << 20;
  Logger* logger = &stderr_logger();  ///< must outlive the last copy
  const Clock* clock = nullptr;       ///< of timestamps; nullptr: the system's. Must outlive the last copy, too
};

/// What a buffer holds and what became of calls. Thread-safety: a value.
struct TelemetryStats {
  std::uint64_t items = 0, bytes = 0;    ///< against the bounds, now
  std::uint64_t dropped_items = 0;       ///< new, beyond a bound or without memory
  std::uint64_t type_conflicts = 0;      ///< calls of another kind than the key's
  std::uint64_t invalid_values = 0;      ///< recorded in a histogram and no number from 0 on
  std::uint64_t payloads = 0;            ///< taken
  std::uint64_t collector_failures = 0;  ///< calls of what at_emit was given that threw
};

/// Adds to one key; for hot paths. Thread-safety: shared: safe. May outlive the buffer.
class Counter {
 public:
  Counter() noexcept = default;  ///< counts nothing, as one that was moved from
  Counter(const Counter&) noexcept = default;
  Counter(Counter&& other) noexcept : slot_(std::exchange(other.slot_, detail::no_cell)), entry_(std::move(other.entry_)) {}
  Counter& operator=(Counter other) noexcept {
    slot_ = other.slot_;
    entry_ = std::move(other.entry_);
    return *this;
  }
  ~Counter() = default;
  void increment() const noexcept { add(1); }
  /// One addition to memory that no other thread writes.
  [[gnu::always_inline]] void add(std::int64_t amount) const noexcept {
    const detail::ThreadTelemetry& thread = detail::thread_telemetry;
    if (slot_ < thread.cells_size) [[likely]] {
      detail::signal_fence();
      detail::add_alone(thread.cells[slot_], amount);
    } else if (entry_) {
      entry_->add_slowly(amount);
    }
  }
  explicit operator bool() const noexcept { return static_cast<bool>(entry_); }  ///< false: it counts nothing

 private:
  friend class Telemetry;
  explicit Counter(detail::KeyEntry* entry) noexcept : slot_(entry != nullptr ? entry->slot : detail::no_cell), entry_(entry) {}

  std::uint32_t slot_ = detail::no_cell;
  detail::KeyHandle entry_;
};

/// The last value wins; a payload has it if it was set since the one before. Thread-safety: shared: safe. May outlive the buffer.
class Gauge {
 public:
  Gauge() noexcept = default;  ///< sets nothing
  void set(double value) const noexcept {
    if (entry_) entry_->set_gauge(value);
  }
  void add(double amount) const noexcept {
    if (entry_) entry_->add_to_gauge(amount);
  }
  explicit operator bool() const noexcept { return static_cast<bool>(entry_); }  ///< false: it sets nothing

 private:
  friend class Telemetry;
  explicit Gauge(detail::KeyEntry* entry) noexcept : entry_(entry) {}
  detail::KeyHandle entry_;
};

/// Records values into buckets; HistogramData says how exact they are. Thread-safety: shared: safe. May outlive the buffer.
class Histogram {
 public:
  Histogram() noexcept = default;  ///< records nothing
  /// A number from 0 on; any other is counted as invalid.
  [[gnu::always_inline]] void record(double value) const noexcept {
    if (entry_) [[likely]]
      entry_->record(value);
  }
  /// In the unit of the histogram if that is "ms", "us" or "ns", else in seconds.
  template <class Rep, class Period>
  void record(std::chrono::duration<Rep, Period> time) const noexcept {
    record(std::chrono::duration<double>(time).count() * per_second_);
  }
  explicit operator bool() const noexcept { return static_cast<bool>(entry_); }  ///< false: it records nothing

 private:
  friend class Telemetry;
  explicit Histogram(detail::KeyEntry* entry) noexcept : entry_(entry) {
    if (entry == nullptr) return;
    const std::string_view unit = entry->unit;
    per_second_ = unit == "ms" ? 1e3 : unit == "us" ? 1e6 : unit == "ns" ? 1e9 : 1;
  }

  detail::KeyHandle entry_;
  double per_second_ = 1;
};

/// A handle: copies are the same buffer. No call throws but where it says so. Thread-safety: shared: safe.
class Telemetry {
 public:
  /// Error: the id is nil, a bound is 0, or there is no memory.
  static Result<Telemetry> create(InstanceId id, TelemetryOptions options = {});  // weir::weir

  // Of integers. A new key begins at 0.
  void increment(std::string_view key) const noexcept { buffer_->add(key, 1); }
  void add(std::string_view key, std::int64_t amount) const noexcept { buffer_->add(key, amount); }

  /// The last value wins.
  void set(std::string_view key, AttributeValue value) const noexcept { buffer_->put(Put::value, key, {}, value); }
  void set(std::string_view key, Json value) const noexcept { buffer_->put(Put::value, key, {}, value); }
  void set_nested(std::string_view key, std::string_view subkey, AttributeValue value) const noexcept {
    buffer_->put(Put::nested, key, subkey, value);
  }
  void set_nested(std::string_view key, std::string_view subkey, Json value) const noexcept {
    buffer_->put(Put::nested, key, subkey, value);
  }
  /// To a list, in order.
  void append(std::string_view key, AttributeValue value) const noexcept { buffer_->put(Put::list_item, key, {}, value); }
  void append(std::string_view key, Json value) const noexcept { buffer_->put(Put::list_item, key, {}, value); }
  /// To a set that counts how often each value was appended.
  void append_unique(std::string_view key, AttributeValue value) const noexcept { buffer_->put(Put::set_item, key, {}, value); }
  void append_unique(std::string_view key, Json value) const noexcept { buffer_->put(Put::set_item, key, {}, value); }

  // A handle keeps its key in the buffer. One that cannot be had (the key is of another kind, the bounds) counts nothing, and
  // that is counted.
  Counter counter(std::string_view key) const noexcept { return Counter(buffer_->handle(detail::NumberKind::counter, key, {})); }
  Gauge gauge(std::string_view key) const noexcept { return Gauge(buffer_->handle(detail::NumberKind::gauge, key, {})); }
  /// `unit`: UCUM, "s" or "By"; of the first call for a key.
  Histogram histogram(std::string_view key, std::string_view unit = {}) const noexcept {
    return Histogram(buffer_->handle(detail::NumberKind::histogram, key, unit));
  }

  /// Calls `collect` before each payload is taken, on the thread that takes it: for what is measured and not counted. Returns a
  /// number for remove_at_emit; 0 without memory. What it throws is dropped and counted; after 100 times in a row it is not
  /// called any more. A payload that it takes itself calls nobody.
  std::uint64_t at_emit(std::function<void(const Telemetry&)> collect) const noexcept { return buffer_->at_emit(std::move(collect)); }
  /// Waits while collectors are being called, unless by the calling thread.
  void remove_at_emit(std::uint64_t number) const noexcept { buffer_->remove_at_emit(number); }

  /// Empties the buffer into a payload, after what at_emit was given has been called. Throws std::bad_alloc, and has then taken
  /// nothing; what there is no memory for later is in the next one.
  Payload take() const;  // weir/telemetry/payload.hpp
  /// Puts back what could not be sent: counters add, sets add, lists are put in front, histograms merge, of what was set
  /// what is there stays, being newer; so of several payloads put back the newest first. Within the bounds.
  void merge_back(Payload payload) const noexcept;
  /// Empties the buffer. Throws std::bad_alloc.
  void reset() const;

  /// What a server wishes: enables keys that a server disabled, then disables keys. What the buffer holds of them is dropped.
  void apply(const Response& response) const noexcept { buffer_->apply(response); }
  /// Disables what these patterns match (`*`: any text, `?`: any byte), in the place of those of the call before and beside what the
  /// options and the server disable. A pattern matches a key, or what stands before the key's first ':'. What the buffer holds of
  /// them is dropped. False without memory: nothing has changed. For control.hpp.
  bool disable_matching(std::span<const std::string> patterns) const noexcept { return buffer_->disable_matching(patterns); }
  bool disabled(std::string_view key) const noexcept { return buffer_->disabled(key); }

  InstanceId instance_id() const noexcept { return buffer_->instance_id(); }
  TelemetryStats stats() const noexcept { return buffer_->stats(); }

 private:
  using Put = detail::Buffer::Put;
  friend const Telemetry& telemetry() noexcept;
  friend Result<void> init_telemetry(InstanceId id, TelemetryOptions options);
  explicit Telemetry(std::shared_ptr<detail::Buffer> buffer) noexcept : buffer_(std::move(buffer)) {}

  std::shared_ptr<detail::Buffer> buffer_;
};

namespace detail {
WEIR_SHARED_STATE inline constinit std::atomic<const Telemetry*> shared_telemetry{nullptr};
}

/// The process's own. Calls do nothing until init_telemetry; handles taken before then count from then on. Never destroyed. (weir::weir)
const Telemetry& telemetry() noexcept;

/// Gives telemetry() its id and options. Error: it has them; as Telemetry::create. (weir::weir)
Result<void> init_telemetry(InstanceId id, TelemetryOptions options = {});

/// FNV-1a, 32 bits, in lower-case hex without leading zeros. Not for secrets.
inline std::string fast_hash(std::string_view bytes) {
  std::uint32_t hash = 2166136261u;
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 16777619u;
  char digits[8];
  return std::string(digits, std::to_chars(digits, digits + sizeof digits, hash, 16).ptr);
}

}  // namespace weir::inline v0
