// weir::init in one process. init_environment_test.cpp has the environment.
#include "weir/init.hpp"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/scratch_dir.hpp"
#include "support/test_collector.hpp"
#include "weir/collect/collector.hpp"
#include "weir/operation/wrap.hpp"
#include "weir/trace/in_memory_sender.hpp"

using namespace weir;
using namespace std::chrono_literals;
using weir::testing::eventually;
using weir::testing::ScratchDir;

namespace {

struct Work {
  static constexpr std::string_view name = "work";
  struct Args {
    int number = 0;
    void describe(AttributeSink& sink) const { sink.set("number", number); }
  };
  struct Result {};
};

std::vector<std::string> names(const InMemorySender& sink) {
  std::vector<std::string> result;
  for (const Span& span : sink.spans()) result.push_back(span.name);
  return result;
}
using Names = std::vector<std::string>;

class Recorder final : public Logger {
 public:
  void log(Level level, std::string_view message, std::span<const Attribute>) noexcept override {
    std::lock_guard lock(mutex_);
    lines_.push_back(std::string(to_string(level)) + ": " + std::string(message));
  }
  std::vector<std::string> lines() const {
    std::lock_guard lock(mutex_);
    return lines_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;  // guarded by mutex_
};

InitOptions into(const InMemorySender& sink) {
  InitOptions options;
  options.sender = std::make_shared<InMemorySender>(sink);
  return options;
}

Tracer& kept_from_the_beginning = tracer();

}  // namespace

TEST_CASE("the default tracer is off but for the time of a session, and the same all the time") {
  const auto make = [](const char* name) {
    ScopedSpan span = kept_from_the_beginning.enter(Name::from_static(name));
    return span.recording();
  };
  CHECK_FALSE(make("before"));
  CHECK(tracer().stats().emitted == 0);
  for (const char* const each : {"first", "second"}) {
    const InMemorySender sink;
    {
      const Session session = init(into(sink));
      REQUIRE(session);
      CHECK(make(each));
      CHECK(&tracer() == &kept_from_the_beginning);
      CHECK(session.stats().spans.emitted == 1);  // of this session
      CHECK(names(sink) == Names{each});
    }
    CHECK_FALSE(make("after"));
    CHECK(names(sink) == Names{each});
    CHECK(tracer().stats().emitted == 0);
    CHECK(tracer().flush().sent == 0);
  }
}

TEST_CASE("operations become spans and metrics while the session lives") {
  const InMemorySender sink;
  InMemoryTransport transport;
  {
    InitOptions options = into(sink);
    options.transport = std::make_unique<InMemoryTransport>(transport);
    options.emitter.emplace().interval_jitter = 0ns;
    const Session session = init(std::move(options));
    REQUIRE(session);
    REQUIRE(eventually([&] { return session.stats().updates.updates == 1; }));  // it sends at once, and at the end
    wrap<Work>({7}, [] {
      ScopedSpan inner = tracer().enter("inner");
      return Work::Result{};
    });
    CHECK(names(sink) == Names{"inner", "work"});
    const std::vector<Span> spans = sink.spans();
    CHECK(spans[0].parent_id == spans[1].id);
    CHECK(spans[1].attrs == StringAttributes{{"number", "7"}});
  }
  wrap<Work>({8}, [] { return Work::Result{}; });
  CHECK(sink.spans().size() == 2);
  const std::vector<std::string> bodies = transport.bodies();
  REQUIRE(bodies.size() == 2);
  const nlohmann::json data = nlohmann::json::parse(bodies[1]).at("data");
  CHECK(data.at("operation.duration:work").at("count") == 1);
  CHECK(data.contains("process"));
}

TEST_CASE("the root from before is back when the session ends") {
  Root mine;
  std::atomic<int> heard{0};
  mine.on_start<Work>([&](Op<Work>&) { ++heard; });
  const RootScope installed{std::move(mine)};
  const InMemorySender sink;
  {
    const Session session = init(into(sink));
    Op<Work> work{{}};
    CHECK(heard == 0);
  }
  {
    InitOptions options = into(sink);
    options.operations = false;
    const Session session = init(std::move(options));
    Op<Work> work{{}};
    CHECK(heard == 1);
  }
  Op<Work> work{{}};
  CHECK(heard == 2);
  CHECK(names(sink) == Names{"work"});
}

TEST_CASE("a second session while one lives says so and changes nothing") {
  const InMemorySender first_sink, second_sink;
  Recorder log;
  Session first = init(into(first_sink));
  InitOptions options = into(second_sink);
  options.logger = &log;
  {
    const Session second = init(std::move(options));
    CHECK_FALSE(second);
    CHECK(second.stats().spans.emitted == 0);
    REQUIRE(log.lines().size() == 1);
    CHECK(log.lines()[0].find("error: weir::init was called while a session lives") == 0);
    { ScopedSpan span = tracer().enter("during"); }
  }
  { ScopedSpan span = tracer().enter("after"); }
  CHECK(names(first_sink) == Names{"during", "after"});
  CHECK(second_sink.spans().empty());
  first.end();
  CHECK_FALSE(first);
  first.end();
  const InMemorySender third_sink;
  const Session third = init(into(third_sink));
  CHECK(third);
}

TEST_CASE("a session moves, and ends with what has it last") {
  const InMemorySender sink;
  Session there;
  CHECK_FALSE(there);
  CHECK(there.flush().sent == 0);
  {
    Session here = init(into(sink));
    there = std::move(here);
  }
  REQUIRE(there);
  { ScopedSpan span = tracer().enter("moved"); }
  CHECK(there.flush().pending == 0);
  there = Session();
  CHECK_FALSE(there);
  { ScopedSpan span = tracer().enter("ended"); }
  CHECK(names(sink) == Names{"moved"});
}

TEST_CASE("spans reach a collector under the service's name, and the end sends what is left") {
  const ScratchDir dir;
  Collector collector(dir / "weir.sock");
  std::mutex mutex;
  std::vector<std::string> services;
  collector.on_trace_complete([&](const Trace& trace) {
    std::lock_guard lock(mutex);
    services.push_back(trace.service);
  });
  REQUIRE(collector.listen());
  StopSource stop;
  std::thread serving([&] { (void)collector.serve(stop.token()); });
  {
    Session session = init({.service = "checkout", .socket = dir / "weir.sock"});
    { ScopedSpan span = tracer().enter("one"); }
    CHECK(session.flush(60s).pending == 0);
    CHECK(session.stats().spans.delivered == 1);
    for (int i = 0; i < 1000; ++i) ScopedSpan span = tracer().enter("more");
  }
  CHECK(eventually([&] { return collector.stats().store.spans == 1001; }));
  stop.request_stop();
  serving.join();
  CHECK(services == std::vector<std::string>(1001, "checkout"));
}

TEST_CASE("a collector that does not read costs the end of the session no more than its time") {
  const ScratchDir dir;
  testing::TestCollector collector(dir / "weir.sock");
  Recorder log;
  InitOptions options{.socket = dir / "weir.sock"};
  options.stop_timeout = 1ms;
  options.logger = &log;
  {
    const Session session = init(std::move(options));
    for (int i = 0; i < 5000; ++i) {
      ScopedSpan span = tracer().enter("unread");
      span.set("k", std::string(200, 'x'));
    }
    CHECK(session.stats().spans.emitted == 5000);
  }
  CHECK_FALSE(ScopedSpan(tracer(), "after").recording());
}

TEST_CASE("limits that are said in code hold") {
  const InMemorySender sink;
  InitOptions options = into(sink);
  options.max_attributes = 1;
  options.max_attribute_bytes = 3;
  const Session session = init(std::move(options));
  {
    ScopedSpan span = tracer().enter("span");
    span.set("a", "12345");
    span.set("b", "12345");
  }
  REQUIRE(sink.spans().size() == 1);
  CHECK(sink.spans()[0].attrs == StringAttributes{{"a", "123"}});
}

TEST_CASE("threads make spans with the default tracer while sessions come and go") {
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      while (!done) {
        ScopedSpan span = tracer().enter("outer");
        span.set("k", "v");
        Op<Work> work{{}};
        (void)tracer().stats();
      }
    });
  }
  std::uint64_t seen = 0;
  for (int round = 0; round < 100 || seen == 0; ++round) {
    const InMemorySender sink;
    {
      const Session session = init(into(sink));
      REQUIRE(session);
      if (round % 2 == 0) REQUIRE(eventually([&] { return session.stats().spans.emitted > 0; }));
    }
    const std::size_t spans = sink.spans().size();
    CHECK((round % 2 != 0 || spans > 0));
    CHECK(sink.stats().delivered == spans);
    seen += spans;
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(seen > 0);
}
