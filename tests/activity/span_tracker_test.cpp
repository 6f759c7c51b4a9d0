#include "weir/activity/span_tracker.hpp"

#include <array>
#include <atomic>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/memory.hpp"
#include "support/operations.hpp"
#include "support/spans.hpp"
#include "weir/bridge/operations_to_spans.hpp"
#include "weir/core/logger.hpp"
#include "weir/operation/operation.hpp"

using namespace weir;
using weir::testing::LittleMemory;
using weir::testing::Query;
using weir::testing::Request;
using weir::testing::TracedSpans;

namespace {

struct Tracked : TracedSpans {
  SpanTracker tracker{tracer};
};

const Context remote(TraceId{1, 2}, SpanId{3});

std::string text(std::string_view beginning, std::size_t size) {
  std::string result(beginning);
  result.resize(size, 'x');
  return result;
}

}  // namespace

TEST_CASE("an activity is a span that says what is done to what") {
  Tracked spans;
  const Context context = Context().with_request_id("r-1");
  { Activity activity = spans.tracker.start(context, "update", "user", {{"user_id", 42}, {"plan", std::string("free")}, {"ratio", 0.5}}); }
  const Span span = spans["update user"];
  CHECK(span.parent_id.empty());
  CHECK(span.kind == SpanKind::function);
  CHECK(span.end_time >= span.start_time);
  CHECK(std::stoll(span.attrs.at("op_id")) > 0);
  StringAttributes others = span.attrs;
  others.erase("op_id");
  CHECK(others ==
        StringAttributes{
            {"operation", "update"}, {"subject", "user"}, {"request_id", "r-1"}, {"user_id", "42"}, {"plan", "free"}, {"ratio", "0.5"}});
}

TEST_CASE("the span of an activity is a child of its context's, and the ambient context stays as it is") {
  Tracked spans;
  Activity activity = spans.tracker.start(remote, "update", "user");
  CHECK_FALSE(Context::current().valid());
  Activity nested = spans.tracker.start(activity.inside(remote), "store", "user");
  std::thread([ended = std::move(activity)]() mutable { ended.end(); }).join();
  nested.end();
  CHECK(spans["update user"].trace_id == remote.trace_id().hex());
  CHECK(spans["update user"].parent_id == remote.span_id().hex());
  CHECK(spans["store user"].parent_id == spans["update user"].id);
  CHECK(spans["store user"].trace_id == spans["update user"].trace_id);
}

TEST_CASE("inside an activity a context is what it was, with another span") {
  Tracked spans;
  const Context outer = remote.with_request_id("r-1").with_baggage("tenant", "blue");
  Activity activity = spans.tracker.start(outer, "update", "user");
  const Context inner = activity.inside(outer);
  CHECK(inner.request_id() == "r-1");
  CHECK(inner.baggage("tenant") == "blue");
  CHECK(inner.trace_id() == outer.trace_id());
  CHECK(inner.span_id() != outer.span_id());
  std::thread(inner.wrap([&] { ScopedSpan work = spans.tracer.enter("work"); })).join();
  activity.end();
  CHECK(spans["work"].parent_id == inner.span_id().hex());
  CHECK(spans["update user"].id == inner.span_id().hex());
}

TEST_CASE("an activity under the ambient context is current until it ends") {
  Tracked spans;
  {
    const ContextScope scope(remote.with_request_id("r-1"));
    Activity update = spans.tracker.start("update", "user");
    const Context inner = Context::current();
    CHECK(inner.request_id() == "r-1");
    CHECK(update.inside(inner) == inner);
    {
      ScopedSpan by_hand = spans.tracer.enter("by hand");
      Activity store = spans.tracker.start("store", "row");
      ScopedSpan innermost = spans.tracer.enter("innermost");
    }
    CHECK(Context::current() == inner);
    update.end();
    CHECK(Context::current().span_id() == remote.span_id());
  }
  CHECK(spans["update user"].parent_id == remote.span_id().hex());
  CHECK(spans["update user"].attrs.at("request_id") == "r-1");
  CHECK(spans["by hand"].parent_id == spans["update user"].id);
  CHECK(spans["store row"].parent_id == spans["by hand"].id);
  CHECK(spans["innermost"].parent_id == spans["store row"].id);
}

TEST_CASE("activities that end out of order leave the innermost that is open as the ambient one") {
  Tracked spans;
  Activity outer = spans.tracker.start("do", "outer");
  const Context in_outer = Context::current();
  Activity middle = spans.tracker.start("do", "middle");
  Activity inner = spans.tracker.start("do", "inner");
  middle.end();
  CHECK(Context::current() == inner.inside(Context::current()));
  inner.end();
  CHECK(Context::current() == in_outer);
  outer.end();
  CHECK_FALSE(Context::current().valid());
}

TEST_CASE("an activity under the ambient context that ends on another thread harms nobody") {
  Tracked spans;
  {
    const ContextScope scope(remote);
    Activity activity = spans.tracker.start("update", "user");
    std::thread([&] {
      activity.report_error("gone");
      activity.end();
      CHECK_FALSE(Context::current().valid());
    }).join();
  }
  CHECK_FALSE(Context::current().valid());
  CHECK(spans["update user"].attrs.at("error.message") == "gone");
}

TEST_CASE("operations and activities nest into one tree") {
  Tracked spans;
  Root root;
  root.observe(std::make_shared<OperationsToSpans>(spans.tracer));
  {
    const RootScope installed(std::move(root));
    Op<Request> request{{}};
    Activity activity = spans.tracker.start("update", "user");
    Op<Query> query{{}};
  }
  CHECK(spans["update user"].parent_id == spans["http.request"].id);
  CHECK(spans["Query"].parent_id == spans["update user"].id);
}

TEST_CASE("activities of a context that is not sampled are not followed") {
  Tracked spans;
  const Context unsampled(TraceId{1, 2}, SpanId{3}, false);
  {
    Activity activity = spans.tracker.start(unsampled, "update", "user");
    CHECK_FALSE(activity.tracked());
    CHECK(activity.inside(unsampled) == unsampled);
    const ContextScope scope(unsampled);
    Activity current = spans.tracker.start("store", "user");
    CHECK_FALSE(current.tracked());
    CHECK(Context::current() == unsampled);
  }
  CHECK(spans.all().empty());
  CHECK(spans.tracer.stats().emitted == 0);
}

TEST_CASE("secrets are in no attribute") {
  Tracked spans;
  {
    Activity activity = spans.tracker.start(Context(), "update", "user",
                                            {{"password", "hunter2"},
                                             {"api-key", 12345},
                                             {"note", "sent Bearer abcdef to them"},
                                             {"max_tokens", 4096},
                                             {std::string("session_id"), "s3ss10n"}});
    activity.report_error("login with password=hunter2 refused");
    activity.report_change("token=abcdef");
  }
  const StringAttributes attrs = spans["update user"].attrs;
  CHECK(attrs.at("password") == "[REDACTED]");
  CHECK(attrs.at("api-key") == "[REDACTED]");
  CHECK(attrs.at("session_id") == "[REDACTED]");
  CHECK(attrs.at("note") == "sent Bearer [REDACTED] to them");
  CHECK(attrs.at("max_tokens") == "4096");
  CHECK(attrs.at("error.message") == "login with password=[REDACTED] refused");
  CHECK(attrs.at("change_id") == "token=[REDACTED]");
}

TEST_CASE("what counts as a secret can be chosen") {
  TracedSpans spans;
  SpanTracker tracker(spans.tracer, {.redactor = Redactor({.sensitive_names = {"plan"}})});
  { Activity activity = tracker.start(Context(), "update", "user", {{"plan", "free"}, {"password", "hunter2"}}); }
  CHECK(spans["update user"].attrs.at("plan") == "[REDACTED]");
  CHECK(spans["update user"].attrs.at("password") == "hunter2");
}

TEST_CASE("a secret is taken out before a text is cut") {
  InMemorySender sink;
  Tracer tracer(sink, {.max_attribute_bytes = 64});
  SpanTracker tracker(tracer);
  { Activity activity = tracker.start(Context(), "a", "b", {{"note", text("password=hunter2hunter2 ", 50) + " token=abcdefghijklmnop"}}); }
  CHECK(sink.spans().at(0).attrs.at("note") == text("password=[REDACTED] ", 46) + " token=[REDACTED]");
}

TEST_CASE("an activity that reports an error is a failed span with the error's text and type") {
  Tracked spans;
  using Report = void (*)(Activity&);
  const auto attributes_after = [&](Report report) {
    spans.sink.clear();
    Activity activity = spans.tracker.start(Context(), "update", "user");
    report(activity);
    activity.end();
    const Span span = spans["update user"];
    CHECK(span.failed());
    return std::pair(span.attrs.at("error.message"), span.attrs.count("error.type") != 0 ? span.attrs.at("error.type") : "");
  };
  using Pair = std::pair<std::string, std::string>;
  CHECK(attributes_after([](Activity& a) { a.report_error(std::runtime_error("no row")); }) == Pair("no row", "std::runtime_error"));
  CHECK(attributes_after([](Activity& a) { a.report_error(std::make_exception_ptr(std::logic_error("bug"))); }) ==
        Pair("bug", "std::logic_error"));
  CHECK(attributes_after([](Activity& a) { a.report_error(std::make_exception_ptr(7)); }) == Pair("unknown exception", "int"));
  const std::error_code code = std::make_error_code(std::errc::timed_out);
  CHECK(attributes_after([](Activity& a) { a.report_error(std::make_error_code(std::errc::timed_out)); }) ==
        Pair(code.message(), "generic:" + std::to_string(code.value())));
  CHECK(attributes_after([](Activity& a) { a.report_error("refused"); }) == Pair("refused", ""));
}

TEST_CASE("of several errors the first is shown, of several changes the last, and how many there were") {
  Tracked spans;
  {
    Activity activity = spans.tracker.start(Context(), "update", "user");
    activity.report_error(std::runtime_error("the cause"));
    activity.report_error("what came of it");
    for (int id = 7; id < 10; ++id) activity.report_change(id);
  }
  const StringAttributes attrs = spans["update user"].attrs;
  CHECK(attrs.at("error.message") == "the cause");
  CHECK(attrs.at("error.type") == "std::runtime_error");
  CHECK(attrs.at("errors") == "2");
  CHECK(attrs.at("change_id") == "9");
  CHECK(attrs.at("changes") == "3");
}

TEST_CASE("of a change the span has the id, and its data is not even made") {
  Tracked spans;
  bool made = false;
  {
    Activity activity = spans.tracker.start(Context(), "update", "user");
    activity.report_change(std::string("u-7"), [&] {
      made = true;
      return std::string("{}");
    });
  }
  const Span span = spans["update user"];
  CHECK_FALSE(made);
  CHECK_FALSE(span.failed());
  CHECK(span.attrs.at("change_id") == "u-7");
  CHECK(span.attrs.count("changes") == 0);
}

TEST_CASE("an exception that leaves the scope of an activity under the ambient context fails its span") {
  Tracked spans;
  const auto leave = [&](bool report) {
    spans.sink.clear();
    try {
      Activity activity = spans.tracker.start("update", "user");
      if (report) activity.report_error("known");
      throw std::runtime_error("no row");
    } catch (const std::runtime_error&) {}
    CHECK_FALSE(Context::current().valid());
    return spans["update user"].attrs.at("error.message");
  };
  CHECK(leave(false) == "left by an exception");
  CHECK(leave(true) == "known");
  try {
    throw 1;
  } catch (int) {
    spans.sink.clear();
    { Activity activity = spans.tracker.start("handle", "exception"); }
    CHECK_FALSE(spans["handle exception"].failed());
  }
}

TEST_CASE("two span trackers of a chain have a span each, and the second one's is inside the first one's") {
  TracedSpans first, second;
  SpanTracker a(first.tracer), b(second.tracer);
  ChainedTracker chain(a, b);
  {
    Activity activity = chain.start("update", "user");
    CHECK(Context::current() == activity.inside(Context()));
    activity.report_error("no");
  }
  CHECK_FALSE(Context::current().valid());
  CHECK(second["update user"].parent_id == first["update user"].id);
  CHECK(first["update user"].failed());
  CHECK(second["update user"].failed());
  CHECK(first["update user"].attrs.at("op_id") == second["update user"].attrs.at("op_id"));
}

TEST_CASE("texts may be gone when the activity goes on") {
  Tracked spans;
  Activity activity;
  {
    std::string operation = text("update", 100), subject = text("user", 100), key = "key", value = text("value", 600);
    activity = spans.tracker.start(Context(), operation, subject, {{key, value}});
    for (std::string* gone : {&operation, &subject, &key, &value}) std::fill(gone->begin(), gone->end(), '?');
  }
  activity.end();
  CHECK(spans[text("update", 100) + " " + text("user", 100)].attrs.at("key") == text("value", 600));
}

TEST_CASE("a long name is cut, between characters") {
  Tracked spans;
  { Activity activity = spans.tracker.start(Context(), text("a", 1000), text("", 21) + "\xe2\x82\xac\xe2\x82\xac"); }
  CHECK(spans.all().at(0).name == text("a", 1000) + " " + text("", 21));
  CHECK(spans.all().at(0).attrs.at("subject").size() == 27);
}

TEST_CASE("after the tracer has stopped activities go on, and their spans are counted as dropped") {
  Tracked spans;
  Activity running = spans.tracker.start("run", "on");
  (void)spans.tracer.stop();
  Activity late = spans.tracker.start("come", "late");
  late.report_error("no");
  late.report_change(1);
  const Context outer = remote;
  CHECK(late.inside(outer) == outer);
  late.end();
  running.end();
  CHECK(spans.all().empty());
  CHECK(spans.tracer.stats().dropped_stopped == 2);
  CHECK_FALSE(Context::current().valid());
}

TEST_CASE("activities that become spans allocate nothing in the long run") {
  Tracked spans;
  const auto run = [&] {
    Activity activity = spans.tracker.start("update", "user", {{"user_id", 42}, {"plan", "free"}});
    Activity nested = spans.tracker.start(activity.inside(remote), "store", "row");
    nested.report_change(7);
  };
  run();
  const long before = weir::testing::allocations;
  for (int i = 0; i < 100; ++i) run();
  CHECK(weir::testing::allocations == before);
  CHECK(spans.all().size() == 202);
}

TEST_CASE("without memory an activity has no span, which is counted") {
  (void)stderr_logger();
  Tracked spans;
  const std::uint64_t before = activity_stats().exceptions;
  std::thread([&] {
    { Activity first = spans.tracker.start("be", "first"); }
    std::vector<Activity> open;
    open.reserve(100);
    const LittleMemory none(0);
    for (int i = 0; i < 100; ++i) open.push_back(spans.tracker.start(remote, "update", "user"));
    for (Activity& activity : open) activity.report_error("no memory for password=hunter2");
  }).join();
  const std::uint64_t lost = activity_stats().exceptions - before;
  CHECK(lost > 0);
  CHECK(spans.all().size() + lost == 101);
  for (const Span& span : spans.all()) CHECK((span.name == "be first" || span.attrs.at("error.message") == "[REDACTED]"));
}

TEST_CASE("names without end share one name, and their attributes still tell them apart") {
#if !defined(WEIR_TESTS_TSAN)
  const auto child = weir::testing::in_a_child([] {
    InMemorySender sink;
    Tracer tracer(sink);
    SpanTracker tracker(tracer);
    for (int i = 0; i < 70'000; ++i) {
      Activity activity = tracker.start(Context(), "get", "user " + std::to_string(i));
    }
    const std::vector<Span> spans = sink.spans();
    if (spans.size() != 70'000) return 1;
    if (spans.front().name != "get user 0") return 2;
    if (spans.back().name != "\xe2\x80\xa6overflow") return 3;
    return spans.back().attrs.at("subject") == "user 69999" ? 0 : 4;
  });
  CHECK(child.code() == 0);
#endif
}

TEST_CASE("threads start activities of one tracker, and end those of each other") {
  Tracked spans;
  constexpr int threads = 8, rounds = 500;
  std::array<std::vector<Activity>, threads> started;
  const auto on_all = [](auto work) {
    std::vector<std::thread> all;
    for (int t = 0; t < threads; ++t) all.emplace_back(work, t);
    for (std::thread& thread : all) thread.join();
  };
  on_all([&](int t) {
    for (int i = 0; i < rounds; ++i) {
      Activity current = spans.tracker.start("do", "this", {{"password", "x"}});
      Activity& other = started[static_cast<std::size_t>(t)].emplace_back(spans.tracker.start(Context::current(), "do", "that"));
      if (i % 2 == 0) other.report_error(std::runtime_error("token=abc"));
    }
  });
  on_all([&](int t) {
    for (Activity& activity : started[static_cast<std::size_t>((t + 1) % threads)]) activity.report_change(t);
    started[static_cast<std::size_t>((t + 1) % threads)].clear();
  });
  CHECK(spans.all().size() == 2 * threads * rounds);
  CHECK(spans.tracer.stats().dropped() == 0);
}
