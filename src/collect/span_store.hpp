#pragma once
// SpanStore: what TraceStore is, with an entry for spans of the native format. The Collector feeds it; TraceStore
// (weir/collect/trace_store.hpp, which has the rules) is its public face. The two entries mix: an event whose ids are 32 and 16
// lower-case hex digits speaks of the same span as a PackedSpan with those ids.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "collect/packed_span.hpp"
#include "trace/event_view.hpp"
#include "weir/collect/trace_store.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: Distinct objects: safe. Shared: unsafe, as TraceStore.
class SpanStore {
 public:
  using TimePoint = TraceStore::TimePoint;

  explicit SpanStore(TraceStoreOptions options = {});
  ~SpanStore();
  SpanStore(SpanStore&&) noexcept;
  SpanStore& operator=(SpanStore&&) noexcept;

  /// See TraceStore.
  void on_span_complete(std::function<void(std::string_view trace_id, const Span&)> callback, std::function<bool()> wanted = {});
  void on_trace_complete(std::function<void(const Trace&)> callback, std::function<bool()> wanted = {});
  void on_trace_changed(std::function<void(const Trace&)> callback);

  /// The id of a name or key, the same for the store's life. 0, "…overflow", when the table is full: it is bounded.
  std::uint32_t intern(std::string_view text);
  /// The same for who sends: another table.
  std::uint32_t intern_service(std::string_view service);

  /// Lets time pass, then takes a finished span in: its start and its end at once. It completes one that is known as open. One
  /// that is complete already stays as it is, and one duplicate is counted. Of equal keys the last wins.
  void apply(const PackedSpan& span, std::uint32_t service, TimePoint now);
  /// Lets time pass, then takes in the start of a span that was seen open. Nothing, if the span is known.
  void apply_open(const PackedSpan& span, std::uint32_t service, TimePoint now);
  /// The same for a span whose end can never come: it is given up at once, unless it is complete.
  void apply_unfinished(const PackedSpan& span, std::uint32_t service, TimePoint now);
  /// The same as two events. Requires: a start, and an end of the same span.
  void apply(const EventView& start, const EventView& end, std::uint32_t service, TimePoint now);
  /// See TraceStore.
  void apply(const EventView& event, std::uint32_t service, TimePoint now);
  void apply(const Event& event, std::string_view service, TimePoint now);

  /// See TraceStore.
  bool restore(const Trace& trace, TimePoint completed, TimePoint now);
  /// See TraceStore. Costs next to nothing when nothing is due.
  void advance(TimePoint now);
  TimePoint next_deadline() const;
  void complete_all(TimePoint now);

  std::map<std::string, std::vector<Span>> traces() const;
  Replay last_traces(std::size_t count, std::size_t max_bytes = 1u << 20) const;
  TraceStoreStats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir::inline v0::detail
