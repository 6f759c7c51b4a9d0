// fork: the child begins with an empty buffer, whatever the parent's threads were doing; nothing is counted twice, or not at all.
#include "weir/telemetry/telemetry.hpp"

#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/fork_memory.hpp"
#include "support/telemetry.hpp"
#include "weir/telemetry/payload.hpp"

#if !defined(WEIR_TESTS_TSAN)  // fork and ThreadSanitizer do not mix

using namespace weir;
using namespace weir::testing;

namespace {

/// Catch2 is not for children: the number of the first check that fails is the exit code.
struct Checks {
  int failed = 0;
  void operator()(bool right, int number) {
    if (!right && failed == 0) failed = number;
  }
};

/// What the parent's threads and its children use.
struct Shared {
  const Telemetry telemetry = buffer({.max_items = 100'000'000, .max_bytes = std::size_t{1} << 40});
  const Counter counter = telemetry.counter("handle");
  const Gauge gauge = telemetry.gauge("gauge");
  const Histogram latency = telemetry.histogram("latency");
  static constexpr std::uint64_t handles = 3;
};

std::uint64_t size(const Payload& payload, std::string_view key) {
  const TelemetryData* const data = payload.find(key);
  if (data == nullptr) return 0;
  if (const auto* const list = std::get_if<TelemetryList>(data)) return list->size();
  if (const auto* const set = std::get_if<TelemetrySet>(data)) return set->size();
  if (const auto* const latency = std::get_if<TelemetryHistogram>(data)) return latency->data.count();
  return 1;
}

/// Calls work() on a thread of its own; not where a fork may come while AddressSanitizer makes a thread.
template <class Work>
void on_a_thread(Work work) {
  if (sanitized) return work();
  std::thread(work).join();
}

/// Some of everything, and that it is all there is.
void use(const Shared& shared, Checks& check, int from) {
  const Telemetry& t = shared.telemetry;
  for (int i = 0; i < 3; ++i) {
    shared.counter.increment();
    shared.latency.record(2.0);
    t.increment("key:1");
    t.increment("new");
  }
  shared.gauge.set(1);
  t.append("list", 1);
  t.append_unique("set", 1);
  t.set("value", 1);
  on_a_thread([&] {
    shared.counter.increment();
    shared.latency.record(2.0);
    t.increment("key:1");
  });
  const Payload payload = t.take();
  check(payload.as_int("handle") == 4, from);
  check(payload.as_int("key:1") == 4, from + 1);
  check(payload.as_int("new") == 3, from + 2);
  check(size(payload, "latency") == 4, from + 3);
  check(size(payload, "list") == 1, from + 4);
  check(size(payload, "set") == 1, from + 5);
  check(payload.as_int("value") == 1, from + 6);
  check(payload.items.size() == 8, from + 7);
  check(t.take().empty(), from + 8);
}

/// What a child does first; it differs from child to child.
int child(const Shared& shared, int number) {
  Checks check;
  const Telemetry& t = shared.telemetry;
  const TelemetryStats stats = t.stats();
  check(stats.items == Shared::handles || stats.items == Shared::handles + 1, 1);  // a thread may have had another
  check(stats.payloads == 0 && stats.dropped_items == 0 && stats.invalid_values == 0 && stats.type_conflicts == 0, 2);
  switch (number % 6) {
    case 0: check(t.take().empty(), 3); break;
    case 1: break;
    case 2: {
      Payload payload;
      payload.items.push_back({"value", TelemetryValue(AttributeValue(1))});
      payload.items.push_back({"list", TelemetryList(1, TelemetryValue(AttributeValue(1)))});
      payload.items.push_back({"key:1", TelemetryData(std::in_place_type<TelemetryCounter>, 5)});
      t.merge_back(std::move(payload));
      const Payload taken = t.take();
      check(taken.items.size() == 3 && taken.as_int("value") == 1 && taken.as_int("key:1") == 5 && size(taken, "list") == 1, 4);
      break;
    }
    case 3: {
      Response response;
      response.disable_keys = {"key", "list"};
      t.apply(response);
      check(t.take().empty(), 5);
      std::swap(response.disable_keys, response.enable_keys);
      t.apply(response);
      break;
    }
    case 4: {
      t.reset();
      const pid_t grandchild = ::fork();
      if (grandchild == 0) {
        ::alarm(20);
        Checks inner;
        use(shared, inner, 1);
        ::_exit(inner.failed);
      }
      int status = 0;
      check(::waitpid(grandchild, &status, 0) == grandchild && status == 0, 6);
      break;
    }
    default: {
      const Telemetry other = buffer();
      other.increment("a");
      check(other.take().as_int("a") == 1, 7);
      break;
    }
  }
  use(shared, check, 10);
  return check.failed;
}

}  // namespace

TEST_CASE("children of a busy parent begin empty, and the parent's payloads add up exactly") {
  const Shared shared;
  std::atomic<bool> stop{false};
  std::atomic<std::int64_t> updates{0};
  std::int64_t handle = 0, keys = 0, items = 0, counted = 0;
  std::uint64_t recorded = 0;
  const auto add = [&](const Payload& payload) {
    handle += payload.as_int("handle");
    for (int i = 0; i < 20; ++i) keys += payload.as_int("key:" + std::to_string(i));
    recorded += size(payload, "latency");
    items += static_cast<std::int64_t>(size(payload, "list"));
    if (const TelemetryData* const set = payload.find("set"))
      for (const auto& [value, times] : std::get<TelemetrySet>(*set)) counted += static_cast<std::int64_t>(times);
  };
  std::vector<std::thread> threads;
  for (int writer = 0; writer < 3; ++writer) {
    threads.emplace_back([&] {
      while (!stop) {
        // Threads come and go, too.
        on_a_thread([&] {
          const Counter counter = shared.counter;
          for (int i = 0; i < 200; ++i) {
            counter.increment();
            shared.telemetry.increment("key:" + std::to_string(i % 20));
            shared.latency.record(static_cast<double>(i));
            shared.gauge.set(i);
            shared.telemetry.append("list", i);
            shared.telemetry.append_unique("set", i % 10);
            shared.telemetry.set("value", i);
            shared.telemetry.histogram("short").record(-1.0);
          }
        });
        updates += 200;
      }
    });
  }
  threads.emplace_back([&] {
    for (int taken = 0; !stop; ++taken) {
      Payload payload = shared.telemetry.take();
      if (taken % 4 == 0)
        shared.telemetry.merge_back(std::move(payload));
      else
        add(payload);
    }
  });
  int code = 0;
  for (int i = 0; i < 300 && code == 0; ++i) code = in_a_child([&] { return child(shared, i); }, 20).code();
  CHECK(code == 0);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < 3; ++i) add(shared.telemetry.take());
  CHECK(handle == updates);
  CHECK(keys == updates);
  CHECK(recorded == static_cast<std::uint64_t>(updates));
  CHECK(items == updates);
  CHECK(counted == updates);
  CHECK(updates > 0);
  CHECK(shared.telemetry.stats().dropped_items == 0);
}

TEST_CASE("threads may fork at the same time") {
  const Shared shared;
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 3; ++thread) {
    threads.emplace_back([&] {
      for (int i = 0; i < 30; ++i) {
        shared.counter.increment();
        const pid_t pid = ::fork();
        if (pid == 0) {
          become_a_child(20);
          Checks check;
          use(shared, check, 1);
          ::_exit(check.failed);
        }
        int status = 0;
        wrong += ::waitpid(pid, &status, 0) != pid || status != 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(shared.telemetry.take().as_int("handle") == 90);
}

TEST_CASE("what at_emit was given may fork: both processes take a payload, the child one without the parent's counts") {
  const Shared shared;
  shared.counter.add(5);
  pid_t forked = -1;
  shared.telemetry.at_emit([&](const Telemetry& inner) {
    if (forked == -1) forked = ::fork();
    if (forked == 0) become_a_child(20);
    inner.increment("collected");
  });
  const Payload payload = shared.telemetry.take();
  if (forked == 0) {
    Checks check;
    check(payload.as_int("handle") == 0 && payload.as_int("collected") == 1, 1);
    shared.counter.increment();
    check(shared.telemetry.take().as_int("collected") == 1, 2);
    ::_exit(check.failed);
  }
  CHECK(payload.as_int("handle") == 5);
  CHECK(payload.as_int("collected") == 1);
  int status = 0;
  REQUIRE(::waitpid(forked, &status, 0) == forked);
  CHECK(status == 0);
}

TEST_CASE("collectors are called in a child though a parent's thread was calling them") {
  const Telemetry telemetry = buffer();
  std::atomic<bool> inside{false}, go_on{false};
  std::atomic<int> calls{0};
  const std::uint64_t number = telemetry.at_emit([&](const Telemetry&) {
    if (calls++ != 0) return;
    inside = true;
    while (!go_on) std::this_thread::yield();
  });
  std::thread taker([&] { telemetry.take(); });
  while (!inside) std::this_thread::yield();
  const Child child = in_a_child(
      [&] {
        telemetry.take();
        telemetry.remove_at_emit(number);
        telemetry.take();
        return calls == 2 ? 0 : 1;
      },
      20);
  CHECK(child.code() == 0);
  go_on = true;
  taker.join();
}

TEST_CASE("a buffer may be made and go in a child, and the parent's may") {
  std::optional<Telemetry> telemetry = buffer();
  const Counter counter = telemetry->counter("handle");
  counter.increment();
  telemetry->set("value", "text");
  const Child child = in_a_child(
      [&] {
        telemetry.reset();
        counter.increment();
        const Telemetry another = buffer();
        another.increment("a");
        return another.take().as_int("a") == 1 ? 0 : 1;
      },
      20);
  CHECK(child.code() == 0);
  CHECK(telemetry->take().as_int("handle") == 1);
}

#endif
