// Emitter and HttpTransport together, against a server that does what a script says: what is sent, how often, what becomes of
// what was not taken, and that stop() returns whatever the server is about.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/fault_server.hpp"
#include "support/scratch_dir.hpp"
#include "support/virtual_pacer.hpp"
#include "weir/telemetry/emitter.hpp"
#include "weir/telemetry/http_transport.hpp"
#include "weir/telemetry/telemetry.hpp"

using namespace weir;
using namespace std::chrono_literals;
using weir::testing::Connection;
using weir::testing::eventually;
using weir::testing::FaultServer;
using weir::testing::ScratchDir;
using weir::testing::Signal;
using weir::testing::VirtualPacer;

namespace {

/// What a failing endpoint makes an emitter say.
class Silent final : public Logger {
 public:
  void log(Level, std::string_view, std::span<const Attribute>) noexcept override {}
};

/// The bodies that a server has seen, the first first.
class Bodies {
 public:
  /// Of one request; false: there was none.
  bool add(const std::string& request) {
    if (request.empty()) return false;
    std::lock_guard lock(mutex_);
    bodies_.push_back(nlohmann::json::parse(request.substr(request.find("\r\n\r\n") + 4)));
    return true;
  }
  std::vector<nlohmann::json> all() const {
    std::lock_guard lock(mutex_);
    return bodies_;
  }
  std::set<std::string> update_ids() const {
    std::set<std::string> ids;
    for (const nlohmann::json& body : all()) ids.insert(body.at("update_id").get<std::string>());
    return ids;
  }
  /// Of a counter, each update once, as a server that knows update_id counts.
  std::int64_t sum(const char* key) const {
    std::set<std::string> seen;
    std::int64_t sum = 0;
    for (const nlohmann::json& body : all())
      if (seen.insert(body.at("update_id").get<std::string>()).second) sum += body.at("data").value(key, std::int64_t{0});
    return sum;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<nlohmann::json> bodies_;
};

struct Rig {
  Silent logger;
  Telemetry telemetry = Telemetry::create(InstanceId::random(), {.logger = &logger}).value();
  std::shared_ptr<VirtualPacer> pacer = std::make_shared<VirtualPacer>();

  EmitterOptions options() { return {.logger = &logger, .pacer = pacer}; }
};

/// Answers every request of its connection with what `answers` has in turn; the last goes for all that follow.
struct Scripted {
  Bodies bodies;
  std::vector<std::string> answers;
  std::atomic<std::size_t> next = 0;

  void operator()(Connection& c) {
    while (bodies.add(c.request())) {
      if (!c.send(answers[std::min(next++, answers.size() - 1)])) return;
    }
  }
  FaultServer::Script script() {
    return [this](Connection& c) { (*this)(c); };
  }
};

std::string answer(const std::string& status, const std::string& body, const std::string& headers = "") {
  return "HTTP/1.1 " + status + "\r\nContent-Type: application/json\r\n" + headers + "Content-Length: " + std::to_string(body.size()) +
         "\r\n\r\n" + body;
}

constexpr std::chrono::nanoseconds usual = 1h + 30s;  // the dice of VirtualPacer always show the middle

}  // namespace

TEST_CASE("updates go over one connection, and the server's wishes are heard") {
  Rig rig;
  Scripted endpoint{.bodies = {}, .answers = {answer("200 OK", R"({"next_update":5000000000,"disable_keys":["secret"]})")}};
  FaultServer server{endpoint.script()};
  Emitter emitter{rig.telemetry, HttpTransport{server.url()}, rig.options()};
  rig.telemetry.add("n", 3);
  rig.telemetry.add("secret", 1);
  REQUIRE(emitter.start());
  CHECK(rig.pacer->waits(1) == std::vector<std::chrono::nanoseconds>{5s});
  rig.telemetry.add("n", 4);
  rig.telemetry.add("secret", 1);
  rig.pacer->let_pass(1);
  rig.pacer->waits(2);
  CHECK(emitter.stop());
  const auto bodies = endpoint.bodies.all();
  REQUIRE(bodies.size() == 2);
  CHECK(bodies[0].at("instance_id") == rig.telemetry.instance_id().to_string());
  CHECK(bodies[0].at("data") == nlohmann::json{{"n", 3}, {"secret", 1}});
  CHECK(bodies[1].at("data") == nlohmann::json{{"n", 4}});
  CHECK(server.connections() == 1);
  CHECK(emitter.stats().updates == 2);
  CHECK(emitter.stats().failed_tries == 0);
}

TEST_CASE("an update that is answered with failures is tried four times, and is kept or merged back") {
  Rig rig;
  Scripted endpoint{.bodies = {}, .answers = {answer("503 Busy", "{}")}};
  FaultServer server{endpoint.script()};
  Emitter emitter{rig.telemetry, HttpTransport{server.url()}, rig.options()};
  rig.telemetry.add("n", 3);
  rig.pacer->let_pass(3);
  REQUIRE(emitter.start());
  CHECK(rig.pacer->waits(4).back() == usual);
  CHECK(endpoint.bodies.all().size() == 4);
  CHECK(endpoint.bodies.update_ids().size() == 1);
  CHECK(emitter.stats().tries == 4);
  CHECK(emitter.stats().kept == 1);  // a proxy may have said so of an update that was taken
  CHECK_FALSE(emitter.stop());
  CHECK(endpoint.bodies.all().size() == 5);
}

TEST_CASE("what an endpoint that is away did not take is merged back, and arrives once when it comes back") {
  Rig rig;
  const ScratchDir dir;
  const std::string path = dir / "http.sock";
  Emitter emitter{rig.telemetry, UnixSocketTransport{path}, rig.options()};
  rig.telemetry.add("n", 3);
  rig.telemetry.append("list", "a");
  rig.pacer->let_pass(3);
  REQUIRE(emitter.start());
  CHECK(rig.pacer->waits(4).back() == usual);
  CHECK(emitter.stats().tries == 4);
  CHECK(emitter.stats().merged_back == 1);
  rig.telemetry.add("n", 4);
  rig.telemetry.append("list", "b");

  Scripted endpoint{.bodies = {}, .answers = {answer("200 OK", "{}")}};
  FaultServer::Options options;
  options.unix_path = path;
  FaultServer server{options, {endpoint.script()}};
  CHECK(emitter.stop());
  const auto bodies = endpoint.bodies.all();
  REQUIRE(bodies.size() == 1);
  CHECK(bodies[0].at("data").at("n") == 7);
  CHECK(bodies[0].at("data").at("list") == nlohmann::json{"a", "b"});
}

TEST_CASE("an update whose answer was lost is sent again as it was") {
  Rig rig;
  Bodies bodies;
  FaultServer server{{[&](Connection& c) { bodies.add(c.request()); },  // and says nothing
                      [&](Connection& c) {
                        bodies.add(c.request());
                        c.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{");
                      },
                      [&](Connection& c) {
                        while (bodies.add(c.request())) c.answer(200, "{}");
                      }}};
  Emitter emitter{rig.telemetry, HttpTransport{server.url()}, rig.options()};
  rig.telemetry.add("n", 3);
  rig.pacer->let_pass(1);
  REQUIRE(emitter.start());
  rig.pacer->waits(2);
  rig.telemetry.add("n", 4);
  rig.pacer->let_pass(1);
  rig.pacer->waits(3);
  CHECK(emitter.stop());
  CHECK(bodies.all().size() == 4);
  CHECK(bodies.update_ids().size() == 2);
  CHECK(bodies.sum("n") == 7);
}

TEST_CASE("429 is waited out as its header or its body says, the body first") {
  const std::pair<std::string, std::chrono::nanoseconds> cases[] = {
      {answer("429 Busy", "{}", "Retry-After: 7\r\n"), 7s},
      {answer("429 Busy", R"({"next_update":9000000000})", "Retry-After: 7\r\n"), 9s},
      {answer("429 Busy", "{}", "Retry-After: 99999999999999999999\r\n"), 24h * 30},
      {"HTTP/1.1 429 Busy\r\nretry-after:\t11 \r\nContent-Length: 0\r\n\r\n", 11s},
  };
  for (const auto& [busy, wait] : cases) {
    INFO(busy);
    Rig rig;
    Scripted endpoint{.bodies = {}, .answers = {busy, answer("200 OK", "{}")}};
    FaultServer server{endpoint.script()};
    Emitter emitter{rig.telemetry, HttpTransport{server.url()}, rig.options()};
    rig.telemetry.add("n", 1);
    REQUIRE(emitter.start());
    CHECK(rig.pacer->waits(1).front() == wait);
    rig.pacer->let_pass(1);
    rig.pacer->waits(2);
    CHECK(emitter.stop());
    CHECK(endpoint.bodies.all().size() == 2);
    CHECK(endpoint.bodies.update_ids().size() == 1);
    CHECK(emitter.stats().updates == 1);
  }
}

TEST_CASE("410 and 451 end the updates with the server's words, and nothing more is sent") {
  for (const std::string status : {"410", "451"}) {
    Rig rig;
    Scripted endpoint{.bodies = {}, .answers = {answer(status + " No", R"({"error":"this version is not supported"})")}};
    FaultServer server{endpoint.script()};
    Emitter emitter{rig.telemetry, HttpTransport{server.url()}, rig.options()};
    rig.telemetry.add("n", 3);
    REQUIRE(emitter.start());
    CHECK(eventually([&] { return !emitter.stats().running; }));
    CHECK(emitter.stats().ended.find("this version is not supported") != std::string::npos);
    CHECK(emitter.stats().ended.find(status) != std::string::npos);
    emitter.stop();
    CHECK(endpoint.bodies.all().size() == 1);
    CHECK(rig.telemetry.take().as_int("n") == 3);
  }
}

TEST_CASE("a redirect, a page and an answer without end are failed tries") {
  FaultServer elsewhere{[](Connection& c) { c.request(); }};
  const std::string page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>";
  const std::string redirect = answer("307 There", "{}", "Location: " + elsewhere.url() + "\r\n");
  const std::string endless = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + std::string(200'000, ' ');
  for (const std::string& wrong : {page, redirect, endless}) {
    Rig rig;
    Scripted endpoint{.bodies = {}, .answers = {wrong, wrong, wrong, answer("200 OK", "{}")}};
    FaultServer server{endpoint.script()};
    Emitter emitter{rig.telemetry, HttpTransport{server.url()}, rig.options()};
    rig.telemetry.add("n", 3);
    rig.pacer->let_pass(3);
    REQUIRE(emitter.start());
    rig.pacer->waits(4);
    CHECK(emitter.stop());
    CHECK(endpoint.bodies.all().size() == 4);
    CHECK(endpoint.bodies.sum("n") == 3);
    CHECK(emitter.stats().failed_tries == 3);
    CHECK(emitter.stats().updates == 1);
  }
  CHECK(elsewhere.connections() == 0);
}

TEST_CASE("stop returns within its time, whatever the server is about, and what it may have is kept") {
  Signal reached, over;
  struct Phase {
    const char* name;
    std::function<void(Connection&)> script;
    bool kept;
  };
  const Phase phases[] = {
      {"it is silent in the TLS handshake",
       [&](Connection& c) {
         c.more();
         reached.set();
         over.wait();
       },
       false},
      {"it does not read the update",
       [&](Connection& c) {
         c.head();
         reached.set();
         over.wait();
       },
       true},
      {"it says nothing",
       [&](Connection& c) {
         c.request();
         reached.set();
         over.wait();
       },
       true},
      {"it says half the headers",
       [&](Connection& c) {
         c.request();
         c.send("HTTP/1.1 200 OK\r\nContent-");
         reached.set();
         over.wait();
       },
       true},
      {"it says half the body",
       [&](Connection& c) {
         c.request();
         c.send("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"next");
         reached.set();
         over.wait();
       },
       true},
  };
  const auto wanted = GENERATE(as<std::size_t>(), 0, 1, 2, 3, 4);
  const Phase& phase = phases[wanted];
  INFO(phase.name);
  Rig rig;
  FaultServer::Options options;
  options.receive_buffer = 4096;
  FaultServer server{options, {phase.script}};
  std::string url = server.url();
  if (!phase.kept) url.insert(4, "s");
  const std::string large(8 << 20, 'x');
  bool left_behind = false;  // the transport did not come back within 150 ms more: its thread puts back what it has, later
  {
    Emitter emitter{rig.telemetry, HttpTransport{url}, rig.options()};
    rig.telemetry.add("n", 3);
    rig.telemetry.set("text", large);
    REQUIRE(emitter.start());
    const bool there = reached.wait();
    std::future<bool> stopped = std::async(std::launch::async, [&] {
      const auto begin = std::chrono::steady_clock::now();
      const bool all = emitter.stop(100ms);
      left_behind = std::chrono::steady_clock::now() - begin >= 250ms;
      return all;
    });
    const bool soon = stopped.wait_for(3s) == std::future_status::ready;  // ten times what stop promises
    over.set();
    CHECK(there);
    CHECK(soon);
    CHECK_FALSE(stopped.get());
    if (left_behind) CHECK(eventually([&] { return emitter.stats().kept + emitter.stats().merged_back == 1; }));
    CHECK(emitter.stats().kept == (phase.kept ? 1 : 0));
    CHECK(emitter.stats().merged_back == (phase.kept ? 0 : 1));
  }
  std::int64_t back = rig.telemetry.take().as_int("n");
  if (left_behind) CHECK(eventually([&] { return (back += rig.telemetry.take().as_int("n")) == 3; }));
  CHECK(back == 3);
}

TEST_CASE("every increment arrives once while the server fails at random") {
  Rig rig;
  rig.pacer = std::make_shared<VirtualPacer>(1'000'000);
  Bodies bodies;
  std::mutex mutex;
  unsigned turn = 0;
  FaultServer server{[&](Connection& c) {
    for (;;) {
      const std::string request = c.request();
      if (request.find("\r\n\r\n") == std::string::npos) return;
      unsigned now;
      {
        std::lock_guard lock(mutex);
        now = turn++ * 2654435761u >> 28;
      }
      if (now < 3) return;  // unread, as far as anybody knows
      if (now < 5) {
        c.answer(429, "{}");
        continue;
      }
      bodies.add(request);
      if (now < 8) return;  // taken, but the answer is lost
      if (!c.answer(200, R"({"next_update":1000000000})")) return;
    }
  }};
  Emitter emitter{rig.telemetry, HttpTransport{server.url()}, rig.options()};
  REQUIRE(emitter.start());
  constexpr int increments = 20'000;
  const Counter counter = rig.telemetry.counter("n");
  for (int i = 0; i < increments; ++i) counter.increment();
  CHECK(eventually([&] { return bodies.sum("n") == increments; }));
  CHECK(eventually([&] { return emitter.stop(1s) || !emitter.start(); }));
  CHECK(bodies.sum("n") + rig.telemetry.take().as_int("n") == increments);
}
