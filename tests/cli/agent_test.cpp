// `weir agent` and `weir ps`, as people use them: the real programs, real processes, a real file that changes.
#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/command.hpp"
#include "support/eventually.hpp"
#include "support/http_client.hpp"
#include "support/line_socket.hpp"
#include "support/process.hpp"

using nlohmann::json;
using weir::testing::eventually;
using weir::testing::http_get;
using weir::testing::LineSocket;
using weir::testing::Process;

namespace {

using Place = weir::testing::CommandPlace;
using Words = Place::Words;

/// An agent's file, its services, and what is said of them. Everything is matched by a variable of this place alone.
struct Agents : Place {
  std::string file = dir / "agent.json";

  json group(const std::string& name, const json& config) const {
    return {{"name", name},
            {"match", {{"executable", {"*cli.agent_program"}}, {"environment", {"XDG_RUNTIME_DIR=" + dir.path()}}}},
            {"config", config}};
  }
  void configure(const std::vector<json>& groups) const { write(json{{"groups", groups}}.dump()); }
  void write(const std::string& text) const {
    std::ofstream(file + ".new") << text;
    std::filesystem::rename(file + ".new", file);
  }
  std::unique_ptr<Process> agent(Words options = {}) const {
    options.insert(options.begin(),
                   {"agent", "--config", file, "--detector", "proc", "--minimum-age", "0", "--retry", "200ms", "--timeout", "30s"});
    auto process = start(std::move(options));
    const auto first = process->line(2);
    INFO(process->err());
    REQUIRE(first);
    INFO(*first);
    REQUIRE(first->starts_with("watching config="));
    return process;
  }
  std::unique_ptr<Process> service(const std::string& control = "1") const {
    auto with = environment;
    with["WEIR_CONTROL"] = control;
    auto process = std::make_unique<Process>(Words{WEIR_AGENT_PROGRAM}, with);
    CHECK(process->line(1) == "ready");
    return process;
  }
  json ps(Words options = {}) const {
    options.insert(options.begin(), {"ps", "--json", "--timeout", "30s"});
    auto process = start(std::move(options));
    const int code = process->wait();
    INFO(process->err());
    REQUIRE(code == 0);
    return json::parse(process->out());
  }
  /// What ps says of one process; null: nothing.
  json of(const Process& service, Words options = {}) const {
    const json all = ps(std::move(options));
    for (const json& process : all["processes"]) {
      if (process["pid"] == service.pid()) return process;
    }
    return nullptr;
  }
  bool becomes(const Process& service, const std::string& state, const json& config = nullptr) const {
    return eventually([&] {
      const json process = of(service);
      return !process.is_null() && process["state"] == state && (config.is_null() || process["config"] == config);
    });
  }
};

std::string complaint(Process& process, int code) {
  CHECK(process.wait() == code);
  INFO(process.err());
  CHECK(std::count(process.err().begin(), process.err().end(), '\n') == 1);
  return process.err();
}

}  // namespace

TEST_CASE("an agent that cannot begin says what to do") {
  Agents place;
  CHECK(complaint(*place.start({"agent"}), 2).find("--config") != std::string::npos);
  CHECK(complaint(*place.start({"agent", "--config", place.file}), 1).find("cannot read the agent's configuration '" + place.file) !=
        std::string::npos);
  CHECK(complaint(*place.start({"agent", "--config", place.file, "--detector", "guess"}), 2).find("best, kernel-events, ebpf, proc") !=
        std::string::npos);
  const auto wrong = [&](const std::string& text, const std::string& why) {
    place.write(text);
    const std::string said = complaint(*place.start({"agent", "--config", place.file, "--detector", "proc"}), 1);
    INFO(said);
    CHECK(said.find(why) != std::string::npos);
  };
  const std::string match = R"("match":{"uid":[4294967]})";
  wrong("{", "line 1, column");
  wrong("[]", "it should be a JSON object");
  wrong("{}", "\"groups\" is missing");
  wrong(R"({"group":[]})", "\"group\" is not known");
  wrong(R"({"groups":[{"name":"a"}]})", "\"groups[0].match\" is missing");
  wrong(R"({"groups":[{"name":"a","match":{}}]})", "matches every process");
  wrong(R"({"groups":[{"match":{"uid":[1]}}]})", "\"groups[0].name\" is missing");
  wrong(R"({"groups":[{"name":"a","match":{"exe":["x"]}}]})", "\"groups[0].match.exe\" is not known");
  wrong(R"({"groups":[{"name":"a","match":{"uid":["nobody at all"]}}]})", "\"groups[0].match.uid\"");
  wrong(R"({"groups":[{"name":"a","match":{"environment":["=1"]}}]})", "\"groups[0].match\"");
  wrong(R"({"groups":[{"name":"a",)" + match + R"(,"distribution":"go/otel"}]})", "no distribution 'go/otel', only cpp/weir");
  wrong(R"({"groups":[{"name":"a",)" + match + R"(,"config":{"sampling":{}}}]})", "\"groups[0].config.sampling\"");
  wrong(R"({"groups":[{"name":"a",)" + match + R"(},{"name":"a",)" + match + "}]}", "two groups 'a'");
}

TEST_CASE("a group of services follows its file while they run") {
  Agents place;
  auto collector = place.collect({"--print", "none"});
  auto before = place.service();
  place.configure({place.group("services", {{"sampling", 1.0}})});
  auto agent = place.agent();
  auto after = place.service();
  CHECK(place.becomes(*before, "instrumented", {{"sampling", 1.0}}));
  CHECK(place.becomes(*after, "instrumented", {{"sampling", 1.0}}));
  CHECK(agent->line_with(1, "pid=" + std::to_string(before->pid())).starts_with("instrumented pid="));

  place.configure({place.group("services", {{"sampling", 0.0}})});
  for (Process* service : {before.get(), after.get()}) {
    CHECK(place.becomes(*service, "instrumented", {{"sampling", 0.0}}));
    // What was under way has ended; from then on nothing is recorded, while traces go on.
    json before_that, now = place.of(*service, {"--stats"})["statistics"]["spans"];
    CHECK(eventually([&] {
      before_that = std::exchange(now, place.of(*service, {"--stats"})["statistics"]["spans"]);
      return now["emitted"] == before_that["emitted"] && now["not_sampled"] > before_that["not_sampled"];
    }));
    CHECK(now["dropped_full"] == 0);
  }

  const pid_t pid = before->pid();
  before->close(0);
  CHECK(before->wait() == 0);
  agent->line_with(1, "exited pid=" + std::to_string(pid));
  CHECK(eventually([&] { return place.ps()["processes"].size() == 1; }));

  agent->signal(SIGTERM);
  CHECK(agent->wait() == 0);
  CHECK_FALSE(std::filesystem::exists(place.dir / "weir/agent.sock"));
  // What it has set stays.
  auto alone = place.ps({"--stats"});
  REQUIRE(alone["processes"].size() == 1);
  CHECK(alone["processes"][0]["state"] == "not managed");
  CHECK(alone["processes"][0]["statistics"]["settings"]["sampling"] == "parent_based(never)");
}

TEST_CASE("a file that is wrong is said, and the configuration from before stays") {
  Agents place;
  place.configure({place.group("services", {{"sampling", 0.5}})});
  auto service = place.service();
  auto agent = place.agent();
  CHECK(place.becomes(*service, "instrumented"));
  CHECK(place.ps()["agent"]["config_error"].is_null());
  place.write("{\"groups\":");
  CHECK(agent->line_with(2, "is wrong: line 1").find("the configuration from before stays") != std::string::npos);
  CHECK(eventually([&] { return place.ps()["agent"]["config_error"].is_string(); }));
  CHECK(place.becomes(*service, "instrumented", {{"sampling", 0.5}}));
  // A value that the service refuses is its error, and what it had stays, too.
  place.configure({place.group("services", {{"sampling", "often"}})});
  agent->line_with(2, "a configuration was refused");
  CHECK(place.ps()["agent"]["config_error"].is_null());
  CHECK(place.of(*service, {"--stats"})["statistics"]["settings"]["sampling"] == "parent_based(ratio(0.5))");
  place.configure({place.group("services", {{"sampling", 0.25}})});
  CHECK(place.becomes(*service, "instrumented", {{"sampling", 0.25}}));
}

TEST_CASE("a value that is wrong from the beginning is said, and forgotten when it is right") {
  Agents place;
  place.configure({place.group("services", {{"sampling", "often"}})});
  auto service = place.service();
  auto agent = place.agent();
  CHECK(agent->line_with(2, "in group services: configuration: ").find("sampling") != std::string::npos);
  CHECK(eventually([&] {
    const json process = place.of(*service);
    return !process.is_null() && process["components"]["configuration"].is_string();
  }));
  place.configure({place.group("services", {{"sampling", 0.5}})});
  CHECK(place.becomes(*service, "instrumented", {{"sampling", 0.5}}));
  CHECK(place.of(*service)["components"]["configuration"].is_null());
}

TEST_CASE("a group that leaves the file is let go, and comes back") {
  Agents place;
  place.configure({place.group("services", {{"sampling", 1.0}})});
  auto service = place.service();
  auto agent = place.agent();
  CHECK(place.becomes(*service, "instrumented"));
  place.configure(std::vector<json>());
  CHECK(eventually([&] {
    const json process = place.of(*service);
    return process.is_null() || process["state"] != "instrumented";
  }));
  place.configure({place.group("services", {{"sampling", 0.0}})});
  CHECK(place.becomes(*service, "instrumented", {{"sampling", 0.0}}));
  // Under another name it is another group, for what starts from now on.
  place.configure({place.group("others", {{"sampling", 0.75}})});
  auto other = place.service();
  CHECK(place.becomes(*other, "instrumented", {{"sampling", 0.75}}));
}

TEST_CASE("a service without a control socket is listed with the reason") {
  Agents place;
  place.configure({place.group("services", json::object())});
  auto service = place.service("0");
  auto agent = place.agent();
  CHECK(place.becomes(*service, "failed"));
  CHECK(place.of(*service)["error"].get<std::string>().find("WEIR_CONTROL") != std::string::npos);
  auto table = place.start({"ps"});
  CHECK(table->wait() == 0);
  CHECK(table->out().find(std::to_string(service->pid())) != std::string::npos);
  CHECK(table->out().find("failed") != std::string::npos);
  CHECK(table->out().find("WEIR_CONTROL") != std::string::npos);
}

TEST_CASE("one agent serves a socket") {
  Agents place;
  place.configure({place.group("services", json::object())});
  auto agent = place.agent();
  CHECK(complaint(*place.start({"agent", "--config", place.file, "--detector", "proc"}), 1).find("agent.sock") != std::string::npos);
  CHECK(place.ps()["agent"]["pid"] == agent->pid());
}

TEST_CASE("a group that comes back when none of its services runs is instrumented as any other") {
  Agents place;
  place.configure({place.group("services", json::object())});
  auto agent = place.agent();
  auto first = place.service();
  CHECK(place.becomes(*first, "instrumented"));
  place.configure(std::vector<json>());
  agent->line_with(2, "the configuration has changed");
  first->close(0);
  CHECK(first->wait() == 0);
  agent->line_with(1, "exited pid=");
  place.configure({place.group("services", {{"sampling", 0.5}})});
  agent->line_with(2, "the configuration has changed");
  auto second = place.service();
  CHECK(place.becomes(*second, "instrumented", {{"sampling", 0.5}}));
  agent->signal(SIGTERM);
  CHECK(agent->wait() == 0);
  CHECK(agent->out().find("left pid=" + std::to_string(second->pid())) != std::string::npos);
}

TEST_CASE("ps without an agent and without services says so") {
  Agents place;
  auto process = place.start({"ps"});
  CHECK(complaint(*process, 1).find("weir agent --config FILE") != std::string::npos);
  CHECK(place.ps() == json{{"agent", nullptr}, {"processes", json::array()}});
}

#if WEIR_HAVE_HTTPLIB

TEST_CASE("the collector passes on what the agent says") {
  Agents place;
  auto collector = place.start({"collect", "--print", "none", "--http", "0"});
  const std::string line = collector->line_with(2, " http=");
  const std::string address = line.substr(line.find(" http=") + 6);
  const auto nobody = http_get(address, "/v1/processes");
  CHECK(nobody.status == 503);
  CHECK(nobody.body.find("weir agent") != std::string::npos);
  place.configure({place.group("services", {{"sampling", 0.5}})});
  auto service = place.service();
  auto agent = place.agent();
  CHECK(place.becomes(*service, "instrumented"));
  const auto answer = http_get(address, "/v1/processes");
  CHECK(answer.status == 200);
  const json body = json::parse(answer.body);
  CHECK(body["agent"]["pid"] == agent->pid());
  REQUIRE(body["processes"].size() == 1);
  CHECK(body["processes"][0]["config"] == json{{"sampling", 0.5}});
}

#endif
