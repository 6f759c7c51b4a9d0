// weir::telemetry(): the process's own buffer, before init_telemetry and after it. One test case: it is made once in a process.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/telemetry.hpp"

using namespace weir;
using namespace weir::testing;
using nlohmann::json;

TEST_CASE("the process's telemetry does nothing until it has an id, and counts from then on") {
  const Telemetry& process = telemetry();
  CHECK(&telemetry() == &process);
  CHECK_FALSE(process.instance_id().valid());

  // Before.
  int collected = 0;
  process.at_emit([&](const Telemetry& inner) {
    ++collected;
    inner.increment("collected");
  });
  const Counter counter = process.counter("counter");
  const Gauge gauge = process.gauge("gauge");
  const Histogram latency = process.histogram("latency", "ms");
  const Counter disabled = process.counter("off:counter");
  const auto use = [&] {
    counter.increment();
    gauge.set(1);
    latency.record(1.0);
    disabled.increment();
    process.increment("key");
    process.increment("key");
    process.increment("off:key");
    process.set("value", 1);
    process.set_nested("nested", "sub", 1);
    process.append("list", 1);
    process.append_unique("set", 1);
  };
  use();
  std::thread(use).join();
  Payload old;
  old.items.push_back({"old", TelemetryData(std::in_place_type<TelemetryCounter>, 1)});
  process.merge_back(old);
  Response response;
  response.disable_keys = {"other"};
  process.apply(response);
  process.reset();
  const Payload before = process.take();
  CHECK(before.empty());
  CHECK_FALSE(before.instance_id.valid());
  CHECK(collected == 0);
  CHECK(process.stats().payloads == 0);
  CHECK(process.stats().items == 4);
  use();

  // It needs an id and room, as any other.
  CHECK(init_telemetry(InstanceId()).error().code == std::errc::invalid_argument);
  CHECK_FALSE(init_telemetry(InstanceId::random(), {.max_items = 0}).has_value());
  CHECK_FALSE(process.instance_id().valid());

  // Others use it meanwhile, whatever kinds they believe keys to be of.
  std::atomic<bool> stop{false};
  std::atomic<int> rounds{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        process.increment("busy");
        process.counter("busy handle").increment();
        process.histogram("busy handle").record(1.0);
        process.take();
        ++rounds;
      }
    });
  }
  while (rounds < 100) std::this_thread::yield();
  static KeepingLogger logger;
  static ManualClock clock;
  const InstanceId id = InstanceId::random();
  const Result<void> begun = init_telemetry(id, {.disabled_keys = {"off"}, .logger = &logger, .clock = &clock});
  rounds = 0;
  while (rounds < 100) std::this_thread::yield();
  stop = true;
  for (std::thread& thread : threads) thread.join();
  REQUIRE(begun.has_value());
  CHECK(process.instance_id() == id);
  CHECK(process.disabled("off:counter"));
  CHECK(process.disabled("other"));
  process.reset();
  process.reset();

  // After: handles that were taken before count, too.
  collected = 0;
  use();
  const Payload payload = process.take();
  CHECK(collected == 1);
  CHECK(payload.instance_id == id);
  CHECK(payload.timestamp == Timestamp());
  json taken = data(payload);
  CHECK(taken.at("latency").at("count") == 1);
  CHECK(taken.at("latency").at("unit") == "ms");
  taken.erase("latency");
  CHECK(taken == json{{"counter", 1},
                      {"gauge", 1},
                      {"key", 2},
                      {"value", 1},
                      {"nested", {{"sub", 1}}},
                      {"list", {1}},
                      {"set", {{{"value", 1}, {"count", 1}}}},
                      {"collected", 1}});
  process.set("counter", 1);
  CHECK_FALSE(logger.lines().empty());

  const Result<void> again = init_telemetry(InstanceId::random());
  REQUIRE_FALSE(again.has_value());
  CHECK(again.error().code == std::errc::operation_not_permitted);
  CHECK(again.error().message.find("init_telemetry was called before") != std::string::npos);
  CHECK(process.instance_id() == id);
}
