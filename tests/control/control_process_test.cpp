// A process of its own under control: where its socket comes from and goes, and spans that reach a collector meanwhile.
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/line_socket.hpp"
#include "support/process.hpp"
#include "support/running_collector.hpp"
#include "support/sanitizers.hpp"
#include "support/scratch_dir.hpp"

using namespace weir;
using namespace weir::testing;
using nlohmann::json;

namespace {

struct Figures {
  std::uint64_t emitted = 0, delivered = 0, dropped = 0, not_sampled = 0;
};

class Program {
 public:
  Program(Process::Environment environment, const std::string& argument)
      : process_(command(argument), with_defaults(std::move(environment))) {
    const auto ready = process_.line(1);
    REQUIRE(ready);
    REQUIRE(ready->starts_with("ready "));
    socket = ready->substr(6);
  }

  std::string tell(const std::string& command) {
    const std::string line = command + "\n";
    REQUIRE(::write(process_.fd(0), line.data(), line.size()) == static_cast<ssize_t>(line.size()));
    const auto answer = process_.line(1);
    REQUIRE(answer);
    return *answer;
  }
  Figures end() {
    process_.close(0);
    const auto line = process_.line(1);
    REQUIRE(line);
    CHECK(process_.wait() == 0);
    std::istringstream text(*line);
    Figures figures;
    text >> figures.emitted >> figures.delivered >> figures.dropped >> figures.not_sampled;
    return figures;
  }
  Process& process() { return process_; }
  const ScratchDir& dir() const { return dir_; }

  std::string socket;

 private:
  std::vector<std::string> command(const std::string& argument) const {
    std::vector<std::string> words{WEIR_CONTROL_PROGRAM, dir_ / "weir.sock"};
    if (!argument.empty()) words.push_back(argument);
    return words;
  }
  Process::Environment with_defaults(Process::Environment environment) const {
    environment.emplace("XDG_RUNTIME_DIR", dir_.path());
    environment.emplace("WEIR_CONTROL", "");
    environment.emplace("WEIR_DISABLED", "");
    environment.emplace("OTEL_SDK_DISABLED", "");
    environment.emplace("OTEL_SERVICE_NAME", "");
    environment.emplace("OTEL_TRACES_SAMPLER", "");
    environment.emplace("WEIR_CHILD_CONTROL", dir_ / "child.sock");
    return environment;
  }

  ScratchDir dir_;
  Process process_;
};

std::string usual_path(Program& program) { return program.dir() / ("weir/control-" + std::to_string(program.process().pid()) + ".sock"); }
bool is_there(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

json ask(LineSocket& socket, const json& request) {
  REQUIRE(socket.send(request.dump() + "\n"));
  const auto line = socket.line();
  REQUIRE(line);
  return json::parse(*line);
}

LineSocket greeted(const std::string& path) {
  LineSocket socket = LineSocket::connect(path);
  REQUIRE(socket.line());
  return socket;
}

}  // namespace

TEST_CASE("without being told to, a process has no control socket") {
  Program program({}, "");
  CHECK(program.socket.empty());
  CHECK_FALSE(is_there(usual_path(program)));
  (void)program.end();
}

TEST_CASE("the environment tells weir::init, and the end of main leaves nothing behind") {
  for (const char* const value : {"1", "true", "TRUE"}) {
    CAPTURE(value);
    Program program({{"WEIR_CONTROL", value}}, "");
    const std::string path = usual_path(program);
    CHECK(program.socket == path);
    LineSocket socket = LineSocket::connect(path);
    const json hello = json::parse(socket.line().value_or("{}"));
    CHECK(hello["service"] == "controlled");
    CHECK(hello["pid"] == program.process().pid());
    (void)program.end();
    CHECK_FALSE(is_there(path));
    CHECK_FALSE(is_there(path + ".lock"));
    CHECK_FALSE(socket.line());
  }
  for (const char* const value : {"0", "false"}) {
    CAPTURE(value);
    Program program({{"WEIR_CONTROL", value}}, "");
    CHECK(program.socket.empty());
    (void)program.end();
    CHECK(program.process().err().empty());
  }
  Program odd({{"WEIR_CONTROL", "maybe"}}, "");
  CHECK(odd.socket.empty());
  (void)odd.end();
  CHECK(odd.process().err().find("WEIR_CONTROL=maybe is ignored") != std::string::npos);
}

TEST_CASE("the environment may name a path") {
  const ScratchDir dir;
  Program program({{"WEIR_CONTROL", dir / "%p.sock"}}, "");
  CHECK(program.socket == dir / (std::to_string(program.process().pid()) + ".sock"));
  (void)program.end();
  CHECK_FALSE(is_there(program.socket));
  Program bad({{"WEIR_CONTROL", "/nowhere/at/all.sock"}}, "");  // which does not keep it from serving
  CHECK(bad.socket.empty());
  CHECK_FALSE(bad.tell("stats").empty());
  (void)bad.end();
  CHECK(bad.process().err().find("/nowhere/at/all.sock") != std::string::npos);
}

TEST_CASE("the code may tell, and a disabled weir wins over both") {
  Program program({}, "call");
  CHECK(program.socket == usual_path(program));
  CHECK(program.tell("off") == "off");
  CHECK_FALSE(is_there(program.socket));
  (void)program.end();
  for (const char* const name : {"WEIR_DISABLED", "OTEL_SDK_DISABLED"}) {
    Program disabled({{name, "1"}, {"WEIR_CONTROL", "1"}}, "call");
    CHECK(disabled.socket.empty());
    CHECK_FALSE(is_there(usual_path(disabled)));
    (void)disabled.end();
  }
}

TEST_CASE("quick_exit leaves nothing behind; who is killed leaves what the next one of that name replaces") {
  const ScratchDir dir;
  const std::string path = dir / "control.sock";
  {
    Program program({{"WEIR_CONTROL", path}}, "");
    REQUIRE(::write(program.process().fd(0), "quick\n", 6) == 6);
    CHECK(program.process().wait() == 0);
    CHECK_FALSE(is_there(path));
  }
  {
    Program program({{"WEIR_CONTROL", path}}, "");
    program.process().signal(SIGKILL);
    (void)program.process().wait();
    CHECK(is_there(path));
  }
  Program next({{"WEIR_CONTROL", path}}, "");
  CHECK(next.socket == path);
  (void)greeted(path);
  (void)next.end();
  CHECK_FALSE(is_there(path));
}

TEST_CASE("what killed processes have left in the usual directory goes when the next one starts, and nothing else") {
  const ScratchDir dir;
  const Process::Environment usual{{"WEIR_CONTROL", "1"}, {"XDG_RUNTIME_DIR", dir.path()}};
  Program living(usual, ""), killed(usual, "");
  killed.process().signal(SIGKILL);
  (void)killed.process().wait();
  REQUIRE(is_there(killed.socket));
  REQUIRE(is_there(killed.socket + ".lock"));
  // Of pids that nobody has: there are fewer.
  const auto path_of = [&](const std::string& pid) { return dir / ("weir/control-" + pid + ".sock"); };
  const std::string link = path_of("1999999991"), file = path_of("1999999992"), other = path_of("here"), heard = path_of("1999999993");
  REQUIRE(::symlink(killed.socket.c_str(), link.c_str()) == 0);
  { std::ofstream(file) << "x"; }
  { std::ofstream(other) << "x"; }
  const auto listener = net::UnixListener::bind(heard);
  REQUIRE(listener);
  {
    Program elsewhere({{"WEIR_CONTROL", dir / "weir/elsewhere.sock"}, {"XDG_RUNTIME_DIR", dir.path()}}, "");
    CHECK(is_there(killed.socket));
    (void)elsewhere.end();
  }
  Program next(usual, "");
  CHECK_FALSE(is_there(killed.socket));
  CHECK_FALSE(is_there(killed.socket + ".lock"));
  struct stat status {};
  CHECK(::lstat(link.c_str(), &status) == 0);
  CHECK(is_there(file));
  CHECK(is_there(other));
  CHECK(net::is_live(heard));
  (void)greeted(living.socket);
  (void)greeted(next.socket);
  (void)living.end();
  (void)next.end();
}

TEST_CASE("spans that reach the collector follow the sampling of the moment, and none is lost") {
  const ScratchDir dir;
  Program program({{"WEIR_CONTROL", "1"}}, "");
  RunningCollector collector(program.dir() / "weir.sock");
  LineSocket socket = greeted(program.socket);
  CHECK(program.tell("spans 100") == "made");
  CHECK(eventually([&] { return collector.count() == 100; }));
  CHECK(ask(socket, {{"id", 1}, {"set", {{"sampling", 0}}}})["ok"] == true);
  CHECK(program.tell("spans 100") == "made");
  const json stats = ask(socket, {{"id", 2}, {"get", "stats"}})["stats"];
  CHECK(stats["spans"]["emitted"] == 100);
  CHECK(stats["spans"]["not_sampled"] == 100);
  CHECK(ask(socket, {{"id", 3}, {"set", {{"sampling", 0.5}}}})["ok"] == true);
  CHECK(program.tell("spans 1000") == "made");
  CHECK(ask(socket, {{"id", 4}, {"set", json::object()}})["ok"] == true);
  CHECK(program.tell("spans 100") == "made");
  const Figures figures = program.end();
  CHECK(figures.emitted + figures.not_sampled == 1300);
  CHECK(figures.dropped == 0);
  CHECK(figures.delivered == figures.emitted);
  CHECK(figures.emitted > 300);
  CHECK(figures.emitted < 1100);
  CHECK(eventually([&] { return collector.count() == figures.emitted; }));
  CHECK(collector.stop());
}

TEST_CASE("sampling that changes under load loses no span") {
  Program program({{"WEIR_CONTROL", "1"}}, "");
  RunningCollector collector(program.dir() / "weir.sock");
  LineSocket socket = greeted(program.socket);
  CHECK(program.tell("loop") == "looping");
  const auto count = [&](const char* what) {
    return ask(socket, {{"id", 1}, {"get", "stats"}})["stats"]["spans"][what].get<std::uint64_t>();
  };
  for (int i = 0; i < 40; ++i) {
    const json settings = i % 4 == 3 ? json::object() : json{{"sampling", i % 4 == 0 ? 0.0 : 0.01 * i}};
    CHECK(ask(socket, {{"id", i}, {"set", settings}})["ok"] == true);
    if (i % 4 == 0) {
      const std::uint64_t before = count("not_sampled");
      CHECK(eventually([&] { return count("not_sampled") > before; }));
    } else if (i % 4 == 3) {
      const std::uint64_t before = count("emitted");
      CHECK(eventually([&] { return count("emitted") > before; }));
    }
  }
  CHECK(ask(socket, {{"id", 99}, {"set", {{"sampling", 0}}}})["ok"] == true);
  const Figures figures = program.end();
  CHECK(figures.emitted == figures.delivered + figures.dropped);
  CHECK(eventually([&] { return collector.count() == figures.delivered; }));
  CHECK(figures.not_sampled > 0);
}

TEST_CASE("a forked child leaves the parent's socket alone, and gets its own when it asks") {
#if defined(WEIR_TESTS_TSAN)
  WARN("fork from a process with threads does not mix with ThreadSanitizer");
#else
  Program program({{"WEIR_CONTROL", "1"}}, "");
  LineSocket before = greeted(program.socket);
  const std::string child = program.tell("fork");
  CHECK(child == "child '' " + (program.dir() / "child.sock"));
  LineSocket with_child = greeted(program.dir() / "child.sock");
  CHECK(ask(with_child, {{"id", 1}, {"get", "stats"}})["stats"]["pid"] != program.process().pid());
  CHECK(ask(before, {{"id", 1}, {"get", "stats"}})["stats"]["pid"] == program.process().pid());
  LineSocket after = greeted(program.socket);

  SECTION("the child's end is not the parent's") {
    CHECK(program.tell("release") == "released");
    CHECK_FALSE(with_child.line());
    CHECK_FALSE(is_there(program.dir() / "child.sock"));
    CHECK(is_there(program.socket));
    CHECK(ask(after, {{"id", 1}, {"get", "stats"}})["stats"]["pid"] == program.process().pid());
    (void)program.end();
  }
  SECTION("the parent's end is seen at once, though the child lives") {
    const pid_t its_child = ask(with_child, {{"id", 2}, {"get", "stats"}})["stats"]["pid"];
    REQUIRE(::kill(its_child, SIGSTOP) == 0);  // else it would end with its parent
    program.process().signal(SIGKILL);
    CHECK_FALSE(before.line());
    CHECK_FALSE(after.line());
    CHECK(eventually([&] { return !net::is_live(program.socket); }));
    REQUIRE(::kill(its_child, SIGCONT) == 0);
    CHECK_FALSE(with_child.line());
  }
#endif
}
