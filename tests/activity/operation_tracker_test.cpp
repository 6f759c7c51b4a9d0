#include "weir/activity/operation_tracker.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/memory.hpp"
#include "support/operations.hpp"
#include "support/spans.hpp"
#include "weir/activity/span_tracker.hpp"
#include "weir/bridge/operations_to_spans.hpp"
#include "weir/core/logger.hpp"
#include "weir/operation/operation.hpp"

using namespace weir;
using weir::testing::LittleMemory;
using weir::testing::Log;
using weir::testing::Query;
using weir::testing::Request;
using weir::testing::TracedSpans;

namespace {

const Context remote(TraceId{1, 2}, SpanId{3});

/// What listeners of any node heard, in order.
class Heard {
 public:
  template <class Node>
  void listen_on(Node& node) {
    node.template on_start<ActivityOperation>(
        [this](const ActivityOperation::Args& args) { add("start " + std::string(args.operation) + ' ' + std::string(args.subject)); });
    node.template on_data<Failure>([this](Operation& operation, const Failure& failure) {
      if (operation.name() == "activity") add("failure " + std::string(failure.message));
    });
    node.template on_data<ActivityChanged>([this](const ActivityChanged& change) { add("change " + std::string(change.id.text())); });
    node.template on_finish<ActivityOperation>([this](Op<ActivityOperation>& activity, const ActivityOperation::Result& result) {
      add("finish " + activity->operation + ' ' + activity->subject + (result.errors != 0 ? ": " + std::string(result.error) : ""));
    });
    node.template on_start<Query>([this](const Query::Args&) { add("query"); });
  }
  Log take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(log_, {});
  }

 private:
  void add(std::string line) {
    const std::lock_guard lock(mutex_);
    log_.push_back(std::move(line));
  }
  std::mutex mutex_;
  Log log_;  // guarded by mutex_
};

/// A tracker, and an installed root that hears.
struct Listened {
  Heard heard;
  OperationTracker tracker;
  RootScope installed{make_root()};

 private:
  Root make_root() {
    Root root;
    heard.listen_on(root);
    return root;
  }
};

/// A tracker, and an installed root with the bridge to spans.
struct Bridged : TracedSpans {
  OperationTracker tracker;
  RootScope installed{make_root()};

 private:
  Root make_root() {
    Root root;
    root.observe(std::make_shared<OperationsToSpans>(tracer));
    return root;
  }
};

std::string text_of(AttributeValue value) {
  switch (value.type()) {
    case AttributeValue::Type::string: return std::string(value.text());
    case AttributeValue::Type::integer: return std::to_string(value.integer());
    case AttributeValue::Type::real: return std::to_string(value.real());
    case AttributeValue::Type::boolean: return value.boolean() ? "true" : "false";
  }
  return "?";
}

struct Described final : AttributeSink {
  template <class Event>
  explicit Described(const Event& event) {
    event.describe(*this);
  }
  void set(Name key, AttributeValue value) override { attributes[std::string(key.view())] = text_of(value); }
  StringAttributes attributes;
};

bool is_current(std::string_view subject) {
  Operation* const current = Operation::current();
  auto* const activity = current != nullptr ? current->find<ActivityOperation>() : nullptr;
  return static_cast<Operation*>(activity) == current && activity != nullptr && (*activity)->subject == subject;
}

}  // namespace

TEST_CASE("listeners hear an activity begin, fail, change something, and end") {
  Listened world;
  {
    Activity activity = world.tracker.start(Context(), "update", "user");
    activity.report_change("u-7", "data");
    activity.report_error(std::runtime_error("no row"));
    activity.report_error("and more");
  }
  CHECK(world.heard.take() == Log{"start update user", "change u-7", "failure no row", "failure and more", "finish update user: no row"});
}

TEST_CASE("what listeners hear of an activity is what was said") {
  Root root;
  const Context context = remote.with_request_id("r-1");
  std::uint64_t id = 0;
  root.on_start<ActivityOperation>([&](Op<ActivityOperation>& operation, const ActivityOperation::Args& args) {
    CHECK(operation.name() == "activity");
    CHECK(args.title() == "update user");
    CHECK(*args.context == context);
    REQUIRE(args.attributes.size() == 2);
    CHECK(args.attributes.begin()->value.text() == "hunter2");
    id = args.id;
    CHECK(Described(args).attributes == StringAttributes{{"operation", "update"},
                                                         {"subject", "user"},
                                                         {"op_id", std::to_string(id)},
                                                         {"request_id", "r-1"},
                                                         {"password", "[REDACTED]"},
                                                         {"attempt", "2"}});
  });
  int changes = 0;
  root.on_data<ActivityChanged>([&](ActivityChanged& change) {
    ++changes;
    CHECK(change.id.text() == "token=abc");
    CHECK(*change.change.json() == R"({"password":1})");
    CHECK(Described(change).attributes == StringAttributes{{"change_id", "token=[REDACTED]"}});
  });
  int finishes = 0;
  root.on_finish<ActivityOperation>([&](Op<ActivityOperation>& operation, const ActivityOperation::Result& result) {
    ++finishes;
    CHECK(operation->operation == "update");
    CHECK(operation->subject == "user");
    CHECK(operation->id == id);
    CHECK(result.errors == 2);
    CHECK(result.changes == 2);
    CHECK(Described(result).attributes == StringAttributes{{"error", "true"},
                                                           {"error.message", "password=[REDACTED] is wrong"},
                                                           {"error.type", "std::invalid_argument"},
                                                           {"errors", "2"},
                                                           {"change_id", "token=[REDACTED]"},
                                                           {"changes", "2"}});
  });
  const RootScope installed(std::move(root));
  OperationTracker tracker;
  Activity activity = tracker.start(context, "update", "user", {{"password", "hunter2"}, {"attempt", 2}});
  activity.report_error(std::invalid_argument("password=hunter2 is wrong"));
  activity.report_error(std::make_error_code(std::errc::timed_out));
  for (int i = 0; i < 2; ++i) activity.report_change("token=abc", [] { return std::string(R"({"password":1})"); });
  activity.end();
  CHECK(changes == 2);
  CHECK(finishes == 1);
}

TEST_CASE("the last change counts, whatever its id is") {
  std::vector<std::string> ids;
  Root root;
  root.on_finish<ActivityOperation>([&](const ActivityOperation::Result& result) {
    CHECK_FALSE(result.error_type.size() + result.error.size() + result.errors != 0);
    ids.push_back(result.change_id ? text_of(*result.change_id) : "none");
  });
  const RootScope installed(std::move(root));
  OperationTracker tracker;
  { Activity activity = tracker.start("update", "user"); }
  {
    Activity activity = tracker.start("update", "user");
    activity.report_change("u-7");
    activity.report_change(8);
  }
  {
    Activity activity = tracker.start("update", "user");
    activity.report_change(7);
    activity.report_change(std::string("an id that is too long for the inside of a string"));
  }
  CHECK(ids == std::vector<std::string>{"none", "8", "an id that is too long for the inside of a string"});
}

TEST_CASE("what counts as a secret can be chosen") {
  OperationTracker tracker({.redactor = Redactor({.sensitive_names = {"plan"}})});
  Root root;
  StringAttributes attributes;
  root.on_start<ActivityOperation>([&](const ActivityOperation::Args& args) { attributes = Described(args).attributes; });
  const RootScope installed(std::move(root));
  { Activity activity = tracker.start(Context(), "update", "user", {{"plan", "free"}, {"password", "hunter2"}}); }
  CHECK(attributes.at("plan") == "[REDACTED]");
  CHECK(attributes.at("password") == "hunter2");
}

TEST_CASE("an activity of a context is under the operation of that context, and inside it the current one") {
  Listened world;
  Heard of_request;
  const Handle<Request> request = start<Request>(under_root(), {});
  of_request.listen_on(*request);
  Context context;
  {
    const OperationScope scope(request);
    context = Context::current().with_request_id("r-1");
  }
  Op<Query> elsewhere{{}};
  Activity activity = world.tracker.start(context, "update", "user");
  CHECK(Operation::current() == &elsewhere);
  const Context inside = activity.inside(context);
  CHECK(inside.request_id() == "r-1");
  std::thread(inside.wrap([&] {
    CHECK(is_current("user"));
    CHECK(Operation::current()->parent() == &*request);
    CHECK_FALSE(Operation::current()->implicit());
    Op<Query> query{{}};
    Activity nested = world.tracker.start("store", "row");
    CHECK(is_current("row"));
  })).join();
  std::thread([ended = std::move(activity)]() mutable { ended.end(); }).join();
  CHECK(of_request.take() == Log{"start update user", "query", "start store row", "finish store row", "finish update user"});
}

TEST_CASE("an activity of a context without an operation is under the installed root") {
  Listened world;
  Op<Request> request{{}};
  Heard of_request;
  of_request.listen_on(request);
  Activity activity = world.tracker.start(Context(), "update", "user");
  std::thread(activity.inside(Context()).wrap([] { CHECK(is_current("user")); })).join();
  CHECK(Operation::current() == &request);
  activity.end();
  CHECK(of_request.take().empty());
  CHECK(world.heard.take() == Log{"start update user", "finish update user"});
}

TEST_CASE("an activity under the ambient context is the thread's current operation until it ends") {
  Listened world;
  Op<Request> request{{}};
  Heard of_request;
  of_request.listen_on(request);
  {
    Activity update = world.tracker.start("update", "user");
    CHECK(is_current("user"));
    CHECK(Operation::current()->implicit());
    CHECK(Operation::current()->parent() == &request);
    {
      Op<Query> query{{}};
      CHECK(query.find<Request>() == &request);
      Activity store = world.tracker.start("store", "row");
      CHECK(Operation::current()->parent() == &query);
    }
    CHECK(is_current("user"));
    update.end();
    CHECK(Operation::current() == &request);
    CHECK_FALSE(update.tracked());
  }
  CHECK(of_request.take() == Log{"start update user", "query", "start store row", "finish store row", "finish update user"});
}

TEST_CASE("activities are operations without a root, too") {
  OperationTracker tracker;
  Activity explicitly = tracker.start(Context(), "update", "user");
  Activity activity = tracker.start("update", "user");
  CHECK(is_current("user"));
  CHECK(Operation::current()->parent() == nullptr);
  activity.report_error("no");
  activity.end();
  CHECK(Operation::current() == nullptr);
}

TEST_CASE("an activity goes on under the root that it started under") {
  Listened first;
  Activity activity = first.tracker.start(Context(), "update", "user");
  {
    Listened second;
    activity.end();
    CHECK(second.heard.take().empty());
  }
  CHECK(first.heard.take().size() == 2);
}

// ---- with the bridge to spans

TEST_CASE("with the bridge an activity is the span that a span tracker would make of it") {
  Bridged world;
  TracedSpans others;
  SpanTracker spans(others.tracer);
  ActivityTracker* const trackers[] = {&spans, &world.tracker};
  for (ActivityTracker* tracker : trackers) {
    Activity activity = tracker->start(remote.with_request_id("r-1"), "update", "user", {{"user_id", 42}, {"password", "x"}});
    activity.report_error(std::runtime_error("token=abc"));
    activity.report_error("more");
    activity.report_change(7);
    activity.report_change(8);
  }
  Span bridged = world["update user"], tracked = others["update user"];
  CHECK(bridged.parent_id == remote.span_id().hex());
  CHECK(bridged.trace_id == tracked.trace_id);
  CHECK(bridged.attrs.erase("op_id") == 1);
  CHECK(tracked.attrs.erase("op_id") == 1);
  CHECK(bridged.attrs == tracked.attrs);
}

TEST_CASE("inside an activity of a context are its span and its operation") {
  Bridged world;
  const Context outer = remote.with_request_id("r-1");
  Activity activity = world.tracker.start(outer, "update", "user");
  CHECK_FALSE(Context::current().valid());
  const Context inside = activity.inside(outer);
  CHECK(inside.request_id() == "r-1");
  std::thread(inside.wrap([&] { ScopedSpan by_hand = world.tracer.enter("by hand"); })).join();
  std::thread(inside.wrap([&] { Op<Query> query{{}}; })).join();
  Activity nested = world.tracker.start(inside, "store", "row");
  nested.end();
  activity.end();
  CHECK(inside.span_id().hex() == world["update user"].id);
  for (const std::string_view name : {"by hand", "Query", "store row"}) CHECK(world[name].parent_id == world["update user"].id);
}

TEST_CASE("an activity under the ambient context makes its span the ambient one") {
  Bridged world;
  {
    Op<Request> request{{}};
    ScopedSpan outer = world.tracer.enter("outer");
    Activity activity = world.tracker.start("update", "user");
    CHECK(activity.inside(Context::current()).span_id() == Context::current().span_id());
    ScopedSpan by_hand = world.tracer.enter("by hand");
    Op<Query> query{{}};
    Activity nested = world.tracker.start("store", "row");
  }
  CHECK_FALSE(Context::current().valid());
  CHECK(world["outer"].parent_id == world["http.request"].id);
  CHECK(world["update user"].parent_id == world["outer"].id);
  CHECK(world["by hand"].parent_id == world["update user"].id);
  CHECK(world["Query"].parent_id == world["by hand"].id);
  CHECK(world["store row"].parent_id == world["Query"].id);
}

TEST_CASE("a context taken inside an activity has the nearest span, entered by hand or not") {
  Bridged world;
  {
    Activity activity = world.tracker.start("update", "user");
    ScopedSpan by_hand = world.tracer.enter("by hand");
    std::thread(Context::current().wrap([] { Op<Query> query{{}}; })).join();
  }
  CHECK(world["by hand"].parent_id == world["update user"].id);
  CHECK(world["Query"].parent_id == world["by hand"].id);
}

TEST_CASE("an activity whose context is not sampled has no span, and its inside is not sampled either") {
  Bridged world;
  const Context unsampled(TraceId{1, 2}, SpanId{3}, false);
  Activity activity = world.tracker.start(unsampled, "update", "user");
  const Context inside = activity.inside(unsampled);
  CHECK(inside.span_id() == unsampled.span_id());
  CHECK_FALSE(inside.sampled());
  const ContextScope scope(inside);
  CHECK(is_current("user"));
  { Op<Query> query{{}}; }
  activity.end();
  CHECK(world.all().empty());
}

TEST_CASE("an exception that leaves the scope of an activity under the ambient context fails its span") {
  Bridged world;
  try {
    Activity activity = world.tracker.start("update", "user");
    throw std::runtime_error("no row");
  } catch (const std::runtime_error&) {}
  CHECK(world["update user"].attrs.at("error.message") == "left by an exception");
}

TEST_CASE("span tracker and operation tracker in one chain make two spans, one inside the other") {
  Bridged world;
  SpanTracker spans(world.tracer);
  ChainedTracker chain(spans, world.tracker);
  {
    Activity activity = chain.start("update", "user");
    Op<Query> query{{}};
  }
  CHECK_FALSE(Context::current().valid());
  CHECK(Operation::current() == nullptr);
  const std::vector<Span> all = world.all();
  REQUIRE(all.size() == 3);
  const Span query = world["Query"];
  const Span& inner = all[0].id == query.parent_id ? all[0] : all[1].id == query.parent_id ? all[1] : all[2];
  CHECK(inner.name == "update user");
  CHECK(std::count_if(all.begin(), all.end(), [&](const Span& span) { return span.id == inner.parent_id && span.name == "update user"; }) ==
        1);
}

TEST_CASE("with a tracer that has stopped activities are operations all the same") {
  Bridged world;
  (void)world.tracer.stop();
  Activity activity = world.tracker.start("update", "user");
  CHECK(is_current("user"));
  CHECK(activity.inside(remote).span_id() == remote.span_id());
  activity.end();
  CHECK(Operation::current() == nullptr);
  CHECK(world.tracer.stats().dropped_stopped == 1);
}

// ---- listeners that misbehave

TEST_CASE("listeners that throw reach neither the program nor each other") {
  std::atomic<int> reported{0};
  set_error_handler([&](const ListenerError&) { ++reported; });
  Root root;
  root.on_start<ActivityOperation>([] { throw std::runtime_error("start"); });
  root.on_data<Failure>([] { throw 1; });
  root.on_data<ActivityChanged>([] { throw std::runtime_error("change"); });
  root.on_finish<ActivityOperation>([] { throw std::runtime_error("finish"); });
  Heard heard;
  heard.listen_on(root);
  const std::uint64_t thrown = activity_stats().exceptions;
  {
    const RootScope installed(std::move(root));
    OperationTracker tracker;
    Activity activity = tracker.start("update", "user");
    activity.report_error("no");
    activity.report_change("u-7");
  }
  set_error_handler(nullptr);
  CHECK(heard.take() == Log{"start update user", "failure no", "change u-7", "finish update user: no"});
  CHECK(reported == 4);
  CHECK(activity_stats().exceptions == thrown);
  CHECK(Operation::current() == nullptr);
}

TEST_CASE("a listener may finish what is around the activity that it hears of") {
  for (int variant = 0; variant < 8; ++variant) {
    const bool at_start = (variant & 1) != 0, at_root = (variant & 2) != 0, outlives = (variant & 4) != 0;
    std::optional<Op<Request>> request;
    Root root;
    const auto listen_on = [&](auto& node) {
      if (at_start)
        node.template on_start<ActivityOperation>([&] { request->finish({}); });
      else
        node.template on_data<Failure>([&] { request->finish({}); });
    };
    if (at_root) listen_on(root);
    Heard heard;
    heard.listen_on(root);
    const RootScope installed(std::move(root));
    OperationTracker tracker;
    request.emplace(Request::Args{});
    if (!at_root) listen_on(*request);
    Activity activity = tracker.start("update", "user");
    activity.report_error("no");
    activity.report_error("no again");
    if (outlives) request.reset();
    activity.report_error("and again");
    activity.end();
    CHECK(Operation::current() == nullptr);
    const Log log = heard.take();
    CHECK(log.front() == "start update user");
    CHECK(std::count_if(log.begin(), log.end(), [](const std::string& line) { return line.starts_with("finish update user"); }) == 1);
    request.reset();
  }
}

// ---- activities that end where they should not

TEST_CASE("activities that end out of order leave the innermost that is open as the current operation") {
  Listened world;
  Activity outer = world.tracker.start("do", "outer");
  Activity middle = world.tracker.start("do", "middle");
  Activity inner = world.tracker.start("do", "inner");
  middle.end();
  CHECK(is_current("inner"));
  outer.end();
  CHECK(is_current("inner"));
  inner.end();
  CHECK(Operation::current() == nullptr);
  CHECK(world.heard.take() ==
        Log{"start do outer", "start do middle", "start do inner", "finish do middle", "finish do outer", "finish do inner"});
}

TEST_CASE("an activity may end before the operations and scopes that began inside it") {
  Bridged world;
  const Handle<Request> other = start<Request>(under_root(), {});
  {
    Op<Request> request{{}};
    {
      Activity activity = world.tracker.start("update", "user");
      Op<Query> query{{}};
      Op<Query> finished{{}};
      finished.finish({});
      activity.end();
      CHECK(Operation::current() == &query);
    }
    CHECK(Operation::current() == &request);
    {
      Activity activity = world.tracker.start("update", "user");
      const OperationScope scope(other);
      activity.end();
    }
    CHECK(Operation::current() == &request);
    Context context;
    {
      const OperationScope scope(other);
      context = Context::current();
    }
    {
      Activity activity = world.tracker.start("update", "user");
      const ContextScope scope(context);
      activity.end();
    }
    CHECK(Operation::current() == &request);
  }
  CHECK(Operation::current() == nullptr);
  CHECK_FALSE(Context::current().valid());
}

TEST_CASE("an activity finishes with the operation on the stack that it began under, if that finishes first") {
  Bridged world;
  Heard heard;
  Activity outer, inner, unrelated;
  {
    Op<Request> request{{}};
    heard.listen_on(request);
    outer = world.tracker.start("do", "outer");
    inner = world.tracker.start("do", "inner");
    outer.report_error("in time");
  }
  CHECK(Operation::current() == nullptr);
  CHECK_FALSE(Context::current().valid());
  CHECK(heard.take() == Log{"start do outer", "start do inner", "failure in time"});
  const Context outside = remote;
  CHECK(inner.inside(outside) == outside);
  inner.report_error("late");
  inner.report_change("late");
  inner.end();
  outer.end();
  CHECK(world["do outer"].attrs.at("error.message") == "in time");
  CHECK_FALSE(world["do inner"].failed());
}

TEST_CASE("a context taken inside an activity may outlive the operations on the stack around it") {
  Bridged world;
  std::atomic<int> under_the_root{0};
  std::vector<std::thread> threads;
  {
    Op<Request> request{{}};
    Activity activity = world.tracker.start("update", "user");
    for (const Context& context : {Context::current(), activity.inside(Context::current())}) {
      threads.emplace_back(context.wrap([&] {
        Op<Query> query{{}};
        if (query.depth() == 1) ++under_the_root;
        Activity later = world.tracker.start("send", "mail");
      }));
    }
    // Neither waits for these threads, which may run now, or when all of this is gone.
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(under_the_root == 2);
  for (const Span& span : world.all())
    if (span.name == "Query") CHECK(span.parent_id == world["update user"].id);
}

TEST_CASE("an activity under the ambient context may end on another thread") {
  for (const bool on_stack : {true, false}) {
    Bridged world;
    {
      std::optional<Op<Request>> request;
      if (on_stack) request.emplace(Request::Args{});
      Operation* const around = Operation::current();
      Activity activity = world.tracker.start("update", "user");
      std::thread([ended = std::move(activity)]() mutable {
        ended.report_error("elsewhere");
        ended.report_change("u-7");
        CHECK(ended.inside(remote).request_id().empty());
        ended.end();
        CHECK(Operation::current() == nullptr);
      }).join();
      Activity next = world.tracker.start("store", "row");
      if (on_stack) CHECK(Operation::current()->parent() == around);
      CHECK(Operation::current()->depth() == (on_stack ? 2 : 1));
      next.end();
      CHECK(Operation::current() == around);
      CHECK(Context::current().valid() == on_stack);
    }
    CHECK_FALSE(Context::current().valid());
    CHECK(Operation::current() == nullptr);
    CHECK(world["update user"].attrs.at("error.message") == "elsewhere");
    CHECK(world["update user"].attrs.at("change_id") == "u-7");
  }
}

TEST_CASE("what is under an operation on a stack is heard on the thread of that stack alone") {
  Listened world;
  Op<Request> request{{}};
  Activity activity = world.tracker.start("update", "user");
  std::thread([ended = std::move(activity)]() mutable {
    ended.report_change("u-7");
    ended.report_error("elsewhere");
    ended.end();
  }).join();
  CHECK(world.heard.take() == Log{"start update user"});
  request.finish({});
  CHECK(world.heard.take() == Log{"finish update user: elsewhere"});
}

TEST_CASE("an activity that ended on another thread is let go when its operation finishes, or its thread comes by") {
  Bridged world;
  {
    Op<Request> request{{}};
    Activity activity = world.tracker.start("update", "user");
    std::thread([ended = std::move(activity)]() mutable { ended.end(); }).join();
  }
  CHECK(Operation::current() == nullptr);
  CHECK(world.all().size() == 2);
  Activity given;
  std::thread([&] { given = world.tracker.start("outlive", "thread"); }).join();
  given.end();
  std::thread([&] { Activity next = world.tracker.start("store", "row"); }).join();
  { Activity here = world.tracker.start("store", "row"); }
  CHECK(world["outlive thread"].parent_id.empty());
  CHECK(Operation::current() == nullptr);
}

// ---- memory, threads

TEST_CASE("without memory an activity is no operation, which is counted, and nothing else happens") {
  (void)stderr_logger();
  for (long number = 0; number < 20; ++number) {
    Bridged world;
    const std::uint64_t before = activity_stats().exceptions;
    std::thread([&] {
      Op<Request> request{{}};
      const Context context = Context::current();
      Operation* const around = Operation::current();
      {
        const LittleMemory little(number);
        Activity explicitly = world.tracker.start(context, "an operation with a long name", "and a subject with a long one");
        Activity current = world.tracker.start("an operation with a long name", "and a subject with a long one");
        for (Activity* activity : {&explicitly, &current}) {
          activity->report_error("an error message that does not fit into the inside of a string");
          activity->report_change("an id that does not fit into the inside of a string");
          CHECK(activity->inside(context).trace_id() == context.trace_id());
        }
      }
      CHECK(Operation::current() == around);
      CHECK(Context::current() == context);
    }).join();
    CAPTURE(number);
    if (number == 0) CHECK(activity_stats().exceptions > before);
    CHECK(world["http.request"].attrs.empty());
  }
}

TEST_CASE("threads start activities under each other's operations, and end those of each other") {
  std::atomic<int> started{0}, failed{0}, changed{0}, finished{0}, wrong{0};
  Root root;
  root.on_start<ActivityOperation>([&] { ++started; });
  root.on_data<Failure>([&] { ++failed; });
  root.on_data<ActivityChanged>([&] { ++changed; });
  root.on_finish<ActivityOperation>([&](Op<ActivityOperation>& activity, const ActivityOperation::Result& result) {
    ++finished;
    if ((activity->subject == "shared") != (result.changes == 1)) ++wrong;
  });
  constexpr int threads = 8, rounds = 300;
  InMemorySender sink;
  Tracer tracer(sink);
  root.observe(std::make_shared<OperationsToSpans>(tracer));
  const RootScope installed(std::move(root));
  OperationTracker tracker;
  std::mutex mutex;
  std::vector<Activity> handed_over;  // guarded by mutex
  const auto run = [&] {
    for (int i = 0; i < rounds; ++i) {
      Op<Request> request{{}};
      Activity current = tracker.start("do", "current");
      Activity shared = tracker.start(Context::current(), "do", "shared");
      const ContextScope scope(shared.inside(Context::current()));
      Activity nested = tracker.start("do", "nested");
      if (i % 4 == 0) nested.report_error("no");
      shared.report_change("u-7");
      const std::lock_guard lock(mutex);
      if (!handed_over.empty() && i % 3 == 0) {
        handed_over.back().end();
        handed_over.pop_back();
      }
      if (i % 5 == 0) handed_over.push_back(std::move(nested));  // will end elsewhere, or later
      if (i % 7 == 0) handed_over.push_back(std::move(current));
      handed_over.push_back(std::move(shared));
    }
  };
  std::vector<std::thread> all;
  for (int t = 0; t < threads; ++t) all.emplace_back(run);
  for (std::thread& thread : all) thread.join();
  handed_over.clear();
  CHECK(started == 3 * threads * rounds);
  CHECK(failed == threads * rounds / 4);
  CHECK(changed == threads * rounds);
  CHECK(wrong == 0);
  { Activity last = tracker.start("come", "by"); }
  CHECK(finished <= started);
  CHECK(Operation::current() == nullptr);
}
