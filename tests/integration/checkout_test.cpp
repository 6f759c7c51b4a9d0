// Two services and a collector, each a process of its own: what one does for the other is one trace.
#include <csignal>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "support/catch.hpp"
#include "support/process.hpp"
#include "support/scratch_dir.hpp"

using nlohmann::json;
using weir::testing::Process;
using weir::testing::ScratchDir;

TEST_CASE("a service's request is a child of its caller's span, unless the headers do not say so") {
  const ScratchDir dir;
  const Process::Environment environment{{"WEIR_SOCKET", dir / "weir.sock"}};
  Process collector({WEIR_COMMAND, "collect", "--print", "json", "--settle", "60s"}, environment);
  collector.line_with(2, "listening socket=");
  Process service({WEIR_CHECKOUT, "--db", dir / "checkout.db"}, environment);
  const std::string listening = service.line_with(2, "listening http=127.0.0.1:");

  Process caller({WEIR_CALLER, listening.substr(listening.rfind(':') + 1)}, environment);
  std::map<std::string, json> asked;
  while (const auto line = caller.line(1)) {
    const json call = json::parse(*line);
    asked[call["how"]] = call;
  }
  CHECK(caller.wait() == 0);
  service.signal(SIGTERM);
  CHECK(service.wait() == 0);
  collector.signal(SIGTERM);  // it completes what it has
  CHECK(collector.wait() == 0);
  INFO(collector.out() << collector.err() << service.err());

  REQUIRE(asked.size() == 5);
  for (const auto& [how, call] : asked) CHECK(call["status"] == 200);
  CHECK(asked["sampled"]["x-request-id"] == "r-1");
  const std::string made = asked["without headers"]["x-request-id"];
  CHECK(made.size() == 32);
  CHECK(made != asked["malformed"]["x-request-id"]);

  std::map<std::string, json> roots;  // of the caller, by name
  std::map<std::string, json> apart;  // the service's requests that are roots, by trace
  std::istringstream lines(collector.out());
  for (std::string line; std::getline(lines, line);) {
    json root = json::parse(line);
    CHECK(root.value("parent_id", "") == "");
    (root["name"] == "GET /orders" ? apart[root["trace_id"]] : roots[root["name"]]) = root;
  }
  json& call = roots["sampled"];
  CHECK(call["id"] == asked["sampled"]["span"]);
  REQUIRE(call["children"].size() == 1);
  json& request = call["children"][0];
  CHECK(request["name"] == "GET /orders");
  CHECK(request["trace_id"] == asked["sampled"]["trace"]);
  CHECK(request["parent_id"] == asked["sampled"]["span"]);
  CHECK(request["children"].size() >= 2);  // its queries

  CHECK(roots.count("not sampled") == 0);
  CHECK(collector.out().find(asked["not sampled"]["trace"].get<std::string>()) == std::string::npos);

  CHECK(apart.size() == 3);  // malformed, twice, without headers
  for (const auto& [how, asking] : asked) CHECK(apart.count(asking["trace"]) == 0);
  for (const char* how : {"malformed", "twice"}) {
    CHECK(roots[how]["trace_id"] == asked[how]["trace"]);
    CHECK(roots[how].count("children") == 0);
  }
}
