#include "weir/collect/trace_store.hpp"

#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/catch.hpp"

using namespace weir;
using namespace std::chrono_literals;

namespace {

Timestamp at(std::int64_t nanoseconds) { return Timestamp{std::chrono::nanoseconds{nanoseconds}}; }

/// A store with a clock of its own, and everything it handed on.
struct Bench {
  explicit Bench(TraceStoreOptions options = {}) : store(options) {
    store.on_span_complete([this](std::string_view trace_id, const Span& span) {
      CHECK(trace_id == span.trace_id);
      CHECK(span.children.empty());
      spans.push_back(span);
    });
    store.on_trace_complete([this](const Trace& trace) { traces.push_back(trace); });
  }

  void start(std::string id, std::string parent, std::int64_t time, std::string trace = "t", std::string service = "shop") {
    store.apply(Event::span_start(id, std::move(trace), std::move(parent), "name of " + id, SpanKind::http, at(time)), service, now);
  }
  void end(std::string id, std::int64_t time, StringAttributes attrs = {}, std::string trace = "t", std::string service = "shop") {
    store.apply(Event::span_end(std::move(id), std::move(trace), at(time), std::move(attrs)), service, now);
  }
  void span(const std::string& id, const std::string& parent, std::int64_t from, std::int64_t to, const std::string& trace = "t") {
    start(id, parent, from, trace);
    end(id, to, {}, trace);
  }
  void pass(std::chrono::milliseconds time) { store.advance(now += time); }
  TraceStoreStats stats() const { return store.stats(); }

  TraceStore::TimePoint now{};
  TraceStore store;
  std::vector<Span> spans;
  std::vector<Trace> traces;
};

/// "a(b(c)d)" for a tree.
std::string shape(const std::vector<Span>& spans) {
  std::string text;
  for (const Span& span : spans) text += span.id + (span.children.empty() ? "" : "(" + shape(span.children) + ")");
  return text;
}

std::string shape_of(const Bench& bench, const std::string& trace = "t") {
  const auto traces = bench.store.traces();
  const auto found = traces.find(trace);
  return found == traces.end() ? "" : shape(found->second);
}

std::size_t depth_of(const Span& root) {
  std::size_t depth = 1;
  for (const Span* span = &root; !span->children.empty(); span = &span->children.front()) ++depth;
  return depth;
}

}  // namespace

TEST_CASE("a start and an end make a span with what both of them said") {
  Bench bench;
  bench.start("a", "p", 10);
  CHECK(bench.spans.empty());
  bench.end("a", 30, {{"k", "v"}});
  REQUIRE(bench.spans.size() == 1);
  CHECK(bench.spans[0] == Span{"a", "t", "p", "name of a", SpanKind::http, at(10), at(30), {{"k", "v"}}, {}});
  CHECK(bench.stats().events == 2);
  CHECK(bench.stats().spans == 1);
  CHECK(bench.stats().pending == 0);
}

TEST_CASE("the last traces are the newest complete ones, as a viewer would have got their spans") {
  Bench bench;
  const auto ids = [](const Replay& replay) {
    std::string text;
    for (const Span& span : replay.spans) {
      CHECK(span.children.empty());
      text += span.trace_id + "." + span.id + " ";
    }
    return text;
  };
  CHECK(bench.store.last_traces(10).spans.empty());
  for (const std::string trace : {"1", "2"}) {
    bench.start("root", "", 0, trace);
    bench.span("a", "root", 10, 20, trace);
    bench.span("b", "root", 30, 90, trace);
    bench.span("b1", "b", 40, 95, trace);  // ends after its parent
    bench.end("root", 50, {}, trace);
    bench.pass(500ms);
  }
  REQUIRE(bench.traces.size() == 2);
  bench.span("root", "", 0, 1, "3");      // has to settle
  bench.span("leaf", "root", 0, 1, "4");  // its root is open
  bench.start("root", "", 0, "4");
  const std::string first = "1.a 1.b1 1.b 1.root ", second = "2.a 2.b1 2.b 2.root ", third = "3.root ";
  CHECK(ids(bench.store.last_traces(10)) == first + second + third);
  CHECK(ids(bench.store.last_traces(2)) == second + third);
  CHECK(ids(bench.store.last_traces(1)) == third);
  CHECK(ids(bench.store.last_traces(0)).empty());
  CHECK(bench.store.last_traces(10).left_out == 0);

  const Replay cut = bench.store.last_traces(10, 200);  // the text of more than one span, and less than that of five
  CHECK(ids(cut) == second + third);
  CHECK(cut.left_out == 4);
  const Replay none = bench.store.last_traces(10, 0);
  CHECK(none.spans.empty());
  CHECK(none.left_out == 9);
}

TEST_CASE("of a complete trace with an open span the last traces have what has ended") {
  Bench bench;
  bench.start("root", "", 0);
  bench.start("slow", "root", 1);
  bench.end("root", 5);
  bench.pass(500ms);
  REQUIRE(bench.traces.size() == 1);
  CHECK(bench.store.last_traces(1).spans == std::vector<Span>{bench.spans.at(0)});
  bench.end("slow", 9);
  CHECK(bench.store.last_traces(1).spans == std::vector<Span>{bench.spans.at(1), bench.spans.at(0)});
}

TEST_CASE("an end before its start waits for it") {
  Bench bench;
  bench.end("a", 30, {{"k", "v"}});
  CHECK(bench.spans.empty());
  CHECK(bench.stats().pending == 1);
  CHECK(bench.store.traces().empty());
  bench.start("a", "", 10);
  REQUIRE(bench.spans.size() == 1);
  CHECK(bench.spans[0] == Span{"a", "t", "", "name of a", SpanKind::http, at(10), at(30), {{"k", "v"}}, {}});
}

TEST_CASE("attributes of the start are kept, those of the end win, whichever comes first") {
  for (const bool end_first : {false, true}) {
    Bench bench;
    Event start = Event::span_start("a", "t", "", "n", SpanKind::function, at(1));
    start.attrs = {{"both", "start"}, {"start", "1"}};
    const Event end = Event::span_end("a", "t", at(2), {{"both", "end"}, {"end", "2"}});
    bench.store.apply(end_first ? end : start, "s", bench.now);
    bench.store.apply(end_first ? start : end, "s", bench.now);
    REQUIRE(bench.spans.size() == 1);
    CHECK(bench.spans[0].attrs == StringAttributes{{"both", "end"}, {"end", "2"}, {"start", "1"}});
  }
}

TEST_CASE("equal span ids in different traces are different spans") {
  Bench bench;
  bench.start("a", "", 1, "t1");
  bench.start("a", "", 2, "t2");
  bench.end("a", 5, {}, "t2");
  REQUIRE(bench.spans.size() == 1);
  CHECK(bench.spans[0].trace_id == "t2");
  CHECK(bench.spans[0].start_time == at(2));
  CHECK(bench.stats().duplicates == 0);
}

TEST_CASE("of a second start and a second end the first wins, and they are counted") {
  Bench bench;
  bench.start("a", "", 1);
  bench.start("a", "x", 2);
  bench.end("b", 7);
  bench.end("b", 8);
  bench.end("a", 5);
  bench.end("a", 6);
  bench.start("a", "y", 3);
  bench.start("b", "a", 2);
  REQUIRE(bench.spans.size() == 2);
  CHECK(bench.spans[0].parent_id.empty());
  CHECK(bench.spans[0].start_time == at(1));
  CHECK(bench.spans[0].end_time == at(5));
  CHECK(bench.spans[1].end_time == at(7));
  CHECK(bench.stats().duplicates == 4);
}

TEST_CASE("events of an unknown type are ignored") {
  Bench bench;
  Event event = Event::span_start("a", "t", "", "n", SpanKind::function, at(1));
  event.type = static_cast<EventType>(2);
  bench.store.apply(event, "s", bench.now);
  CHECK(bench.stats().pending == 0);
  CHECK(bench.stats().bytes == 0);
}

TEST_CASE("a parent that comes after its children adopts them, ordered by start time") {
  Bench bench;
  bench.span("d", "b", 4, 5);
  bench.span("c", "a", 6, 7);
  CHECK(shape_of(bench) == "dc");
  bench.span("b", "a", 2, 6);
  CHECK(shape_of(bench) == "b(d)c");
  bench.span("a", "", 1, 9);
  CHECK(shape_of(bench) == "a(b(d)c)");
}

TEST_CASE("children that started at the same time are ordered by id, whatever came first") {
  Bench bench;
  bench.span("z", "a", 2, 3);
  bench.span("m", "a", 2, 3);
  bench.span("a", "", 1, 9);
  CHECK(shape_of(bench) == "a(mz)");
}

TEST_CASE("a trace completes once, when its root has ended and it was quiet for the settle time") {
  Bench bench;
  bench.start("a", "", 1);
  bench.span("b", "a", 2, 3);
  bench.pass(10s);
  CHECK(bench.traces.empty());
  bench.end("a", 9);
  bench.pass(400ms);
  bench.span("c", "a", 4, 5);
  bench.pass(499ms);
  CHECK(bench.traces.empty());
  bench.pass(1ms);
  REQUIRE(bench.traces.size() == 1);
  const Trace& trace = bench.traces[0];
  CHECK(trace.trace_id == "t");
  CHECK(trace.service == "shop");
  CHECK(shape(trace.roots) == "a(bc)");
  CHECK(trace.spans == 3);
  CHECK(trace.unfinished == 0);
  CHECK(trace.late == 0);
  bench.pass(10min);
  CHECK(bench.traces.size() == 1);
  CHECK(bench.stats().traces == 1);
  CHECK(bench.stats().kept_traces == 1);
  CHECK(bench.stats().open_traces == 0);
}

TEST_CASE("a trace with two roots waits for both") {
  Bench bench;
  bench.start("a", "", 1);
  bench.start("b", "", 2);
  bench.end("a", 3);
  bench.pass(1s);
  CHECK(bench.traces.empty());
  bench.end("b", 4);
  bench.pass(1s);
  REQUIRE(bench.traces.size() == 1);
  CHECK(shape(bench.traces[0].roots) == "ab");
}

TEST_CASE("a trace without a root completes when its time to live has passed") {
  Bench bench;
  bench.span("b", "a", 2, 3);
  bench.pass(30s);
  bench.span("c", "a", 4, 5);
  bench.pass(29'999ms);
  CHECK(bench.traces.empty());
  bench.pass(1ms);
  REQUIRE(bench.traces.size() == 1);
  CHECK(shape(bench.traces[0].roots) == "bc");
  CHECK(bench.traces[0].roots[0].parent_id == "a");
  CHECK(bench.stats().orphans == 2);
}

TEST_CASE("a trace that is never quiet completes when its time to live has passed") {
  Bench bench;
  bench.span("a", "", 1, 2);
  for (int i = 0; i < 240; ++i) {
    bench.pass(250ms);
    if (i < 239) bench.span("c" + std::to_string(i), "a", 3, 4);
  }
  REQUIRE(bench.traces.size() == 1);
  CHECK(bench.traces[0].spans == 240);
}

TEST_CASE("a span that comes after its trace completed is late: handed on, added, and the trace not completed again") {
  Bench bench;
  bench.span("a", "", 1, 9);
  bench.pass(500ms);
  REQUIRE(bench.traces.size() == 1);
  bench.span("b", "a", 2, 3);
  bench.pass(10min);
  CHECK(bench.spans.size() == 2);
  CHECK(bench.traces.size() == 1);
  CHECK(bench.stats().late == 1);
  CHECK(shape_of(bench) == "a(b)");
}

TEST_CASE("a span still open when its trace completes is shown unfinished until it ends") {
  Bench bench;
  bench.start("a", "", 1);
  bench.start("b", "a", 2);
  bench.span("c", "b", 3, 4);
  CHECK(shape_of(bench) == "c");
  bench.end("a", 9);
  bench.pass(500ms);
  REQUIRE(bench.traces.size() == 1);
  CHECK(shape(bench.traces[0].roots) == "a(b(c))");
  CHECK(bench.traces[0].unfinished == 1);
  const Span& open = bench.traces[0].roots[0].children[0];
  CHECK(open.attrs == StringAttributes{{"weir.unfinished", "true"}});
  CHECK(open.end_time == at(9));
  CHECK(bench.spans.size() == 2);  // it may still end

  bench.end("b", 20, {{"k", "v"}});
  REQUIRE(bench.spans.size() == 3);
  CHECK(bench.spans[2].end_time == at(20));
  CHECK(bench.store.traces().at("t")[0].children[0].attrs == StringAttributes{{"k", "v"}});
  CHECK(bench.stats().unfinished == 0);
  CHECK(bench.stats().late == 1);
}

TEST_CASE("a span that never ends is handed on unfinished after the time to live") {
  Bench bench;
  bench.start("a", "", 1);
  bench.pass(10s);
  bench.span("b", "a", 2, 30);
  bench.pass(49'999ms);
  CHECK(bench.spans.size() == 1);
  CHECK(bench.traces.empty());
  bench.pass(1ms);
  REQUIRE(bench.spans.size() == 2);
  CHECK(bench.spans[1].id == "a");
  CHECK(bench.spans[1].end_time == at(30));  // the latest time known in the trace
  CHECK(bench.spans[1].attrs == StringAttributes{{"weir.unfinished", "true"}});
  REQUIRE(bench.traces.size() == 1);
  CHECK(shape(bench.traces[0].roots) == "a(b)");
  CHECK(bench.traces[0].unfinished == 1);
  CHECK(bench.stats().unfinished == 1);

  SECTION("and its end, should it come, corrects what is stored without handing it on again") {
    bench.end("a", 70, {{"k", "v"}});
    CHECK(bench.spans.size() == 2);
    CHECK(bench.traces.size() == 1);
    const Span root = bench.store.traces().at("t")[0];
    CHECK(root.end_time == at(70));
    CHECK(root.attrs == StringAttributes{{"k", "v"}});
    CHECK(bench.stats().late == 1);
    bench.end("a", 71);
    CHECK(bench.stats().duplicates == 1);
  }
}

TEST_CASE("an end whose start never comes is given up after the time to live") {
  Bench bench;
  bench.end("a", 5);
  bench.pass(59'999ms);
  CHECK(bench.stats().pending == 1);
  bench.pass(1ms);
  CHECK(bench.stats().ends_without_start == 1);
  CHECK(bench.stats().pending == 0);
  CHECK(bench.stats().open_traces == 0);
  CHECK(bench.stats().bytes == 0);
  CHECK(bench.spans.empty());
  CHECK(bench.traces.empty());
}

TEST_CASE("an end that waits keeps its trace open, though an older one was given up") {
  Bench bench;
  bench.end("a", 5);
  bench.pass(30s);
  bench.end("b", 6);
  bench.pass(30s);
  CHECK(bench.stats().ends_without_start == 1);
  bench.start("b", "", 1);
  CHECK(bench.spans.size() == 1);
  bench.pass(500ms);
  CHECK(bench.traces.size() == 1);
}

TEST_CASE("a span that ended before it started has no duration, and is counted") {
  Bench bench;
  bench.span("a", "", 9, 4);
  REQUIRE(bench.spans.size() == 1);
  CHECK(bench.spans[0].start_time == at(9));
  CHECK(bench.spans[0].end_time == at(9));
  CHECK(bench.stats().negative_durations == 1);
}

TEST_CASE("a span that is its own parent is a root") {
  Bench bench;
  bench.span("a", "a", 1, 2);
  REQUIRE(bench.spans.size() == 1);
  CHECK(bench.spans[0].parent_id.empty());
  bench.pass(500ms);
  REQUIRE(bench.traces.size() == 1);
  CHECK(bench.stats().cycles == 1);
  CHECK(bench.stats().orphans == 0);
}

TEST_CASE("of a cycle the span that started first becomes a root") {
  Bench bench;
  bench.span("c", "b", 3, 4);
  bench.span("a", "c", 1, 9);
  bench.span("b", "a", 2, 5);
  bench.span("leaf", "b", 4, 5);
  bench.span("other", "gone", 1, 2);
  CHECK(shape_of(bench) == "a(b(cleaf))other");
  bench.pass(60s);
  REQUIRE(bench.traces.size() == 1);
  CHECK(shape(bench.traces[0].roots) == "a(b(cleaf))other");
  CHECK(bench.traces[0].roots[0].parent_id.empty());
  CHECK(bench.stats().cycles == 1);
  CHECK(bench.stats().orphans == 1);
}

TEST_CASE("a chain of 100,000 spans is kept whole, with its lowest levels flattened") {
  Bench bench;
  constexpr int count = 100'000;
  for (int i = count; i-- > 0;) {
    bench.span(std::to_string(i), i == 0 ? "" : std::to_string(i - 1), i, 2 * count - i);
  }
  bench.pass(500ms);
  REQUIRE(bench.traces.size() == 1);
  CHECK(bench.traces[0].spans == count);
  REQUIRE(bench.traces[0].roots.size() == 1);
  CHECK(depth_of(bench.traces[0].roots[0]) == max_span_depth);
  const Span* parent = &bench.traces[0].roots[0];
  while (!parent->children[0].children.empty()) parent = &parent->children[0];
  CHECK(parent->children.size() == count - max_span_depth + 1);
  CHECK(parent->children.back().id == std::to_string(count - 1));
  CHECK(parent->children.back().parent_id == std::to_string(count - 2));
  CHECK(bench.stats().flattened == count - max_span_depth);
}

TEST_CASE("a cycle of 100,000 spans becomes one tree") {
  Bench bench;
  constexpr int count = 100'000;
  for (int i = 0; i < count; ++i) bench.span(std::to_string(i), std::to_string((i + count - 1) % count), i, count);
  bench.pass(60s);
  REQUIRE(bench.traces.size() == 1);
  CHECK(bench.traces[0].roots.size() == 1);
  CHECK(bench.traces[0].roots[0].id == "0");
  CHECK(bench.stats().cycles == 1);
}

TEST_CASE("beyond max_pending the oldest are given up") {
  TraceStoreOptions options;
  options.max_pending = 2;
  Bench bench(options);
  bench.start("a", "", 1, "t1");
  bench.end("b", 2, {}, "t2");
  bench.start("c", "", 3, "t3");
  CHECK(bench.stats().unfinished == 1);
  REQUIRE(bench.spans.size() == 1);
  CHECK(bench.spans[0].id == "a");
  bench.start("d", "", 4, "t4");
  CHECK(bench.stats().ends_without_start == 1);
  CHECK(bench.stats().given_up_early == 2);
  CHECK(bench.stats().pending == 2);
  bench.pass(500ms);  // a counts as an ended root
  REQUIRE(bench.traces.size() == 1);
  CHECK(bench.traces[0].trace_id == "t1");
}

TEST_CASE("beyond max_traces the oldest completed traces leave") {
  TraceStoreOptions options;
  options.max_traces = 2;
  Bench bench(options);
  for (const char* trace : {"t1", "t2", "t3"}) {
    bench.span("a", "", 1, 2, trace);
    bench.pass(500ms);
  }
  CHECK(bench.traces.size() == 3);
  CHECK(bench.stats().kept_traces == 2);
  CHECK(bench.stats().evicted_traces == 1);
  CHECK(shape_of(bench, "t1").empty());
  CHECK(shape_of(bench, "t2") == "a");
}

TEST_CASE("what a completed trace still waits for is handed on when the trace leaves") {
  TraceStoreOptions options;
  options.max_traces = 1;
  Bench bench(options);
  bench.span("a", "", 1, 2, "t1");
  bench.start("b", "a", 1, "t1");
  bench.end("c", 1, {}, "t1");
  bench.pass(500ms);
  bench.span("a", "", 1, 2, "t2");
  bench.pass(500ms);
  REQUIRE(bench.spans.size() == 3);
  CHECK(bench.spans[2].id == "b");
  CHECK(bench.stats().unfinished == 1);
  CHECK(bench.stats().ends_without_start == 1);
  CHECK(bench.stats().given_up_early == 2);
  CHECK(bench.stats().pending == 0);
}

TEST_CASE("completed traces leave at max_age") {
  Bench bench;
  bench.span("a", "", 1, 2);
  bench.pass(500ms);
  bench.pass(60min - 1ms);
  CHECK(bench.stats().kept_traces == 1);
  bench.pass(1ms);
  CHECK(bench.stats().kept_traces == 0);
  CHECK(bench.stats().bytes == 0);
  CHECK(bench.store.traces().empty());
}

TEST_CASE("beyond max_bytes completed traces leave first, then open ones complete early") {
  TraceStoreOptions options;
  options.max_bytes = 64u << 10;
  Bench bench(options);
  bench.span("a", "", 1, 2, "completed");
  bench.pass(500ms);
  bench.span("x", "gone", 1, 2, "open");
  bench.start("y", "x", 1, "open");
  for (int i = 0; bench.stats().kept_traces == 1; ++i) bench.start("p" + std::to_string(i), "", 1, "new");
  CHECK(bench.stats().evicted_traces == 1);
  CHECK(bench.stats().open_traces == 2);
  for (int i = 0; bench.stats().open_traces == 2; ++i) bench.start("q" + std::to_string(i), "", 1, "new");
  CHECK(bench.stats().completed_early == 1);
  CHECK(bench.stats().given_up_early == 1);
  CHECK(bench.stats().evicted_traces == 2);
  REQUIRE(bench.traces.size() == 2);
  CHECK(bench.traces[1].trace_id == "open");
  CHECK(shape(bench.traces[1].roots) == "x(y)");
  CHECK(bench.stats().bytes <= options.max_bytes);
}

TEST_CASE("millions of trace ids and spans that never end stay within the byte bound") {
  TraceStoreOptions options;
  options.max_bytes = 1u << 20;
  Bench bench(options);
  std::size_t largest = 0;
  for (int i = 0; i < 200'000; ++i) {
    bench.now += 1ms;
    if (i % 3 == 0) {
      bench.end("e", 1, {}, std::to_string(i));
    } else {
      bench.start("s", i % 3 == 1 ? "" : "p", 1, std::to_string(i));
    }
    largest = std::max(largest, bench.stats().bytes);
  }
  CHECK(largest <= options.max_bytes);
  bench.store.complete_all(bench.now);
  const TraceStoreStats stats = bench.stats();
  CHECK(stats.unfinished + stats.ends_without_start == 200'000);
  CHECK(stats.pending == 0);
  CHECK(stats.open_traces == 0);
}

TEST_CASE("a trace beyond max_trace_bytes hands its further spans on and does not keep them") {
  TraceStoreOptions options;
  options.max_trace_bytes = 32u << 10;
  Bench bench(options);
  for (int i = 0; i < 2000; ++i) bench.span(std::to_string(i), "a", i, i + 1);
  bench.span("a", "", 0, 3000);
  bench.pass(500ms);
  CHECK(bench.spans.size() == 2001);
  REQUIRE(bench.traces.size() == 1);
  CHECK(bench.traces[0].spans + bench.stats().dropped_spans == 2001);
  CHECK(bench.stats().dropped_spans > 0);
  CHECK(bench.traces[0].spans > 400);
  CHECK(bench.stats().bytes <= options.max_trace_bytes);
}

TEST_CASE("what a trace forgets is no longer charged to it") {
  TraceStoreOptions options;
  options.max_trace_bytes = 512;  // room for a, and a half beside it
  Bench bench(options);
  bench.span("a", "", 0, 1);
  bench.pass(500ms);
  const std::size_t bytes = bench.stats().bytes;
  CHECK(bytes > 0);
  bench.end("b", 2);
  bench.start("c", "a", 2);
  CHECK(bench.stats().bytes > bytes);
  bench.end("c", 3);
  bench.pass(60s);
  CHECK(bench.stats().dropped_spans == 1);
  CHECK(bench.stats().ends_without_start == 1);
  CHECK(bench.stats().bytes == bytes);
}

TEST_CASE("a trace so full that it keeps nothing is forgotten") {
  TraceStoreOptions options;
  options.max_trace_bytes = 1;
  Bench bench(options);
  bench.span("a", "", 0, 1);
  bench.start("b", "a", 0);
  bench.pass(500ms);
  bench.pass(10min);
  CHECK(bench.spans.size() == 2);
  CHECK(bench.traces.empty());
  CHECK(bench.stats().dropped_spans == 2);
  CHECK(bench.stats().bytes == 0);
}

TEST_CASE("attributes beyond their bounds are cut or dropped, between characters, and counted") {
  TraceStoreOptions options;
  options.max_attributes = 3;
  options.max_attribute_bytes = 4;
  Bench bench(options);
  Event start = Event::span_start("a", "t", "", "na\u20ac", SpanKind::function, at(1));
  start.attrs = {{"x", "1"}, {"z", "dropped"}};
  bench.store.apply(start, "s", bench.now);
  bench.end("a", 2, {{"k", "\u20ac\u20ac"}, {"long key", "v"}, {"long", "w"}, {"m", "12345"}});
  REQUIRE(bench.spans.size() == 1);
  CHECK(bench.spans[0].name == "na");
  CHECK(bench.spans[0].attrs == StringAttributes{{"k", "\u20ac"}, {"long", "w"}, {"m", "1234"}});
  CHECK(bench.stats().cut_attributes == 5);      // the name, "dropped", k, m and the long key
  CHECK(bench.stats().dropped_attributes == 3);  // the cut key that is taken, then x and z
}

TEST_CASE("a callback that throws is counted and disturbs nothing") {
  TraceStore store;
  int called = 0;
  store.on_span_complete([&](std::string_view, const Span&) {
    ++called;
    throw std::runtime_error("span");
  });
  store.on_trace_complete([&](const Trace&) {
    ++called;
    throw 1;
  });
  store.apply(Event::span_start("a", "t", "", "n", SpanKind::function, at(1)), "s", {});
  store.apply(Event::span_end("a", "t", at(2)), "s", {});
  store.complete_all({});
  CHECK(called == 2);
  CHECK(store.stats().failed_callbacks == 2);
  CHECK(store.traces().size() == 1);
}

TEST_CASE("callbacks see the span they are told of in the snapshots") {
  TraceStore store;
  std::size_t in_span = 0, in_trace = 0;
  store.on_span_complete([&](std::string_view, const Span&) { in_span = store.traces().size() + store.stats().spans; });
  store.on_trace_complete([&](const Trace&) { in_trace = store.traces().size() + store.stats().kept_traces; });
  store.apply(Event::span_start("a", "t", "", "n", SpanKind::function, at(1)), "s", {});
  store.apply(Event::span_end("a", "t", at(2)), "s", {});
  store.complete_all({});
  CHECK(in_span == 2);
  CHECK(in_trace == 2);
}

TEST_CASE("complete_all gives up and completes everything at once") {
  Bench bench;
  bench.start("a", "", 1);
  bench.end("b", 2);
  bench.span("c", "x", 1, 2, "t2");
  bench.store.complete_all(bench.now);
  CHECK(bench.traces.size() == 2);
  CHECK(bench.stats().unfinished == 1);
  CHECK(bench.stats().ends_without_start == 1);
  CHECK(bench.stats().pending == 0);
  CHECK(bench.stats().open_traces == 0);
  bench.store.complete_all(bench.now);
  CHECK(bench.traces.size() == 2);
}

TEST_CASE("next_deadline tells when something is due, and nothing is due before") {
  Bench bench;
  CHECK(bench.store.next_deadline() == TraceStore::TimePoint::max());
  bench.start("a", "", 1);
  CHECK(bench.store.next_deadline() == bench.now + 60s);
  bench.end("a", 2);
  CHECK(bench.store.next_deadline() == bench.now + 500ms);
  bench.pass(500ms);
  CHECK(bench.traces.size() == 1);
  CHECK(bench.store.next_deadline() == bench.now + 60min);
}

TEST_CASE("time that goes backwards stands still") {
  Bench bench;
  bench.now += 10s;
  bench.span("a", "", 1, 2);
  bench.store.advance(bench.now - 5s);
  bench.store.apply(Event::span_start("b", "t", "a", "n", SpanKind::function, at(1)), "s", bench.now - 5s);
  CHECK(bench.store.next_deadline() == bench.now + 500ms);
}

TEST_CASE("durations of any size are taken") {
  TraceStoreOptions options;
  options.settle = options.trace_ttl = std::chrono::milliseconds::max();
  options.max_age = std::chrono::minutes::max();
  Bench bench(options);
  bench.span("a", "", 1, 2);
  bench.pass(24h);
  CHECK(bench.traces.empty());
}
