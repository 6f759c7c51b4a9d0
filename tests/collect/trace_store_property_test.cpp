// Random streams of events and native spans against a model.
#include <algorithm>
#include <chrono>
#include <random>
#include <string>
#include <vector>

#include "collect/span_store.hpp"
#include "support/catch.hpp"
#include "support/trace_model.hpp"
#include "weir/collect/trace_store.hpp"

using namespace weir;
using namespace std::chrono_literals;

using weir::testing::describe;
using weir::testing::Open;
using weir::testing::Outcome;
using weir::testing::Pair;
using weir::testing::Step;
using weir::testing::TraceModel;
using weir::testing::Whole;

namespace {

using TimePoint = TraceStore::TimePoint;

Timestamp at(std::int64_t nanoseconds) { return Timestamp{std::chrono::nanoseconds{nanoseconds}}; }

/// How ids look: any text in events; 32 and 16 hex digits, where native spans are among them.
std::string trace_name(std::uint64_t n, bool native) { return native ? TraceId{n / 2, n + 1}.hex() : "t" + std::to_string(n); }
std::string span_name(std::uint64_t n, bool native) { return native ? SpanId{n + 1}.hex() : std::to_string(n); }

/// Some that its end has too, and one of its own.
Event with_attributes(Event start, std::uint64_t count) {
  for (const char* key : {"flag", "text"}) {
    if (count-- == 0) return start;
    start.attrs.emplace(key, "of the start");
  }
  start.attrs.emplace("own", "");
  return start;
}

/// Starts and ends of random spans with random parents, some lost, some twice, in an order that is a bit or wholly random.
std::vector<Step> random_stream(std::mt19937& random) {
  std::vector<Step> steps;
  const bool native = random() % 3 != 0, large = random() % 16 == 0;
  const auto traces = 1 + random() % (large ? 2 : 4), ids = 1 + random() % (large ? 100 : 12);
  for (std::size_t span = 0, count = random() % (large ? 300 : 40); span < count; ++span) {
    const std::string trace = trace_name(random() % traces, native), id = span_name(random() % ids, native);
    const std::string parent = random() % 4 == 0 ? "" : span_name(random() % (ids + 2), native);
    const auto from = static_cast<std::int64_t>(random() % 50), to = static_cast<std::int64_t>(random() % 100);
    const Event start = Event::span_start(id, trace, parent, "n" + std::to_string(span), static_cast<SpanKind>(span % 5), at(from));
    StringAttributes attributes{{"n", std::to_string(span)}, {"flag", "true"}, {"half", "-0.5"}, {"text", std::string(span * 7, 'x')}};
    for (std::size_t left = random() % 5; left < 4; ++left) attributes.erase(attributes.begin());
    const Event end = Event::span_end(id, trace, at(to), attributes);
    const auto form = native ? random() % 4 : 3;
    if (form == 0) steps.emplace_back(Open{start, random() % 4 == 0});
    if (form <= 1) steps.emplace_back(Whole{start, end});
    if (form >= 2 && random() % 4 == 0) {
      steps.emplace_back(Pair{with_attributes(start, random() % 3), end});
      continue;
    }
    if (form >= 2 && random() % 8 != 0) steps.emplace_back(start);
    if (form >= 2 && random() % 8 != 0) steps.emplace_back(end);
  }
  if (random() % 2 == 0) std::shuffle(steps.begin(), steps.end(), random);
  return steps;
}

}  // namespace

TEST_CASE("whatever the stream, the store does what the model does") {
  TraceStoreOptions options;
  options.settle = 500ms;
  options.trace_ttl = 5s;
  for (unsigned seed = 0; seed < 4000; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(seed);
    detail::SpanStore store(options);
    TraceModel model(options);
    Outcome got;
    const bool watched = seed % 2 == 0;  // else nothing is made for callbacks, and all is counted just the same
    store.on_span_complete([&](std::string_view, const Span& span) { got.spans.insert(to_json(span)); }, [&] { return watched; });
    store.on_trace_complete([&](const Trace& trace) { got.traces.insert(describe(trace.roots)); }, [&] { return watched; });

    TimePoint now{};
    const unsigned hurry = 1 + random() % 6;
    const auto compare = [&] {
      Outcome expected = model.outcome();
      const TraceStoreStats stats = store.stats();
      read(store, got);
      REQUIRE(stats.spans == expected.spans.size());
      REQUIRE(stats.traces == expected.traces.size());
      if (!watched) {
        REQUIRE(got.spans.size() + got.traces.size() == 0);
        expected.spans = {}, expected.traces = {};
      }
      REQUIRE(got.spans == expected.spans);
      REQUIRE(got.traces == expected.traces);
      REQUIRE(got.snapshot == expected.snapshot);
      REQUIRE(got == expected);
      REQUIRE((store.next_deadline() > now));
    };
    for (const Step& step : random_stream(random)) {
      if (random() % hurry == 0) {
        now += std::chrono::milliseconds{random() % (random() % 4 == 0 ? 6000 : 600)};
        if (random() % 2 == 0) {
          store.advance(now);
          model.advance(now);
        }
      }
      apply(store, step, now);
      model.apply(step, now);
      if (random() % 16 == 0) compare();
    }
    compare();
    store.complete_all(now);
    model.complete_all(now);
    compare();
  }
}

TEST_CASE("trees do not depend on the order of arrival") {
  for (unsigned seed = 0; seed < 300; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(seed);
    std::vector<Event> events;
    for (int i = 0; i < 30; ++i) {
      const std::string id = std::to_string(i);
      events.push_back(
          Event::span_start(id, "t", random() % 5 == 0 ? "" : std::to_string(random() % 33), id, SpanKind::http, at(random() % 9)));
      events.push_back(Event::span_end(id, "t", at(10 + static_cast<std::int64_t>(random() % 9))));
    }
    std::string first;
    for (int order = 0; order < 5; ++order) {
      TraceStore store;
      for (const Event& event : events) store.apply(event, "s", {});
      const std::string trees = describe(store.traces().at("t"));
      if (order == 0) first = trees;
      REQUIRE(trees == first);
      std::shuffle(events.begin(), events.end(), random);
    }
  }
}

TEST_CASE("whatever the stream and the bounds, nothing is lost uncounted and the bounds hold") {
  for (unsigned seed = 0; seed < 2000; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(seed);
    TraceStoreOptions options;
    options.trace_ttl = 5s;
    options.max_traces = random() % 4;
    options.max_pending = random() % 6;
    options.max_bytes = random() % 2 == 0 ? random() % 20'000 : options.max_bytes;
    options.max_trace_bytes = random() % 2 == 0 ? random() % 10'000 : options.max_trace_bytes;
    options.max_age = std::chrono::minutes{random() % 2};
    options.max_attributes = random() % 2;
    detail::SpanStore store(options);
    std::uint64_t spans = 0, traces = 0;
    store.on_span_complete([&](std::string_view, const Span&) { ++spans; });
    store.on_trace_complete([&](const Trace&) { ++traces; });
    TimePoint now{};
    std::uint64_t corrected = 0;
    const auto check = [&] {
      const TraceStoreStats stats = store.stats();
      REQUIRE(stats.pending <= options.max_pending);
      REQUIRE(stats.kept_traces <= options.max_traces);
      REQUIRE(stats.bytes <= options.max_bytes);
      REQUIRE(stats.spans == spans);
      REQUIRE(stats.traces == traces);
      REQUIRE(stats.traces == stats.kept_traces + stats.evicted_traces);
      // A native span is two events, or one if a half is known. Every event is a half of a span handed on, a duplicate, given up, pending,
      // or the late end of an unfinished span.
      const std::uint64_t accounted =
          2 * (stats.spans - stats.unfinished) + stats.unfinished + stats.duplicates + stats.ends_without_start + stats.pending;
      REQUIRE(stats.events >= accounted);
      REQUIRE(stats.events - accounted >= corrected);
      REQUIRE(stats.events - accounted <= stats.unfinished);
      corrected = stats.events - accounted;
    };
    for (const Step& step : random_stream(random)) {
      now += std::chrono::milliseconds{random() % 300};
      apply(store, step, now);
      check();
    }
    store.complete_all(now);
    check();
    REQUIRE(store.stats().pending == 0);
    REQUIRE(store.stats().open_traces == 0);
    store.advance(now + 2min);
    REQUIRE(store.stats().kept_traces == 0);
    REQUIRE(store.stats().bytes == 0);
    REQUIRE((store.next_deadline() == TimePoint::max()));
  }
}
