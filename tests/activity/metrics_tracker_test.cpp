#include "weir/activity/metrics_tracker.hpp"

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/memory.hpp"
#include "support/metrics.hpp"
#include "support/operations.hpp"
#include "support/trackers.hpp"
#include "weir/activity/log_tracker.hpp"
#include "weir/core/logger.hpp"

using namespace weir;
using namespace std::chrono_literals;
using weir::testing::histogram;
using weir::testing::keys;
using weir::testing::LittleMemory;
using weir::testing::Measured;

namespace {

struct Tracked : Measured {
  explicit Tracked(TelemetryOptions options = {}) : Measured(std::move(options)) {}

  ManualClock clock;
  MetricsTracker tracker{telemetry, {.clock = &clock}};
};

/// Of the kind "update user", unless it says otherwise.
std::uint64_t count(const Payload& payload, std::string_view key = "activity.duration:update user") {
  return histogram(payload, key).count();
}
std::int64_t errors(const Payload& payload) { return payload.as_int("activity.errors:update user"); }
std::int64_t changes(const Payload& payload) { return payload.as_int("activity.changes:update user"); }

void on_threads(int number, const std::function<void(int)>& work) {
  std::vector<std::thread> threads;
  for (int t = 0; t < number; ++t) threads.emplace_back(work, t);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

TEST_CASE("of each kind of activity there is how many ran, and how long they took") {
  Tracked world;
  for (const auto duration : {250ms, 500ms, 1250ms}) {
    Activity activity = world.tracker.start(Context(), "update", "user", {{"user_id", 42}});
    world.clock.advance(duration);
  }
  { Activity activity = world.tracker.start("delete", "user"); }
  const Payload payload = world.telemetry.take();
  const HistogramData durations = histogram(payload, "activity.duration:update user");
  CHECK(durations.count() == 3);
  CHECK(durations.sum() == 2.0);
  CHECK(durations.min() == 0.25);
  CHECK(durations.max() == 1.25);
  const HistogramData others = histogram(payload, "activity.duration:delete user");
  CHECK(others.count() == 1);
  CHECK(others.sum() == 0);
  CHECK(payload.items.size() == 2);
}

TEST_CASE("an activity without a subject is named by its operation") {
  Tracked world;
  { Activity activity = world.tracker.start("start", ""); }
  { Activity activity = world.tracker.start("", "user"); }
  const Payload payload = world.telemetry.take();
  CHECK(count(payload, "activity.duration:start") == 1);
  CHECK(count(payload, "activity.duration: user") == 1);
}

TEST_CASE("an activity that reports errors, however many, is one error") {
  Tracked world;
  for (int i = 0; i < 5; ++i) {
    Activity activity = world.tracker.start(Context(), "update", "user");
    if (i < 3) activity.report_error("refused");
    if (i == 1) activity.report_error(std::runtime_error("and more"));
    activity.report_error("");  // is none
  }
  const Payload payload = world.telemetry.take();
  CHECK(count(payload) == 5);
  CHECK(errors(payload) == 3);
  CHECK(changes(payload) == 0);
}

TEST_CASE("an activity that reports changes, however many, is one change, and their data is not made") {
  Tracked world;
  bool made = false;
  for (int i = 0; i < 5; ++i) {
    Activity activity = world.tracker.start(Context(), "update", "user");
    for (int id = 0; id < i; ++id)
      activity.report_change(id, [&] {
        made = true;
        return std::string("{}");
      });
    if (i == 4) activity.report_error("only in part");
  }
  const Payload payload = world.telemetry.take();
  CHECK(count(payload) == 5);
  CHECK(changes(payload) == 4);
  CHECK(errors(payload) == 1);
  CHECK_FALSE(made);
}

TEST_CASE("an exception that leaves the scope of an activity under the ambient context is an error") {
  Tracked world;
  const auto leave = [&](bool report) {
    try {
      Activity activity = world.tracker.start("update", "user");
      if (report) activity.report_error("known");
      throw std::runtime_error("no row");
    } catch (const std::runtime_error&) {
      Activity handling = world.tracker.start("handle", "exception");
    }
  };
  leave(false);
  leave(true);
  const Payload payload = world.telemetry.take();
  CHECK(count(payload) == 2);
  CHECK(errors(payload) == 2);
  CHECK(count(payload, "activity.duration:handle exception") == 2);
  CHECK(payload.find("activity.errors:handle exception") == nullptr);
}

TEST_CASE("an activity that began or ends while an exception is on its way is no error by that") {
  Tracked world;
  struct AtTheEnd {
    ~AtTheEnd() { function(); }
    std::function<void()> function;
  };
  try {
    std::optional<Activity> elsewhere = world.tracker.start("update", "user");
    AtTheEnd end{[&] {
      { Activity cleaning_up = world.tracker.start("update", "user"); }
      // In flight on the thread that ends it, and not on the one that began it.
      Activity of_a_thread;
      std::thread([&] { of_a_thread = world.tracker.start("update", "user"); }).join();
      of_a_thread.end();
      std::thread([&] { elsewhere.reset(); }).join();
    }};
    throw 1;
  } catch (int) {}
  { Activity explicitly = world.tracker.start(Context(), "update", "user"); }
  const Payload payload = world.telemetry.take();
  CHECK(count(payload) == 4);
  CHECK(errors(payload) == 0);
}

TEST_CASE("nested activities are counted each, the outer one with the time of the inner") {
  Tracked world;
  {
    Activity outer = world.tracker.start("update", "user");
    world.clock.advance(1s);
    for (int i = 0; i < 2; ++i) {
      Activity inner = world.tracker.start("store", "row");
      inner.report_error("no");
      world.clock.advance(2s);
      Activity same = world.tracker.start("update", "user");
    }
  }
  const Payload payload = world.telemetry.take();
  CHECK(count(payload) == 3);
  CHECK(histogram(payload, "activity.duration:update user").sum() == 5);
  CHECK(histogram(payload, "activity.duration:store row").sum() == 4);
  CHECK(payload.as_int("activity.errors:store row") == 2);
  CHECK(errors(payload) == 0);
}

TEST_CASE("an activity counts when it ends, once, in the payload of that time") {
  Tracked world;
  Activity activity = world.tracker.start(Context(), "update", "user");
  activity.report_error("no");
  activity.report_change(1);
  CHECK(world.telemetry.take().empty());
  world.clock.advance(3s);
  Activity moved = std::move(activity);
  moved.end();
  moved.end();
  moved.report_error("late");
  const Payload payload = world.telemetry.take();
  CHECK(count(payload) == 1);
  CHECK(histogram(payload, "activity.duration:update user").sum() == 3);
  CHECK(errors(payload) == 1);
  CHECK(changes(payload) == 1);
  CHECK(world.telemetry.take().empty());
}

TEST_CASE("a clock that is set back gives no duration below zero") {
  Tracked world;
  world.clock.advance(1h);
  {
    Activity activity = world.tracker.start(Context(), "update", "user");
    world.clock.advance(-1min);
  }
  const HistogramData durations = histogram(world.telemetry.take(), "activity.duration:update user");
  CHECK(durations.count() == 1);
  CHECK(durations.sum() == 0);
  CHECK(world.telemetry.stats().invalid_values == 0);
}

TEST_CASE("durations are those of the machine's clock") {
  using Steady = std::chrono::steady_clock;
  const auto seconds = [](Steady::duration time) { return std::chrono::duration<double>(time).count(); };
  Measured world;
  MetricsTracker tracker(world.telemetry);
  for (const auto work : {0us, 50us, 2'000us, 20'000us}) {
    const Steady::time_point before = Steady::now();
    Activity activity = tracker.start(Context(), "update", "user");
    const Steady::time_point begin = Steady::now();
    Steady::time_point end = begin;
    while (end - begin < work) end = Steady::now();
    activity.end();
    const double most = seconds(Steady::now() - before);
    const double duration = histogram(world.telemetry.take(), "activity.duration:update user").sum();
    constexpr double between_clocks = 2e-6;
    CHECK(duration >= seconds(end - begin) - between_clocks);
    CHECK(duration <= most + between_clocks);
  }
}

TEST_CASE("activities are counted whether their traces are sampled or not") {
  Tracked world;
  const Context unsampled(TraceId{1, 2}, SpanId{3}, false);
  {
    Activity activity = world.tracker.start(unsampled, "update", "user");
    CHECK(activity.inside(unsampled) == unsampled);
  }
  CHECK(count(world.telemetry.take()) == 1);
}

TEST_CASE("texts may be gone when the activity goes on") {
  Tracked world;
  Activity activity;
  {
    std::string operation = "update", subject(100, 'u');
    activity = world.tracker.start(Context(), operation, subject);
    for (std::string* gone : {&operation, &subject}) std::fill(gone->begin(), gone->end(), '?');
  }
  activity.end();
  CHECK(count(world.telemetry.take(), "activity.duration:update " + std::string(100, 'u')) == 1);
}

TEST_CASE("a family or a key that is disabled is not sent, and again when it is enabled") {
  Tracked world({.disabled_keys = {"activity.errors"}});
  const auto run = [&](std::string_view subject) {
    Activity activity = world.tracker.start(Context(), "update", subject);
    activity.report_error("no");
    activity.report_change(1);
  };
  run("user");
  Payload payload = world.telemetry.take();
  CHECK(count(payload) == 1);
  CHECK(changes(payload) == 1);
  CHECK(keys(payload, "activity.errors") == 0);

  Response response;
  response.disable_keys = {"activity.changes", "activity.duration:update user"};
  world.telemetry.apply(response);
  run("user");
  run("order");
  payload = world.telemetry.take();
  CHECK(payload.items.size() == 1);
  CHECK(count(payload, "activity.duration:update order") == 1);

  response.enable_keys = std::exchange(response.disable_keys, {});
  world.telemetry.apply(response);
  run("user");
  payload = world.telemetry.take();
  CHECK(count(payload) == 1);
  CHECK(changes(payload) == 1);
}

// ---- bounds

TEST_CASE("there are 1,000 kinds at most, and those that come later are one") {
  Tracked world;
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 1'500; ++i) {
      Activity activity = world.tracker.start(Context(), "get", "user " + std::to_string(i));
      activity.report_error("no");
    }
    const Payload payload = world.telemetry.take();
    CHECK(keys(payload, "activity.duration:get user ") == 1'000);
    CHECK(count(payload, "activity.duration:get user 0") == 1);
    CHECK(count(payload, "activity.duration:get user 999") == 1);
    CHECK(payload.find("activity.duration:get user 1000") == nullptr);
    CHECK(count(payload, "activity.duration:other") == 500);
    CHECK(payload.as_int("activity.errors:other") == 500);
    CHECK(payload.items.size() == 2 * 1'001);
  }
}

TEST_CASE("a kind with a name of more than 256 bytes is no kind of its own") {
  Tracked world;
  const std::string operation(100, 'o'), subject(155, 's'), longer(156, 's');
  { Activity activity = world.tracker.start(Context(), operation, subject); }
  { Activity activity = world.tracker.start(Context(), operation, longer); }
  { Activity activity = world.tracker.start(Context(), std::string(1 << 20, 'x'), {}); }
  const Payload payload = world.telemetry.take();
  CHECK(count(payload, "activity.duration:" + operation + " " + subject) == 1);
  CHECK(count(payload, "activity.duration:other") == 2);
  CHECK(payload.items.size() == 2);
}

TEST_CASE("a kind that finds no room in the telemetry is tried again, and what is lost is counted there") {
  Tracked world({.max_items = 3});
  world.telemetry.set("version", "1.4.2");
  {
    Activity activity = world.tracker.start(Context(), "update", "user");
    CHECK_FALSE(activity.tracked());
  }
  CHECK(world.telemetry.stats().dropped_items > 0);
  CHECK(keys(world.telemetry.take(), "activity") == 0);
  (void)world.telemetry.take();  // what the first try had held is let go of
  { Activity activity = world.tracker.start(Context(), "update", "user"); }
  const std::uint64_t dropped = world.telemetry.stats().dropped_items;
  { Activity activity = world.tracker.start(Context(), "delete", "user"); }
  const Payload payload = world.telemetry.take();
  CHECK(count(payload) == 1);
  CHECK(payload.items.size() == 1);
  CHECK(world.telemetry.stats().dropped_items > dropped);
}

TEST_CASE("activities that are counted allocate nothing in the long run") {
  Tracked world;
  const auto run = [&] {
    Activity activity = world.tracker.start("update", "user", {{"user_id", 42}});
    Activity nested = world.tracker.start(Context(), "store", "row");
    nested.report_change(7);
    nested.report_error("no");
  };
  run();
  const long before = weir::testing::allocations;
  for (int i = 0; i < 100; ++i) run();
  CHECK(weir::testing::allocations == before);
  CHECK(count(world.telemetry.take()) == 101);
}

TEST_CASE("without memory an activity may not be counted, and nothing else happens") {
  (void)stderr_logger();
  for (long number = 0; number < 20; ++number) {
    Tracked world;
    std::uint64_t followed = 0;
    std::thread([&] {
      const LittleMemory little(number);
      for (int i = 0; i < 3; ++i) {
        Activity activity = world.tracker.start("update", "user");
        if (activity.tracked()) ++followed;
        activity.report_error("no");
      }
    }).join();
    CAPTURE(number);
    const Payload payload = world.telemetry.take();
    CHECK(count(payload) + world.telemetry.stats().dropped_items >= followed);
    CHECK(count(payload) <= followed);
    if (number == 0) CHECK(followed == 0);
    { Activity later = world.tracker.start("update", "user"); }
    CHECK(count(world.telemetry.take()) == 1);
  }
}

// ---- lifetimes

TEST_CASE("what ends after its tracker is gone is not counted, wherever it ends") {
  Measured world;
  std::vector<Activity> open;
  {
    std::optional<MetricsTracker> tracker(std::in_place, world.telemetry);
    { Activity known_here = tracker->start(Context(), "update", "user"); }
    for (int i = 0; i < 2; ++i) open.push_back(tracker->start(Context(), "update", "user"));
    open.push_back(tracker->start("update", "user"));
    tracker.reset();
    tracker.emplace(world.telemetry);  // in the same place
    open.back().end();
    open.pop_back();
    std::thread([&] { open.pop_back(); }).join();
    { Activity of_the_second = tracker->start(Context(), "update", "user"); }
  }
  open.clear();
  CHECK(count(world.telemetry.take()) == 2);
}

TEST_CASE("the telemetry may go before its tracker and the activities") {
  auto world = std::make_unique<Measured>();
  auto tracker = std::make_unique<MetricsTracker>(world->telemetry);
  Activity first = tracker->start(Context(), "update", "user"), second = tracker->start(Context(), "update", "user");
  world.reset();
  first.end();
  tracker.reset();
}

TEST_CASE("more trackers than a thread remembers count all the same") {
  Measured world;
  std::vector<std::unique_ptr<MetricsTracker>> trackers;
  for (int i = 0; i < 10; ++i) trackers.push_back(std::make_unique<MetricsTracker>(world.telemetry));
  for (int round = 0; round < 3; ++round) {
    std::vector<Activity> open;
    for (auto& tracker : trackers) open.push_back(tracker->start(Context(), "update", "user"));
  }
  CHECK(count(world.telemetry.take()) == 30);
}

TEST_CASE("an activity that ends in the destructor of a thread-local object is counted") {
  Tracked world;
  std::thread([&] {
    thread_local Activity last;
    last = world.tracker.start("update", "user");
    { Activity activity = world.tracker.start("update", "user"); }
  }).join();
  CHECK(count(world.telemetry.take()) == 2);
}

TEST_CASE("trackers come and go while activities of others end") {
  Measured world;
  std::atomic<bool> done{false};
  std::mutex mutex;
  std::vector<Activity> open;  // guarded by mutex
  std::thread ends([&] {
    while (!done.load()) {
      std::vector<Activity> taken;
      const std::lock_guard lock(mutex);
      taken.swap(open);
    }
  });
  for (int i = 0; i < 300; ++i) {
    MetricsTracker tracker(world.telemetry);
    for (int k = 0; k < 3; ++k) {
      Activity activity = tracker.start(Context(), "update", "user");
      const std::lock_guard lock(mutex);
      open.push_back(std::move(activity));
    }
    Activity mine = tracker.start("update", "order");
  }
  done.store(true);
  ends.join();
  open.clear();
  const Payload payload = world.telemetry.take();
  CHECK(count(payload, "activity.duration:update order") == 300);
  CHECK(count(payload) <= 900);
}

// ---- company

TEST_CASE("in a chain with a log each does its own") {
  Measured world;
  weir::testing::Heard heard;
  std::atomic<int> lines{0};
  LogTracker log([&](const LogLine&) { ++lines; });
  weir::testing::Recorder recorder(heard, "r", {.throws_in = {"started", "failed", "ended"}});
  (void)stderr_logger();
  MetricsTracker metrics(world.telemetry);
  ChainedTracker chain(recorder, log, metrics);
  {
    Activity activity = chain.start("update", "user");
    activity.report_error("no");
    activity.report_change(7);
  }
  { Activity activity = chain.start("update", "user"); }
  const Payload payload = world.telemetry.take();
  CHECK(count(payload) == 2);
  CHECK(errors(payload) == 1);
  CHECK(changes(payload) == 1);
  CHECK(lines == 6);
}

TEST_CASE("trackers of one telemetry add to the same keys") {
  Measured world;
  MetricsTracker a(world.telemetry), b(world.telemetry);
  ChainedTracker both(a, b);
  { Activity activity = both.start("update", "user"); }
  { Activity activity = a.start("update", "user"); }
  CHECK(count(world.telemetry.take()) == 3);
}

// ---- threads

TEST_CASE("what threads count adds up exactly, where others end it, too") {
  Measured world;
  MetricsTracker tracker(world.telemetry);
  constexpr int threads = 8, rounds = 600;
  std::array<std::vector<Activity>, threads> started;
  std::atomic<bool> done{false};
  std::uint64_t all = 0, handed_over = 0;
  std::int64_t all_errors = 0, all_changes = 0;
  const auto take = [&] {
    const Payload payload = world.telemetry.take();
    all += count(payload), handed_over += count(payload, "activity.duration:hand over");
    all_errors += errors(payload), all_changes += changes(payload);
  };
  std::thread takes([&] {
    while (!done.load()) take();
  });
  on_threads(threads, [&](int t) {
    for (int i = 0; i < rounds; ++i) {
      Activity activity = tracker.start("update", "user");
      if (i % 2 == 0) activity.report_error("no");
      if (i % 3 == 0) activity.report_change(i);
      started[static_cast<std::size_t>(t)].push_back(tracker.start(Context(), "hand", "over"));
    }
  });
  on_threads(threads, [&](int t) { started[static_cast<std::size_t>((t + 1) % threads)].clear(); });
  done.store(true);
  takes.join();
  take();
  CHECK(all == threads * rounds);
  CHECK(handed_over == threads * rounds);
  CHECK(all_errors == threads * rounds / 2);
  CHECK(all_changes == threads * rounds / 3);
}

TEST_CASE("threads that find the same new kinds at once stay within the bound, and lose nothing") {
  Measured world;
  MetricsTracker tracker(world.telemetry);
  constexpr int threads = 4, kinds = 1'200;
  on_threads(threads, [&](int) {
    for (int i = 0; i < kinds; ++i) Activity activity = tracker.start(Context(), "get", std::to_string(i));
  });
  const Payload payload = world.telemetry.take();
  std::uint64_t all = 0;
  for (const Payload::Item& item : payload.items) all += count(payload, item.key);
  CHECK(all == threads * kinds);
  CHECK(keys(payload, "activity.duration:get ") == 1'000);
  CHECK(count(payload, "activity.duration:other") >= threads * (kinds - 1'000));
}

TEST_CASE("the child of a fork counts its own activities") {
#if !defined(WEIR_TESTS_TSAN)
  Measured world;
  MetricsTracker tracker(world.telemetry);
  { Activity of_the_parent = tracker.start("update", "user"); }
  Activity open = tracker.start(Context(), "update", "user");
  const auto child = weir::testing::in_a_child([&] {
    { Activity activity = tracker.start("update", "user"); }
    open.end();
    std::thread([&] { Activity elsewhere = tracker.start("update", "user"); }).join();
    MetricsTracker own(world.telemetry);
    { Activity activity = own.start("update", "user"); }
    return static_cast<int>(count(world.telemetry.take()));
  });
  CHECK(child.code() == 4);
  open.end();
  CHECK(count(world.telemetry.take()) == 2);
#endif
}
