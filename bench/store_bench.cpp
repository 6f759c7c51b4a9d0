// The collector's store: what it costs to keep a span while old traces leave.

#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "collect/span_store.hpp"
#include "support/bench.hpp"
#include "weir/core/ids.hpp"
#include "weir/trace/detail/ring_layout.hpp"

namespace {

using namespace std::chrono_literals;
using weir::detail::PackedSpan;
using weir::detail::SpanStore;

constexpr unsigned spans_per_trace = 10;
constexpr auto per_span = std::chrono::microseconds{1};  // a million spans a second

/// Spans as a ring has them: traces one after another, children before their root, each with two short strings and a number.
class Spans {
 public:
  explicit Spans(SpanStore& store) : name_(store.intern("SELECT orders")) {
    add_text(store.intern("user"), "user-00000000");
    add_text(store.intern("order"), "order-000000");
    add_word(weir::detail::attribute_word(store.intern("rows"), 2, 8));
    add_word(0);
  }
  const PackedSpan& next() {
    if (at_ % spans_per_trace == 0) {
      span_.trace_id = {weir::detail::split_mix(random_), weir::detail::split_mix(random_)};
      root_ = {weir::detail::split_mix(random_)};
    }
    const bool is_root = ++at_ % spans_per_trace == 0;
    span_.span_id = is_root ? root_ : weir::SpanId{weir::detail::split_mix(random_)};
    span_.parent_id = is_root ? weir::SpanId{} : root_;
    span_.name = name_;
    span_.kind = weir::SpanKind::sql;
    span_.start_time = start_ + at_ * per_span;
    span_.end_time = span_.start_time + 12'345ns;
    std::memcpy(bytes_.data() + 8 + 5, &at_, 8);
    std::memcpy(bytes_.data() + 32 + 6, &at_, 6);
    std::memcpy(bytes_.data() + 56, &at_, 4);
    span_.attribute_count = 3;
    span_.attributes = bytes_;
    return span_;
  }

 private:
  void add_word(std::uint64_t word) {
    const auto* const bytes = reinterpret_cast<const std::byte*>(&word);
    bytes_.insert(bytes_.end(), bytes, bytes + sizeof word);
  }
  void add_text(std::uint32_t key, std::string_view text) {
    add_word(weir::detail::attribute_word(key, 1, text.size()));
    const auto* const bytes = reinterpret_cast<const std::byte*>(text.data());
    bytes_.insert(bytes_.end(), bytes, bytes + text.size());
    bytes_.resize((bytes_.size() + 7) / 8 * 8);
  }

  const std::uint32_t name_;
  const weir::Timestamp start_{1'700'000'000s};
  std::uint64_t random_ = 1, at_ = 0;
  weir::SpanId root_;
  PackedSpan span_;
  std::vector<std::byte> bytes_;
};

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
  constexpr int burst = 1000;
  std::vector<weir::Event> events(burst);
  while (state.KeepRunningBatch(burst)) {
    state.PauseTiming();
    for (int i = 0; i < burst; i += 2) {
      make(spans.next());
      events[static_cast<std::size_t>(i)] = start;
      events[static_cast<std::size_t>(i) + 1] = end;
    }
    state.ResumeTiming();
    for (weir::Event& each : events) store.apply(std::move(each), "checkout", now += per_span);
  }
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
