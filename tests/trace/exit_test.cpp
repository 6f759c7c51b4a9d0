// Processes that end by exit() with tracers still alive: what they emitted must arrive.
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "nlohmann/json.hpp"
#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/process.hpp"
#include "support/scratch_dir.hpp"
#include "support/test_collector.hpp"
#include "weir/collect/collector.hpp"
#include "weir/trace/event.hpp"

using weir::testing::Process;
using weir::testing::ScratchDir;
using weir::testing::TestCollector;
using weir::testing::TestConnection;

namespace {

/// A connection that was read to its end.
struct Heard {
  explicit Heard(TestConnection connection) {
    connection.read_to_end();
    CHECK(connection.ended());
    for (const std::string& line : connection.lines()) {
      if (line.starts_with("[\"weir\"")) {
        pid = nlohmann::json::parse(line).at(2).at("pid").get<pid_t>();
      } else if (const auto event = weir::parse_event(line)) {
        if (event->type == weir::EventType::span_start) names.insert(event->name);
        if (event->type == weir::EventType::span_end) ids.insert(event->span_id), ++ends;
      }
    }
  }
  pid_t pid = 0;
  std::size_t ends = 0;
  std::set<std::string> ids, names;
};

struct Exiting {
  explicit Exiting(const std::string& scenario)
      : collector(dir / "s"), process({WEIR_EXIT_PROGRAM, scenario, dir / "s"}, {{"ASAN_OPTIONS", options(scenario)}}) {}
  ~Exiting() {
    const int code = process.wait();
    CHECK(process.err() == "");
    CHECK(code == 0);
  }
  Heard hear() { return Heard(collector.accept()); }
  /// A child abandons its parent's sender, which is not to be taken for a leak.
  static std::string options(const std::string& scenario) {
    const char* given = std::getenv("ASAN_OPTIONS");
    return std::string(given != nullptr ? given : "") + (scenario.starts_with("child") ? ":detect_leaks=0" : "");
  }

  ScratchDir dir;
  TestCollector collector;
  Process process;
};

}  // namespace

TEST_CASE("exit delivers the spans of a tracer that is never destroyed, is static, or is destroyed later") {
  Exiting program(GENERATE("below main", "heap", "static", "late", "thread"));
  CHECK(program.hear().ids.size() == 3);
}

TEST_CASE("exit delivers the spans of several tracers") {
  Exiting program("several");
  std::vector<TestConnection> connections;
  for (int i = 0; i < 3; ++i) connections.push_back(program.collector.accept());
  for (TestConnection& connection : connections) CHECK(Heard(std::move(connection)).ids.size() == 3);
}

TEST_CASE("exit delivers while other threads go on to emit") {
  Exiting program("emitting");
  const Heard heard = program.hear();
  CHECK(heard.names.count("x") == 1);
  CHECK(heard.ends == heard.ids.size());
}

TEST_CASE("exit and the destruction of a tracer may run side by side") {
  for (int round = 0; round < 5; ++round) {
    Exiting program("destroying");
    TestConnection first = program.collector.accept(), second = program.collector.accept();
    CHECK(Heard(std::move(first)).ids.size() == 3);
    CHECK(Heard(std::move(second)).ids.size() == 3);
  }
}

TEST_CASE("exit in the child of a fork sends nothing of the parent's") {
  SECTION("the child has no spans: nothing at all") {
    Exiting program("child without spans");
    const Heard heard = program.hear();
    CHECK(heard.pid == program.process.pid());
    CHECK(heard.ends == 3);
  }
#if !defined(__SANITIZE_THREAD__)  // which starts no thread in the child of a fork
  SECTION("the child has spans: those") {
    Exiting program("child with spans");
    TestConnection one = program.collector.accept(), other = program.collector.accept();
    Heard parent{std::move(one)}, child{std::move(other)};
    if (parent.pid != program.process.pid()) std::swap(parent, child);
    CHECK(parent.pid == program.process.pid());
    CHECK(parent.names == std::set<std::string>{"x"});
    CHECK(parent.ends == 3);
    CHECK(child.names == std::set<std::string>{"of the child"});
    CHECK(child.ends == 2);
  }
#endif
}

TEST_CASE("exit waits no longer than stop_timeout for a collector that does not read") {
  ScratchDir dir;
  TestCollector collector(dir / "s");
  Process program({WEIR_EXIT_PROGRAM, "stalled", dir / "s"});
  const TestConnection stalled = collector.accept();
  CHECK(program.wait() == 0);
}

TEST_CASE("exit without a collector does not wait") {
  ScratchDir dir;
  const auto begin = std::chrono::steady_clock::now();
  CHECK(Process({WEIR_EXIT_PROGRAM, "below main", dir / "s"}).wait() == 0);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds{15});  // its stop_timeout is 20 s
}

TEST_CASE("however a process ends, its collector finds what it wrote in their memory") {
  struct Way {
    std::string name;
    std::size_t last;  // spans that end after the way out has begun
    int code = 0;
  };
  const auto way = GENERATE(Way{"atexit", 2}, Way{"thread_local", 3}, Way{"static destructor", 2}, Way{"pthread_exit", 2},
                            Way{"quick_exit", 0}, Way{"_exit", 0}, Way{"exec", 0}, Way{"abort", 0, 1000 + SIGABRT},
                            Way{"segmentation fault", 0, 1000 + SIGSEGV}, Way{"detached", 0}, Way{"quick_exit detached", 0});
  INFO(way.name);
  ScratchDir dir;
  weir::Collector collector{dir / "s"};
  std::map<std::string, std::size_t> names;
  std::mutex mutex;
  collector.on_span_complete([&](std::string_view, const weir::Span& span) {
    std::lock_guard lock(mutex);
    ++names[span.name];
  });
  REQUIRE(collector.listen());
  weir::StopSource stop;
  std::thread serving([&] { (void)collector.serve(stop.token()); });
  // What a sanitizer finds after main is over changes no exit code that counts: it goes to a file.
  const std::string log = dir / "sanitizer";
  Process program({WEIR_EXIT_PROGRAM, way.name, dir / "s", "native"},
                  {{"ASAN_OPTIONS", "detect_leaks=0:handle_abort=0:handle_segv=0:log_path=" + log},
                   {"TSAN_OPTIONS", "handle_abort=0:handle_segv=0:log_path=" + log}});
  CHECK(program.wait() == way.code);
  CHECK(program.err() == "");
  CHECK(weir::testing::eventually([&] { return collector.stats().connections == 1 && collector.stats().open_connections == 0; }));
  stop.request_stop();
  serving.join();
  CHECK(names["first"] == 1);
  CHECK(names["x"] + names["last"] == 3 + way.last);
  CHECK(collector.stats().broken_rings + collector.stats().rejected_records == 0);
  for (const auto& entry : std::filesystem::directory_iterator(dir.path())) {
    INFO(entry.path());
    CHECK(entry.path().string().find("sanitizer") == std::string::npos);
  }
}
