#include "weir/trace/tracer.hpp"

#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/fork_memory.hpp"
#include "weir/trace/in_memory_sender.hpp"

using weir::Context;
using weir::ContextScope;
using weir::InMemorySender;
using weir::ScopedSpan;
using weir::Span;
using weir::SpanKind;
using weir::Tracer;

namespace {

const Span& named(const std::vector<Span>& spans, std::string_view name) {
  const auto found = std::find_if(spans.begin(), spans.end(), [&](const Span& span) { return span.name == name; });
  if (found == spans.end()) throw std::runtime_error("no span " + std::string(name));
  return *found;
}

void check_invariant(const weir::TracerStats& stats) { CHECK(stats.emitted == stats.delivered + stats.dropped() + stats.in_flight); }

}  // namespace

TEST_CASE("a span carries its name, kind, times and ids") {
  InMemorySender sink;
  Tracer tracer{sink, {.service_name = "test"}};
  const auto before = std::chrono::system_clock::now();
  Context context;
  {
    ScopedSpan span = tracer.enter("HandleRequest", SpanKind::http);
    CHECK(span.recording());
    context = span.context();
    CHECK(Context::current() == context);
  }
  const auto after = std::chrono::system_clock::now();
  CHECK(Context::current() == Context());
  REQUIRE(tracer.flush().pending == 0);
  REQUIRE(sink.spans().size() == 1);
  const Span span = sink.spans()[0];
  CHECK(span.name == "HandleRequest");
  CHECK(span.kind == SpanKind::http);
  CHECK(span.id == context.span_id().hex());
  CHECK(span.trace_id == context.trace_id().hex());
  CHECK(span.parent_id.empty());
  CHECK(span.attrs.empty());
  CHECK(span.start_time <= span.end_time);
  CHECK(span.start_time > before - std::chrono::milliseconds{5});
  CHECK(span.end_time < after + std::chrono::milliseconds{5});
  CHECK(tracer.stats().delivered == 1);
  sink.clear();
  CHECK(sink.spans().empty());
}

TEST_CASE("a manual clock stamps spans") {
  weir::ManualClock clock{weir::Timestamp{std::chrono::seconds{1'700'000'000}}};
  InMemorySender sink;
  Tracer tracer{sink, {.clock = &clock}};
  {
    ScopedSpan span = tracer.enter("x");
    clock.advance(std::chrono::nanoseconds{1500});
  }
  const Span span = sink.spans().at(0);
  CHECK(span.start_time == weir::Timestamp{std::chrono::seconds{1'700'000'000}});
  CHECK(span.duration() == std::chrono::nanoseconds{1500});
}

TEST_CASE("spans nest along the ambient context") {
  InMemorySender sink;
  Tracer tracer{sink};
  {
    ScopedSpan a = tracer.enter("a");
    {
      ScopedSpan b = tracer.enter("b");
      ScopedSpan c = tracer.enter("c");
    }
    ScopedSpan d = tracer.enter("d");
  }
  { ScopedSpan e = tracer.enter("e"); }
  const auto spans = sink.spans();
  REQUIRE(spans.size() == 5);
  CHECK(named(spans, "b").parent_id == named(spans, "a").id);
  CHECK(named(spans, "c").parent_id == named(spans, "b").id);
  CHECK(named(spans, "d").parent_id == named(spans, "a").id);
  CHECK(named(spans, "e").parent_id.empty());
  CHECK(named(spans, "d").trace_id == named(spans, "a").trace_id);
  CHECK(named(spans, "e").trace_id != named(spans, "a").trace_id);
}

TEST_CASE("spans that end in any order leave the innermost open one current") {
  InMemorySender sink;
  Tracer tracer{sink};
  std::vector<int> order{0, 1, 2, 3};
  do {
    std::vector<std::unique_ptr<ScopedSpan>> open;
    for (int i = 0; i < 4; ++i) open.push_back(std::make_unique<ScopedSpan>(tracer, weir::Name("x")));
    for (const int i : order) {
      open[static_cast<std::size_t>(i)].reset();
      const auto innermost = std::find_if(open.rbegin(), open.rend(), [](const auto& span) { return span != nullptr; });
      CHECK(Context::current() == (innermost == open.rend() ? Context() : (*innermost)->context()));
    }
  } while (std::next_permutation(order.begin(), order.end()));
  CHECK(sink.spans().size() == 24 * 4);
}

TEST_CASE("a context scope that outlives its span does not bring it back") {
  InMemorySender sink;
  Tracer tracer{sink};
  ScopedSpan outer = tracer.enter("outer");
  {
    auto inner = std::make_unique<ScopedSpan>(tracer, weir::Name("inner"));
    ContextScope scope{Context{}};
    inner.reset();
    CHECK(Context::current() == Context());
  }
  CHECK(Context::current() == outer.context());
}

TEST_CASE("an explicit parent leaves the ambient context alone, on whatever thread the span ends") {
  InMemorySender sink;
  Tracer tracer{sink};
  Context parent;
  {
    ScopedSpan outer = tracer.enter("outer");
    parent = outer.context();
    auto child = std::make_unique<ScopedSpan>(tracer, parent, weir::Name("child"));
    CHECK(Context::current() == parent);
    std::thread([&] {
      child->set("where", "elsewhere");
      child.reset();
      CHECK(Context::current() == Context());
    }).join();
    { ScopedSpan root = tracer.enter(Context{}, "root"); }
  }
  const auto spans = sink.spans();
  REQUIRE(spans.size() == 3);
  CHECK(named(spans, "child").parent_id == parent.span_id().hex());
  CHECK(named(spans, "child").attrs.at("where") == "elsewhere");
  CHECK(named(spans, "root").parent_id.empty());
  CHECK(named(spans, "root").trace_id != parent.trace_id().hex());
}

TEST_CASE("a span hands on what its parent's context says of the request") {
  InMemorySender sink;
  Tracer tracer{sink};
  const bool sampled = GENERATE(true, false);
  const Context request =
      Context::from_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0" + std::to_string(sampled), "rojo=1", "user=ada")
          .with_request_id("r-1")
          .with_deadline({});
  const auto check = [&](const ScopedSpan& span) {
    CHECK((span.context().span_id() != request.span_id()) == sampled);
    CHECK(span.context().with_span(request.trace_id(), request.span_id(), sampled) == request);
  };
  {
    ScopedSpan given = tracer.enter(request, "explicit");
    check(given);
    check(tracer.enter(given.context(), "below"));
    std::thread([&] { check(given); }).join();
    given.end();
    check(given);
  }
  const ContextScope scope(request);
  const ScopedSpan ambient = tracer.enter("implicit");
  check(ambient);
  const ScopedSpan below = tracer.enter("below");
  check(below);
  CHECK(Context::current() == below.context());
}

TEST_CASE("a trace that begins here says that its id is random, one that comes in says what it said") {
  InMemorySender sink;
  Tracer tracer{sink};
  CHECK(tracer.enter("ambient root").context().trace_flags() == 3);
  CHECK(tracer.enter(Context{}, "explicit root").context().trace_flags() == 3);
  for (const char* flags : {"01", "03"}) {
    const Context in = Context::from_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-" + std::string(flags));
    CHECK(tracer.enter(in, "explicit").context().traceparent().substr(53) == flags);
    const ContextScope scope(in);
    CHECK(tracer.enter("ambient").context().traceparent().substr(53) == flags);
  }
  CHECK(tracer.enter("ambient root").context().trace_flags() == 3);
}

TEST_CASE("an ambient span that is destroyed on another thread is recorded and touches neither context") {
  InMemorySender sink;
  Tracer tracer{sink};
  std::thread([&] {
    auto span = std::make_unique<ScopedSpan>(tracer, weir::Name("stray"));
    std::thread([&] {
      ScopedSpan own = tracer.enter("own");
      const Context context = own.context();
      span.reset();
      CHECK(Context::current() == context);
    }).join();
  }).join();
  CHECK(sink.spans().size() == 2);
  check_invariant(tracer.stats());
}

TEST_CASE("more than 64 spans may be open in one thread") {
  InMemorySender sink;
  Tracer tracer{sink};
  {
    std::vector<std::unique_ptr<ScopedSpan>> open;
    for (int i = 0; i < 200; ++i) open.push_back(std::make_unique<ScopedSpan>(tracer, weir::Name("deep")));
    while (!open.empty()) open.pop_back();
  }
  CHECK(Context::current() == Context());
  const auto spans = sink.spans();
  REQUIRE(spans.size() == 200);
  std::set<std::string> ids;
  for (const Span& span : spans) ids.insert(span.id);
  CHECK(ids.size() == 200);
  CHECK(std::count_if(spans.begin(), spans.end(), [](const Span& span) { return span.parent_id.empty(); }) == 1);
  for (const Span& span : spans) CHECK((span.parent_id.empty() || ids.count(span.parent_id) == 1));
}

TEST_CASE("spans that always end on another thread do not use up the table of open spans") {
  InMemorySender sink;
  Tracer tracer{sink};
  for (int round = 0; round < 5; ++round) {
    std::vector<std::unique_ptr<ScopedSpan>> open;
    for (int i = 0; i < 40; ++i) open.push_back(std::make_unique<ScopedSpan>(tracer, Context{}, weir::Name("far")));
    std::thread([&] { open.clear(); }).join();
    std::size_t seen = 0;
    for (const auto& slot : weir::detail::thread_state.ring->page().open) seen += slot.span.load() != 0;
    CHECK(seen == 0);
  }
  CHECK(sink.spans().size() == 200);
}

TEST_CASE("names whose places in the cache are taken are found all the same") {
  InMemorySender sink;
  Tracer tracer{sink};
  static const std::vector<std::string> texts = [] {
    std::vector<std::string> made;
    for (int i = 0; i < 1000; ++i) made.push_back("name " + std::to_string(i));
    return made;
  }();
  for (int round = 0; round < 3; ++round) {
    for (const std::string& text : texts) {
      ScopedSpan span = tracer.enter(weir::Name::from_static(text));
      span.set(weir::Name::from_static(std::string_view(text).substr(0, 4)), 1);  // the same address, another name
    }
  }
  const auto spans = sink.spans();
  REQUIRE(spans.size() == 3000);
  for (std::size_t i = 0; i < spans.size(); ++i) {
    CHECK(spans[i].name == texts[i % 1000]);
    CHECK(spans[i].attrs == weir::StringAttributes{{"name", "1"}});
  }
}

TEST_CASE("end is idempotent, and nothing is set after it") {
  InMemorySender sink;
  Tracer tracer{sink};
  ScopedSpan span = tracer.enter("x");
  const Context context = span.context();
  span.end();
  span.set("late", 1);
  span.end();
  CHECK_FALSE(span.recording());
  CHECK(span.context() == context);
  REQUIRE(sink.spans().size() == 1);
  CHECK(sink.spans()[0].attrs.empty());
}

TEST_CASE("a span under a context that is not sampled is not recorded") {
  InMemorySender sink;
  Tracer tracer{sink};
  const Context unsampled{weir::TraceId{1, 2}, weir::SpanId{3}, false};
  {
    ContextScope scope{unsampled};
    ScopedSpan ambient = tracer.enter("x");
    CHECK_FALSE(ambient.recording());
    CHECK(ambient.context() == unsampled);
    CHECK(Context::current() == unsampled);
    ambient.set("a", 1);
  }
  {
    ScopedSpan child = tracer.enter(unsampled, "y");
    CHECK(child.context() == unsampled);
  }
  CHECK(sink.spans().empty());
  CHECK(tracer.stats().emitted == 0);
}

TEST_CASE("a tracer that is off makes spans that are nothing") {
  static constinit Tracer off;
  const Context parent{weir::TraceId{1, 2}, weir::SpanId{3}};
  const Context request = parent.with_request_id("r-1");
  weir::detail::ThreadRing* const ring = weir::detail::thread_state.ring;
  {
    const ContextScope scope(request);
    ScopedSpan ambient = off.enter("ambient", SpanKind::http);
    ambient.set("key", "value");
    ambient.fail("not at all");
    CHECK_FALSE(ambient.recording());
    CHECK(ambient.context() == request);
    CHECK(Context::current() == request);
    {
      const ContextScope inner{Context{}};
      CHECK(ambient.context() == Context());
    }
    ScopedSpan given = off.enter(Context{}, "explicit");
    CHECK(given.context() == Context());
    CHECK(off.enter(request, "explicit").context() == request);
    CHECK_FALSE(given.recording());
    ambient.end();
    CHECK(ambient.context() == request);
  }
  CHECK(off.flush().pending == 0);
  const weir::FlushResult stopped = off.stop();
  CHECK(stopped.sent + stopped.dropped + stopped.pending == 0);
  { ScopedSpan after = off.enter("after stop"); }
  const weir::TracerStats stats = off.stats();
  CHECK(stats.emitted + stats.delivered + stats.dropped() + stats.in_flight + stats.connects == 0);
  CHECK(weir::detail::thread_state.ring == ring);
  std::thread([] {
    ScopedSpan span = off.enter("x");
    CHECK(weir::detail::thread_state.ring == nullptr);
  }).join();
}

TEST_CASE("a tracer that is off costs those beside it nothing") {
  InMemorySender sink;
  Tracer tracer{sink}, off;
  {
    ScopedSpan outer = tracer.enter("outer");
    ScopedSpan between = off.enter("between");
    ScopedSpan inner = tracer.enter("inner");
    CHECK(between.context() == inner.context());
  }
  const auto spans = sink.spans();
  CHECK(named(spans, "inner").parent_id == named(spans, "outer").id);
  CHECK(Context::current() == Context());
}

TEST_CASE("ids are unique across threads") {
  InMemorySender sink;
  Tracer tracer{sink};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 3000; ++i) ScopedSpan span = tracer.enter("x");
    });
  }
  for (auto& thread : threads) thread.join();
  std::set<std::string> ids, traces;
  for (const Span& span : sink.spans()) ids.insert(span.id), traces.insert(span.trace_id);
  CHECK(ids.size() == 12'000);
  CHECK(traces.size() == 12'000);
  CHECK(ids.count(std::string(16, '0')) == 0);
}

TEST_CASE("a full ring drops the newest spans and counts them") {
  InMemorySender sink({.ring_bytes = 4096, .max_spans = 10});
  Tracer tracer{sink};
  for (int i = 0; i < 1000; ++i) {
    ScopedSpan span = tracer.enter("x");
    span.set("i", i);
  }
  const auto stats = tracer.stats();
  CHECK(stats.emitted == 1000);
  CHECK(stats.delivered == 10);
  CHECK(stats.dropped_full > 800);
  CHECK(stats.in_flight > 0);
  check_invariant(stats);
  const auto spans = sink.spans();
  for (std::size_t i = 0; i < spans.size(); ++i) CHECK(spans[i].attrs.at("i") == std::to_string(i));
}

TEST_CASE("a span larger than half its ring is dropped and counted") {
  InMemorySender sink({.ring_bytes = 4096});
  Tracer tracer{sink};
  {
    ScopedSpan span = tracer.enter("x");
    span.set("large", std::string(4000, 'x'));
  }
  {
    ScopedSpan span = tracer.enter("y");
    span.set("fits", std::string(1500, 'x'));
  }
  CHECK(tracer.stats().dropped_too_large == 1);
  REQUIRE(sink.spans().size() == 1);
  CHECK(sink.spans()[0].name == "y");
  check_invariant(tracer.stats());
}

TEST_CASE("threads beyond the bound on rings drop their spans and count them") {
  InMemorySender sink({.max_rings = 1});
  Tracer tracer{sink};
  { ScopedSpan span = tracer.enter("mine"); }
  std::thread([&] {
    for (int i = 0; i < 1000; ++i) {
      ScopedSpan span = tracer.enter("refused");
      CHECK_FALSE(span.recording());
    }
  }).join();
  CHECK(tracer.stats().dropped_no_ring == 1000);
  CHECK(sink.spans().size() == 1);
  check_invariant(tracer.stats());
}

TEST_CASE("what a thread wrote is delivered after its end, and its ring is used again") {
  InMemorySender sink({.max_rings = 2});
  Tracer tracer{sink};
  for (int i = 0; i < 1000; ++i) {
    std::thread([&] { ScopedSpan span = tracer.enter("x"); }).join();
    if (i % 100 == 0) (void)tracer.flush();
    if (i % 100 == 0) std::thread([&] { ScopedSpan span = tracer.enter("y"); }).join(), (void)tracer.flush();
    (void)tracer.flush();
  }
  CHECK(sink.spans().size() == 1010);
  CHECK(tracer.stats().dropped() == 0);
}

TEST_CASE("a thousand threads come and go while others read, and every span is accounted for") {
  InMemorySender sink({.ring_bytes = 4096});
  Tracer tracer{sink};
  std::atomic<bool> done{false};
  std::thread reader([&] {
    while (!done) (void)tracer.flush();
  });
  for (int i = 0; i < 250; ++i) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int n = 0; n < 20; ++n) {
          ScopedSpan span = tracer.enter("x");
          span.set("n", n);
        }
      });
    }
    for (auto& thread : threads) thread.join();
  }
  done = true;
  reader.join();
  CHECK(tracer.flush().pending == 0);
  const auto stats = tracer.stats();
  CHECK(stats.emitted == 20'000);
  CHECK(stats.delivered == sink.spans().size());
  CHECK(stats.in_flight == 0);
  check_invariant(stats);
}

TEST_CASE("after stop spans are counted no-ops") {
  InMemorySender sink;
  Tracer tracer{sink};
  { ScopedSpan span = tracer.enter("before"); }
  auto open = std::make_unique<ScopedSpan>(tracer, weir::Name("open"));
  CHECK(tracer.stop().pending == 0);
  {
    ScopedSpan span = tracer.enter("after");
    CHECK_FALSE(span.recording());
  }
  open.reset();
  CHECK(tracer.stop().sent == 0);
  CHECK(sink.spans().size() == 1);
  const auto stats = tracer.stats();
  CHECK(stats.emitted == 3);
  CHECK(stats.dropped_stopped == 2);
  CHECK(stats.in_flight == 0);
  check_invariant(stats);
}

TEST_CASE("what was dropped by stop stays dropped when a ring asks to be emptied") {
  InMemorySender sink;
  Tracer tracer{sink};
  auto open = std::make_unique<ScopedSpan>(tracer, weir::Name("open"));
  (void)tracer.stop();
  open.reset();
  CHECK(tracer.stats().dropped_stopped == 1);
  sink.wake();
  CHECK(tracer.stats().dropped_stopped == 1);
  CHECK(tracer.stats().delivered == 0);
  CHECK(sink.spans().empty());
  check_invariant(tracer.stats());
}

TEST_CASE("a tracer may go before its threads and its spans") {
  InMemorySender sink;
  auto tracer = std::make_unique<Tracer>(sink);
  auto open = std::make_unique<ScopedSpan>(*tracer, Context{}, weir::Name("outlives"));
  auto ambient = std::make_unique<ScopedSpan>(*tracer, weir::Name("outlives too"));
  std::mutex step;
  step.lock();
  std::atomic<bool> written{false};
  std::unique_ptr<ScopedSpan> theirs;
  std::thread thread([&] {
    theirs = std::make_unique<ScopedSpan>(*tracer, Context{}, weir::Name("of a thread that ended"));
    { ScopedSpan span = tracer->enter("theirs"); }
    written = true;
    step.lock();
  });
  while (!written) std::this_thread::yield();
  tracer.reset();
  step.unlock();
  thread.join();
  Tracer next{sink};
  { ScopedSpan span = next.enter("next"); }
  open.reset();
  ambient.reset();
  theirs.reset();
  { ScopedSpan span = next.enter("last"); }
  CHECK(Context::current() == Context());
}

TEST_CASE("two tracers in one thread keep their spans apart") {
  InMemorySender first, second;
  Tracer a{first}, b{second};
  for (int i = 0; i < 10; ++i) {
    ScopedSpan outer = a.enter("a");
    ScopedSpan inner = b.enter("b");
  }
  CHECK(first.spans().size() == 10);
  CHECK(second.spans().size() == 10);
  CHECK(second.spans()[3].parent_id == first.spans()[3].id);
  CHECK(Context::current() == Context());
}

TEST_CASE("a thread_local object that traces in its destructor is heard") {
  InMemorySender sink;
  Tracer tracer{sink};
  struct AtEnd {
    Tracer* tracer = nullptr;
    ~AtEnd() { ScopedSpan span(*tracer, "at the end"); }
  };
  std::thread([&] {
    static thread_local AtEnd at_end;
    at_end.tracer = &tracer;
    ScopedSpan span = tracer.enter("x");
  }).join();
  CHECK(sink.spans().size() == 2);
}

#if !defined(__SANITIZE_THREAD__)
TEST_CASE("the child of a fork begins with rings of its own") {
  InMemorySender sink;
  Tracer tracer{sink};
  std::vector<std::unique_ptr<ScopedSpan>> open;
  for (int i = 0; i < 70; ++i) open.push_back(std::make_unique<ScopedSpan>(tracer, weir::Name("of the parent")));  // some without a slot
  const pid_t child = ::fork();
  if (child == 0) {
    while (!open.empty()) open.pop_back();  // the parent tells of them
    { ScopedSpan span = tracer.enter("of the child"); }
    const auto spans = sink.spans();
    ::_exit(spans.size() == 1 && spans[0].name == "of the child" && tracer.stats().emitted == 1 ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(status == 0);
  while (!open.empty()) open.pop_back();
  REQUIRE(sink.spans().size() == 70);
  for (const Span& span : sink.spans()) CHECK(span.name == "of the parent");
}
#endif
