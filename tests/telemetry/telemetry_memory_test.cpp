// What counting takes from the heap: nothing in the long run; what ended threads and keys that are gone leave there: nothing; and what
// happens when there is nothing left: nobody crashes, nobody but take and reset throws, and what is lost is counted.
#include "support/memory.hpp"

#include <malloc.h>
#include <cmath>
#include <cstdint>
#include <map>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/telemetry.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

/// How many allocations `work` takes of its thread.
template <class Work>
long allocations_of(Work work) {
  const long before = allocations;
  work();
  return allocations - before;
}

#if !defined(WEIR_TESTS_SANITIZED) && !defined(WEIR_TESTS_TSAN)
std::size_t heap() { return ::mallinfo2().uordblks + ::mallinfo2().hblkhd; }
#endif

const std::string long_text(300, 'x');

}  // namespace

TEST_CASE("counting takes nothing from the heap") {
  const Telemetry telemetry = buffer();
  const Counter counter = telemetry.counter("counter");
  const Gauge gauge = telemetry.gauge("gauge");
  const Histogram latency = telemetry.histogram("latency");
  const auto all = [&] {
    counter.increment();
    gauge.set(2);
    gauge.add(1);
    latency.record(1.5);
    latency.record(-1.0);
    telemetry.increment("key");
    telemetry.increment("a key that is longer than strings are by themselves");
    telemetry.append_unique("set", "an item that is longer than strings are by themselves");
    telemetry.set("value", 1);
    telemetry.set_nested("nested", "sub", 1);
  };
  all();
  all();
  CHECK(allocations_of([&] {
          for (int i = 0; i < 1'000; ++i) all();
        }) == 0);
  SECTION("on another thread, which takes some the first time") {
    long first = 0, later = 0;
    std::thread([&] {
      first = allocations_of(all);
      all();
      later = allocations_of([&] {
        for (int i = 0; i < 1'000; ++i) all();
      });
    }).join();
    CHECK(first > 0);
    CHECK(later == 0);
  }
  SECTION("of numbers in the next cycle, too") {
    telemetry.take();
    CHECK(allocations_of([&] {
            counter.increment();
            gauge.set(2);
            latency.record(1.5);
            telemetry.increment("key");
            telemetry.increment("a key that is longer than strings are by themselves");
          }) == 0);
  }
  SECTION("of a key that is of another kind, once that was logged") {
    const Telemetry silent = buffer({.logger = &silence()});
    silent.set("value", 1);
    silent.increment("value");
    CHECK(allocations_of([&] {
            for (int i = 0; i < 100; ++i) silent.increment("value");
          }) == 0);
  }
  SECTION("of a disabled key") {
    const Telemetry silent = buffer({.disabled_keys = {"off"}});
    CHECK(allocations_of([&] {
            silent.increment("off:1");
            silent.set("off:2", long_text);
          }) == 0);
  }
  SECTION("of handles that are copied, and come and go") {
    CHECK(allocations_of([&] {
            for (int i = 0; i < 100; ++i) {
              Counter copy = telemetry.counter("counter");
              Histogram other = latency;
              other = telemetry.histogram("latency");
            }
          }) == 0);
  }
}

#if !defined(WEIR_TESTS_SANITIZED) && !defined(WEIR_TESTS_TSAN)  // they keep what was freed for a while

TEST_CASE("threads that end leave nothing behind") {
  const Telemetry telemetry = buffer();
  const Counter counter = telemetry.counter("counter");
  const Histogram latency = telemetry.histogram("latency");
  const auto short_life = [&](int number) {
    std::thread([&] {
      counter.increment();
      latency.record(1.5);
      for (int i = 0; i < 100; ++i) telemetry.increment(std::to_string(i));
      telemetry.increment("of this thread:" + std::to_string(number % 3));
    }).join();
  };
  for (int i = 0; i < 50; ++i) short_life(i);
  telemetry.take();
  const std::size_t before = heap();
  for (int i = 0; i < 1'000; ++i) short_life(i);
  telemetry.take();
  CHECK(heap() < before + 50'000);
}

TEST_CASE("keys that come and go leave nothing behind, whatever kind they were of") {
  const Telemetry telemetry = buffer({.logger = &silence()});
  const auto cycle = [&](int number) {
    const std::string suffix = std::to_string(number);
    for (int i = 0; i < 20; ++i) {
      telemetry.increment("counter:" + suffix + ":" + std::to_string(i));
      telemetry.append("list:" + suffix, i);
      telemetry.append_unique("set:" + suffix, i);
    }
    telemetry.counter("handle:" + suffix).increment();
    telemetry.gauge("gauge:" + suffix).set(1);
    telemetry.histogram("histogram:" + suffix).record(number);
    telemetry.set("handle:" + suffix, 1);  // a conflict
    telemetry.increment("kind");
    telemetry.merge_back(telemetry.take());
    telemetry.take();
    telemetry.gauge("kind").set(1);
    telemetry.take();
    telemetry.take();
  };
  // The thread's cache of keys is full, and all conflicts that are ever logged were.
  for (int i = 0; i < 1'500; ++i) cycle(i);
  const std::size_t before = heap();
  for (int i = 1'500; i < 4'000; ++i) cycle(i);
  CHECK(heap() < before + 100'000);
  CHECK(telemetry.stats().items == 0);
}

TEST_CASE("long keys are not kept by threads") {
  const Telemetry telemetry = buffer({.logger = &silence()});
  telemetry.take();
  const std::size_t before = heap();
  for (int i = 0; i < 1'000; ++i) {
    telemetry.increment(std::string(100'000, 'x') + std::to_string(i));
    telemetry.set(std::string(100'000, 'x') + std::to_string(i), 1);
    telemetry.take();
  }
  telemetry.take();
  telemetry.take();
  CHECK(telemetry.stats().type_conflicts == 1'000);
  CHECK(heap() < before + 1'000'000);
}

TEST_CASE("distinct values of a set, items, nested keys and overwritten values keep to the bytes that were allowed") {
  constexpr std::size_t bound = 4 << 20;
  const Telemetry telemetry = buffer({.max_items = SIZE_MAX, .max_bytes = bound});
  const std::size_t before = heap();
  for (int i = 0; i < 200'000; ++i) {
    const std::string text = std::to_string(i) + long_text;
    switch (i % 5) {
      case 0: telemetry.append_unique("set", text); break;
      case 1: telemetry.append("list", text); break;
      case 2: telemetry.set_nested("nested", text, i); break;
      case 3: telemetry.set("value", std::string(static_cast<std::size_t>(i), 'x')); break;
      default: telemetry.increment(text); break;
    }
  }
  CHECK(telemetry.stats().bytes <= bound);
  CHECK(telemetry.stats().dropped_items > 0);
  CHECK(heap() < before + 3 * bound);
  telemetry.reset();
  telemetry.reset();
  CHECK(telemetry.stats().bytes == 0);
}

#endif

namespace {

/// Everything that a buffer can be asked for. Allocates nothing itself, and counts what it asked for.
struct Calls {
  std::int64_t handle = 0, keys = 0;

  void make(const Telemetry& telemetry, const Counter& counter, const Response& disable, const Response& enable) {
    counter.increment();
    ++handle;
    static constexpr std::string_view names[] = {"a", "b", "a key that is longer than strings are by themselves"};
    for (const std::string_view name : names) {
      telemetry.increment(name);
      telemetry.increment(name);
      keys += 2;
    }
    for (int i = 0; i < 3; ++i) {
      telemetry.append("list", long_text);
      telemetry.append_unique("set", i);
      telemetry.set_nested("nested", i == 0 ? "x" : "y", long_text);
    }
    telemetry.set("value", long_text);
    telemetry.set("value", std::string_view(long_text).substr(1));
    telemetry.set("list", 1);  // a conflict
    const Counter made = telemetry.counter("made");
    made.increment();
    const Gauge gauge = telemetry.gauge("gauge");
    gauge.set(1);
    const Histogram latency = telemetry.histogram("latency", "a unit that is longer than strings are by themselves");
    latency.record(1.0);
    latency.record(1e-30);
    latency.record(1e30);
    telemetry.apply(disable);
    telemetry.apply(enable);
    (void)telemetry.stats();
    (void)telemetry.disabled("a");
    const std::uint64_t number = telemetry.at_emit([](const Telemetry&) {});
    telemetry.remove_at_emit(number);
  }
};

std::int64_t counted(const Payload& payload, std::initializer_list<std::string_view> keys) {
  std::int64_t sum = 0;
  for (const std::string_view key : keys) sum += payload.as_int(key);
  return sum;
}

template <class T>
const T* held(const Payload& payload, std::string_view key) {
  const TelemetryData* const data = payload.find(key);
  return data != nullptr ? std::get_if<T>(data) : nullptr;
}

}  // namespace

TEST_CASE("without memory no call throws or crashes, and what is lost is counted") {
  Response disable, enable;
  disable.disable_keys = {"off", "a key to be disabled that is longer than strings are by themselves"};
  enable.enable_keys = disable.disable_keys;
  const bool one = GENERATE(true, false);  // one allocation fails, or all from there on
  CAPTURE(one);
  long n = 0;
  bool reached = true;
  for (; reached && n < 10'000; ++n) {
    INFO("allocation " << n);
    const Telemetry telemetry = buffer({.logger = &silence()});
    const Counter counter = telemetry.counter("handle");
    Calls calls;
    failed_allocations = 0;
    const auto run = [&] {
      one_fails = one;
      allocations_left = n;
      calls.make(telemetry, counter, disable, enable);
      allocations_left = -1;
      one_fails = false;
    };
    // On a thread that has nothing yet: its cells and its cache may fail to be made.
    long failed = 0;
    std::thread([&] {
      failed_allocations = 0;
      run();
      failed = failed_allocations;
    }).join();
    reached = failed > 0;
    const TelemetryStats stats = telemetry.stats();
    const Payload payload = telemetry.take();
    REQUIRE(payload.as_int("handle") == calls.handle);
    const std::int64_t keys = counted(payload, {"a", "b", "a key that is longer than strings are by themselves"});
    const auto* const list = held<TelemetryList>(payload, "list");
    const auto* const set = held<TelemetrySet>(payload, "set");
    const auto* const nested = held<TelemetryNested>(payload, "nested");
    const auto* const latency = held<TelemetryHistogram>(payload, "latency");
    const bool value = payload.find("value") != nullptr;
    REQUIRE(keys <= calls.keys);
    if (!reached) {
      CHECK(stats.dropped_items == 0);
      CHECK(keys == calls.keys);
      REQUIRE(list != nullptr);
      CHECK(list->size() == 3);
      REQUIRE(latency != nullptr);
      CHECK(latency->data.count() == 3);
      continue;
    }
    // Whatever is not there was counted.
    const auto lost_keys = static_cast<std::uint64_t>(calls.keys - keys);
    const std::uint64_t lost_items = (list != nullptr ? 3 - list->size() : 3) + (set != nullptr ? 3 - set->size() : 3) +
                                     (nested != nullptr ? 2 - nested->size() : 2) + (value ? 0 : 2);
    const std::uint64_t recorded = latency != nullptr ? latency->data.count() : 0;
    const std::uint64_t lost_handles = (payload.as_int("made") == 1 ? 0 : 1) + (payload.find("gauge") != nullptr ? 0 : 1) +
                                       (latency != nullptr ? 0 : 1) + (latency != nullptr ? 3 - recorded : 0);
    CHECK(stats.dropped_items >= lost_keys + lost_handles + (lost_items > 2 ? lost_items - 2 : 0));
    REQUIRE(payload.items.size() >= 1);
  }
  CHECK(n > 20);
  CHECK_FALSE(reached);
}

TEST_CASE("a payload that finds no memory takes nothing, or leaves the rest for the next one") {
  const bool one = GENERATE(true, false);
  CAPTURE(one);
  bool reached = true;
  int thrown = 0, partial = 0;
  for (long n = 0; reached; ++n) {
    INFO("allocation " << n);
    const Telemetry telemetry = buffer();
    std::vector<Counter> counters;
    std::vector<Histogram> histograms;
    std::vector<Gauge> gauges;
    for (int i = 0; i < 8; ++i) {
      const std::string key = "a key that is longer than strings are by themselves:" + std::to_string(i);
      counters.push_back(telemetry.counter("counter " + key));
      counters.back().add(i + 1);
      histograms.push_back(telemetry.histogram("histogram " + key));
      histograms.back().record(static_cast<double>(i));
      gauges.push_back(telemetry.gauge("gauge " + key));
      gauges.back().set(i);
      telemetry.add("key " + key, i + 1);
      telemetry.append("list " + key, long_text);
      telemetry.append_unique("set " + key, long_text);
      telemetry.set("value " + key, long_text);
    }
    telemetry.increment("changes");
    telemetry.take();
    telemetry.gauge("changes").set(1);
    for (int i = 0; i < 8; ++i) {
      const std::string key = "a key that is longer than strings are by themselves:" + std::to_string(i);
      counters[static_cast<std::size_t>(i)].add(i + 1);
      histograms[static_cast<std::size_t>(i)].record(static_cast<double>(i));
      gauges[static_cast<std::size_t>(i)].set(i);
      telemetry.add("key " + key, i + 1);
      telemetry.append("list " + key, long_text);
      telemetry.append_unique("set " + key, long_text);
      telemetry.set("value " + key, long_text);
    }
    const std::uint64_t items = telemetry.stats().items;
    Payload first;
    bool threw = false;
    failed_allocations = 0;
    one_fails = one;
    allocations_left = n;
    try {
      first = telemetry.take();
    } catch (const std::bad_alloc&) {
      threw = true;
    }
    allocations_left = -1;
    one_fails = false;
    reached = failed_allocations > 0;
    if (threw) {
      ++thrown;
      REQUIRE(first.empty());
      REQUIRE(telemetry.stats().items == items);
    } else if (reached) {
      ++partial;
    }
    const Payload second = telemetry.take();
    REQUIRE(first.items.size() + second.items.size() == 7 * 8 + 1);
    for (int i = 0; i < 8; ++i) {
      const std::string key = "a key that is longer than strings are by themselves:" + std::to_string(i);
      REQUIRE(first.as_int("counter " + key) + second.as_int("counter " + key) == i + 1);
      REQUIRE(first.as_int("key " + key) + second.as_int("key " + key) == i + 1);
      for (const char* kind : {"histogram ", "gauge ", "list ", "set ", "value "})
        REQUIRE((first.find(kind + key) != nullptr) != (second.find(kind + key) != nullptr));
      const Payload& with = first.find("histogram " + key) != nullptr ? first : second;
      REQUIRE(histogram(with, "histogram " + key).count() == 1);
      REQUIRE(histogram(with, "histogram " + key).sum() == i);
    }
    REQUIRE(telemetry.take().empty());
  }
  CHECK(thrown > 2);
  CHECK(partial > 16);
}

TEST_CASE("what comes back without memory is in the buffer or counted") {
  const bool one = GENERATE(true, false);
  CAPTURE(one);
  bool reached = true;
  for (long n = 0; reached; ++n) {
    INFO("allocation " << n);
    const Telemetry other = buffer();
    for (int i = 0; i < 4; ++i) {
      other.add("counter:" + std::to_string(i), 1);
      other.append("list", std::to_string(i) + long_text);
      other.append_unique("set", std::to_string(i) + long_text);
      other.append_unique("set", std::to_string(i) + long_text);
      other.set_nested("nested", std::to_string(i), long_text);
    }
    other.histogram("histogram").record(1.0);
    other.histogram("histogram").record(1e6);
    other.histogram("histogram").record(0.0);
    Payload payload = other.take();
    const Telemetry telemetry = buffer();
    telemetry.append("list", "newer");
    failed_allocations = 0;
    one_fails = one;
    allocations_left = n;
    telemetry.merge_back(std::move(payload));
    allocations_left = -1;
    one_fails = false;
    reached = failed_allocations > 0;
    const std::uint64_t dropped = telemetry.stats().dropped_items;
    const Payload taken = telemetry.take();
    const auto* const list = held<TelemetryList>(taken, "list");
    const auto* const set = held<TelemetrySet>(taken, "set");
    const auto* const nested = held<TelemetryNested>(taken, "nested");
    const auto* const h = held<TelemetryHistogram>(taken, "histogram");
    std::uint64_t lost = 4 - static_cast<std::uint64_t>(counted(taken, {"counter:0", "counter:1", "counter:2", "counter:3"}));
    REQUIRE(list != nullptr);
    lost += 5 - list->size() + (set != nullptr ? 4 - set->size() : 4) + (nested != nullptr ? 4 - nested->size() : 4);
    lost += h != nullptr ? 3 - h->data.count() : 0;
    CHECK(dropped >= lost);
    CHECK(dropped <= lost + (h == nullptr ? 3 : 0));
    if (h == nullptr) CHECK(dropped > lost);
    // The newer item is the last, whatever is missing before it.
    CHECK(AttributeValue(static_cast<detail::TelemetryValueView>(list->back()).value).text() == "newer");
    if (set != nullptr)
      for (const auto& [value, times] : *set) CHECK(times == 2);
  }
}

TEST_CASE("a buffer that finds no memory is an error") {
  bool reached = true;
  int failed = 0;
  for (long n = 0; reached; ++n) {
    TelemetryOptions options;
    options.disabled_keys = {"a key to be disabled that is longer than strings are by themselves"};
    std::optional<Result<Telemetry>> made;
    failed_allocations = 0;
    {
      const LittleMemory little(n);
      made.emplace(Telemetry::create(InstanceId::random(), std::move(options)));
    }
    reached = failed_allocations > 0;
    CHECK(made->has_value() != reached);
    if (!reached) continue;
    ++failed;
    CHECK(made->error().code == std::errc::not_enough_memory);
    CHECK_FALSE(made->error().message.empty());
  }
  CHECK(failed > 1);
}

TEST_CASE("the end of a thread needs no memory") {
  const Telemetry telemetry = buffer();
  const Counter counter = telemetry.counter("counter");
  const Histogram latency = telemetry.histogram("latency");
  for (int i = 0; i < 50; ++i) {
    std::thread([&] {
      counter.increment();
      telemetry.increment("key");
      for (int k = -30; k < 30; ++k) latency.record(std::ldexp(1.0, (k + i) % 30));
      allocations_left = 0;
    }).join();
  }
  const Payload payload = telemetry.take();
  CHECK(payload.as_int("counter") == 50);
  CHECK(payload.as_int("key") == 50);
  CHECK(histogram(payload, "latency").count() == 50 * 60);
}

TEST_CASE("an answer of the server that finds no memory is no response, and ends nothing") {
  const std::string text = R"({"next_update":60000000000,"error":")" + long_text + R"(","disable_keys":["a",")" + long_text +
                           R"("],"x":[{"y":[1,{"z":{}}]},[]]})";
  bool read = false;
  for (long number = 0; !read; ++number) {
    const LittleMemory little(number);  // and none for what is destroyed
    try {
      const Result<Response> response = Response::from_json(text);
      allocations_left = -1;
      read = response.has_value() && response->disable_keys.size() == 2 && response->error == long_text;
      CHECK(read);
    } catch (const std::bad_alloc&) {}
  }
}
