// The collector's store: what it costs to keep a span while old traces leave.

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "collect/span_store.hpp"
#include "store/spans.hpp"
#include "support/bench.hpp"

namespace {

using bench::per_span;
using bench::Spans;
using bench::spans_per_trace;
using weir::detail::PackedSpan;
using weir::detail::SpanStore;

void native_span(benchmark::State& state) {
  SpanStore store;
  Spans spans(store);
  const std::uint32_t service = store.intern_service("checkout");
  SpanStore::TimePoint now{};
  for (int i = 0; i < 1'000'000; ++i) store.apply(spans.next(), service, now += per_span);  // traces settle and leave from here on
  bench::measure(state, [&](std::uint64_t) { store.apply(spans.next(), service, now += per_span); });
  const weir::TraceStoreStats stats = store.stats();
  state.counters["bytes_per_span"] =
      static_cast<double>(stats.bytes) / static_cast<double>(spans_per_trace * (stats.kept_traces + stats.open_traces));
}

/// Two lines of a service that speaks JSON make a span; this is one of them.
void event(benchmark::State& state) {
  SpanStore store;
  Spans spans(store);
  SpanStore::TimePoint now{};
  weir::Event start, end;
  const auto make = [&](const PackedSpan& span) {
    start = weir::Event::span_start(span.span_id.hex(), span.trace_id.hex(), span.parent_id.valid() ? span.parent_id.hex() : "",
                                    "SELECT orders", span.kind, span.start_time);
    end = weir::Event::span_end(span.span_id.hex(), span.trace_id.hex(), span.end_time,
                                {{"user", "user-00000000"}, {"order", "order-000000"}, {"rows", "17"}});
  };
  std::vector<weir::Event> events(1000);  // as many as measure_bursts() takes at once
  const auto make_events = [&] {
    for (std::size_t i = 0; i < events.size(); i += 2) {
      make(spans.next());
      events[i] = start;
      events[i + 1] = end;
    }
  };
  make_events();
  bench::measure_bursts(
      state, [&](std::uint64_t i) { store.apply(std::move(events[i % events.size()]), "checkout", now += per_span); }, make_events);
}

void make_span(benchmark::State& state) {
  SpanStore store;
  Spans spans(store);
  bench::measure(state, [&](std::uint64_t) { bench::escape(&spans.next()); });
}

}  // namespace

std::vector<bench::Row> bench::rows() {
  return {
      {.name = "native span, 3 attributes", .run = native_span, .limit = "span made", .goal_ns = 40},
      {.name = "event, half a span with 3 attributes", .run = event, .goal_ns = 200, .may_allocate = true},
      {.name = "span made", .run = make_span, .role = Role::limit},
  };
}
