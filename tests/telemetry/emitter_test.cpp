#include "weir/telemetry/emitter.hpp"
#include "weir/telemetry/payload.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "support/audit_trail.hpp"
#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/eventually.hpp"
#include "support/fork_memory.hpp"
#include "support/scripted_transport.hpp"
#include "support/virtual_pacer.hpp"
#include "weir/telemetry/payload.hpp"

using namespace weir;
using namespace weir::testing;
using namespace std::chrono_literals;

namespace {

using Waits = std::vector<std::chrono::nanoseconds>;

constexpr std::chrono::nanoseconds usual = 1h + 30s;                                   // the dice of VirtualPacer always show the middle
constexpr std::chrono::nanoseconds first = 8400ms, second = 28350ms, third = 67200ms;  // 8, 27 and 64 seconds, and 5 % of them
constexpr auto soon = 5s;

/// A buffer, an endpoint and time.
struct Rig {
  RecordingLogger logger;
  Telemetry telemetry = Telemetry::create(InstanceId::random(), {.logger = &logger}).value();
  ScriptedTransport endpoint;
  std::shared_ptr<VirtualPacer> pacer = std::make_shared<VirtualPacer>();
  std::optional<Emitter> made;

  EmitterOptions options() { return {.logger = &logger, .pacer = pacer}; }
  Emitter& emitter() {
    if (!made) made.emplace(telemetry, endpoint, options());
    return *made;
  }
  void start() { REQUIRE(emitter().start()); }
  /// What the buffer holds of a counter. (It is empty then.)
  std::int64_t held(std::string_view key = "n") { return telemetry.take().as_int(key); }
};

std::set<std::string> ids_of(const std::vector<ScriptedTransport::Seen>& seen) {
  std::set<std::string> ids;
  for (const auto& update : seen) ids.insert(update.update_id);
  return ids;
}

}  // namespace

// ---- schedule

TEST_CASE("an update is sent at once, and then after each interval with its jitter") {
  Rig rig;
  rig.telemetry.add("n", 3);
  rig.start();
  CHECK(rig.pacer->waits(1) == Waits{usual});
  REQUIRE(rig.endpoint.count() == 1);
  rig.telemetry.add("n", 4);
  rig.pacer->let_pass(2);
  CHECK(rig.pacer->waits(3) == Waits{usual, usual, usual});
  const auto seen = rig.endpoint.seen(3);
  REQUIRE(seen.size() == 3);
  CHECK(seen[0].data() == nlohmann::json{{"n", 3}});
  CHECK(seen[1].data() == nlohmann::json{{"n", 4}});
  CHECK(seen[2].data() == nlohmann::json::object());  // it is how the server steers
  CHECK(ids_of(seen).size() == 3);
  for (const auto& update : seen) {
    CHECK(update.instance_id == rig.telemetry.instance_id().to_string());
    CHECK(nlohmann::json::parse(update.body).at("instance_id") == update.instance_id);
    CHECK(nlohmann::json::parse(update.body).at("update_id") == update.update_id);
  }
  CHECK(rig.emitter().stats().updates == 3);
  CHECK(rig.emitter().stats().tries == 3);
  CHECK(rig.emitter().stats().failed_tries == 0);
  CHECK(rig.emitter().stats().running);
  CHECK(rig.logger.size() == 0);
}

TEST_CASE("the next update comes when the server wishes, if it wishes something sensible") {
  const auto body = [](const std::string& next_update) { return "{\"next_update\":" + next_update + "}"; };
  const struct {
    std::string body;
    std::chrono::nanoseconds wait;
  } rows[] = {
      {body("1000000000"), 1s},
      {body("2592000000000000"), 720h},
      {body("5400000000000"), 90min},
      {"{}", usual},
      {body("null"), usual},
      {body("0"), usual},
      {body("999999999"), usual},
      {body("2592000000000001"), usual},
      {body("-7200000000000"), usual},
      {body("9223372036854775807"), usual},
      {body("18446744073709551615"), usual},
      {body("1e300"), usual},
      {body("1.5"), usual},
  };
  Rig rig;
  Waits expected;
  for (const auto& row : rows) {
    rig.endpoint.then({answer(200, row.body)});
    expected.push_back(row.wait);
  }
  rig.pacer->let_pass(expected.size() - 1);
  rig.start();
  CHECK(rig.pacer->waits(expected.size()) == expected);
  CHECK(rig.endpoint.count() == expected.size());
}

TEST_CASE("any status from 200 to 299 with a response is a success") {
  for (const int status : {200, 201, 202, 204, 299}) {
    CAPTURE(status);
    Rig rig;
    rig.endpoint.then({answer(status, R"({"unknown":[1,{"x":null}]})", "Application/JSON ; charset=utf-8")});
    rig.start();
    CHECK(rig.pacer->waits(1) == Waits{usual});
    CHECK(rig.emitter().stats().updates == 1);
  }
}

// ---- tries

TEST_CASE("an update that fails is tried four times, after these pauses, and then it is an interval's time") {
  const std::string large = "{\"error\":\"" + std::string(max_answer_bytes, 'x') + "\"}";
  const struct {
    const char* name;
    Delivery delivery;
    bool may_be_taken;
  } rows[] = {
      {"no connection", no_connection(), false},
      {"no answer", no_answer(), true},
      {"400", answer(400), false},
      {"404 of a web page", answer(404, "<html>", "text/html"), false},
      {"499", answer(499), false},
      {"500", answer(500), true},
      {"503 that knows when", answer(503, "{}", "application/json", "1"), true},
      {"599", answer(599), true},
      {"600", answer(600), true},
      {"a redirect", answer(301), true},
      {"300", answer(300), true},
      {"199", answer(199), true},
      {"no status", answer(0), true},
      {"no type", answer(200, "{}", ""), true},
      {"another type", answer(200, "{}", "text/html"), true},
      {"a type that begins like it", answer(200, "{}", "application/jsonx"), true},
      {"a type that holds it", answer(200, "{}", "text/application/json"), true},
      {"no JSON", answer(200, "{"), true},
      {"nothing", answer(200, ""), true},
      {"a list", answer(200, "[]"), true},
      {"a member of another type", answer(200, R"({"next_update":"1h"})"), true},
      {"another", answer(200, R"({"disable_keys":[1]})"), true},
      {"too large", answer(200, large), true},
  };
  for (const auto& row : rows) {
    CAPTURE(row.name);
    Rig rig;
    rig.telemetry.add("n", 3);
    rig.endpoint.then({row.delivery, row.delivery, row.delivery, row.delivery});
    rig.pacer->let_pass(3);
    rig.start();
    CHECK(rig.pacer->waits(4) == Waits{first, second, third, usual});
    const auto seen = rig.endpoint.seen(4);
    REQUIRE(seen.size() == 4);
    CHECK((seen[0] == seen[1] && seen[1] == seen[2] && seen[2] == seen[3]));
    CHECK(rig.emitter().stats().tries == 4);
    CHECK(rig.emitter().stats().failed_tries == 4);
    CHECK(rig.emitter().stats().updates == 0);
    CHECK(rig.emitter().stats().merged_back == (row.may_be_taken ? 0 : 1));
    CHECK(rig.emitter().stats().kept == (row.may_be_taken ? 1 : 0));

    rig.telemetry.add("n", 4);
    rig.pacer->let_pass(1);
    rig.pacer->waits(5);
    const auto later = rig.endpoint.seen(row.may_be_taken ? 6 : 5);
    if (row.may_be_taken) {  // as it was, and then what has gathered since
      REQUIRE(later.size() == 6);
      CHECK(later[4] == seen[0]);
      CHECK(later[5].data() == nlohmann::json{{"n", 4}});
      CHECK(later[5].update_id != seen[0].update_id);
    } else {
      REQUIRE(later.size() == 5);
      CHECK(later[4].data() == nlohmann::json{{"n", 7}});
      CHECK(later[4].update_id != seen[0].update_id);
    }
    CHECK(rig.emitter().stats().kept == 0);
  }
}

TEST_CASE("a try that succeeds ends the tries") {
  for (std::size_t failures = 1; failures <= 3; ++failures) {
    Rig rig;
    for (std::size_t i = 0; i < failures; ++i) rig.endpoint.then({answer(500)});
    rig.pacer->let_pass(failures);
    rig.start();
    Waits expected{first, second, third};
    expected.resize(failures);
    expected.push_back(usual);
    CHECK(rig.pacer->waits(failures + 1) == expected);
    CHECK(rig.endpoint.count() == failures + 1);
    CHECK(rig.emitter().stats().updates == 1);
  }
}

TEST_CASE("a payload that one try may have brought there is kept, whatever came of the others and of later ones") {
  Rig rig;
  rig.telemetry.add("n", 3);
  rig.endpoint.then({no_connection(), no_answer(), answer(404), no_connection()});
  rig.endpoint.then({no_connection(), no_connection(), no_connection(), no_connection()});
  rig.pacer->let_pass(7);
  rig.start();
  rig.pacer->waits(8);
  const auto seen = rig.endpoint.seen(8);
  REQUIRE(seen.size() == 8);
  CHECK(ids_of(seen).size() == 1);
  CHECK(rig.emitter().stats().kept == 1);
  CHECK(rig.emitter().stats().merged_back == 0);
  CHECK(rig.telemetry.take().empty());  // nothing new was taken while it was away
}

TEST_CASE("no payload is taken while one is kept, so that no more than one is ever in memory") {
  Rig rig;
  rig.telemetry.add("n", 1);
  rig.endpoint.otherwise(answer(502));
  rig.pacer->let_pass(4 * 3 + 3);
  rig.start();
  rig.pacer->waits(16);
  rig.telemetry.add("n", 10);
  rig.endpoint.otherwise(answer(200));
  rig.pacer->let_pass(1);
  rig.pacer->waits(17);
  const auto seen = rig.endpoint.seen(18);
  REQUIRE(seen.size() == 18);
  CHECK(ids_of({seen.begin(), seen.begin() + 17}).size() == 1);
  CHECK(seen[17].data() == nlohmann::json{{"n", 10}});
  CHECK(rig.emitter().stats().updates == 2);
}

TEST_CASE("with no pauses there is one try, and an empty update that fails leaves nothing") {
  Rig rig;
  EmitterOptions options = rig.options();
  options.pauses.clear();
  rig.made.emplace(rig.telemetry, rig.endpoint, options);
  rig.endpoint.otherwise(answer(500));
  rig.pacer->let_pass(1);
  rig.start();
  CHECK(rig.pacer->waits(2) == Waits{usual, usual});
  CHECK(ids_of(rig.endpoint.seen(2)).size() == 2);
  CHECK(rig.emitter().stats().kept == 0);
  CHECK(rig.emitter().stats().merged_back == 0);
}

// ---- 429

TEST_CASE("a busy endpoint says when to try again") {
  const auto wish = [](const std::string& next_update, const std::string& retry_after) {
    return answer(429, "{\"next_update\":" + next_update + "}", "application/json", retry_after);
  };
  const auto header = [](const std::string& retry_after) { return answer(429, "{}", "application/json", retry_after); };
  // The time is 2023-11-14T22:13:20Z.
  const struct {
    const char* name;
    Delivery delivery;
    std::chrono::nanoseconds wait;
  } rows[] = {
      {"next_update", wish("2000000000", ""), 2s},
      {"next_update before Retry-After", wish("2000000000", "7"), 2s},
      {"next_update too short", wish("999999999", "7"), 7s},
      {"next_update negative", wish("-1", "7"), 7s},
      {"next_update absurd", wish("2592000000000001", "7"), 7s},
      {"next_update and nothing sensible", wish("0", "soon"), first},
      {"a response that is none", answer(429, "[", "application/json", "7"), 7s},
      {"a response of another type", answer(429, R"({"next_update":2000000000})", "text/plain", "7"), 7s},
      {"seconds", header("120"), 120s},
      {"seconds between spaces", header(" 3 "), 3s},
      {"no seconds", header("0"), 1s},
      {"too many", header("2592001"), 720h},
      {"more than fit", header("99999999999999999999999"), 720h},
      {"negative", header("-5"), first},
      {"not whole", header("1.5"), first},
      {"a date", header("Tue, 14 Nov 2023 22:14:20 GMT"), 60s},
      {"a date in an old format", header("Tuesday, 14-Nov-23 22:15:20 GMT"), 120s},
      {"a date in the oldest format", header("Tue Nov 14 22:13:30 2023"), 10s},
      {"a date with a space for a digit", header("Fri Dec  1 22:13:20 2023"), 17 * 24h},
      {"a date that is over", header("Sun, 06 Nov 1994 08:49:37 GMT"), 1s},
      {"a date that is far", header("Fri, 01 Jan 2100 00:00:00 GMT"), 720h},
      {"a date that is none", header("Tue, 31 Feb 2023 22:14:20 GMT"), first},
      {"a month that is none", header("Tue, 14 Nox 2023 22:14:20 GMT"), first},
      {"an hour that is none", header("Tue, 14 Nov 2023 24:14:20 GMT"), first},
      {"a date with more", header("Tue, 14 Nov 2023 22:14:20 GMT+1"), first},
      {"nothing", header(""), first},
  };
  for (const auto& row : rows) {
    CAPTURE(row.name);
    Rig rig;
    rig.endpoint.then({row.delivery});
    rig.pacer->let_pass(1);
    rig.start();
    CHECK(rig.pacer->waits(2) == Waits{row.wait, usual});
    CHECK(rig.endpoint.count() == 2);
    CHECK(rig.logger.size() == 0);  // nothing is wrong
  }
}

TEST_CASE("a busy answer counts as a try, is no sign of having been taken, and the last one delays the next update") {
  Rig rig;
  rig.telemetry.add("n", 3);
  rig.endpoint.then({answer(429), answer(429), answer(429), answer(429, R"({"next_update":7200000000000})")});
  rig.pacer->let_pass(3);
  rig.start();
  CHECK(rig.pacer->waits(4) == Waits{first, second, third, 2h});
  CHECK(rig.emitter().stats().merged_back == 1);
  CHECK(rig.endpoint.count() == 4);
  CHECK(rig.held() == 3);
  CHECK(rig.logger.count("lost the telemetry endpoint") == 1);
}

// ---- the end by the server

TEST_CASE("410 and 451 end the updates for good, and say why with the server's words") {
  for (const int status : {410, 451}) {
    CAPTURE(status);
    Rig rig;
    rig.telemetry.add("n", 3);
    rig.endpoint.then({answer(status, R"({"error":"go\naway"})")});
    rig.start();
    REQUIRE(eventually([&] { return !rig.emitter().stats().running; }));
    const EmitterStats stats = rig.emitter().stats();
    CHECK(stats.ended == "it answered " + std::to_string(status) + ": go\naway");
    CHECK(stats.tries == 1);
    CHECK(rig.logger.count("has ended the updates: it answered " + std::to_string(status)) == 1);
    CHECK(rig.logger.size() == 1);
    CHECK_FALSE(rig.emitter().stop(soon));
    CHECK(rig.endpoint.count() == 1);  // no last send
    CHECK(rig.pacer->count() == 0);
    CHECK(rig.emitter().stats().merged_back == 1);

    rig.start();
    rig.pacer->waits(1);
    CHECK(rig.emitter().stats().ended.empty());
    CHECK(rig.emitter().stats().running);
    CHECK(rig.endpoint.seen(2)[1].data() == nlohmann::json{{"n", 3}});
  }
}

TEST_CASE("an emitter that the server has ended may be started without being stopped first") {
  Rig rig;
  rig.endpoint.then({answer(410, "gone", "text/plain")});
  rig.start();
  REQUIRE(eventually([&] { return !rig.emitter().stats().ended.empty() && !rig.emitter().stats().running; }));
  CHECK(rig.emitter().stats().ended == "it answered 410");
  rig.start();
  rig.pacer->waits(1);
  CHECK(rig.endpoint.count() == 2);
}

TEST_CASE("a response that says stop was a success, and the last") {
  Rig rig;
  rig.telemetry.add("n", 3);
  rig.endpoint.then({answer(200, R"({"stop":true,"error":"enough","disable_keys":["n"]})")});
  rig.start();
  REQUIRE(eventually([&] { return !rig.emitter().stats().running; }));
  CHECK(rig.emitter().stats().updates == 1);
  CHECK(rig.emitter().stats().ended == "it asked to stop: enough");
  CHECK(rig.telemetry.disabled("n"));
  rig.telemetry.add("m", 1);
  CHECK(rig.emitter().stop(soon));
  CHECK(rig.endpoint.count() == 1);
  CHECK(rig.held("m") == 1);
}

TEST_CASE("what the server says of itself is cut to a sensible length, between characters") {
  Rig rig;
  std::string text = "x";
  for (int i = 0; i < 10'000; ++i) text += "\u00e9";
  rig.endpoint.then({answer(410, "{\"error\":\"" + text + "\"}")});
  rig.start();
  REQUIRE(eventually([&] { return !rig.emitter().stats().running; }));
  const std::string ended = rig.emitter().stats().ended;
  CHECK(ended.size() < 600);
  CHECK(nlohmann::json(ended).dump().size() > 500);  // throws if it is no UTF-8
}

TEST_CASE("keys are disabled and enabled by a success only") {
  Rig rig;
  rig.endpoint.then({answer(500, R"({"disable_keys":["a"]})"), answer(429, R"({"disable_keys":["b"]})"),
                     answer(200, R"({"disable_keys":["c","d"]})"), answer(200, R"({"enable_keys":["c"]})")});
  rig.pacer->let_pass(2);
  rig.start();
  rig.pacer->waits(3);
  CHECK_FALSE(rig.telemetry.disabled("a"));
  CHECK_FALSE(rig.telemetry.disabled("b"));
  CHECK(rig.telemetry.disabled("c"));
  CHECK(rig.telemetry.disabled("d"));
  rig.pacer->let_pass(1);
  rig.pacer->waits(4);
  CHECK_FALSE(rig.telemetry.disabled("c"));
  CHECK(rig.telemetry.disabled("d"));
}

// ---- stop

TEST_CASE("stop while it waits sends what has gathered, once") {
  Rig rig;
  rig.start();
  rig.pacer->waits(1);
  rig.telemetry.add("n", 5);
  CHECK(rig.emitter().stop(soon));
  const auto seen = rig.endpoint.seen(2);
  REQUIRE(seen.size() == 2);
  CHECK(seen[1].data() == nlohmann::json{{"n", 5}});
  CHECK(rig.pacer->count() == 1);
  CHECK_FALSE(rig.emitter().stats().running);
  CHECK(rig.emitter().stop(soon));  // and again
  CHECK(rig.endpoint.count() == 2);
}

TEST_CASE("stop sends nothing when there is nothing") {
  Rig rig;
  rig.start();
  rig.pacer->waits(1);
  CHECK(rig.emitter().stop(soon));
  CHECK(rig.endpoint.count() == 1);
}

TEST_CASE("the last send is one try, whatever is answered") {
  const struct {
    Delivery delivery;
    bool may_be_taken;
  } rows[] = {{answer(429, R"({"next_update":1000000000})", "application/json", "1"), false},
              {no_connection(), false},
              {answer(500), true},
              {answer(410), false}};
  for (const auto& row : rows) {
    Rig rig;
    rig.start();
    rig.pacer->waits(1);
    rig.telemetry.add("n", 5);
    rig.endpoint.then({row.delivery});
    CHECK_FALSE(rig.emitter().stop(soon));
    CHECK_FALSE(rig.emitter().stop(soon));  // the same
    CHECK(rig.endpoint.count() == 2);
    CHECK(rig.pacer->count() == 1);
    CHECK(rig.emitter().stats().kept == (row.may_be_taken ? 1 : 0));
    rig.made.reset();
    CHECK(rig.held() == 5);  // at the latest when the emitter is gone
    CHECK(rig.endpoint.count() == 2);
  }
}

TEST_CASE("stop in a pause makes one last try of that update, and one of what has gathered since") {
  Rig rig;
  rig.telemetry.add("n", 3);
  rig.endpoint.then({no_connection()});
  rig.start();
  CHECK(rig.pacer->waits(1) == Waits{first});
  rig.telemetry.add("n", 4);
  CHECK(rig.emitter().stop(soon));
  const auto seen = rig.endpoint.seen(3);
  REQUIRE(seen.size() == 3);
  CHECK(seen[1] == seen[0]);
  CHECK(seen[2].data() == nlohmann::json{{"n", 4}});
  CHECK(rig.pacer->count() == 1);
}

TEST_CASE("when the last try of an update fails, what has gathered since stays in the buffer with it") {
  Rig rig;
  rig.telemetry.add("n", 3);
  rig.endpoint.otherwise(no_connection());
  rig.start();
  rig.pacer->waits(1);
  rig.telemetry.add("n", 4);
  CHECK_FALSE(rig.emitter().stop(soon));
  CHECK(rig.endpoint.count() == 2);
  CHECK(rig.held() == 7);
}

TEST_CASE("stop during the wait for a busy endpoint makes one last try") {
  Rig rig;
  rig.telemetry.add("n", 3);
  rig.endpoint.then({answer(429, R"({"next_update":86400000000000})"), answer(429)});
  rig.start();
  CHECK(rig.pacer->waits(1) == Waits{24h});
  CHECK_FALSE(rig.emitter().stop(soon));
  CHECK(rig.endpoint.count() == 2);
  CHECK(rig.held() == 3);
}

TEST_CASE("stop during a try lets it end, and goes on with what it came to") {
  const bool it_succeeds = GENERATE(true, false);
  CAPTURE(it_succeeds);
  Rig rig;
  rig.telemetry.add("n", 3);
  rig.endpoint.hold();
  rig.endpoint.then({it_succeeds ? answer(200) : no_connection()});
  rig.start();
  rig.endpoint.seen(1);
  rig.telemetry.add("n", 4);
  bool stopped = false;
  std::thread stopping([&] { stopped = rig.emitter().stop(60s); });
  rig.endpoint.let_go();
  stopping.join();
  CHECK(stopped);
  const auto seen = rig.endpoint.seen(2);
  REQUIRE(seen.size() == (it_succeeds ? 2u : 3u));
  CHECK(seen[0].data() == nlohmann::json{{"n", 3}});
  if (!it_succeeds) CHECK(seen[1] == seen[0]);
  CHECK(seen.back().data() == nlohmann::json{{"n", 4}});
}

TEST_CASE("a try that the deadline of stop ends is kept, and the next start sends it again") {
  Rig rig;
  rig.telemetry.add("n", 3);
  rig.endpoint.hold();
  rig.start();
  rig.endpoint.seen(1);
  rig.telemetry.add("n", 4);
  CHECK_FALSE(rig.emitter().stop(10ms));
  CHECK(rig.endpoint.count() == 1);
  CHECK(rig.emitter().stats().kept == 1);
  CHECK(rig.logger.count("lost") == 0);  // it was us
  rig.endpoint.let_go();
  rig.start();
  const auto seen = rig.endpoint.seen(3);
  CHECK(seen[1] == seen[0]);
  CHECK(seen[2].data() == nlohmann::json{{"n", 4}});
  CHECK(rig.emitter().stop(soon));
}

TEST_CASE("stop does not wait for a transport that ignores its token") {
  Rig rig;
  rig.telemetry.add("n", 3);
  rig.endpoint.hold(true);
  rig.start();
  rig.endpoint.seen(1);
  CHECK_FALSE(rig.emitter().stop(0s));
  CHECK_FALSE(rig.emitter().stats().running);
  const Result<void> again = rig.emitter().start();  // one thread at a time may use a transport
  REQUIRE_FALSE(again);
  CHECK(again.error().code == std::errc::device_or_resource_busy);
  rig.endpoint.let_go();
  REQUIRE(eventually([&] { return rig.emitter().start().has_value(); }));
  rig.pacer->waits(1);
  CHECK(rig.emitter().stats().kept == 0);  // it had been taken in the end
  CHECK(rig.emitter().stats().updates == 2);
  CHECK(rig.endpoint.seen(2)[1].data() == nlohmann::json::object());
}

TEST_CASE("a thread that is left behind touches neither the emitter nor the logger") {
  const bool it_succeeds = GENERATE(true, false);
  ScriptedTransport endpoint;
  Telemetry telemetry = Telemetry::create(InstanceId::random()).value();
  {
    const auto logger = std::make_unique<RecordingLogger>();
    telemetry.add("n", 3);
    endpoint.hold(true);
    endpoint.otherwise(it_succeeds ? answer(200) : no_connection());
    Emitter emitter{telemetry, endpoint, {.logger = logger.get()}};
    REQUIRE(emitter.start());
    endpoint.seen(1);
    CHECK_FALSE(emitter.stop(0s));
  }
  CHECK(telemetry.take().as_int("n") == 3);  // nobody knew what would become of it
  endpoint.let_go();
  endpoint.wait_until_empty();
}

TEST_CASE("stop does not wait for a collector that blocks, and what it held up is in the buffer again") {
  Rig rig;
  std::mutex gate;
  std::atomic<bool> inside{false};
  std::unique_lock closed(gate);
  const auto number = rig.telemetry.at_emit([&](const Telemetry&) {
    inside = true;
    const std::lock_guard lock(gate);
  });
  rig.telemetry.add("n", 3);
  rig.start();
  REQUIRE(eventually([&] { return inside.load(); }));
  CHECK_FALSE(rig.emitter().stop(0s));
  CHECK(rig.endpoint.count() == 0);
  closed.unlock();
  REQUIRE(eventually([&] { return rig.emitter().start().has_value(); }));
  CHECK(rig.endpoint.seen(1)[0].data() == nlohmann::json{{"n", 3}});
  rig.telemetry.remove_at_emit(number);
}

TEST_CASE("stop by the transport, on the emitter's own thread, does nothing") {
  std::optional<Emitter> emitter;
  std::atomic<int> stopped{-1};
  auto pacer = std::make_shared<VirtualPacer>();
  Telemetry telemetry = Telemetry::create(InstanceId::random()).value();
  emitter.emplace(telemetry, InMemoryTransport([&](const Update&) {
                    stopped = emitter->stop() ? 1 : 0;
                    return answer(200);
                  }),
                  EmitterOptions{.pacer = pacer});
  REQUIRE(emitter->start());
  pacer->waits(1);
  CHECK(stopped == 0);
  CHECK(emitter->stats().running);
  CHECK(emitter->stop(soon));
}

TEST_CASE("stops by several threads wait for the first and return the same") {
  Rig rig;
  rig.start();
  rig.pacer->waits(1);
  rig.telemetry.add("n", 1);
  rig.endpoint.otherwise(no_connection());
  std::vector<std::thread> threads;
  std::atomic<int> failed{0};
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { failed += rig.emitter().stop(60s) ? 0 : 1; });
  for (std::thread& thread : threads) thread.join();
  CHECK(failed == 4);
  CHECK(rig.endpoint.count() == 2);
}

TEST_CASE("destruction stops, and sends what is left") {
  Rig rig;
  rig.start();
  rig.pacer->waits(1);
  rig.telemetry.add("n", 1);
  rig.made.reset();
  CHECK(rig.endpoint.seen(2)[1].data() == nlohmann::json{{"n", 1}});
}

TEST_CASE("an emitter that was never started sends nothing") {
  Rig rig;
  rig.telemetry.add("n", 1);
  CHECK(rig.emitter().stop(soon));
  rig.made.reset();
  CHECK(rig.endpoint.count() == 0);
  CHECK(rig.held() == 1);
}

// ---- start

TEST_CASE("what cannot be started says why") {
  Rig rig;
  SECTION("it runs") {
    rig.start();
    const Result<void> started = rig.emitter().start();
    REQUIRE_FALSE(started);
    CHECK(started.error().message == "the telemetry emitter cannot start: it is running; stop it first");
    CHECK(rig.emitter().stats().running);
  }
  SECTION("the buffer is nobody's") {
    Emitter emitter{weir::telemetry(), rig.endpoint, rig.options()};
    const Result<void> started = emitter.start();
    REQUIRE_FALSE(started);
    CHECK(started.error().message.find("instance id") != std::string::npos);
  }
  SECTION("options") {
    const auto message = [&](auto change) {
      EmitterOptions options = rig.options();
      change(options);
      Emitter emitter{rig.telemetry, rig.endpoint, options};
      const Result<void> started = emitter.start();
      CHECK(emitter.stop(soon));
      return started ? std::string() : started.error().message;
    };
    using Options = EmitterOptions&;
    CHECK(message([](Options) {}).empty());
    CHECK(message([](Options options) { options.interval = 0s; }).find("interval must") != std::string::npos);
    CHECK(message([](Options options) { options.interval = -1s; }).find("interval must") != std::string::npos);
    CHECK(message([](Options options) { options.interval = 24h * 366; }).find("interval must") != std::string::npos);
    CHECK(message([](Options options) { options.interval_jitter = -1s; }).find("interval_jitter must") != std::string::npos);
    CHECK(message([](Options options) { options.pauses = {1s, -1s}; }).find("pauses must") != std::string::npos);
    CHECK(message([](Options options) { options.pauses = {std::chrono::nanoseconds::max()}; }).find("pauses must") != std::string::npos);
    CHECK(message([](Options options) { options.pause_jitter = -0.1; }).find("pause_jitter must") != std::string::npos);
    CHECK(message([](Options options) { options.pause_jitter = std::nan(""); }).find("pause_jitter must") != std::string::npos);
  }
}

TEST_CASE("the thread takes no signals") {
  std::atomic<int> blocked{-1};
  auto pacer = std::make_shared<VirtualPacer>();
  Emitter emitter{Telemetry::create(InstanceId::random()).value(),
                  InMemoryTransport([&](const Update&) {
                    sigset_t mask;
                    ::pthread_sigmask(SIG_SETMASK, nullptr, &mask);
                    blocked = sigismember(&mask, SIGTERM) + sigismember(&mask, SIGPROF) + sigismember(&mask, SIGXFSZ);
                    return answer(200);
                  }),
                  {.pacer = pacer}};
  REQUIRE(emitter.start());
  pacer->waits(1);
  CHECK(blocked == 3);
  sigset_t mask;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  CHECK(sigismember(&mask, SIGTERM) == 0);
}

TEST_CASE("waits of the machine's own clock end when stop asks them to") {
  ScriptedTransport endpoint;
  Telemetry telemetry = Telemetry::create(InstanceId::random()).value();
  Emitter emitter{telemetry, endpoint, {.interval = 1ms, .interval_jitter = 0s}};
  REQUIRE(emitter.start());
  endpoint.seen(5);
  endpoint.otherwise(answer(200, R"({"next_update":86400000000000})"));
  const std::size_t sent = endpoint.count();
  endpoint.seen(sent + 1);
  telemetry.increment("n");
  CHECK(emitter.stop(60s));
  CHECK(endpoint.seen(1).back().data() == nlohmann::json{{"n", 1}});
}

// ---- what is said

TEST_CASE("an endpoint that fails is reported when it begins and when it ends, and no more than once a minute") {
  Rig rig;
  EmitterOptions options = rig.options();
  options.interval = 10s;
  options.interval_jitter = 0s;
  options.pauses = {1s};
  rig.made.emplace(rig.telemetry, rig.endpoint, options);
  rig.endpoint.then({answer(500, R"({"error":"oh"})"), no_connection(), no_connection(), no_connection(), answer(200)});
  rig.pacer->let_pass(4);
  rig.start();
  rig.pacer->waits(5);  // 22 s
  CHECK(rig.logger.all() ==
        "warning: lost the telemetry endpoint script: it answered 500: oh; what it should have is kept\n"
        "info: recovered the telemetry endpoint script\n");
  rig.endpoint.then({no_connection(), no_connection(), answer(200)});
  rig.pacer->let_pass(3);
  rig.pacer->waits(8);  // 43 s
  CHECK(rig.logger.size() == 2);
  rig.endpoint.then({answer(200), no_connection(), no_connection(), answer(200)});
  rig.pacer->let_pass(4);
  rig.pacer->waits(12);  // 74 s
  REQUIRE(rig.emitter().stop(soon));
  CHECK(rig.logger.count("lost the telemetry endpoint script: nobody is there") == 1);
  CHECK(rig.logger.count("recovered") == 2);
}

// ---- threads

TEST_CASE("what is merged back adds up while others count") {
  Rig rig;
  EmitterOptions options = rig.options();
  options.pauses.clear();
  options.interval = 1ns;
  options.interval_jitter = 0s;
  options.pacer = std::make_shared<VirtualPacer>(SIZE_MAX / 2);
  constexpr unsigned enough_tries = 30;
  std::atomic<std::int64_t> counted{0};
  std::atomic<std::int64_t> arrived{0};
  std::atomic<unsigned> tries{0};
  rig.made.emplace(rig.telemetry, InMemoryTransport([&](const Update& update) {
                     if (tries++ % 3 != 0) return no_connection();
                     const auto data = nlohmann::json::parse(update.body).at("data");
                     arrived += data.value("n", std::int64_t{0}) + data.value("m", std::int64_t{0});
                     return answer(200);
                   }),
                   options);
  rig.start();
  const auto enough = [&] { return tries >= enough_tries && rig.emitter().stats().merged_back > 0; };
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&] {
      const Counter counter = rig.telemetry.counter("m");
      for (int i = 0; i < 1000 || !enough(); ++i) {
        rig.telemetry.increment("n");
        counter.increment();
        counted += 2;
      }
    });
  for (std::thread& thread : threads) thread.join();
  (void)rig.emitter().stop(60s);
  const EmitterStats stats = rig.emitter().stats();
  CHECK(stats.merged_back > 0);
  rig.made.reset();
  const Payload rest = rig.telemetry.take();
  CHECK(arrived + rest.as_int("n") + rest.as_int("m") == counted);
}

TEST_CASE("starts and stops by several threads leave every count in one update or in the buffer") {
  Rig rig;
  std::atomic<std::int64_t> arrived{0};
  std::atomic<int> inside{0};
  std::atomic<bool> alone{true};
  rig.made.emplace(rig.telemetry, InMemoryTransport([&](const Update& update) {
                     if (inside++ != 0) alone = false;
                     arrived += nlohmann::json::parse(update.body).at("data").value("n", 0);
                     --inside;
                     return answer(200);
                   }),
                   rig.options());
  constexpr int threads_count = 4, rounds = 100;
  std::vector<std::thread> threads;
  for (int t = 0; t < threads_count; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < rounds; ++i) {
        rig.telemetry.increment("n");
        if ((i + t) % 2 == 0)
          (void)rig.emitter().start();
        else
          (void)rig.emitter().stop(60s);
        (void)rig.emitter().stats();
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(rig.emitter().stop(60s));
  CHECK(alone);
  CHECK(arrived + rig.held() == threads_count * rounds);
}

// ---- fork

#ifndef __SANITIZE_THREAD__
TEST_CASE("in the child of a fork it is as if it had never been started, and it can be started there") {
  Rig rig;
  rig.telemetry.add("n", 3);
  rig.endpoint.hold();
  rig.start();
  rig.endpoint.seen(1);  // the thread is in a try
  EmitterOptions options = rig.options();
  options.pacer = nullptr;  // a condition variable that somebody waits for is of no use in a child
  const InMemoryTransport sent;
  Emitter other{rig.telemetry, sent, options};
  REQUIRE(other.start());
  REQUIRE(eventually([&] { return other.stats().updates == 1; }));
  const Child child = in_a_child([&] {
    if (rig.emitter().stats().running || rig.emitter().stats().tries != 0) return 1;
    if (!rig.emitter().stop(60s)) return 2;
    if (other.stats().running || !other.stop(60s)) return 3;
    const std::size_t before = sent.bodies().size();
    rig.telemetry.add("n", 40);
    if (!other.start() || other.start()) return 4;
    if (!eventually([&] { return sent.bodies().size() > before; })) return 5;
    if (nlohmann::json::parse(sent.bodies().back()).at("data") != nlohmann::json{{"n", 40}}) return 6;
    if (!other.stop(60s)) return 7;
    rig.made.reset();
    return 0;
  });
  CHECK(child.code() == 0);
  CHECK(child.text == "");
  rig.endpoint.let_go();
  CHECK(rig.emitter().stop(60s));
  CHECK(rig.endpoint.seen(1)[0].data() == nlohmann::json{{"n", 3}});
  CHECK(other.stop(60s));
}

TEST_CASE("a fork finds no lock held while an emitter is started and stopped") {
  Rig rig;
  rig.made.emplace(rig.telemetry, InMemoryTransport(), rig.options());
  std::atomic<bool> done{false};
  std::thread storm([&] {
    while (!done) {
      (void)rig.emitter().start();
      (void)rig.emitter().stop(60s);
    }
  });
  for (int i = 0; i < 50; ++i) {
    const Child child = in_a_child([&] { return rig.emitter().stats().running || !rig.emitter().stop(60s) ? 1 : 0; });
    CHECK(child.code() == 0);
  }
  done = true;
  storm.join();
}
#endif
