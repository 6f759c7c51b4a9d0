// weir/testing.hpp, as tests of instrumented code use it.
#include "weir/testing.hpp"

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"

using namespace std::chrono_literals;
using weir::ScopedSpan;
using weir::Span;
using weir::SpanKind;
using weir::Timestamp;
using weir::testing::SpanRecorder;

namespace {

void handle_request(weir::Tracer& tracer) {
  ScopedSpan request = tracer.enter("GET /orders", SpanKind::http);
  request.set("status", 200);
  { ScopedSpan query = tracer.enter("SELECT 1", SpanKind::sql); }
  ScopedSpan render = tracer.enter("render");
  ScopedSpan compress = tracer.enter("compress");
  compress.set("level", 0.5);
  compress.set("a", "b");
}

Span span(const char* id, const char* parent, const char* name, std::chrono::nanoseconds start) {
  return {id, "t", parent, name, SpanKind::function, Timestamp{start}, Timestamp{start}, {}, {}};
}

}  // namespace

TEST_CASE("a tree is text, one line for each span, with its attributes") {
  SpanRecorder recorder;
  handle_request(recorder.tracer());
  CHECK(recorder.tree() ==
        "GET /orders {status=200}\n"
        "  SELECT 1\n"
        "  render\n"
        "    compress {a=b, level=0.5}\n");
  CHECK(recorder.tree({.attributes = false, .kinds = true}) ==
        "GET /orders [http]\n"
        "  SELECT 1 [sql]\n"
        "  render [function]\n"
        "    compress [function]\n");
  recorder.clear();
  CHECK(recorder.tree().empty());
}

TEST_CASE("siblings are in the order of their starts, whichever ended first") {
  SpanRecorder recorder;
  {
    ScopedSpan parent = recorder.tracer().enter("parent");
    auto first = std::make_unique<ScopedSpan>(recorder.tracer(), parent.context(), weir::Name("first"));
    auto second = std::make_unique<ScopedSpan>(recorder.tracer(), parent.context(), weir::Name("second"));
    second.reset();
  }
  CHECK(recorder.tree() == "parent\n  first\n  second\n");
}

TEST_CASE("a tree is made of spans in any order, with children or without; what has no parent there is a root") {
  using weir::testing::tree;
  const Span a = span("a", "", "a", 0ns), b = span("b", "a", "b", 1ns), c = span("c", "b", "c", 2ns), d = span("d", "gone", "d", 3ns);
  CHECK(tree({d, c, b, a}) == "a\n  b\n    c\nd\n");
  CHECK(tree({a.with_child(b.with_child(c)), d}) == "a\n  b\n    c\nd\n");
  CHECK(tree({c, b}) == "b\n  c\n");
  const Span itself = span("i", "i", "itself", 0ns), x = span("x", "y", "x", 1ns), y = span("y", "x", "y", 2ns);
  CHECK(tree({y, x, itself}) == "itself\nx\n  y\n");
  Span elsewhere = b;
  elsewhere.trace_id = "u";  // not below a span of another trace
  CHECK(tree({a, elsewhere}) == "a\nb\n");
  CHECK(tree({span("a", "", "two\nlines\x1b", 0ns).with_attr("k\n", "v\t")}) == "two\\x0alines\\x1b {k\\x0a=v\\x09}\n");
}

TEST_CASE("spans are found by name and by attribute, also among children") {
  using namespace weir::testing;
  const Span c = span("c", "b", "query", 2ns).with_attr("rows", "1"), b = span("b", "a", "query", 1ns).with_attr("rows", "2");
  const std::vector<Span> spans{span("a", "", "request", 0ns).with_child(b.with_child(c))};
  CHECK(find(spans, "query")->id == "b");
  CHECK_FALSE(find(spans, "quer"));
  CHECK(find_all(spans, "query").size() == 2);
  CHECK(find_all(spans, "none").empty());
  REQUIRE(find_all(spans, "rows", "1").size() == 1);
  CHECK(find_all(spans, "rows", "1")[0] == c);
  CHECK(find_all(spans, "rows", "3").empty());
  CHECK(find_all(spans, "row", "1").empty());
}

TEST_CASE("each run has the same ids and times") {
  const auto run = [] {
    SpanRecorder recorder;
    handle_request(recorder.tracer());
    std::thread([&] { handle_request(recorder.tracer()); }).join();
    handle_request(recorder.tracer());
    return recorder.spans();
  };
  const std::vector<Span> first = run(), second = run();
  REQUIRE(first.size() == 12);
  CHECK(first == second);
  std::vector<std::string> ids, traces;
  for (const Span& each : first) {
    ids.push_back(each.id);
    traces.push_back(each.trace_id);
    CHECK(each.id.size() == 16);
    CHECK(each.trace_id.size() == 32);
  }
  for (std::vector<std::string>* list : {&ids, &traces}) {
    std::sort(list->begin(), list->end());
    list->erase(std::unique(list->begin(), list->end()), list->end());
  }
  CHECK(ids.size() == 12);    // the threads' differ
  CHECK(traces.size() == 3);  // and so do a thread's traces
}

TEST_CASE("another seed gives other ids, and without one they are random again") {
  const auto id = [](std::uint64_t seed) {
    SpanRecorder recorder({.tracer = {.id_seed = seed}});
    { ScopedSpan one = recorder.tracer().enter("one"); }
    return recorder.spans().at(0).id;
  };
  CHECK(id(1) == id(1));
  CHECK(id(1) != id(2));
  CHECK(id(0) != id(0));
  CHECK(id(7) == id(7));
}

TEST_CASE("the clock steps at each reading, or stands still until it is told otherwise") {
  SpanRecorder stepping;
  { ScopedSpan one = stepping.tracer().enter("one"); }
  CHECK(stepping.find("one")->start_time == Timestamp{});
  CHECK(stepping.find("one")->duration() == 1us);

  SpanRecorder still({.step = 0ns});
  still.clock().set(Timestamp{10s});
  {
    ScopedSpan one = still.tracer().enter("one");
    still.clock().advance(250ms);
  }
  CHECK(still.find("one")->start_time == Timestamp{10s});
  CHECK(still.find("one")->duration() == 250ms);

  weir::ManualClock own(Timestamp{5s});
  SpanRecorder with_its_own({.tracer = {.clock = &own}});
  { ScopedSpan one = with_its_own.tracer().enter("one"); }
  CHECK(with_its_own.find("one")->start_time == Timestamp{5s});
}

TEST_CASE("spans that are still open are seen, until they end") {
  SpanRecorder recorder;
  CHECK(recorder.open_spans().empty());
  auto leak = std::make_unique<ScopedSpan>(recorder.tracer(), weir::Name("leak"), SpanKind::sql);
  leak->set("k", "v");
  { ScopedSpan ended = recorder.tracer().enter("ended"); }
  const std::vector<Span> open = recorder.open_spans();
  REQUIRE(open.size() == 1);
  CHECK(open[0].name == "leak");
  CHECK(open[0].kind == SpanKind::sql);
  CHECK(open[0].unfinished());
  CHECK(open[0].end_time >= open[0].start_time);
  CHECK(recorder.tree() == "ended\n");
  leak.reset();
  CHECK(recorder.open_spans().empty());
  CHECK(recorder.tree() == "leak {k=v}\n  ended\n");
}
