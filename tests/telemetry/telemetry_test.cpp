// The buffer as its users know it: calls, kinds, disabled keys, handles, bounds, what comes back, what at_emit calls.
#include "weir/telemetry/telemetry.hpp"

#include <pthread.h>
#include <atomic>
#include <cfloat>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <regex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/telemetry.hpp"

using namespace weir;
using namespace weir::testing;
using namespace std::chrono_literals;
using nlohmann::json;

namespace {

/// Every key as a server answers it.
Response disabling(std::vector<std::string> disable, std::vector<std::string> enable = {}) {
  Response response;
  response.disable_keys = std::move(disable);
  response.enable_keys = std::move(enable);
  return response;
}

/// Calls that make a key of each kind.
struct Kind {
  const char* name;
  void (*use)(const Telemetry&, std::string_view key);
};
const Kind kinds[] = {
    {"counter", [](const Telemetry& t, std::string_view key) { t.increment(key); }},
    {"value", [](const Telemetry& t, std::string_view key) { t.set(key, "text"); }},
    {"nested", [](const Telemetry& t, std::string_view key) { t.set_nested(key, "sub", 1); }},
    {"list", [](const Telemetry& t, std::string_view key) { t.append(key, 1); }},
    {"set", [](const Telemetry& t, std::string_view key) { t.append_unique(key, 1); }},
    {"gauge", [](const Telemetry& t, std::string_view key) { t.gauge(key).set(1); }},
    {"histogram", [](const Telemetry& t, std::string_view key) { t.histogram(key).record(1.0); }},
};

struct Thrown {};

}  // namespace

TEST_CASE("a buffer needs an id and room") {
  CHECK(Telemetry::create(InstanceId::random()).has_value());
  const Result<Telemetry> nobody = Telemetry::create(InstanceId());
  REQUIRE_FALSE(nobody.has_value());
  CHECK(nobody.error().code == std::errc::invalid_argument);
  CHECK(nobody.error().message.find("InstanceId::random()") != std::string::npos);
  const Result<Telemetry> no_items = Telemetry::create(InstanceId::random(), {.max_items = 0});
  REQUIRE_FALSE(no_items.has_value());
  CHECK(no_items.error().message.find("max_items") != std::string::npos);
  const Result<Telemetry> no_bytes = Telemetry::create(InstanceId::random(), {.max_bytes = 0});
  REQUIRE_FALSE(no_bytes.has_value());
  CHECK(no_bytes.error().message.find("max_bytes") != std::string::npos);
  const Result<Telemetry> no_logger = Telemetry::create(InstanceId::random(), {.logger = nullptr});
  REQUIRE_FALSE(no_logger.has_value());
  CHECK(no_logger.error().message.find("logger") != std::string::npos);
}

TEST_CASE("each call does what its name says") {
  const Telemetry telemetry = buffer();
  SECTION("add to a new key creates it with that amount, and a negative amount subtracts") {
    telemetry.add("bytes", 512);
    telemetry.add("bytes", 88);
    telemetry.add("balance", -5);
    telemetry.add("balance", 2);
    telemetry.increment("requests");
    telemetry.increment("requests");
    telemetry.add("nothing", 0);
    CHECK(data(telemetry.take()) == json{{"bytes", 600}, {"balance", -3}, {"requests", 2}, {"nothing", 0}});
  }
  SECTION("sums wrap at the ends of 64 bits") {
    telemetry.add("large", INT64_MAX);
    telemetry.add("large", 2);
    const Counter handle = telemetry.counter("small");
    handle.add(INT64_MIN);
    handle.add(-1);
    const Payload payload = telemetry.take();
    CHECK(payload.as_int("large") == INT64_MIN + 1);
    CHECK(payload.as_int("small") == INT64_MAX);
    telemetry.increment("large");
    handle.increment();
    const Payload next = telemetry.take();
    CHECK(next.as_int("large") == 1);
    CHECK(next.as_int("small") == 1);
  }
  SECTION("amounts that no instruction takes at once are added whole") {
    telemetry.add("large", 0x123456789abcdef);
    telemetry.add("large", 0x123456789abcdef);
    telemetry.counter("handle").add(-0x123456789abcdef);
    const Payload payload = telemetry.take();
    CHECK(payload.as_int("large") == 2 * 0x123456789abcdef);
    CHECK(payload.as_int("handle") == -0x123456789abcdef);
  }
  SECTION("of what was set the last value wins, whatever its type") {
    telemetry.set("version", "1.4.1");
    telemetry.set("version", "1.4.2");
    telemetry.set("changes", 1);
    telemetry.set("changes", "two");
    telemetry.set("changes", 2.5);
    telemetry.set("changes", true);
    telemetry.set("config", Json{R"({"a":[1,2]})"});
    CHECK(data(telemetry.take()) == json{{"version", "1.4.2"}, {"changes", true}, {"config", {{"a", {1, 2}}}}});
  }
  SECTION("a nested key is a value below another") {
    telemetry.set_nested("memory", "rss", 100);
    telemetry.set_nested("memory", "heap", Json{"[1]"});
    telemetry.set_nested("memory", "rss", 200);
    telemetry.set_nested("memory", "", "no name");
    CHECK(data(telemetry.take()) == json{{"memory", {{"rss", 200}, {"heap", {1}}, {"", "no name"}}}});
  }
  SECTION("a list keeps its order and its doubles") {
    telemetry.append("errors", "b");
    telemetry.append("errors", "a");
    telemetry.append("errors", "b");
    telemetry.append("errors", Json{"{}"});
    CHECK(data(telemetry.take()) == json{{"errors", {"b", "a", "b", json::object()}}});
  }
  SECTION("a set counts its values, which are told apart by type and value") {
    for (int i = 0; i < 3; ++i) telemetry.append_unique("seen", "curl");
    telemetry.append_unique("seen", "1");
    telemetry.append_unique("seen", 1);
    telemetry.append_unique("seen", 1.5);
    telemetry.append_unique("seen", true);
    telemetry.append_unique("seen", Json{"[\"1\"]"});
    telemetry.append_unique("seen", Json{"[\"1\"]"});
    telemetry.append_unique("seen", std::numeric_limits<double>::quiet_NaN());
    telemetry.append_unique("seen", std::numeric_limits<double>::quiet_NaN());
    CHECK(counts(data(telemetry.take()).at("seen")) ==
          Counts{{"\"curl\"", 3}, {"\"1\"", 1}, {"1", 1}, {"1.5", 1}, {"true", 1}, {"[\"1\"]", 2}, {"null", 2}});
  }
  SECTION("what was handed over may change afterwards") {
    std::string value = "before", key = "key", subkey = "sub", document = "{\"a\":1}";
    telemetry.set(key, value);
    telemetry.set_nested("nested", subkey, value);
    telemetry.append("list", Json{document});
    telemetry.append_unique("set", value);
    telemetry.increment(key + "_count");
    value = "after!";
    key = "xxx";
    subkey = "yyy";
    document = "{\"b\":2}";
    const json taken = data(telemetry.take());
    CHECK(taken == json{{"key", "before"},
                        {"nested", {{"sub", "before"}}},
                        {"list", {{{"a", 1}}}},
                        {"set", {{{"value", "before"}, {"count", 1}}}},
                        {"key_count", 1}});
  }
  SECTION("keys are any bytes, of any length") {
    const std::vector<std::string> keys = {"",
                                           std::string(1, '\0'),
                                           std::string("a\0b", 3),
                                           std::string("a\0c", 3),
                                           "\xff\xfe",
                                           "ab",
                                           "abc",
                                           "abcd",
                                           "abce",
                                           "abcdefg",
                                           "abcdefgh",
                                           "abcdefgi",
                                           std::string(16, 'x'),
                                           std::string(15, 'x') + "y",
                                           std::string(17, 'x'),
                                           std::string(32, 'x'),
                                           std::string(255, 'x'),
                                           std::string(256, 'x'),
                                           std::string(257, 'x'),
                                           std::string(100'000, 'x')};
    std::int64_t amount = 1;
    for (const std::string& key : keys) telemetry.add(key, amount++);
    for (const std::string& key : keys) telemetry.add(key, 1'000);
    const Payload payload = telemetry.take();
    CHECK(payload.items.size() == keys.size());
    amount = 1;
    for (const std::string& key : keys) CHECK(payload.as_int(key) == 1'000 + amount++);
  }
}

TEST_CASE("a payload says who, when and which, and empties the buffer") {
  ManualClock clock(Timestamp(1'767'323'045s));
  const InstanceId id = InstanceId::random();
  const Result<Telemetry> telemetry = Telemetry::create(id, {.clock = &clock});
  REQUIRE(telemetry.has_value());
  CHECK(telemetry->instance_id() == id);
  telemetry->increment("a");
  const Payload first = telemetry->take();
  CHECK(first.instance_id == id);
  CHECK(first.timestamp == clock.now());
  CHECK(std::regex_match(first.update_id, std::regex("[0-9a-f]{32}")));
  const Payload second = telemetry->take();
  CHECK(second.empty());
  CHECK(second.instance_id == id);
  CHECK(second.update_id != first.update_id);
  CHECK(telemetry->stats().payloads == 2);
  const json document = json::parse(first.to_json());
  CHECK(document ==
        json{{"instance_id", id.to_string()}, {"timestamp", "2026-01-02T03:04:05Z"}, {"update_id", first.update_id}, {"data", {{"a", 1}}}});
}

TEST_CASE("copies are the same buffer") {
  const Telemetry telemetry = buffer();
  const Telemetry copy = telemetry;
  copy.increment("a");
  telemetry.increment("a");
  CHECK(copy.take().as_int("a") == 2);
  CHECK(telemetry.take().empty());
}

TEST_CASE("a key keeps the kind of its first use within a cycle") {
  for (const Kind& first : kinds) {
    for (const Kind& second : kinds) {
      if (&first == &second) continue;
      INFO(first.name << " and then " << second.name);
      KeepingLogger logger;
      const Telemetry telemetry = buffer({.logger = &logger});
      first.use(telemetry, "key");
      const std::uint64_t items = telemetry.stats().items;
      second.use(telemetry, "key");
      second.use(telemetry, "key");
      CHECK(telemetry.stats().type_conflicts == 2);
      CHECK(telemetry.stats().items == items);
      REQUIRE(logger.lines().size() == 1);
      CHECK(logger.lines().front().find("key=key") != std::string::npos);
      const Telemetry alone = buffer();
      first.use(alone, "key");
      CHECK(data(telemetry.take()) == data(alone.take()));

      // In the next cycle it may be of the other kind; that what has no handle left included.
      second.use(telemetry, "key");
      CHECK(telemetry.stats().type_conflicts == 2);
      const Telemetry alone_again = buffer();
      second.use(alone_again, "key");
      CHECK(data(telemetry.take()) == data(alone_again.take()));
    }
  }
}

TEST_CASE("a conflict is logged once per key, and of a thousand keys") {
  KeepingLogger logger;
  const Telemetry telemetry = buffer({.logger = &logger});
  for (int cycle = 0; cycle < 2; ++cycle) {
    for (int i = 0; i < 1'200; ++i) {
      const std::string key = std::to_string(i);
      telemetry.increment(key);
      telemetry.set(key, 1);
    }
    telemetry.take();
  }
  CHECK(logger.lines().size() == 1'000);
  CHECK(telemetry.stats().type_conflicts == 2'400);
}

TEST_CASE("a logger may use the buffer that it hears about") {
  struct Counting final : Logger {
    void log(Level, std::string_view, std::span<const Attribute>) noexcept override {
      (*telemetry)->increment("conflicts");
      payload = (*telemetry)->take();
    }
    std::optional<Telemetry>* telemetry = nullptr;
    Payload payload;
  } logger;
  std::optional<Telemetry> telemetry;
  logger.telemetry = &telemetry;
  telemetry = buffer({.logger = &logger});
  telemetry->increment("a");
  telemetry->set("a", 1);
  CHECK(data(logger.payload) == json{{"a", 1}, {"conflicts", 1}});
}

TEST_CASE("disabled keys are neither stored nor sent") {
  const Telemetry telemetry = buffer({.disabled_keys = {"memory", "tls_hello", "a:b"}, .logger = &silence()});
  const auto use = [&](std::string_view key) {
    for (const Kind& kind : kinds) kind.use(telemetry, key);
    return data(telemetry.take());
  };
  SECTION("a key is governed by itself and by what stands before its first colon") {
    for (const char* key : {"memory", "tls_hello", "tls_hello:ab12", "tls_hello:", "tls_hello:a:b"}) {
      CHECK(telemetry.disabled(key));
      CHECK(use(key).empty());
    }
    for (const char* key : {"memor", "memory2", "tls", "tls_hellos", "tls_hello2:ab", ":tls_hello", "x:tls_hello", "Memory", ""}) {
      CHECK_FALSE(telemetry.disabled(key));
      CHECK_FALSE(use(key).empty());
    }
  }
  SECTION("a disabled key that has a colon is that key") {
    CHECK(telemetry.disabled("a:b"));
    CHECK(use("a:b").empty());
    CHECK_FALSE(telemetry.disabled("a"));
    CHECK_FALSE(telemetry.disabled("a:c"));
    CHECK_FALSE(telemetry.disabled("a:b:c"));
    CHECK_FALSE(use("a:c").empty());
  }
  SECTION("they take no room, and are no conflict") {
    for (const Kind& kind : kinds)
      if (kind.name != std::string_view("gauge") && kind.name != std::string_view("histogram")) kind.use(telemetry, "memory");
    CHECK(telemetry.stats().items == 0);
    CHECK(telemetry.stats().type_conflicts == 0);
    CHECK(telemetry.stats().dropped_items == 0);
  }
  SECTION("merge_back drops them, too") {
    const Telemetry other = buffer();
    for (const Kind& kind : kinds) kind.use(other, "memory:" + std::string(kind.name));
    other.increment("fine");
    telemetry.merge_back(other.take());
    CHECK(data(telemetry.take()) == json{{"fine", 1}});
  }
  SECTION("what was disabled at construction stays so, whatever the server enables") {
    telemetry.apply(disabling({"memory"}));
    telemetry.apply(disabling({}, {"memory", "tls_hello", "tls_hello:ab", "a:b"}));
    CHECK(telemetry.disabled("memory"));
    CHECK(telemetry.disabled("tls_hello:ab"));
    CHECK(telemetry.disabled("a:b"));
    CHECK(use("memory").empty());
  }
}

TEST_CASE("a server disables and enables keys") {
  const Telemetry telemetry = buffer();
  SECTION("what the buffer holds of a disabled key is dropped, and takes no more room") {
    for (const Kind& kind : kinds) kind.use(telemetry, "gone:" + std::string(kind.name));
    telemetry.increment("stays");
    const std::uint64_t items = telemetry.stats().items, bytes = telemetry.stats().bytes;
    telemetry.apply(disabling({"gone"}));
    // Handles keep their keys until the cycle ends.
    CHECK(telemetry.stats().items == items - 5);
    CHECK(telemetry.stats().bytes < bytes);
    CHECK(data(telemetry.take()) == json{{"stays", 1}});
    CHECK(telemetry.stats().items == 0);
    CHECK(telemetry.stats().bytes == 0);
  }
  SECTION("disabling again, or what was never there, changes no account") {
    telemetry.increment("a");
    telemetry.set("b", 1);
    telemetry.apply(disabling({"a", "b", "c"}));
    telemetry.apply(disabling({"a", "b", "c"}));
    CHECK(telemetry.stats().items == 0);
    CHECK(telemetry.stats().bytes == 0);
  }
  SECTION("keys that it disabled it may enable, and what came between is lost") {
    telemetry.add("a", 1);
    telemetry.apply(disabling({"a", "other"}));
    telemetry.add("a", 10);
    telemetry.set("a:b", 10);
    telemetry.apply(disabling({}, {"a"}));
    telemetry.add("a", 100);
    telemetry.set("a:b", 100);
    CHECK(data(telemetry.take()) == json{{"a", 100}, {"a:b", 100}});
    CHECK(telemetry.disabled("other"));
  }
  SECTION("a key in both lists is disabled") {
    telemetry.apply(disabling({"a"}, {"a"}));
    CHECK(telemetry.disabled("a"));
    telemetry.apply(disabling({"a"}, {"a"}));
    CHECK(telemetry.disabled("a"));
  }
  SECTION("handles of a disabled key count nothing until it is enabled") {
    const Counter counter = telemetry.counter("n:counter");
    const Gauge gauge = telemetry.gauge("n:gauge");
    const Histogram latency = telemetry.histogram("n:histogram");
    const auto use = [&](int amount) {
      counter.add(amount);
      gauge.set(amount);
      latency.record(static_cast<double>(amount));
    };
    use(1);
    telemetry.apply(disabling({"n"}));
    use(10);
    CHECK(telemetry.take().empty());
    use(100);
    telemetry.apply(disabling({}, {"n"}));
    CHECK(telemetry.take().empty());
    use(1'000);
    const Payload payload = telemetry.take();
    CHECK(payload.as_int("n:counter") == 1'000);
    CHECK(data(payload).at("n:gauge") == 1'000.0);
    CHECK(histogram(payload, "n:histogram").count() == 1);
    CHECK(histogram(payload, "n:histogram").sum() == 1'000);
    CHECK(payload.items.size() == 3);
  }
  SECTION("a handle can be had of a disabled key") {
    telemetry.apply(disabling({"n"}));
    const Counter counter = telemetry.counter("n");
    counter.increment();
    telemetry.apply(disabling({}, {"n"}));
    counter.add(5);
    CHECK(telemetry.take().as_int("n") == 5);
  }
  SECTION("an answer that wishes nothing changes nothing") {
    telemetry.increment("a");
    telemetry.apply(Response());
    CHECK(telemetry.take().as_int("a") == 1);
  }
}

TEST_CASE("a server disables ten thousand keys and no more, and that is said") {
  KeepingLogger logger;
  const Telemetry telemetry = buffer({.logger = &logger});
  Response response;
  for (int i = 0; i < 10'000; ++i) response.disable_keys.push_back(std::to_string(i));
  telemetry.apply(response);
  telemetry.apply(response);
  CHECK(logger.lines().empty());
  telemetry.apply(disabling({"one_more"}));
  CHECK_FALSE(telemetry.disabled("one_more"));
  CHECK(telemetry.disabled("9999"));
  REQUIRE(logger.lines().size() == 1);
  CHECK(logger.lines().front().find("10000") != std::string::npos);
}

TEST_CASE("the buffer holds so many items") {
  const Telemetry telemetry = buffer({.max_items = 4});
  const auto dropped = [&] { return telemetry.stats().dropped_items; };
  SECTION("each kind fills it, is dropped beyond it, and still updates what is there") {
    for (const Kind& kind : kinds) {
      INFO(kind.name);
      const std::string_view name = kind.name;
      std::vector<Gauge> gauges;
      std::vector<Histogram> histograms;
      const std::uint64_t before = dropped();
      for (int i = 0; i < 6; ++i) {
        const std::string text = std::to_string(i);
        if (name == "nested")
          telemetry.set_nested("key", text, i);
        else if (name == "list")
          telemetry.append("key", i);
        else if (name == "set")
          telemetry.append_unique("key", i);
        else if (name == "gauge")
          gauges.push_back(telemetry.gauge(text)), gauges.back().set(i);
        else if (name == "histogram")
          histograms.push_back(telemetry.histogram(text)), histograms.back().record(static_cast<double>(i));
        else
          kind.use(telemetry, text);
      }
      CHECK(telemetry.stats().items == 4);
      CHECK(dropped() == before + 2);
      if (name == "counter") telemetry.add("3", 10);
      if (name == "value") telemetry.set("3", 10);
      if (name == "nested") telemetry.set_nested("key", "3", 10);
      if (name == "set") telemetry.append_unique("key", 3);
      if (name == "gauge") gauges[3].set(10);
      if (name == "histogram") histograms[3].record(10.0);
      CHECK(dropped() == before + 2);
      const json taken = data(telemetry.take());
      if (name == "counter") CHECK(taken == json{{"0", 1}, {"1", 1}, {"2", 1}, {"3", 11}});
      if (name == "value") CHECK(taken == json{{"0", "text"}, {"1", "text"}, {"2", "text"}, {"3", 10}});
      if (name == "nested") CHECK(taken == json{{"key", {{"0", 0}, {"1", 1}, {"2", 2}, {"3", 10}}}});
      if (name == "list") CHECK(taken == json{{"key", {0, 1, 2, 3}}});
      if (name == "set") CHECK(counts(taken.at("key")) == Counts{{"0", 1}, {"1", 1}, {"2", 1}, {"3", 2}});
      if (name == "gauge") CHECK(taken == json{{"0", 0}, {"1", 1}, {"2", 2}, {"3", 10}});
      if (name == "histogram") CHECK(taken.at("3").at("count") == 2);
      CHECK(taken.size() == (name == "nested" || name == "list" || name == "set" ? 1 : 4));
      gauges.clear();
      histograms.clear();
      telemetry.take();
      CHECK(telemetry.stats().items == 0);
      CHECK(telemetry.stats().bytes == 0);
    }
  }
  SECTION("the kinds share it") {
    telemetry.increment("a");
    telemetry.set("b", 1);
    telemetry.set_nested("c", "d", 1);
    telemetry.append("e", 1);
    telemetry.append_unique("f", 1);
    telemetry.append("e", 1);
    telemetry.increment("g");
    CHECK(dropped() == 3);
    CHECK(data(telemetry.take()).size() == 4);
  }
  SECTION("what is dropped is counted each time") {
    for (int i = 0; i < 4; ++i) telemetry.increment(std::to_string(i));
    for (int i = 0; i < 5; ++i) telemetry.increment("more");
    CHECK(dropped() == 5);
    CHECK(telemetry.take().find("more") == nullptr);
    telemetry.increment("more");
    CHECK(telemetry.take().as_int("more") == 1);
  }
  SECTION("a key with a handle takes its place in every cycle, for as long as it has one") {
    std::optional<Counter> counter = telemetry.counter("handle");
    std::optional<Counter> same = telemetry.counter("handle");
    telemetry.increment("handle");
    CHECK(telemetry.stats().items == 1);
    telemetry.take();
    CHECK(telemetry.stats().items == 1);
    for (int i = 0; i < 4; ++i) telemetry.increment(std::to_string(i));
    CHECK(dropped() == 1);
    counter.reset();
    telemetry.take();
    CHECK(telemetry.stats().items == 1);
    same.reset();
    CHECK(telemetry.stats().items == 1);
    telemetry.take();
    CHECK(telemetry.stats().items == 0);
  }
  SECTION("a handle that does not fit counts nothing, and that is counted") {
    for (int i = 0; i < 4; ++i) telemetry.increment(std::to_string(i));
    const Counter counter = telemetry.counter("more");
    CHECK(dropped() == 1);
    counter.increment();
    CHECK(telemetry.take().find("more") == nullptr);
    counter.increment();
    CHECK(telemetry.take().find("more") == nullptr);
  }
}

TEST_CASE("the buffer holds so many bytes") {
  const Telemetry telemetry = buffer({.max_bytes = 1'000});
  const auto stats = [&] { return telemetry.stats(); };
  const std::string long_text(600, 'x');
  SECTION("a long key, value, nested key or set value fills it") {
    const std::function<void()> fill[] = {
        [&] { telemetry.increment(long_text); },          [&] { telemetry.set("k", long_text); },
        [&] { telemetry.set("k", Json{long_text}); },     [&] { telemetry.set_nested("k", "s", long_text); },
        [&] { telemetry.set_nested("k", long_text, 1); }, [&] { telemetry.append("k", long_text); },
        [&] { telemetry.append_unique("k", long_text); }, [&] { telemetry.counter(long_text); },
        [&] { telemetry.histogram(long_text); }};
    for (const auto& one : fill) {
      one();
      CHECK(stats().items == 1);
      CHECK(stats().bytes >= 664);
      const std::uint64_t before = stats().dropped_items;
      telemetry.set("another", std::string(400, 'y'));
      CHECK(stats().dropped_items == before + 1);
      CHECK(stats().bytes <= 1'000);
      telemetry.take();
      telemetry.take();
      CHECK(stats().bytes == 0);
    }
  }
  SECTION("a value that grows beyond it stays as it was, and one that shrinks makes room") {
    telemetry.set("value", "short");
    telemetry.set_nested("nested", "sub", "short");
    telemetry.set("value", std::string(2'000, 'x'));
    telemetry.set_nested("nested", "sub", std::string(2'000, 'x'));
    CHECK(stats().dropped_items == 2);
    telemetry.set("value", std::string(700, 'x'));
    CHECK(stats().dropped_items == 2);
    telemetry.set("more", std::string(200, 'x'));
    CHECK(stats().dropped_items == 3);
    telemetry.set("value", 1);
    telemetry.set("more", std::string(200, 'x'));
    CHECK(stats().dropped_items == 3);
    CHECK(data(telemetry.take()) == json{{"value", 1}, {"nested", {{"sub", "short"}}}, {"more", std::string(200, 'x')}});
  }
  SECTION("what is larger than the whole buffer never fits") {
    telemetry.set("value", std::string(1'000, 'x'));
    telemetry.increment(std::string(1'000, 'x'));
    CHECK(stats().dropped_items == 2);
    CHECK(stats().items == 0);
  }
  SECTION("many small items fill it, too") {
    for (int i = 0; i < 100; ++i) telemetry.append("list", i);
    CHECK(stats().items < 16);
    CHECK(stats().items > 10);
    CHECK(stats().dropped_items == 100 - stats().items);
  }
  SECTION("what the same calls fill twice they fill alike") {
    const auto fill = [&] {
      telemetry.set("value", "text");
      telemetry.set_nested("nested", "a", "text");
      telemetry.set_nested("nested", "b", 1);
      telemetry.append("list", 1);
      telemetry.append("list", "text");
      telemetry.append_unique("set", "text");
      telemetry.append_unique("set", "other");
      telemetry.increment("counter");
      return stats().bytes;
    };
    const std::uint64_t bytes = fill();
    telemetry.apply(disabling({"value", "nested", "list", "set", "counter"}));
    CHECK(stats().bytes == 0);
    CHECK(stats().items == 0);
    telemetry.apply(disabling({}, {"value", "nested", "list", "set", "counter"}));
    CHECK(fill() == bytes);
    telemetry.reset();
    CHECK(stats().bytes == 0);
    CHECK(fill() == bytes);
  }
}

TEST_CASE("handles") {
  const Telemetry telemetry = buffer();
  SECTION("a counter, a gauge and a histogram are in the payload of the cycle in which they were used") {
    const Counter counter = telemetry.counter("counter");
    const Gauge gauge = telemetry.gauge("gauge");
    const Histogram latency = telemetry.histogram("histogram", "s");
    CHECK(telemetry.take().empty());
    counter.increment();
    counter.add(2);
    gauge.set(2.5);
    gauge.add(1);
    latency.record(4.0);
    latency.record(1'500ms);
    const Payload payload = telemetry.take();
    const json taken = data(payload);
    CHECK(taken.at("counter") == 3);
    CHECK(taken.at("gauge") == 3.5);
    CHECK(taken.at("histogram").at("count") == 2);
    CHECK(taken.at("histogram").at("sum") == 5.5);
    CHECK(taken.at("histogram").at("unit") == "s");
    CHECK(telemetry.take().empty());
    gauge.add(0.5);
    CHECK(data(telemetry.take()) == json{{"gauge", 4.0}});
  }
  SECTION("of one key they are the same, and so is the key") {
    const Counter first = telemetry.counter("n"), second = telemetry.counter("n");
    first.increment();
    second.increment();
    telemetry.increment("n");
    CHECK(telemetry.stats().items == 1);
    CHECK(telemetry.take().as_int("n") == 3);
  }
  SECTION("copies and moves count for the same key, and what was moved from counts nothing") {
    Counter counter = telemetry.counter("n");
    Counter copy = counter;
    Counter moved = std::move(counter);
    copy.increment();
    moved.increment();
    counter.increment();
    Counter assigned;
    assigned.increment();
    assigned = copy;
    assigned.increment();
    assigned = std::move(moved);
    assigned.increment();
    moved.increment();
    Counter& itself = assigned;
    assigned = itself;
    assigned.increment();
    Gauge gauge = telemetry.gauge("g"), moved_gauge = std::move(gauge);
    gauge.set(1);
    gauge.add(1);
    Histogram latency = telemetry.histogram("h"), moved_histogram = std::move(latency);
    latency.record(1.0);
    CHECK(data(telemetry.take()) == json{{"n", 5}});
    moved_gauge.set(2);
    moved_histogram.record(1.0);
    CHECK(data(telemetry.take()).size() == 2);
  }
  SECTION("what was moved from does not count for a key that comes later") {
    Counter counter = telemetry.counter("first");
    counter.increment();
    { const Counter moved = std::move(counter); }
    telemetry.take();
    telemetry.take();
    const Counter second = telemetry.counter("second");
    second.increment();
    counter.add(1'000);
    CHECK(telemetry.take().as_int("second") == 1);
  }
  SECTION("those that were made of nothing count nothing") {
    Counter().increment();
    Gauge().set(1);
    Gauge().add(1);
    Histogram().record(1.0);
    CHECK(telemetry.take().empty());
  }
  SECTION("they may outlive the buffer") {
    std::optional<Telemetry> short_lived = buffer();
    const Counter counter = short_lived->counter("n");
    const Gauge gauge = short_lived->gauge("g");
    const Histogram latency = short_lived->histogram("h");
    short_lived.reset();
    counter.increment();
    Counter copy = counter;
    copy.increment();
    gauge.set(1);
    gauge.add(1);
    latency.record(1.0);
    std::thread([&] {
      counter.increment();
      latency.record(1.0);
    }).join();
    CHECK(telemetry.take().empty());
  }
  SECTION("a key that has one keeps its kind over cycles, one that had keeps it to the end of the cycle") {
    std::optional<Counter> counter = telemetry.counter("n");
    telemetry.take();
    telemetry.set("n", 1);
    telemetry.gauge("n").set(1);
    CHECK(telemetry.stats().type_conflicts == 2);
    counter.reset();
    telemetry.set("n", 1);
    CHECK(telemetry.stats().type_conflicts == 3);
    CHECK(telemetry.take().empty());
    telemetry.set("n", 1);
    CHECK(telemetry.stats().type_conflicts == 3);
    CHECK(data(telemetry.take()) == json{{"n", 1}});
  }
  SECTION("one of another kind counts nothing, and is a conflict") {
    telemetry.set("n", 1);
    const Counter counter = telemetry.counter("n");
    counter.increment();
    CHECK(telemetry.stats().type_conflicts == 1);
    CHECK(data(telemetry.take()) == json{{"n", 1}});
    counter.increment();
    CHECK(telemetry.take().empty());
  }
  SECTION("the last one's counts are in the payload") {
    telemetry.counter("n").add(7);
    telemetry.gauge("g").set(1);
    telemetry.histogram("h").record(1.0);
    CHECK(data(telemetry.take()).size() == 3);
    CHECK(telemetry.stats().items == 0);
    CHECK(telemetry.take().empty());
  }
  SECTION("a histogram refuses what is no number from 0 on, and says how often") {
    const Histogram latency = telemetry.histogram("h");
    latency.record(-1.0);
    latency.record(-DBL_MIN);
    latency.record(std::numeric_limits<double>::quiet_NaN());
    latency.record(std::numeric_limits<double>::infinity());
    latency.record(-std::numeric_limits<double>::infinity());
    latency.record(-1s);
    CHECK(telemetry.stats().invalid_values == 6);
    CHECK(telemetry.take().empty());
    latency.record(-0.0);
    CHECK(histogram(telemetry.take(), "h").count() == 1);
    CHECK(telemetry.stats().invalid_values == 6);
  }
  SECTION("what it refused is counted when it is gone") {
    telemetry.histogram("h").record(-1.0);
    telemetry.take();
    telemetry.take();
    CHECK(telemetry.stats().items == 0);
    telemetry.histogram("x").record(-1.0);
    telemetry.take();
    telemetry.set("x", 1);
    telemetry.take();
    CHECK(telemetry.stats().invalid_values == 2);
  }
  SECTION("durations are recorded in the unit of the key's first call") {
    const std::pair<const char*, double> units[] = {{"s", 1.5}, {"ms", 1.5e3}, {"us", 1.5e6}, {"ns", 1.5e9}, {"", 1.5}, {"By", 1.5}};
    for (const auto& [unit, expected] : units) {
      INFO(unit);
      const std::string key = "time_in_" + std::string(unit);
      const Histogram latency = telemetry.histogram(key, unit);
      latency.record(1'500ms);
      telemetry.histogram(key).record(std::chrono::microseconds(1'500'000));
      telemetry.histogram(key, "other").record(std::chrono::duration<double>(1.5));
      const Payload payload = telemetry.take();
      CHECK(histogram(payload, key).count() == 3);
      CHECK(histogram(payload, key).min() == Approx(expected));
      CHECK(histogram(payload, key).max() == Approx(expected));
      CHECK(std::get<TelemetryHistogram>(*payload.find(key)).unit == unit);
    }
  }
}

TEST_CASE("keys come and go and leave nothing behind") {
  const Telemetry telemetry = buffer({.max_items = 10});
  for (int cycle = 0; cycle < 5'000; ++cycle) {
    for (int i = 0; i < 8; ++i) telemetry.increment(std::to_string(cycle) + ":" + std::to_string(i));
    telemetry.counter("handle:" + std::to_string(cycle)).increment();
    telemetry.histogram("histogram:" + std::to_string(cycle)).record(1.0);
    const Payload payload = telemetry.take();
    REQUIRE(payload.items.size() == 10);
    for (int i = 0; i < 8; ++i) REQUIRE(payload.as_int(std::to_string(cycle) + ":" + std::to_string(i)) == 1);
    REQUIRE(payload.as_int("handle:" + std::to_string(cycle)) == 1);
    REQUIRE(telemetry.stats().items == 0);
    REQUIRE(telemetry.stats().bytes == 0);
  }
  CHECK(telemetry.stats().dropped_items == 0);
}

TEST_CASE("a key may change its kind in every cycle") {
  const Telemetry telemetry = buffer();
  for (int cycle = 0; cycle < 10'000; ++cycle) {
    telemetry.increment("n");
    REQUIRE(telemetry.take().as_int("n") == 1);
    telemetry.gauge("n").set(cycle);
    REQUIRE(data(telemetry.take()) == json{{"n", cycle}});
    telemetry.histogram("n").record(1.0);
    REQUIRE(histogram(telemetry.take(), "n").count() == 1);
    telemetry.set("n", "text");
    REQUIRE(data(telemetry.take()) == json{{"n", "text"}});
  }
  CHECK(telemetry.stats().type_conflicts == 0);
}

TEST_CASE("more counters than there are cells count all the same") {
  const Telemetry telemetry = buffer();
  std::vector<Counter> counters;
  constexpr int many = 70'000;  // 65,536 cells
  counters.reserve(many);
  for (int i = 0; i < many; ++i) counters.push_back(telemetry.counter(std::to_string(i)));
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < many; ++i) counters[static_cast<std::size_t>(i)].add(i + 1);
    std::thread([&] {
      for (int i = 0; i < many; i += 7) counters[static_cast<std::size_t>(i)].add(1'000'000);
    }).join();
    const Payload payload = telemetry.take();
    REQUIRE(payload.items.size() == many);
    int wrong = 0;
    for (const Payload::Item& item : payload.items) {
      const int i = std::stoi(item.key);
      wrong += std::get<TelemetryCounter>(item.data) != i + 1 + (i % 7 == 0 ? 1'000'000 : 0);
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("merge_back puts back what could not be sent") {
  const Telemetry telemetry = buffer();
  const auto fill = [&](int n) {
    telemetry.add("counter", n);
    telemetry.gauge("gauge").set(n);
    telemetry.histogram("histogram", "ms").record(static_cast<double>(n));
    telemetry.set("value", n);
    telemetry.set_nested("nested", "both", n);
    telemetry.set_nested("nested", std::to_string(n), n);
    telemetry.append("list", n);
    telemetry.append("list", "x");
    telemetry.append_unique("set", "both");
    telemetry.append_unique("set", "both");
    telemetry.append_unique("set", n);
  };
  SECTION("into an empty buffer: it is what it was") {
    fill(1);
    const std::uint64_t items = telemetry.stats().items, bytes = telemetry.stats().bytes;
    Payload payload = telemetry.take();
    const json before = data(payload);
    telemetry.merge_back(std::move(payload));
    CHECK(telemetry.stats().items == items);
    CHECK(telemetry.stats().bytes == bytes);
    const json after = data(telemetry.take());
    CHECK(counts(after.at("set")) == counts(before.at("set")));
    for (const char* key : {"counter", "gauge", "histogram", "value", "nested", "list"}) CHECK(after.at(key) == before.at(key));
    CHECK(telemetry.stats().dropped_items == 0);
    CHECK(telemetry.stats().type_conflicts == 0);
  }
  SECTION("beside newer values: counters, sets and histograms add, lists go in front, of what was set the newer stays") {
    fill(1);
    Payload payload = telemetry.take();
    fill(2);
    telemetry.merge_back(std::move(payload));
    const Payload merged = telemetry.take();
    const json taken = data(merged);
    CHECK(taken.at("counter") == 3);
    CHECK(taken.at("gauge") == 2);
    CHECK(taken.at("value") == 2);
    CHECK(taken.at("nested") == json{{"both", 2}, {"1", 1}, {"2", 2}});
    CHECK(taken.at("list") == json{1, "x", 2, "x"});
    CHECK(counts(taken.at("set")) == Counts{{"\"both\"", 4}, {"1", 1}, {"2", 1}});
    CHECK(histogram(merged, "histogram").count() == 2);
    CHECK(histogram(merged, "histogram").sum() == 3);
    CHECK(histogram(merged, "histogram").min() == 1);
    CHECK(histogram(merged, "histogram").max() == 2);
    CHECK(taken.at("histogram").at("unit") == "ms");
    CHECK(telemetry.take().empty());
  }
  SECTION("before newer values: they count on") {
    fill(1);
    telemetry.merge_back(telemetry.take());
    fill(2);
    const json taken = data(telemetry.take());
    CHECK(taken.at("counter") == 3);
    CHECK(taken.at("gauge") == 2);
    CHECK(taken.at("list") == json{1, "x", 2, "x"});
    CHECK(counts(taken.at("set")) == Counts{{"\"both\"", 4}, {"1", 1}, {"2", 1}});
  }
  SECTION("a gauge that was not set since has its value again") {
    const Gauge gauge = telemetry.gauge("gauge");
    gauge.set(5);
    telemetry.merge_back(telemetry.take());
    gauge.add(1);
    CHECK(data(telemetry.take()) == json{{"gauge", 6.0}});
  }
  SECTION("a gauge whose newer value was sent meanwhile keeps it") {
    const Gauge gauge = telemetry.gauge("gauge");
    gauge.set(5);
    Payload old = telemetry.take();
    gauge.set(7);
    telemetry.take();
    telemetry.merge_back(std::move(old));
    CHECK(data(telemetry.take()) == json{{"gauge", 7.0}});
    gauge.add(1);
    CHECK(data(telemetry.take()) == json{{"gauge", 8.0}});
  }
  SECTION("a gauge that has not been set since its process began has its value again") {
    telemetry.gauge("gauge").set(5);
    Payload old = telemetry.take();
    const Telemetry next = buffer();
    const Gauge gauge = next.gauge("gauge");
    next.merge_back(std::move(old));
    gauge.add(1);
    CHECK(data(next.take()) == json{{"gauge", 6.0}});
  }
  SECTION("twice, of several payloads, and of another buffer") {
    fill(1);
    Payload first = telemetry.take();
    fill(2);
    Payload second = telemetry.take();
    const Telemetry other = buffer();
    other.merge_back(std::move(second));
    other.merge_back(std::move(first));
    const Payload payload = other.take();
    const json taken = data(payload);
    CHECK(taken.at("counter") == 3);
    CHECK(taken.at("list") == json{1, "x", 2, "x"});
    CHECK(histogram(payload, "histogram").count() == 2);
    CHECK(taken.at("histogram").at("unit") == "ms");
    CHECK(taken.at("value") == 2);
  }
  SECTION("a key that is of another kind now stays, and that is a conflict") {
    for (const Kind& before : kinds) {
      for (const Kind& now : kinds) {
        if (&before == &now) continue;
        INFO(before.name << " before, " << now.name << " now");
        const Telemetry one = buffer({.logger = &silence()});
        before.use(one, "key");
        Payload payload = one.take();
        now.use(one, "key");
        const std::uint64_t items = one.stats().items;
        one.merge_back(std::move(payload));
        CHECK(one.stats().type_conflicts == 1);
        CHECK(one.stats().items == items);
        const Telemetry alone = buffer();
        now.use(alone, "key");
        CHECK(data(one.take()) == data(alone.take()));
      }
    }
  }
  SECTION("handles count on from what came back, and keep it over cycles") {
    const Counter counter = telemetry.counter("n");
    const Histogram latency = telemetry.histogram("h");
    counter.add(5);
    latency.record(1.0);
    telemetry.merge_back(telemetry.take());
    counter.add(1);
    latency.record(3.0);
    const Payload payload = telemetry.take();
    CHECK(payload.as_int("n") == 6);
    CHECK(histogram(payload, "h").count() == 2);
    CHECK(histogram(payload, "h").sum() == 4);
    CHECK(telemetry.take().empty());
  }
  SECTION("an empty payload changes nothing") {
    telemetry.merge_back(Payload());
    CHECK(telemetry.take().empty());
  }
  SECTION("a set item that was counted zero times is nothing") {
    Payload payload;
    payload.items.push_back({"set", TelemetrySet{{TelemetryValue(AttributeValue("x")), 0}}});
    telemetry.merge_back(std::move(payload));
    CHECK(telemetry.take().empty());
  }
}

TEST_CASE("merge_back keeps to the bounds") {
  const Telemetry full = buffer();
  for (int i = 0; i < 10; ++i) {
    full.append("list", i);
    full.append_unique("set", i);
    full.set_nested("nested", std::to_string(i), i);
    full.increment("counter:" + std::to_string(i));
  }
  const Payload payload = full.take();
  SECTION("what is there stays, what does not fit is dropped and counted") {
    const Telemetry telemetry = buffer({.max_items = 8});
    telemetry.append("list", "new");
    telemetry.append_unique("set", 0);
    telemetry.set_nested("nested", "0", "new");
    telemetry.increment("counter:0");
    Payload one = payload;
    telemetry.merge_back(std::move(one));
    CHECK(telemetry.stats().items == 8);
    CHECK(telemetry.stats().dropped_items == 40 - 3 - 4);
    const json taken = data(telemetry.take());
    CHECK(taken.at("list").back() == "new");
    for (std::size_t i = 0; i + 1 < taken.at("list").size(); ++i) CHECK(taken.at("list")[i] == i);
    CHECK(counts(taken.at("set")).at("0") == 2);
    CHECK(taken.at("nested").at("0") == "new");
    CHECK(taken.at("counter:0") == 2);
  }
  SECTION("of bytes, too") {
    const Telemetry telemetry = buffer({.max_bytes = 700});
    Payload one = payload;
    telemetry.merge_back(std::move(one));
    CHECK(telemetry.stats().bytes <= 700);
    CHECK(telemetry.stats().items >= 6);
    CHECK(telemetry.stats().items + telemetry.stats().dropped_items == 40);
  }
}

TEST_CASE("reset empties the buffer") {
  const Telemetry telemetry = buffer();
  const Counter counter = telemetry.counter("counter");
  const Gauge gauge = telemetry.gauge("gauge");
  const Histogram latency = telemetry.histogram("histogram");
  int collected = 0;
  telemetry.at_emit([&](const Telemetry&) { ++collected; });
  for (const Kind& kind : kinds) kind.use(telemetry, std::string("a ") + kind.name);
  counter.add(5);
  gauge.set(5);
  latency.record(5.0);
  telemetry.reset();
  CHECK(collected == 0);
  CHECK(telemetry.stats().items == 3);
  CHECK(telemetry.stats().payloads == 0);
  CHECK(telemetry.take().empty());
  counter.add(1);
  gauge.add(1);
  latency.record(2.0);
  const Payload payload = telemetry.take();
  CHECK(payload.as_int("counter") == 1);
  CHECK(data(payload).at("gauge") == 6.0);
  CHECK(histogram(payload, "histogram").count() == 1);
  CHECK(histogram(payload, "histogram").sum() == 2);
}

TEST_CASE("at_emit") {
  KeepingLogger logger;
  const Telemetry telemetry = buffer({.logger = &logger});
  SECTION("is called before each payload, on the thread that takes it, and what it says is in that payload") {
    std::vector<std::thread::id> threads;
    telemetry.at_emit([&](const Telemetry& inner) {
      threads.push_back(std::this_thread::get_id());
      inner.set("threads", threads.size());
    });
    CHECK(data(telemetry.take()) == json{{"threads", 1}});
    std::thread other([&] { CHECK(data(telemetry.take()) == json{{"threads", 2}}); });
    const std::thread::id other_id = other.get_id();
    other.join();
    CHECK(threads == std::vector{std::this_thread::get_id(), other_id});
  }
  SECTION("several are called in their order") {
    std::string order;
    telemetry.at_emit([&](const Telemetry&) { order += 'a'; });
    const std::uint64_t b = telemetry.at_emit([&](const Telemetry&) { order += 'b'; });
    telemetry.at_emit([&](const Telemetry&) { order += 'c'; });
    telemetry.take();
    telemetry.remove_at_emit(b);
    telemetry.remove_at_emit(b);
    telemetry.remove_at_emit(0);
    telemetry.remove_at_emit(99);
    telemetry.take();
    CHECK(order == "abcac");
  }
  SECTION("what it throws is counted, and the others and the payload do not suffer") {
    telemetry.at_emit([](const Telemetry& inner) {
      inner.increment("before");
      throw Thrown();
    });
    telemetry.at_emit([](const Telemetry& inner) { inner.increment("after"); });
    CHECK(data(telemetry.take()) == json{{"before", 1}, {"after", 1}});
    CHECK(telemetry.stats().collector_failures == 1);
    CHECK(logger.lines().empty());
  }
  SECTION("after a hundred times in a row it is not called any more, and that is said") {
    int calls = 0;
    bool well = false;
    telemetry.at_emit([&](const Telemetry&) {
      ++calls;
      if (!well) throw std::runtime_error("no");
    });
    for (int i = 0; i < 99; ++i) telemetry.take();
    well = true;
    telemetry.take();
    well = false;
    for (int i = 0; i < 99; ++i) telemetry.take();
    CHECK(calls == 199);
    CHECK(logger.lines().empty());
    for (int i = 0; i < 5; ++i) telemetry.take();
    CHECK(calls == 200);
    CHECK(telemetry.stats().collector_failures == 199);
    REQUIRE(logger.lines().size() == 1);
    CHECK(logger.lines().front().find("100 times") != std::string::npos);
  }
  SECTION("an empty function is a failure like another") {
    telemetry.at_emit({});
    CHECK(telemetry.take().empty());
    CHECK(telemetry.stats().collector_failures == 1);
  }
  SECTION("removes itself from inside, and others that come after it are not called") {
    std::uint64_t first = 0, last = 0;
    std::string order;
    first = telemetry.at_emit([&](const Telemetry& inner) {
      order += '1';
      inner.remove_at_emit(first);
      inner.remove_at_emit(last);
    });
    telemetry.at_emit([&](const Telemetry&) { order += '2'; });
    last = telemetry.at_emit([&](const Telemetry&) { order += '3'; });
    telemetry.take();
    telemetry.take();
    CHECK(order == "122");
  }
  SECTION("added from inside, it is called from the next payload on") {
    int calls = 0;
    bool added = false;
    telemetry.at_emit([&](const Telemetry& inner) {
      if (!std::exchange(added, true)) inner.at_emit([&](const Telemetry&) { ++calls; });
    });
    telemetry.take();
    CHECK(calls == 0);
    telemetry.take();
    CHECK(calls == 1);
  }
  SECTION("a payload that it takes itself calls nobody") {
    int calls = 0;
    Payload inner_payload;
    telemetry.at_emit([&](const Telemetry& inner) {
      ++calls;
      inner.increment("inside");
      inner_payload = inner.take();
    });
    telemetry.increment("outside");
    CHECK(telemetry.take().empty());
    CHECK(calls == 1);
    CHECK(data(inner_payload) == json{{"inside", 1}, {"outside", 1}});
  }
  SECTION("removing waits while another thread calls them") {
    std::atomic<bool> inside{false}, go_on{false}, removed{false}, was_removed{true};
    const std::uint64_t number = telemetry.at_emit([&](const Telemetry&) {
      inside = true;
      while (!go_on) std::this_thread::yield();
      was_removed = removed.load();
    });
    std::thread taker([&] { telemetry.take(); });
    REQUIRE(eventually([&] { return inside.load(); }));
    std::thread remover([&] {
      telemetry.remove_at_emit(number);
      removed = true;
    });
    for (int i = 0; i < 1'000; ++i) std::this_thread::yield();
    CHECK_FALSE(removed);
    go_on = true;
    taker.join();
    remover.join();
    CHECK_FALSE(was_removed);
    inside = false;
    telemetry.take();
    CHECK_FALSE(inside);
  }
  SECTION("what it owns is destroyed when it is removed, where the buffer can be used") {
    struct Owned {
      explicit Owned(const Telemetry& t) : telemetry(&t) {}
      ~Owned() {
        // Another thread's payload would wait for a lock that was held here.
        std::thread([this] { telemetry->take(); }).join();
        telemetry->increment("destroyed");
      }
      const Telemetry* telemetry;
    };
    const std::uint64_t number = telemetry.at_emit([owned = std::make_shared<Owned>(telemetry)](const Telemetry&) {});
    telemetry.remove_at_emit(number);
    CHECK(data(telemetry.take()) == json{{"destroyed", 1}});
    std::uint64_t itself = 0;
    itself =
        telemetry.at_emit([&itself, owned = std::make_shared<Owned>(telemetry)](const Telemetry& inner) { inner.remove_at_emit(itself); });
    telemetry.take();
    CHECK(telemetry.stats().collector_failures == 0);
  }
#if defined(__GLIBC__) && !defined(WEIR_TESTS_SANITIZED)  // UndefinedBehaviorSanitizer takes the end of a thread for a null reference
  SECTION("a thread that ends inside ends, and the buffer goes on") {
    const std::uint64_t number = telemetry.at_emit([](const Telemetry& inner) {
      inner.increment("before");
      pthread_exit(nullptr);
    });
    std::thread([&] { telemetry.take(); }).join();
    telemetry.remove_at_emit(number);
    telemetry.at_emit([](const Telemetry& inner) { inner.increment("called"); });
    CHECK(data(telemetry.take()) == json{{"before", 1}, {"called", 1}});
    CHECK(telemetry.stats().collector_failures == 0);
  }
#endif
}

TEST_CASE("fast_hash is FNV-1a of 32 bits, without leading zeros") {
  CHECK(fast_hash("") == "811c9dc5");
  CHECK(fast_hash("a") == "e40c292c");
  CHECK(fast_hash("foobar") == "bf9cf968");
  CHECK(fast_hash(std::string_view("\0", 1)) == "50c5d1f");
  CHECK(fast_hash("\xff") == "7a0b824e");
  std::size_t shorter = 0;
  for (int i = 0; i < 1'000; ++i) {
    const std::string hash = fast_hash(std::to_string(i));
    CHECK(hash.find_first_not_of("0123456789abcdef") == std::string::npos);
    CHECK(hash.front() != '0');
    shorter += hash.size() < 8;
  }
  CHECK(shorter > 0);
}
