#pragma once
// TraceStore: turns events, in whatever order they come, into spans and trees, within bounds. No sockets, no threads and
// no clock of its own: the Collector feeds it and tells it the time; anyone can feed it a recorded file.
//
//   event ─▶ apply ─▶ pair start with end ─▶ on_span_complete
//                     │ root ended and the trace quiet for `settle`, or `trace_ttl` passed
//                     └─────────────────────▶ on_trace_complete (once per trace) ─▶ kept until the bounds push it out

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "weir/trace/event.hpp"

namespace weir::inline v0 {

/// One trace: its trees, and what is known about it.
struct Trace {
  std::string trace_id;
  std::string service;      ///< the first sender of one of its spans: name from its hello, else its process name
  std::vector<Span> roots;  ///< completed spans without a known parent, each a tree; ordered by start time
  std::uint32_t spans = 0;
  std::uint32_t unfinished = 0;  ///< spans published although their end never came
  std::uint32_t late = 0;        ///< spans that came after the trace was completed
};

struct TraceStoreOptions {
  /// A trace is complete when its root has ended and no event came for this long. Smaller: seen sooner; larger: fewer late spans.
  std::chrono::milliseconds settle{500};
  /// A trace without an ended root is completed this long after its first event; so is a span that never ends.
  std::chrono::milliseconds trace_ttl{60'000};
  std::size_t max_traces = 10'000;              ///< completed traces kept; the oldest leave first
  std::size_t max_bytes = 256u << 20;           ///< everything kept, open and completed; the oldest leave first
  std::size_t max_pending = 1'000'000;          ///< spans whose other half has not come; beyond it the oldest are given up
  std::chrono::minutes max_age{60};             ///< completed traces older than this leave
  std::size_t max_attributes = 128;             ///< per span; further ones are dropped and counted
  std::size_t max_attribute_bytes = 64u << 10;  ///< per key and per value; longer ones are cut and counted
};

/// Counted since the store was made.
struct TraceStoreStats {
  std::uint64_t events = 0, spans = 0, traces = 0;  ///< traces: completed ones
  std::uint64_t duplicates = 0;                     ///< a second start or a second end of one span
  std::uint64_t unfinished = 0, late = 0, cycles = 0, negative_durations = 0;
  std::uint64_t orphans = 0;             ///< completed spans whose parent never came
  std::uint64_t ends_without_start = 0;  ///< given up: no start came in time
  std::uint64_t dropped_spans = 0;       ///< pushed out by a bound before their trace was completed
  std::uint64_t evicted_traces = 0;
  std::uint64_t dropped_attributes = 0, cut_attributes = 0;
  std::size_t pending = 0, kept_traces = 0, bytes = 0;  ///< now
};

/// Thread-safety: Distinct objects: safe. Shared: unsafe (the Collector locks around it). Callbacks run inside apply() and
/// advance() and must not call back into the store.
class TraceStore {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit TraceStore(TraceStoreOptions options = {});
  ~TraceStore();
  TraceStore(TraceStore&&) noexcept;
  TraceStore& operator=(TraceStore&&) noexcept;

  /// Called once per completed span, without children.
  void on_span_complete(std::function<void(std::string_view trace_id, const Span&)> callback);
  /// Called once per completed trace.
  void on_trace_complete(std::function<void(const Trace&)> callback);

  /// Takes one event in. `service` says who sent it.
  void apply(Event event, std::string_view service, TimePoint now);
  /// Lets time pass: completes what has settled, gives up what is too old.
  void advance(TimePoint now);
  /// When advance() next has something to do; TimePoint::max() if nothing is due.
  TimePoint next_deadline() const;
  /// Completes everything at once, as if its time had passed (shutdown).
  void complete_all(TimePoint now);

  /// Trace id -> completed root spans, each a tree. Traces that are still open show what has completed so far.
  std::map<std::string, std::vector<Span>> traces() const;
  TraceStoreStats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir::inline v0
