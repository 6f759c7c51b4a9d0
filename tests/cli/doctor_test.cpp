// `weir doctor`: each probe on a machine that has what it looks for, or has been robbed of it.
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "support/catch.hpp"
#include "support/command.hpp"
#include "support/sanitizers.hpp"

using nlohmann::json;
using weir::testing::CommandPlace;
using weir::testing::Process;
using Words = CommandPlace::Words;

namespace {

struct Report {
  int code = 0;
  bool works = false;
  std::map<std::string, json> checks;

  std::string state(const std::string& check) const { return checks.at(check).at("state"); }
  std::string reason(const std::string& check) const { return checks.at(check).at("reason"); }
  std::string advice(const std::string& check) const { return checks.at(check).at("advice"); }
};

Report report_of(Process& process) {
  Report report;
  report.code = process.wait();
  INFO(process.out() << process.err());
  const json all = json::parse(process.out(), nullptr, false);
  REQUIRE(all.is_object());
  report.works = all.at("works");
  for (const json& check : all.at("checks")) report.checks[check.at("check")] = check;
  CHECK(report.code == (report.works ? 0 : 1));
  return report;
}

Report examine(const CommandPlace& place) { return report_of(*place.start({"doctor", "--json"})); }

/// After some words of shell, as ulimit.
Report examine_after(const CommandPlace& place, const std::string& script) {
  Process process({"/bin/sh", "-c", script + "; exec " + WEIR_COMMAND + " doctor --json"}, place.environment);
  return report_of(process);
}

Report examine_without(const CommandPlace& place, const std::string& calls) {
  Process process({WEIR_WITHOUT, calls, WEIR_COMMAND, "doctor", "--json"}, place.environment);
  return report_of(process);
}

}  // namespace

TEST_CASE("doctor finds that services can be traced, and leaves nothing behind") {
  CommandPlace place;
  const Report report = examine(place);
  CHECK(report.works);
  for (const char* check : {"socket directory", "peer credentials", "open files"}) CHECK(report.state(check) != "missing");
  CHECK(report.state("socket directory") == "ok");
  CHECK(report.reason("socket directory").find(place.dir / "weir") != std::string::npos);
  CHECK(std::filesystem::is_empty(place.dir.path()));
  for (const auto& [name, check] : report.checks) {
    INFO(name);
    CHECK_FALSE(check.at("reason").get<std::string>().empty());
    if (check.at("state") == "ok") CHECK(check.at("advice").get<std::string>().empty());
  }
  for (const char* check :
       {"pidfd", "process events", "eBPF events", "/proc", "perf", "BPF", "BTF", "uprobes", "ptrace", "cgroup v2", "CLI11", "SQLite"})
    CHECK(report.checks.count(check) == 1);
}

TEST_CASE("doctor as text has a line for each check, and a last one that says it all") {
  CommandPlace place;
  const Report report = examine(place);
  auto process = place.start({"doctor"});
  CHECK(process->wait() == 0);
  INFO(process->out());
  CHECK(std::count(process->out().begin(), process->out().end(), '\n') == static_cast<std::ptrdiff_t>(report.checks.size()) + 1);
  CHECK(process->out().ends_with("\nservices can be traced here\n"));
  CHECK(process->out().starts_with("ok       socket directory  "));
  place.environment["XDG_RUNTIME_DIR"] = place.dir / "missing";
  auto broken = place.start({"doctor"});
  CHECK(broken->wait() == 1);
  CHECK(broken->out().starts_with("missing  socket directory  "));
  CHECK(broken->out().find(". Needed for a collector and services that find it. ") < broken->out().find('\n'));
  CHECK(broken->out().ends_with("\nservices cannot be traced here: see socket directory\n"));
}

TEST_CASE("doctor sees a collector that runs, and one that services do not find") {
  CommandPlace place;
  CHECK(examine(place).state("collector") == "limited");
  CHECK(examine(place).advice("collector").find("weir collect") != std::string::npos);
  auto other = place.collect({"--socket", place.dir / "weir/other.sock"});
  CHECK(examine(place).state("collector") == "limited");
  CHECK(examine(place).reason("collector").find("other-view.sock") != std::string::npos);
  auto collector = place.collect();
  CHECK(examine(place).state("collector") == "ok");
  CHECK(examine(place).state("socket directory") == "ok");  // beside what is there
  collector->signal(SIGTERM);
  CHECK(collector->wait() == 0);
}

TEST_CASE("doctor says what is wrong with the directory of the sockets") {
  CommandPlace place;
  Report report;
  SECTION("its parent is missing") {
    place.environment["XDG_RUNTIME_DIR"] = place.dir / "missing";
    report = examine(place);
    CHECK(report.reason("socket directory").find("missing") != std::string::npos);
  }
  SECTION("others may write it") {
    std::filesystem::create_directory(place.dir / "weir");
    REQUIRE(::chmod((place.dir / "weir").c_str(), 0777) == 0);
    report = examine(place);
  }
  SECTION("it is a file") {
    std::ofstream(place.dir / "weir") << "a file";
    report = examine(place);
    CHECK(std::filesystem::is_regular_file(place.dir / "weir"));
  }
  SECTION("it is too long") {
    place.environment["XDG_RUNTIME_DIR"] = place.dir / std::string(90, 'x');
    report = examine(place);
    CHECK(report.reason("socket directory").find("107") != std::string::npos);
  }
  CHECK(report.state("socket directory") == "missing");
  CHECK_FALSE(report.works);
}

TEST_CASE("doctor looks where WEIR_SOCKET says, and warns where nothing says") {
  CommandPlace place;
  SECTION("a socket of one's own") {
    place.environment["WEIR_SOCKET"] = place.dir / "mine.sock";
    const Report report = examine(place);
    CHECK(report.state("socket directory") == "ok");
    CHECK(report.reason("socket directory").starts_with(place.dir.path() + ","));
    CHECK(report.reason("collector").find("mine.sock") != std::string::npos);
  }
  SECTION("one that is ignored") {
    place.environment["WEIR_SOCKET"] = "weir.sock";
    const Report report = examine(place);
    CHECK(report.state("socket directory") == "limited");
    CHECK(report.reason("socket directory").find("WEIR_SOCKET=weir.sock is ignored: it takes an absolute path") != std::string::npos);
    CHECK(report.reason("collector").find(place.socket()) != std::string::npos);
  }
  SECTION("no variable") {
    place.environment["XDG_RUNTIME_DIR"] = "";
    const Report report = examine(place);
    CHECK(report.state("socket directory") == "limited");
    CHECK(report.reason("socket directory").find("/tmp/weir-" + std::to_string(::geteuid())) != std::string::npos);
    CHECK(report.advice("socket directory").find("XDG_RUNTIME_DIR") != std::string::npos);
  }
}

TEST_CASE("doctor sees limits") {
  CommandPlace place;
  CHECK(examine(place).state("file size") == "ok");
  const Report few = examine_after(place, "ulimit -n 70");
  CHECK(few.state("open files") == "limited");
  CHECK(few.reason("open files").find("6 services") != std::string::npos);
  CHECK(few.works);
  const Report fewer = examine_after(place, "ulimit -n 60");
  CHECK(fewer.state("open files") == "missing");
  CHECK_FALSE(fewer.works);
  CHECK(examine_after(place, "ulimit -f 1000").state("file size") == "limited");
  if (!weir::testing::sanitized) {
    CHECK(examine(place).state("memory") == "ok");
    CHECK(examine_after(place, "ulimit -v 1000000").state("memory") == "limited");
  }
}

TEST_CASE("doctor really tries what it speaks of: without a system call the check fails, and the others do not") {
  CommandPlace place;
  const Report before = examine(place);
  struct Robbed {
    std::string calls, check, state;
    bool works;
  };
  const auto [calls, check, state, works] =
      GENERATE(Robbed{"memfd_create", "shared memory", "limited", true}, Robbed{"mmap", "mapping it", "limited", true},
               Robbed{"membarrier", "membarrier", "limited", true}, Robbed{"getsockopt", "peer credentials", "missing", false},
               Robbed{"pidfd_open", "pidfd", "missing", true}, Robbed{"perf_event_open", "perf", "missing", true},
               Robbed{"bpf", "BPF", "missing", true});
  INFO(calls);
  const Report report = examine_without(place, calls);
  CHECK(report.state(check) == state);
  CHECK(report.reason(check).find("not permitted") != std::string::npos);
  CHECK_FALSE(report.advice(check).empty());
  if (state == "missing") CHECK_FALSE(report.checks.at(check).at("needed_for").get<std::string>().empty());
  CHECK(report.works == works);
  for (const auto& [name, found] : report.checks) {
    const bool detects = name == "process events" || name == "eBPF events" || name == "/proc";
    const bool follows = name == check || (name == "mapping it" && calls == "memfd_create") ||
                         (name == "uprobes" && calls == "perf_event_open") || (detects && calls == "pidfd_open") ||
                         (name == "eBPF events" && (calls == "bpf" || calls == "mmap" || calls == "perf_event_open"));
    if (!follows) CHECK(name + ": " + report.state(name) == name + ": " + before.state(name));
  }
}
