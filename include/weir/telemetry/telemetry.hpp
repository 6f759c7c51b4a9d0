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
// nothing, and is counted and logged. A key that has a handle keeps its kind for good. Every increment is in exactly one payload, and taking one stops no
// writer: cells only ever grow, and a payload is what they grew by.

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
#include "weir/telemetry/instance_id.hpp"
#include "weir/telemetry/payload.hpp"
#include "weir/telemetry/detail/buffer.hpp"

namespace weir::inline v0 {

struct TelemetryOptions {
  /// Keys that are neither stored nor sent, for good. A key is governed by itself and by what stands before its first ':':
  /// "tls_hello" disables "tls_hello:ab12", too.
  std::vector<std::string> disabled_keys;
  /// Keys, nested keys, list items and distinct values of sets in one payload. What is new beyond it is dropped and counted.
  std::size_t max_items = 100'000;
  /// Bytes of keys and values in one payload, and 64 for each item.
  std::size_t max_bytes = 64u << 20;
  Logger* logger = &stderr_logger();  ///< must outlive the last copy and the last handle
  const Clock* clock = nullptr;       ///< of timestamps; nullptr: the system's. Must outlive them, too
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

/// Adds to one key; for hot paths. Keeps the buffer alive. Thread-safety: shared: safe.
class Counter {
 public:
  Counter() noexcept = default;  ///< counts nothing
  void increment() const noexcept { add(1); }
  /// A load, an addition and a store of a cell of the thread's own.
  void add(std::int64_t amount) const noexcept {
    if (entry_) [[likely]]
      detail::add_to_cell(entry_.slot(), amount);
  }

 private:
  friend class Telemetry;
  explicit Counter(detail::EntryRef entry) noexcept : entry_(std::move(entry)) {}
  detail::EntryRef entry_;
};

/// The last value wins. In a payload only if it was set since the last. Thread-safety: shared: safe.
class Gauge {
 public:
  Gauge() noexcept = default;  ///< sets nothing
  void set(double value) const noexcept {
    if (entry_) entry_.get()->set_gauge(value);
  }
  void add(double amount) const noexcept {
    if (entry_) entry_.get()->add_to_gauge(amount);
  }

 private:
  friend class Telemetry;
  explicit Gauge(detail::EntryRef entry) noexcept : entry_(std::move(entry)) {}
  detail::EntryRef entry_;
};

/// Records values into buckets; HistogramData says how exact they are. Thread-safety: shared: safe.
class Histogram {
 public:
  Histogram() noexcept = default;  ///< records nothing
  /// Numbers from 0 on; others are counted as invalid.
  void record(double value) const noexcept {
    if (entry_) [[likely]]
      detail::record_in_shard(entry_, value);
  }
  /// In the unit of the histogram if that is a time (s, ms, us, ns), else in seconds.
  template <class Rep, class Period>
  void record(std::chrono::duration<Rep, Period> time) const noexcept {
    record(std::chrono::duration<double>(time).count() * per_second_);
  }

 private:
  friend class Telemetry;
  Histogram(detail::EntryRef entry, double per_second) noexcept : entry_(std::move(entry)), per_second_(per_second) {}
  detail::EntryRef entry_;
  double per_second_ = 1;
};

/// A handle: copies are the same buffer. No call throws. Thread-safety: shared: safe.
class Telemetry {
 public:
  /// Error: the id is nil, or a bound is 0.
  static Result<Telemetry> create(InstanceId id, TelemetryOptions options = {});

  // Of integers. A new key begins at 0.
  void increment(std::string_view key) const noexcept { add(key, 1); }
  void add(std::string_view key, std::int64_t amount) const noexcept;

  /// The last value wins.
  void set(std::string_view key, const TelemetryValue& value) const noexcept;
  void set_nested(std::string_view key, std::string_view subkey, const TelemetryValue& value) const noexcept;
  /// To a list, in order.
  void append(std::string_view key, const TelemetryValue& value) const noexcept;
  /// To a set that counts how often each value was appended.
  void append_unique(std::string_view key, const TelemetryValue& value) const noexcept;

  // A handle keeps its key in the buffer. One that cannot be had (another kind, the bounds) counts nothing, and that is counted.
  Counter counter(std::string_view key) const noexcept;
  Gauge gauge(std::string_view key) const noexcept;
  /// `unit`: UCUM, "s" or "By"; of the first call for a key.
  Histogram histogram(std::string_view key, std::string_view unit = {}) const noexcept;

  /// Calls `collect` before each payload is taken, on the thread that takes it: for what is measured and not counted. Returns a
  /// number for remove_at_emit. What it throws is dropped and counted.
  std::uint64_t at_emit(std::function<void(const Telemetry&)> collect) const;
  /// Waits while it is being called, unless by the calling thread.
  void remove_at_emit(std::uint64_t number) const noexcept;

  /// Empties the buffer into a payload, after what at_emit was given has been called.
  Payload take() const;
  /// Puts back what could not be sent: counters add, sets add, lists are put in front, histograms merge, of what was set the
  /// newer stays. Within the bounds; what is there already stays.
  void merge_back(Payload payload) const noexcept;
  /// Empties the buffer.
  void reset() const noexcept;

  /// What a server wishes: enables keys that a server disabled, then disables keys. What the buffer holds of them is dropped.
  void apply(const Response& response) const noexcept;
  bool disabled(std::string_view key) const noexcept;

  InstanceId instance_id() const noexcept;
  TelemetryStats stats() const noexcept;

 private:
  friend Telemetry& telemetry() noexcept;
  friend Result<void> init_telemetry(InstanceId id, TelemetryOptions options);
  explicit Telemetry(std::shared_ptr<detail::Buffer> buffer) noexcept : buffer_(std::move(buffer)) {}
  std::shared_ptr<detail::Buffer> buffer_;
};

/// The process's own. Every call is a no-op until init_telemetry; handles taken before then count from then on. Never destroyed.
Telemetry& telemetry() noexcept;
/// Gives telemetry() its id and options. Error: it has them already; as Telemetry::create.
Result<void> init_telemetry(InstanceId id, TelemetryOptions options = {});

/// FNV-1a, 32 bits, in lower-case hex without leading zeros. Not for secrets.
std::string fast_hash(std::string_view bytes);

}  // namespace weir::inline v0
