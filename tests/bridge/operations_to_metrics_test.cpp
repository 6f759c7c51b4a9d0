#include "weir/bridge/operations_to_metrics.hpp"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/memory.hpp"
#include "support/metrics.hpp"
#include "weir/bridge/operations_to_spans.hpp"
#include "weir/operation/wrap.hpp"
#include "weir/trace/in_memory_sender.hpp"

using namespace weir;
using namespace std::chrono_literals;
using weir::testing::histogram;
using weir::testing::keys;
using weir::testing::Measured;

namespace {

struct Request {
  static constexpr std::string_view name = "http.request";
  struct Args {
    std::string_view route;
    std::string title() const { return "GET " + std::string(route); }
    void describe(AttributeSink& sink) const { sink.set("route", route); }
  };
  struct Result {
    int status = 0;
    void describe(AttributeSink& sink) const {
      if (status == 999) throw std::runtime_error("no such status");
      sink.set("status", status);
      if (status >= 500) sink.set("error", true);
    }
  };
};

struct Query {
  struct Args {};
  struct Result {};
};

struct Unending {  // its Result cannot be made up
  struct Args {};
  struct Result {
    explicit Result(int) {}
  };
};

struct LongName {
  static constexpr std::string_view name =
      "a.name.of.more.than.two.hundred.and.fifty.six.bytes................................................................................"
      "...................................................................................................................................."
      "..";
  struct Args {};
  struct Result {};
};
static_assert(LongName::name.size() > 256);

/// Data events that say something about errors, in their own ways.
struct Retried {
  void describe(AttributeSink& sink) const { sink.set("error", false); }
};
struct Refused {
  std::string_view error = "true";
  void describe(AttributeSink& sink) const {
    sink.set("error.message", "refused");
    sink.set("error", error);
  }
};
struct Silent {};

/// A root with the bridge, installed.
struct Bridged : Measured {
  explicit Bridged(TelemetryOptions options = {}) : Measured(std::move(options)), installed(make_root()) {}

  Root make_root() {
    Root root;
    root.observe(std::make_shared<OperationsToMetrics>(telemetry, OperationsToMetricsOptions{.clock = &clock}));
    return root;
  }

  ManualClock clock;
  RootScope installed;
};

std::uint64_t count(const Payload& payload, std::string_view name) {
  return histogram(payload, "operation.duration:" + std::string(name)).count();
}
std::int64_t errors(const Payload& payload, std::string_view name) { return payload.as_int("operation.errors:" + std::string(name)); }

}  // namespace

TEST_CASE("of each type of operation there is how many ran, and how long they took") {
  Bridged world;
  for (const auto duration : {250ms, 500ms, 1250ms}) {
    Op<Request> request{{"/orders"}};
    Op<Query> query{{}};
    world.clock.advance(duration);
    query.finish();
    request.finish({.status = 200});
    world.clock.advance(1h);  // what happens after the finish takes no time
  }
  const Payload payload = world.telemetry.take();
  const HistogramData durations = histogram(payload, "operation.duration:http.request");
  CHECK(durations.count() == 3);
  CHECK(durations.sum() == 2.0);
  CHECK(durations.min() == 0.25);
  CHECK(durations.max() == 1.25);
  CHECK(count(payload, "Query") == 3);
  CHECK(payload.items.size() == 2);
}

TEST_CASE("the name is that of the type, and no title makes further ones") {
  Bridged world;
  for (int i = 0; i < 10; ++i) Op<Request> request{{"/orders/" + std::to_string(i)}};
  const Payload payload = world.telemetry.take();
  CHECK(count(payload, "http.request") == 10);
  CHECK(payload.items.size() == 1);
}

TEST_CASE("nested operations of a type are counted each") {
  Bridged world;
  {
    Op<Request> outer{{"/a"}};
    world.clock.advance(1s);
    Op<Request> inner{{"/b"}};
    world.clock.advance(1s);
  }
  const HistogramData durations = histogram(world.telemetry.take(), "operation.duration:http.request");
  CHECK(durations.count() == 2);
  CHECK(durations.sum() == 3);
}

TEST_CASE("an operation counts when it finishes, in the payload of that time, and once") {
  Bridged world;
  Handle<Request> request = start<Request>({"/async"});
  request->emit(Failure{"no"});
  CHECK(world.telemetry.take().empty());
  request->finish({.status = 200});
  request->finish({.status = 200});
  request->emit(Failure{"late"});
  request = {};
  const Payload payload = world.telemetry.take();
  CHECK(count(payload, "http.request") == 1);
  CHECK(errors(payload, "http.request") == 1);
  CHECK(world.telemetry.take().empty());
}

TEST_CASE("a call that fails is an error, however often it says so") {
  Bridged world;
  CHECK_THROWS_AS(wrap<Query>({}, []() -> Query::Result { throw std::runtime_error("no"); }), std::runtime_error);
  CHECK_THROWS_AS(wrap<Query>({}, []() -> Query::Result { throw 1; }), int);
  (void)wrap<Query>({}, [] { return Query::Result{}; });
  {
    Op<Query> query{{}};
    query.emit(Failure{"no"});
    query.emit(Failure{"still not"});
  }
  const Payload payload = world.telemetry.take();
  CHECK(count(payload, "Query") == 4);
  CHECK(errors(payload, "Query") == 3);
}

TEST_CASE("an operation whose scope is left by an exception is an error, and one in a destructor meanwhile is none") {
  Bridged world;
  struct CleansUp {
    ~CleansUp() { Op<Query> query{{}}; }
  };
  try {
    Op<Request> request{{"/"}};
    CleansUp cleans_up;
    throw std::runtime_error("no");
  } catch (const std::runtime_error&) {
    Op<Query> handling{{}};
  }
  const Payload payload = world.telemetry.take();
  CHECK(errors(payload, "http.request") == 1);
  CHECK(count(payload, "Query") == 2);
  CHECK(errors(payload, "Query") == 0);
}

TEST_CASE("an exception on the way on the thread that finishes an operation of another is not the operation's") {
  Bridged world;
  Op<Request> request{{"/"}};
  struct Finishes {
    ~Finishes() { request.finish({.status = 200}); }
    Op<Request>& request;
  };
  std::thread([&] {
    try {
      Finishes finishes{request};
      throw 1;
    } catch (int) {}
  }).join();
  const Payload payload = world.telemetry.take();
  CHECK(count(payload, "http.request") == 1);
  CHECK(errors(payload, "http.request") == 0);
}

TEST_CASE("an attribute `error` of a data event or of the result decides, and the last one does") {
  Bridged world;
  const auto ran_with = [&](auto&& act) {
    {
      Op<Request> request{{"/"}};
      act(request);
    }
    const Payload payload = world.telemetry.take();
    CHECK(count(payload, "http.request") == 1);
    return errors(payload, "http.request");
  };
  CHECK(ran_with([](Op<Request>& request) { request.finish({.status = 503}); }) == 1);
  CHECK(ran_with([](Op<Request>& request) { request.finish({.status = 404}); }) == 0);
  CHECK(ran_with([](Op<Request>& request) { request.emit(Refused{}); }) == 1);
  CHECK(ran_with([](Op<Request>& request) { request.emit(Refused{.error = "none"}); }) == 0);
  CHECK(ran_with([](Op<Request>& request) { request.emit(Retried{}); }) == 0);
  CHECK(ran_with([](Op<Request>& request) { request.emit(Silent{}); }) == 0);
  CHECK(ran_with([](Op<Request>& request) {
          request.emit(Failure{"no"});
          request.emit(Retried{});
        }) == 0);
  CHECK(ran_with([](Op<Request>& request) {
          request.emit(Failure{"no"});
          request.finish({.status = 200});
        }) == 1);
}

TEST_CASE("an error is that of the operation it is emitted on") {
  Bridged world;
  {
    Op<Request> request{{"/"}};
    Op<Query> query{{}};
    query.emit(Failure{"no"});
  }
  const Payload payload = world.telemetry.take();
  CHECK(errors(payload, "Query") == 1);
  CHECK(errors(payload, "http.request") == 0);
}

TEST_CASE("an operation without a result is counted all the same") {
  Bridged world;
  { Op<Unending> operation{{}}; }
  CHECK(count(world.telemetry.take(), "Unending") == 1);
}

TEST_CASE("an operation whose result cannot be described is counted") {
  Bridged world;
  std::vector<std::string> reported;
  set_error_handler([&](const ListenerError& error) { reported.emplace_back(error.what); });
  {
    Op<Request> request{{"/"}};
    request.finish({.status = 999});
  }
  set_error_handler(nullptr);
  CHECK(reported == std::vector<std::string>{"no such status"});
  CHECK(count(world.telemetry.take(), "http.request") == 1);
}

TEST_CASE("operations that run when the bridge is registered are not counted, those below them are") {
  Measured world;
  Root root;
  Root kept = swap_root(std::move(root));
  {
    Op<Request> running{{"/"}};
    OperationsToMetrics metrics(world.telemetry);
    running.observe(metrics);
    running.emit(Failure{"no"});
    { Op<Query> below{{}}; }
    running.finish();
  }
  swap_root(std::move(kept));
  const Payload payload = world.telemetry.take();
  CHECK(count(payload, "Query") == 1);
  CHECK(payload.items.size() == 1);
}

TEST_CASE("with an explicit parent, on another thread, and finished by another thread, operations are counted") {
  Bridged world;
  {
    Op<Request> request{{"/"}};
    std::thread([&] {
      Op<Query> query{under(request), {}};
      query.emit(Failure{"no"});
    }).join();
    std::thread([&] { request.finish({.status = 500}); }).join();
  }
  const Payload payload = world.telemetry.take();
  CHECK(count(payload, "http.request") == 1);
  CHECK(errors(payload, "http.request") == 1);
  CHECK(count(payload, "Query") == 1);
  CHECK(errors(payload, "Query") == 1);
}

TEST_CASE("a name of more than 256 bytes is no name of its own") {
  Bridged world;
  { Op<LongName> operation{{}}; }
  const Payload payload = world.telemetry.take();
  CHECK(count(payload, "other") == 1);
  CHECK(payload.items.size() == 1);
}

TEST_CASE("a family or a key that is disabled is not sent") {
  Bridged world({.disabled_keys = {"operation.errors", "operation.duration:Query"}});
  {
    Op<Request> request{{"/"}};
    Op<Query> query{{}};
    query.emit(Failure{"no"});
  }
  const Payload payload = world.telemetry.take();
  CHECK(count(payload, "http.request") == 1);
  CHECK(payload.items.size() == 1);
}

TEST_CASE("what finds no room in the telemetry is counted there, and tried again") {
  Bridged world({.max_items = 2});
  world.telemetry.set("version", "1.4.2");
  { Op<Query> query{{}}; }
  CHECK(world.telemetry.stats().dropped_items > 0);
  for (int i = 0; i < 2; ++i) CHECK(keys(world.telemetry.take(), "operation") == 0);
  { Op<Query> query{{}}; }
  CHECK(count(world.telemetry.take(), "Query") == 1);
}

TEST_CASE("spans and metrics of one root are made side by side, and mean the same by a failure") {
  Measured world;
  InMemorySender sink;
  Tracer tracer(sink);
  for (const bool spans_first : {true, false}) {
    Root root;
    if (spans_first) root.observe(std::make_shared<OperationsToSpans>(tracer));
    root.observe(std::make_shared<OperationsToMetrics>(world.telemetry));
    if (!spans_first) root.observe(std::make_shared<OperationsToSpans>(tracer));
    const RootScope installed(std::move(root));
    sink.clear();
    {
      Op<Request> request{{"/"}};
      CHECK_THROWS(wrap<Query>({}, []() -> Query::Result { throw std::runtime_error("no"); }));
      try {
        Op<Query> query{{}};
        throw 1;
      } catch (int) {}
      { Op<Query> query{{}}; }
      request.finish({.status = 503});
      const ContextScope unsampled(Context(TraceId{1, 2}, SpanId{3}, false));
      Op<Request> not_sampled{{"/"}};
    }
    std::int64_t failed_requests = 0, failed_queries = 0;
    const std::vector<Span> spans = sink.spans();
    for (const Span& span : spans) (span.name == "Query" ? failed_queries : failed_requests) += span.failed() ? 1 : 0;
    const Payload payload = world.telemetry.take();
    CHECK(spans.size() == 4);
    CHECK(count(payload, "Query") == 3);
    CHECK(count(payload, "http.request") == 2);
    CHECK(errors(payload, "Query") == failed_queries);
    CHECK(errors(payload, "http.request") == failed_requests);
    CHECK(failed_queries == 2);
    CHECK(failed_requests == 1);
  }
}

TEST_CASE("two bridges of one root keep their own, in their own telemetries or in one") {
  Measured first, second;
  Root root;
  root.observe(std::make_shared<OperationsToMetrics>(first.telemetry));
  root.observe(std::make_shared<OperationsToMetrics>(second.telemetry));
  root.observe(std::make_shared<OperationsToMetrics>(second.telemetry));
  const RootScope installed(std::move(root));
  { Op<Query> query{{}}; }
  CHECK(count(first.telemetry.take(), "Query") == 1);
  CHECK(count(second.telemetry.take(), "Query") == 2);
}

TEST_CASE("an operation may outlive the installation of its bridge's root") {
  Measured world;
  Handle<Query> query;
  {
    Root root;
    root.observe(std::make_shared<OperationsToMetrics>(world.telemetry));
    const RootScope installed(std::move(root));
    query = start<Query>({});
  }
  query->finish();
  query = {};
  CHECK(count(world.telemetry.take(), "Query") == 1);
}

TEST_CASE("operations that are counted allocate nothing in the long run") {
  Bridged world;
  const auto run = [] {
    Op<Request> request{{"/"}};
    for (int i = 0; i < 3; ++i) {
      Op<Query> query{{}};
      query.emit(Failure{"no"});
    }
    request.finish({.status = 200});
  };
  run();
  const long before = weir::testing::allocations;
  for (int i = 0; i < 100; ++i) run();
  CHECK(weir::testing::allocations == before);
  CHECK(count(world.telemetry.take(), "Query") == 303);
}

TEST_CASE("without memory an operation is not counted, and nothing else happens") {
  for (long number = 0; number < 20; ++number) {
    Bridged world;
    bool ran = false;
    std::thread([&] {
      { Op<Query> first{{}}; }  // what a thread needs for operations at all
      const weir::testing::LittleMemory little(number);
      Op<Request> request{{"/"}};
      request.finish({.status = 200});
      ran = true;
    }).join();
    CAPTURE(number);
    CHECK(ran);
    CHECK(count(world.telemetry.take(), "http.request") <= 1);
    { Op<Request> later{{"/"}}; }
    CHECK(count(world.telemetry.take(), "http.request") == 1);
  }
}

TEST_CASE("an operation whose start cannot be kept is not counted") {
  Bridged world;
  { Op<Request> known{{"/"}}; }
  std::atomic<int> reported{0};
  set_error_handler([&](const ListenerError&) { ++reported; });  // Catch2 answers a crash here by an exception: it has no memory
  std::thread([&] {
    Op<Query> around{{}};  // has the block that the thread keeps
    const weir::testing::LittleMemory none(0);
    Op<Request> request{{"/"}};
    request.emit(Failure{"no"});
  }).join();
  set_error_handler(nullptr);
  CHECK(reported == 0);
  const Payload payload = world.telemetry.take();
  CHECK(count(payload, "http.request") == 1);
  CHECK(errors(payload, "http.request") == 0);
  CHECK(count(payload, "Query") == 1);
}

TEST_CASE("what threads run adds up exactly, and so do failures that several of them emit on one operation") {
  Measured world;
  Root root;
  root.observe(std::make_shared<OperationsToMetrics>(world.telemetry));
  const RootScope installed(std::move(root));
  constexpr int threads = 8, rounds = 1'000;
  {
    Op<Request> request{{"/"}};
    std::vector<std::thread> all;
    for (int t = 0; t < threads; ++t)
      all.emplace_back([&] {
        for (int i = 0; i < rounds; ++i) {
          Op<Query> query{under(request), {}};
          if (i % 4 == 0) query.emit(Failure{"no"});
          if (i % 100 == 0) request.emit(Failure{"no"});
          const Handle<Unending> shared = start<Unending>({});
        }
      });
    for (std::thread& thread : all) thread.join();
  }
  const Payload payload = world.telemetry.take();
  CHECK(count(payload, "http.request") == 1);
  CHECK(errors(payload, "http.request") == 1);
  CHECK(count(payload, "Query") == threads * rounds);
  CHECK(errors(payload, "Query") == threads * rounds / 4);
  CHECK(count(payload, "Unending") == threads * rounds);
}
