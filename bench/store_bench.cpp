// The collector's store: what it costs to keep a span while old traces leave.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "collect/span_store.hpp"
#include "support/bench.hpp"
#include "trace/event_decoder.hpp"
#include "weir/core/ids.hpp"
#include "weir/trace/detail/ring_layout.hpp"

namespace {

using namespace std::chrono_literals;
using weir::detail::EventDecoder;
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
      lines_.push_back(to_json(weir::Event::span_end(
          span.span_id.hex(), span.trace_id.hex(), span.end_time,
          {{"user", std::string("user-") + (number + 1)}, {"order", std::string("order-") + (number + 3)}, {"rows", "17"}})));
    }
  }
  const std::string& operator[](std::size_t i) const { return lines_[i]; }

 private:
  static std::string parent_of(const PackedSpan& span) { return span.parent_id.valid() ? span.parent_id.hex() : std::string(); }

  Spans spans_;
  std::vector<std::string> lines_;
};

void span_of_lines(benchmark::State& state) {
  SpanStore store;
  Lines lines(store);
  EventDecoder decoder;
  const std::uint32_t service = store.intern_service("checkout");
  SpanStore::TimePoint now{};
  const auto take = [&](std::uint64_t span) {
    for (std::size_t line = 2 * (span % Lines::spans), end = line + 2; line < end; ++line) {
      store.apply(**decoder.decode(lines[line]), service, now);
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
      {.name = "span of two JSON lines, 3 attributes", .run = span_of_lines, .goal_ns = 300},
      {.name = "span made", .run = make_span, .role = Role::limit},
  };
}
