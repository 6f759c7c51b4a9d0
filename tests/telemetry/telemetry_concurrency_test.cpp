// Many threads write, others take payloads and merge some of them back: what the payloads hold is what was written, exactly.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/telemetry.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

#if defined(WEIR_TESTS_TSAN)
constexpr int scale = 1;
#else
constexpr int scale = 10;
#endif
constexpr int writers = 4;

/// What payloads held, added up.
struct Totals {
  std::map<std::string, std::int64_t> counters{};
  std::map<std::string, HistogramData> histograms{};
  std::map<std::string, std::map<std::int64_t, std::uint64_t>> sets{};
  std::map<std::string, std::vector<std::int64_t>> lists{};
  std::map<std::string, std::int64_t> values{};
  std::map<std::string, double> gauges{};
  std::uint64_t payloads = 0, doubles = 0;

  void add(const Payload& payload) {
    ++payloads;
    std::map<std::string_view, int> seen;
    for (const Payload::Item& item : payload.items) {
      doubles += seen[item.key]++ != 0;
      if (const auto* const counter = std::get_if<TelemetryCounter>(&item.data)) counters[item.key] += *counter;
      if (const auto* const gauge = std::get_if<TelemetryGauge>(&item.data)) gauges[item.key] = *gauge;
      if (const auto* const h = std::get_if<TelemetryHistogram>(&item.data)) histograms[item.key] += h->data;
      if (const auto* const value = std::get_if<TelemetryValue>(&item.data))
        values[item.key] = std::max(values[item.key], value->integer().value_or(-1));
      if (const auto* const list = std::get_if<TelemetryList>(&item.data))
        for (const TelemetryValue& each : *list) lists[item.key].push_back(each.integer().value_or(-1));
      if (const auto* const set = std::get_if<TelemetrySet>(&item.data))
        for (const auto& [value, times] : *set) sets[item.key][value.integer().value_or(-1)] += times;
    }
  }
  std::int64_t counted() const {
    std::int64_t sum = 0;
    for (const auto& [key, amount] : counters) sum += amount;
    return sum;
  }
};

/// Takes payloads until the end of its scope, and what is left then.
class Taker {
 public:
  Taker(const Telemetry& telemetry, Totals& totals, bool merges = false)
      : telemetry_(telemetry), totals_(totals), thread_([this, merges] {
          std::mt19937 random(1);
          std::vector<Payload> kept;
          while (!stop_) {
            Payload payload = telemetry_.take();
            if (merges && random() % 3 == 0)
              kept.push_back(std::move(payload));
            else
              totals_.add(payload);
            if (kept.size() > random() % 4) merge_newest(kept);
          }
          while (!kept.empty()) merge_newest(kept);
        }) {}
  void finish() {
    stop_ = true;
    thread_.join();
    for (int i = 0; i < 3; ++i) totals_.add(telemetry_.take());
  }

 private:
  void merge_newest(std::vector<Payload>& kept) const {
    telemetry_.merge_back(std::move(kept.back()));
    kept.pop_back();
  }

  const Telemetry& telemetry_;
  Totals& totals_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

/// Runs work(number) on so many threads.
template <class Work>
void on_threads(int count, Work work) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back([&work, i] { work(i); });
  for (std::thread& thread : threads) thread.join();
}

/// Calls run() on a thread of its own all the time.
class Meanwhile {
 public:
  explicit Meanwhile(std::function<void()> run)
      : thread_([this, run = std::move(run)] {
          while (!stop_) run();
        }) {}
  ~Meanwhile() {
    stop_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace

TEST_CASE("every update is in exactly one payload, whoever makes it and whoever comes and goes meanwhile") {
  constexpr int generations = 5 * scale, updates = 1'500 * scale / 2, keys = 300;
  const Telemetry telemetry = buffer();
  const Gauge gauge = telemetry.gauge("gauge");
  Totals totals;
  Taker taker(telemetry, totals, true);
  {
    const Meanwhile server([&] {
      Response response;
      response.disable_keys = {"other", "another"};
      telemetry.apply(response);
      telemetry.increment("other:1");
      std::swap(response.disable_keys, response.enable_keys);
      telemetry.apply(response);
      telemetry.stats();
    });
    on_threads(writers, [&](int writer) {
      for (int generation = 0; generation < generations; ++generation) {
        // A thread that is born, counts, and dies.
        std::thread([&] {
          const Counter counter = telemetry.counter("handle");
          const Histogram latency = telemetry.histogram("latency");
          for (int i = 0; i < updates; ++i) {
            counter.increment();
            telemetry.increment("key:" + std::to_string(i % keys));
            telemetry.add("amounts", i % 7 - 3);
            latency.record(static_cast<double>(i % 100));
            if (i % 8 == 0) gauge.add(1);
            if (i % 16 == 0) telemetry.append_unique("set", i % 50);
            if (i % 64 == 0) telemetry.append("list", generation * updates + i + (writer << 24));
            if (i % 64 == 0) telemetry.set_nested("nested", "sub", i);
            if (i % 64 == 0) telemetry.set("value:" + std::to_string(writer), generation * updates + i);
            if (i % 256 == 0) telemetry.histogram("once:" + std::to_string(i)).record(1.0);
          }
        }).join();
      }
    });
  }
  taker.finish();

  constexpr std::int64_t threads = writers * generations;
  CHECK(totals.doubles == 0);
  CHECK(totals.counters.at("handle") == threads * updates);
  std::int64_t amounts = 0;
  std::map<std::string, std::int64_t> expected;
  std::map<std::int64_t, std::uint64_t> set;
  HistogramData latencies;
  std::uint64_t once = 0;
  for (int i = 0; i < updates; ++i) {
    expected["key:" + std::to_string(i % keys)] += threads;
    amounts += threads * (i % 7 - 3);
    if (i % 16 == 0) set[i % 50] += threads;
    if (i % 256 == 0) once += threads;
  }
  CHECK(totals.counters.at("amounts") == amounts);
  for (const auto& [key, amount] : expected) CHECK(totals.counters[key] == amount);
  const HistogramData& latency = totals.histograms.at("latency");
  CHECK(latency.count() == static_cast<std::uint64_t>(threads * updates));
  double sum = 0;
  for (int i = 0; i < updates; ++i) sum += i % 100;
  CHECK(latency.sum() == Approx(sum * threads).epsilon(1e-9));
  CHECK(latency.max() == 99);
  CHECK(latency.min() == 0);
  CHECK(totals.sets.at("set") == set);
  CHECK(totals.gauges.at("gauge") == threads * ((updates + 7) / 8));
  std::uint64_t recorded_once = 0;
  for (const auto& [key, data] : totals.histograms)
    if (key.starts_with("once:")) recorded_once += data.count();
  CHECK(recorded_once == once);
  // Each list item once, and of each thread's values the last one, at least before a payload with an older one came back.
  std::map<std::int64_t, int> items;
  for (const std::int64_t item : totals.lists.at("list")) ++items[item];
  CHECK(items.size() == static_cast<std::size_t>(threads * ((updates + 63) / 64)));
  CHECK(totals.lists.at("list").size() == items.size());
  constexpr int last = (updates - 1) / 64 * 64;
  for (int writer = 0; writer < writers; ++writer)
    CHECK(totals.values.at("value:" + std::to_string(writer)) == (generations - 1) * updates + last);
  CHECK(telemetry.stats().dropped_items == 0);
  CHECK(telemetry.stats().type_conflicts == 0);
}

TEST_CASE("what does not fit is counted, and the rest is in the payloads") {
  constexpr int updates = 20'000 * scale;
  const Telemetry telemetry = buffer({.max_items = 100});
  Totals totals;
  Taker taker(telemetry, totals);
  on_threads(writers, [&](int writer) {
    std::mt19937 random(static_cast<unsigned>(writer));
    for (int i = 0; i < updates; ++i) telemetry.increment("key:" + std::to_string(random() % 500));
  });
  taker.finish();
  CHECK(totals.counted() + static_cast<std::int64_t>(telemetry.stats().dropped_items) == std::int64_t{writers} * updates);
  CHECK(totals.counted() > 0);
  CHECK(telemetry.stats().dropped_items > 0);
  CHECK(totals.doubles == 0);
}

TEST_CASE("more keys than threads have cells and caches have places are counted all the same") {
  constexpr int keys = 10'000, rounds = scale;  // 4,096 and 1,024
  const Telemetry telemetry = buffer();
  Totals totals;
  Taker taker(telemetry, totals, true);
  on_threads(3, [&](int writer) {
    for (int round = 0; round < rounds; ++round)
      for (int i = 0; i < keys; ++i) telemetry.add(std::to_string((i * 7 + writer) % keys), writer + 1);
  });
  taker.finish();
  CHECK(totals.counters.size() == keys);
  int wrong = 0;
  for (const auto& [key, amount] : totals.counters) wrong += amount != 6 * rounds;
  CHECK(wrong == 0);
}

TEST_CASE("two buffers of the same keys do not mix, and one may go while threads still have its handles and keys") {
  constexpr int updates = 20'000 * scale;
  const Telemetry stays = buffer();
  std::optional<Telemetry> goes = buffer();
  Totals totals, gone;
  Taker taker(stays, totals);
  std::atomic<int> halfway{0};
  std::vector<std::thread> threads;
  for (int writer = 0; writer < writers; ++writer) {
    threads.emplace_back([&, own = goes]() mutable {
      const Counter here = stays.counter("handle"), there = own->counter("handle");
      const Histogram latency = own->histogram("latency");
      for (int i = 0; i < updates; ++i) {
        const std::string key = "key:" + std::to_string(i % 50);
        stays.increment(key);
        here.increment();
        there.increment();
        latency.record(1.0);
        if (own) own->increment(key);
        if (i == updates / 2) {
          own.reset();
          ++halfway;
        }
      }
    });
  }
  while (halfway < writers) std::this_thread::yield();
  gone.add(goes->take());
  goes.reset();                     // the last copy
  const Telemetry next = buffer();  // whose cells may be those of the one that went
  for (int i = 0; i < 50; ++i) next.increment("key:" + std::to_string(i));
  const Counter other = next.counter("other");
  other.increment();
  for (std::thread& thread : threads) thread.join();
  taker.finish();
  for (int i = 0; i < 50; ++i) CHECK(totals.counters["key:" + std::to_string(i)] == writers * updates / 50);
  CHECK(totals.counters["handle"] == writers * updates);
  for (int i = 1; i < 50; ++i) CHECK(gone.counters["key:" + std::to_string(i)] == writers * updates / 2 / 50);
  Totals after;
  after.add(next.take());
  CHECK(after.counted() == 51);
}

TEST_CASE("several threads may take payloads, merge them back, reset nothing of each other") {
  constexpr int updates = 50'000 * scale;
  const Telemetry telemetry = buffer();
  const Counter counter = telemetry.counter("handle");
  const Histogram latency = telemetry.histogram("latency");
  Totals first, second;
  {
    Taker one(telemetry, first, true), other(telemetry, second, true);
    on_threads(writers, [&](int) {
      for (int i = 0; i < updates; ++i) {
        counter.increment();
        telemetry.increment("key");
        latency.record(1.0);
      }
    });
    one.finish();
    other.finish();
    first.add(telemetry.take());
  }
  CHECK(first.counters["handle"] + second.counters["handle"] == writers * updates);
  CHECK(first.counters["key"] + second.counters["key"] == writers * updates);
  CHECK(first.histograms["latency"].count() + second.histograms["latency"].count() == static_cast<std::uint64_t>(writers) * updates);
}

TEST_CASE("keys that change their kind all the time lose nothing: a call is stored, or it is a conflict") {
  constexpr int updates = 10'000 * scale;
  const Telemetry telemetry = buffer({.logger = &silence()});
  Totals totals;
  Taker taker(telemetry, totals);
  on_threads(writers, [&](int writer) {
    std::mt19937 random(static_cast<unsigned>(writer));
    for (int i = 0; i < updates; ++i) {
      const std::string key(1 + random() % 3, 'k');
      switch (random() % 8) {
        case 0: telemetry.append(key, 1); break;
        case 1: telemetry.append_unique(key, 1); break;
        case 2: telemetry.histogram(key).record(1.0); break;
        default: telemetry.increment(key); break;
      }
    }
  });
  taker.finish();
  for (int i = 0; i < 8; ++i) totals.add(telemetry.take());  // late ones of one key come one at a time
  std::int64_t stored = totals.counted();
  for (const auto& [key, data] : totals.histograms) stored += static_cast<std::int64_t>(data.count());
  for (const auto& [key, list] : totals.lists) stored += static_cast<std::int64_t>(list.size());
  for (const auto& [key, set] : totals.sets)
    for (const auto& [value, times] : set) stored += static_cast<std::int64_t>(times);
  CHECK(stored + static_cast<std::int64_t>(telemetry.stats().type_conflicts) == std::int64_t{writers} * updates);
  CHECK(totals.doubles == 0);
}

TEST_CASE("the last value of a gauge is in a payload, though it is set in the very moment of one") {
  constexpr int gauges = 200;
  const Telemetry telemetry = buffer();
  std::vector<Gauge> all;
  for (int i = 0; i < gauges; ++i) all.push_back(telemetry.gauge(std::to_string(i)));
  for (int round = 1; round <= 100 * scale; ++round) {
    for (const Gauge& gauge : all) gauge.set(-round);
    std::atomic<bool> go{false};
    std::thread setter([&] {
      while (!go) std::this_thread::yield();
      for (const Gauge& gauge : all) gauge.set(round);
    });
    Totals totals;
    go = true;
    for (int i = 0; i < 8; ++i) totals.add(telemetry.take());  // late ones of one key come one at a time
    setter.join();
    totals.add(telemetry.take());
    for (int i = 0; i < gauges; ++i) REQUIRE(totals.gauges.at(std::to_string(i)) == round);
  }
}

TEST_CASE("the extremes of a cycle are in it, however busy the histogram is") {
  const Telemetry telemetry = buffer();
  const Histogram latency = telemetry.histogram("latency");
  HistogramData sum;
  {
    const Meanwhile writer([&] {
      for (int i = 0; i < 1'000; ++i) latency.record(1.5);
    });
    for (int round = 0; round < 300 * scale; ++round) {
      latency.record(0.123);
      latency.record(1'234.5);
      const HistogramData data = histogram(telemetry.take(), "latency");
      REQUIRE(data.min() == 0.123);
      REQUIRE(data.max() == 1'234.5);
      sum += data;
    }
  }
  sum += [&] {
    const Payload rest = telemetry.take();
    return rest.empty() ? HistogramData() : histogram(rest, "latency");
  }();
  CHECK(sum.sum() == Approx(static_cast<double>(sum.count() - 600 * scale) * 1.5 + 300 * scale * (0.123 + 1'234.5)));
}

TEST_CASE("collectors, handles and buffers come and go while payloads are taken") {
  const Telemetry telemetry = buffer();
  std::atomic<std::int64_t> called{0};
  Totals totals;
  Taker taker(telemetry, totals);
  on_threads(writers, [&](int) {
    for (int i = 0; i < 200 * scale; ++i) {
      const std::uint64_t number = telemetry.at_emit([&](const Telemetry& inner) {
        ++called;
        inner.increment("called");
      });
      const Telemetry short_lived = buffer();
      short_lived.counter("a").increment();
      short_lived.increment("b");
      const Payload payload = short_lived.take();
      if (payload.as_int("a") != 1 || payload.as_int("b") != 1) telemetry.increment("wrong");
      telemetry.remove_at_emit(number);
    }
  });
  taker.finish();
  CHECK(totals.counters["called"] == called);
  CHECK(totals.counters["wrong"] == 0);
}
