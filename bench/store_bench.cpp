// The collector's store: what it costs to keep a span while old traces leave.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "collect/span_store.hpp"
#include "store/spans.hpp"
#include "support/bench.hpp"
#include "trace/event_decoder.hpp"

namespace {

using namespace std::chrono_literals;
using bench::per_span;
using bench::Spans;
using bench::spans_per_trace;
using weir::detail::EventDecoder;
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

/// Two lines of a service that speaks JSON make a span.
class Lines {
 public:
  static constexpr std::size_t spans = 1000;  // as many as measure_bursts() takes at once

  explicit Lines(SpanStore& store) : spans_(store) {}
  void make() {
    lines_.clear();
    for (std::size_t i = 0; i < spans; ++i) {
      const PackedSpan& span = spans_.next();
      lines_.push_back(to_json(
          weir::Event::span_start(span.span_id.hex(), span.trace_id.hex(), parent_of(span), "SELECT orders", span.kind, span.start_time)));
      char number[12];
      std::snprintf(number, sizeof number, "%09zu", i);
      lines_.push_back(
          to_json(weir::Event::span_end(
              span.span_id.hex(), span.trace_id.hex(), span.end_time,
              {{"user", std::string("user-") + (number + 1)}, {"order", std::string("order-") + (number + 3)}, {"rows", "17"}})) +
          '\n');
    }
  }
  const std::string& operator[](std::size_t i) const { return lines_[i]; }

 private:
  static std::string parent_of(const PackedSpan& span) { return span.parent_id.valid() ? span.parent_id.hex() : std::string(); }

  Spans spans_;
  std::vector<std::string> lines_;
};

template <bool Apart>
void span_of_lines(benchmark::State& state) {
  SpanStore store;
  Lines lines(store);
  EventDecoder decoder;
  const std::uint32_t service = store.intern_service("checkout");
  SpanStore::TimePoint now{};
  const auto take = [&](std::uint64_t span) {
    const std::size_t line = 2 * (span % Lines::spans);
    std::string_view following = lines[line + 1];
    const auto& start = **decoder.decode(lines[line]);
    if constexpr (Apart) {
      store.apply(start, service, now);
      following.remove_suffix(1);
      store.apply(**decoder.decode(following), service, now);
    } else {
      store.apply(start, *decoder.decode_end(following, following.size()), service, now);
    }
    now += per_span;
  };
  for (int i = 0; i < 1'000; ++i) {  // then traces settle and leave
    lines.make();
    for (std::size_t span = 0; span < Lines::spans; ++span) take(span);
  }
  lines.make();
  bench::measure_bursts(state, take, [&] { lines.make(); });
  const weir::TraceStoreStats stats = store.stats();
  state.counters["bytes_per_span"] =
      static_cast<double>(stats.bytes) / static_cast<double>(spans_per_trace * (stats.kept_traces + stats.open_traces));
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
      {.name = "span of two JSON lines, 3 attributes", .run = span_of_lines<false>, .goal_ns = 300},
      {.name = "… with others between", .run = span_of_lines<true>, .goal_ns = 300},
      {.name = "span made", .run = make_span, .role = Role::limit},
  };
}
