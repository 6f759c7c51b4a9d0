#pragma once
// TraceStore: turns events, in whatever order they come, into spans and trees, within bounds. No sockets, no threads and
// no clock of its own: the Collector feeds it and tells it the time; anyone can feed it a recorded file.
//
//   event ─▶ apply ─▶ pair start with end ─▶ on_span_complete
//                     │ root ended and the trace quiet for `settle`, or `trace_ttl` passed
//                     └─▶ the rules of `keep` ─▶ on_trace_complete (once per trace) ─▶ kept until the bounds push it out
//                                    └─ not kept ─▶ counted and forgotten

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "weir/collect/keep_rules.hpp"
#include "weir/trace/event.hpp"
#include "weir/trace/replay.hpp"

namespace weir::inline v0 {

/// One trace: its trees, and what is known about it.
struct Trace {
  std::string trace_id;
  std::string service;           ///< the sender of its first event: name from its hello, else its process name
  std::vector<Span> roots;       ///< spans without a known parent, each a tree; ordered by start time, as all children are
  std::uint32_t spans = 0;       ///< in all trees
  std::uint32_t unfinished = 0;  ///< of those, without an end (see unfinished_attribute in span.hpp)
  std::uint32_t late = 0;        ///< spans that ended after the trace was completed
};

struct TraceStoreOptions {
  /// A trace is complete when its root has ended and no event came for this long. Smaller: seen sooner; larger: fewer late spans.
  std::chrono::milliseconds settle{500};
  /// A trace that does not settle is completed this long after its first event; a span whose other half does not come is
  /// given up after as long. Larger: slower operations are seen whole, at the cost of memory.
  std::chrono::milliseconds trace_ttl{60'000};
  std::size_t max_traces = 10'000;  ///< completed traces kept; the oldest leave first
  /// Everything kept, in bytes of memory: traces, spans, halves, and their tables. Not in it: names and keys of native spans and names of
  /// services (at most 36 MiB), and memory that traces have left, never more than there was at the peak. The oldest completed traces
  /// leave first, then the oldest open ones; callbacks that run before there is room for the newest span see it in addition. A native span
  /// with three short attributes takes about 90.
  std::size_t max_bytes = 256u << 20;
  std::size_t max_trace_bytes = 64u << 20;      ///< one trace; its further spans are handed on but not kept
  std::size_t max_pending = 1'000'000;          ///< spans whose other half has not come; beyond it the oldest are given up
  std::chrono::minutes max_age{60};             ///< completed traces older than this leave
  std::size_t max_attributes = 128;             ///< per span; further ones (by key) are dropped and counted
  std::size_t max_attribute_bytes = 64u << 10;  ///< per key, value and span name; longer ones are cut and counted
  /// Which completed traces are kept: the first rule that matches decides (keep_rules.hpp). Empty, and with keep_ratio 1: all, at no
  /// cost. Of the last max_traces that are not kept the ids are remembered for max_age, so that late spans make no trace of their own.
  std::vector<KeepRule> keep{};
  double keep_ratio = 1;  ///< this part of the traces that no rule matches, by trace id; from 0 to 1
};

/// Counted since the store was made.
struct TraceStoreStats {
  std::uint64_t events = 0;                               ///< a native span is two, or one if a half of it is known
  std::uint64_t spans = 0;                                ///< handed to on_span_complete, unfinished ones included
  std::uint64_t traces = 0;                               ///< handed to on_trace_complete
  std::uint64_t restored_traces = 0;                      ///< taken in by restore(), and in none of the other counts
  std::uint64_t kept_by_rule = 0;                         ///< of those: because a rule of `keep` said so
  std::uint64_t dropped_by_rule = 0;                      ///< traces that a rule of `keep` did not keep
  std::uint64_t dropped_by_ratio = 0;                     ///< traces that no rule matched and keep_ratio did not keep
  std::uint64_t unkept_spans = 0;                         ///< spans of the traces that were not kept; handed to on_span_complete as all are
  std::uint64_t duplicates = 0;                           ///< a second start or a second end of one span; the first wins
  std::uint64_t late = 0;                                 ///< spans that ended after their trace was completed
  std::uint64_t unfinished = 0;                           ///< spans handed on without an end
  std::uint64_t ends_without_start = 0;                   ///< given up: no start came in time
  std::uint64_t given_up_early = 0;                       ///< of those two: because of max_pending or max_bytes
  std::uint64_t negative_durations = 0;                   ///< ended before they started: the end was set to the start
  std::uint64_t orphans = 0, cycles = 0, flattened = 0;   ///< in completed traces: parent never came; made roots; below max_span_depth
  std::uint64_t dropped_spans = 0;                        ///< handed on but not kept: their trace was full
  std::uint64_t completed_early = 0, evicted_traces = 0;  ///< because of max_bytes; because of any bound on completed traces
  std::uint64_t dropped_attributes = 0, cut_attributes = 0;
  std::uint64_t overflowed_texts = 0;                                    ///< names, keys, services without room: "…overflow"
  std::uint64_t failed_callbacks = 0;                                    ///< callbacks that threw
  std::size_t pending = 0, open_traces = 0, kept_traces = 0, bytes = 0;  ///< now
};

/// Rules: a span is known by its trace id and its span id. A root is a span without a parent id; a span that names itself
/// counts as one. A parent that comes after its children adopts them; of a cycle the span that started first becomes a
/// root. Equal start times are ordered by span id, so that trees do not depend on the order of arrival. Spans still open when
/// their trace completes are part of it, marked unfinished, and are handed to on_span_complete when they end or are given up.
/// Spans that end later are added to the stored trace, without completing it again (on_trace_changed tells of them); a trace that was
/// pushed out is forgotten. What ends later in a trace that the rules of `keep` did not keep is handed to on_span_complete and not kept.
///
/// Thread-safety: Distinct objects: safe. Shared: unsafe (the Collector locks around it). Callbacks run inside apply(),
/// advance() and complete_all(); they may call the const members and nothing else. What they throw is counted, no more.
class TraceStore {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit TraceStore(TraceStoreOptions options = {});
  ~TraceStore();
  TraceStore(TraceStore&&) noexcept;
  TraceStore& operator=(TraceStore&&) noexcept;

  /// Called once per span, when it has ended or is given up; without children. Spans are packed while they are kept, and made
  /// for the call: `wanted`, if set, is asked before, and what is not wanted costs nothing.
  void on_span_complete(std::function<void(std::string_view trace_id, const Span&)> callback, std::function<bool()> wanted = {});
  /// Called once per completed trace; `wanted` as above.
  void on_trace_complete(std::function<void(const Trace&)> callback, std::function<bool()> wanted = {});
  /// Called with a whole trace that has got spans since it was completed: `settle` after the first of them, and before it is pushed
  /// out. For who keeps traces elsewhere.
  void on_trace_changed(std::function<void(const Trace&)> callback);

  /// Lets time pass, then takes one event in; `service` says who sent it. Events of an unknown type are ignored. A time
  /// before that of an earlier call counts as the same time.
  void apply(const Event& event, std::string_view service, TimePoint now);
  /// Lets time pass, then takes in a trace that was completed before, as from a TraceDatabase: it is kept as if it had been completed
  /// then, without a callback, and what comes for it is late. Oldest first, and before events: it is taken for no older than those that
  /// are there. False: the trace is known, and stays as it is.
  bool restore(const Trace& trace, TimePoint completed, TimePoint now);
  /// Lets time pass: completes what has settled, gives up what is too old.
  void advance(TimePoint now);
  /// When advance() next has something to do; TimePoint::max() if nothing is due.
  TimePoint next_deadline() const;
  /// Gives up and completes everything that is open, as if its time had passed (shutdown).
  void complete_all(TimePoint now);

  /// Trace id -> completed root spans, each a tree. Traces that are still open show what has completed so far, and are not judged yet.
  std::map<std::string, std::vector<Span>> traces() const;
  /// The spans that on_span_complete was called with, of the newest `count` traces that are complete and kept, or only have to settle and
  /// would be kept as they are.
  /// Traces are left out, oldest first, once those before them are at least `max_bytes` of text; so the whole is at most
  /// that and one trace.
  Replay last_traces(std::size_t count, std::size_t max_bytes = 1u << 20) const;
  TraceStoreStats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir::inline v0
