#pragma once
// For tests of instrumented code, in any test framework: spans into memory, times and ids that are the same in each run, trees
// as text.
//
//   weir::testing::SpanRecorder recorder;
//   handle_request(recorder.tracer());
//   CHECK(recorder.tree() == "GET /orders {status=200}\n  SELECT\n");
//   CHECK(recorder.open_spans().empty());      // nothing was left open
//
// There is no thread: a span can be seen as soon as it has ended. Operations without a tracer need none of this; see
// examples/operations/testing.cpp.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "weir/core/clock.hpp"
#include "weir/trace/in_memory_sender.hpp"
#include "weir/trace/span.hpp"
#include "weir/trace/tracer.hpp"

namespace weir::inline v0::testing {

/// Each reading is `step` later than the one before, so that spans have an order. Step 0 is a ManualClock.
/// Thread-safety: shared: safe.
class SteppingClock final : public Clock {
 public:
  explicit SteppingClock(std::chrono::nanoseconds step, Timestamp start = Timestamp{}) noexcept : step_(step.count()) { set(start); }
  Timestamp now() const noexcept override {
    return Timestamp{std::chrono::nanoseconds{nanos_.fetch_add(step_, std::memory_order_relaxed)}};
  }
  /// The next reading.
  void set(Timestamp time) noexcept { nanos_.store(time.time_since_epoch().count(), std::memory_order_relaxed); }
  void advance(std::chrono::nanoseconds by) noexcept { nanos_.fetch_add(by.count(), std::memory_order_relaxed); }

 private:
  mutable std::atomic<std::int64_t> nanos_{0};
  const std::int64_t step_;
};

/// Which parts of spans a text has, beside their names.
struct TreeParts {
  bool attributes = true;  ///< {key=value, key=value}, ordered by key
  bool kinds = false;      ///< [function], [http] or [sql]
};

/// One line for each span, two spaces further in than its parent's. Spans may come in any order, with their children or without;
/// those whose parent is not there are roots. Siblings and roots are ordered by start time. Control characters are escaped.
std::string tree(const std::vector<Span>& spans, TreeParts parts = {});

/// The first of this name, children included.
std::optional<Span> find(const std::vector<Span>& spans, std::string_view name);
/// All of this name, children included.
std::vector<Span> find_all(const std::vector<Span>& spans, std::string_view name);
/// All that have the attribute with this value, children included. Values are text: "200", "true".
std::vector<Span> find_all(const std::vector<Span>& spans, std::string_view key, std::string_view value);

struct SpanRecorderOptions {
  TracerOptions tracer{.id_seed = 1};   ///< without a clock: the recorder's
  std::chrono::nanoseconds step{1000};  ///< between two readings of the recorder's clock; 0: it stands still
};

/// A tracer into memory. Its clock begins at 1970, and its ids are the same in each run, of every thread that makes its first span
/// in the same order as in the others. Thread-safety: shared: safe, but for construction and destruction.
class SpanRecorder {
 public:
  explicit SpanRecorder(SpanRecorderOptions options = {})
      : clock_(options.step), tracer_(sink_, with_clock(std::move(options.tracer), clock_)) {
    clock_.set(Timestamp{});  // whatever was read until now
  }
  SpanRecorder(const SpanRecorder&) = delete;
  SpanRecorder& operator=(const SpanRecorder&) = delete;

  Tracer& tracer() noexcept { return tracer_; }
  SteppingClock& clock() noexcept { return clock_; }

  /// Those that have ended, as InMemorySender::spans().
  std::vector<Span> spans() const { return sink_.spans(); }
  /// Those that have not: at the end of a test, leaks. As InMemorySender::open_spans().
  std::vector<Span> open_spans() const { return sink_.open_spans(); }
  /// Forgets those that have ended.
  void clear() { sink_.clear(); }

  std::string tree(TreeParts parts = {}) const { return testing::tree(spans(), parts); }
  std::optional<Span> find(std::string_view name) const { return testing::find(spans(), name); }

 private:
  static TracerOptions with_clock(TracerOptions options, const Clock& clock) {
    if (options.clock == nullptr) options.clock = &clock;
    return options;
  }

  SteppingClock clock_;
  InMemorySender sink_;
  Tracer tracer_;
};

}  // namespace weir::inline v0::testing
