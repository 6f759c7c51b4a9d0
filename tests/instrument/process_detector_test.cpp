#include "weir/instrument/detector.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "instrument/detector_core.hpp"
#include "instrument/detector_selftest.hpp"
#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/process.hpp"
#include "support/sanitizers.hpp"
#include "support/scratch_dir.hpp"

using namespace weir;
using namespace weir::testing;
using namespace std::chrono_literals;

namespace {

using Type = ProcessEvent::Type;
using Types = std::vector<Type>;
using Words = std::vector<std::string>;

constexpr int storm_size = sanitized ? 3'000 : 20'000;

class Silence final : public Logger {
 public:
  void log(Level, std::string_view, std::span<const Attribute>) noexcept override {}
};

Logger& silence() {
  static Silence logger;
  return logger;
}

struct Backend {
  const char* name;
  Result<std::unique_ptr<ProcessDetector>> (*make)(DetectorOptions);
  bool kernel;  // it is told, and need not look
};

constexpr Backend backends[]{{"kernel events", &ProcessDetector::kernel_events, true},
                             {"eBPF", &ProcessDetector::ebpf, true},
                             {"/proc", &ProcessDetector::proc_scan, false}};

/// Those that work here; of the others it is said once why not.
const std::vector<Backend>& working() {
  static const std::vector<Backend> all = [] {
    std::vector<Backend> found;
    for (const Backend& backend : backends) {
      const auto detector = backend.make({});
      if (detector) {
        found.push_back(backend);
      } else {
        std::fprintf(stderr, "not tested: %s\n", detector.error().message.c_str());
      }
    }
    if (found.empty()) {
      std::fprintf(stderr, "skipped: no process detector works here\n");
      ::_exit(77);
    }
    return found;
  }();
  return all;
}

Backend any_backend() { return GENERATE(from_range(working())); }

Backend a_kernel_backend() {
  std::vector<Backend> kernel;
  std::copy_if(working().begin(), working().end(), std::back_inserter(kernel), [](const Backend& backend) { return backend.kernel; });
  if (kernel.empty()) kernel.push_back({nullptr, nullptr, false});
  return GENERATE_COPY(from_range(kernel));
}

/// For programs of ours, at once.
DetectorOptions quick(std::chrono::milliseconds age = 0ms) {
  DetectorOptions options;
  options.filters.executables = {std::string(WEIR_WATCHED_PROGRAM) + "*", "*/weir-test-*/app*"};
  options.minimum_age = age;
  options.scan_interval = 10ms;
  options.logger = &silence();
  return options;
}

/// A program that does what it is told.
class Watched {
 public:
  explicit Watched(const std::string& program = WEIR_WATCHED_PROGRAM, const Process::Environment& environment = {}, Words more = {})
      : process_(command(program, std::move(more)), environment) {
    process_.line_with(1, "ready");
  }
  pid_t pid() const { return process_.pid(); }
  std::string tell(const std::string& line) {
    say(line);
    const auto answer = process_.line(1);
    REQUIRE(answer);
    return *answer;
  }
  /// What executes something answers as what it is then.
  void become(const std::string& how, const std::string& program) { CHECK(tell(how + " " + program) == "ready " + std::to_string(pid())); }
  void say(const std::string& line) {
    const std::string text = line + "\n";
    REQUIRE(::write(process_.fd(0), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  }
  void end() {
    process_.close(0);
    (void)process_.wait();
  }

 private:
  static Words command(const std::string& program, Words more) {
    more.insert(more.begin(), program);
    return more;
  }
  Process process_;
};

/// A detector and what it tells.
class Running {
 public:
  explicit Running(std::unique_ptr<ProcessDetector> detector) : detector_(std::move(detector)) {}
  Running(const Backend& backend, const DetectorOptions& options) {
    auto made = backend.make(options);
    if (!made) FAIL(made.error().message);
    detector_ = *std::move(made);
    start();
  }
  ~Running() { stop(); }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  void start() {
    thread_ = std::thread([this] {
      result_ = detector_->run(stop_.token(), [this](const ProcessEvent& event) {
        const std::lock_guard lock(mutex_);
        events_.push_back(event);
      });
    });
  }
  void stop() {
    if (!thread_.joinable()) return;
    stop_.request_stop();
    thread_.join();
    CHECK(result_);
  }

  ProcessDetector& detector() { return *detector_; }
  DetectorStats stats() const { return detector_->stats(); }
  std::vector<ProcessEvent> of(pid_t pid) const {
    const std::lock_guard lock(mutex_);
    std::vector<ProcessEvent> events;
    std::copy_if(events_.begin(), events_.end(), std::back_inserter(events), [&](const ProcessEvent& event) { return event.pid == pid; });
    return events;
  }
  std::vector<ProcessEvent> all() const {
    const std::lock_guard lock(mutex_);
    return events_;
  }
  Types types(pid_t pid) const {
    Types types;
    for (const ProcessEvent& event : of(pid)) types.push_back(event.type);
    return types;
  }
  bool told(pid_t pid, const Types& wanted) const {
    return eventually([&] { return types(pid).size() >= wanted.size(); }) && types(pid) == wanted;
  }
  bool told_executable(pid_t pid, const std::string& path) const {
    return eventually([&] {
      const auto events = of(pid);
      return !events.empty() && events.back().executable == path;
    });
  }
  /// Until what happened before is told: of a process that begins now, it is told.
  void catch_up() {
    Watched witness;
    REQUIRE(told(witness.pid(), {Type::exec}));
    REQUIRE(detector_->track(std::array{witness.pid()}));
    witness.end();
    REQUIRE(told(witness.pid(), {Type::exec, Type::exit}));
  }
  /// The same, whatever the filters are.
  void catch_up_by_tracking() {
    Watched witness;
    REQUIRE(detector_->track(std::array{witness.pid()}));
    witness.end();
    REQUIRE(eventually([&] { return !of(witness.pid()).empty() && of(witness.pid()).back().type == Type::exit; }));
  }

 private:
  std::unique_ptr<ProcessDetector> detector_;
  StopSource stop_;
  std::thread thread_;
  Result<void> result_;
  mutable std::mutex mutex_;
  std::vector<ProcessEvent> events_;  // guarded by mutex_
};

/// Another executable that is the same program.
std::string copied(const ScratchDir& dir, const std::string& name) {
  const std::string path = dir / name;
  std::filesystem::copy_file(WEIR_WATCHED_PROGRAM, path);
  return path;
}

std::string script(const ScratchDir& dir, const std::string& name, const std::string& program) {
  const std::string path = dir / name;
  std::ofstream(path) << "#!/bin/sh\nread line\nexec " << program << "\n";
  std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  return path;
}

}  // namespace

// ---- what is told

TEST_CASE("what runs already is told, then what begins, and what ends") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  Watched before(WEIR_WATCHED_PROGRAM, {{"WEIR_TEST_A", "1"}}, {"some", "", "arguments"});
  DetectorOptions options = quick();
  options.environment = {"WEIR_TEST_A"};
  Running running(backend, options);
  CHECK(running.told(before.pid(), {Type::exec}));
  Watched after;
  CHECK(running.told(after.pid(), {Type::exec}));
  const ProcessEvent event = running.of(before.pid()).at(0);
  CHECK(event.executable == WEIR_WATCHED_PROGRAM);
  CHECK(event.arguments == Words{WEIR_WATCHED_PROGRAM, "some", "", "arguments"});
  CHECK(event.environment == std::map<std::string, std::string, std::less<>>{{"WEIR_TEST_A", "1"}});
  CHECK(event.parent == ::getpid());
  CHECK(event.uid == ::geteuid());
  CHECK(event.start_time == read_process(before.pid()).value().start_time);
  CHECK(event.inner_pid == before.pid());
  CHECK(eventually([&] { return running.stats().processes >= 2; }));
  before.end();
  after.end();
  CHECK(running.told(before.pid(), {Type::exec, Type::exit}));
  CHECK(running.told(after.pid(), {Type::exec, Type::exit}));
  const ProcessEvent exit = running.of(before.pid()).at(1);
  CHECK(exit.start_time == event.start_time);
  CHECK(exit.executable.empty());
  running.stop();
  CHECK(running.stats().processes == 0);
}

TEST_CASE("a detector says what it can") {
  const Backend backend = any_backend();
  const auto detector = backend.make(quick()).value();
  CHECK(detector->capabilities().backend == backend.name);
  CHECK(detector->capabilities().every_exec == backend.kernel);
  CHECK(detector->capabilities().fork);
}

TEST_CASE("a detector runs once, and stops when it is told, also before") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  const auto detector = backend.make(quick()).value();
  StopSource stop;
  stop.request_stop();
  CHECK(detector->run(stop.token(), [](const ProcessEvent&) {}));
  const auto again = detector->run(stop.token(), [](const ProcessEvent&) {});
  REQUIRE_FALSE(again);
  CHECK(again.error().message.find("was called before") != std::string::npos);
  CHECK_FALSE(detector->track(std::array{::getpid()}));
}

TEST_CASE("a sink that throws misses nothing else") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  const auto detector = backend.make(quick()).value();
  std::atomic<int> calls{0};
  StopSource stop;
  Result<void> done;
  std::thread thread([&] {
    done = detector->run(stop.token(), [&](const ProcessEvent&) {
      ++calls;
      throw std::runtime_error("as it likes");
    });
  });
  Watched one, two;
  CHECK(eventually([&] { return calls >= 2; }));
  stop.request_stop();
  thread.join();
  CHECK(done);
}

TEST_CASE("a thread can be cancelled in what it tells") {
  if (sanitized) return;  // UBSan takes the catch of a cancellation, which is no object, for a null reference
  const auto detector = ProcessDetector::proc_scan(quick()).value();
  struct Context {
    ProcessDetector& detector;
    std::atomic<bool> went_on;
  } context{*detector, false};
  const Watched process;
  pthread_t thread{};
  const auto body = [](void* data) -> void* {
    auto& in = *static_cast<Context*>(data);
    (void)in.detector.run({}, [](const ProcessEvent&) {
      ::pthread_cancel(::pthread_self());
      ::pthread_testcancel();
    });
    in.went_on = true;
    return nullptr;
  };
  REQUIRE(::pthread_create(&thread, nullptr, body, &context) == 0);
  void* result = nullptr;
  REQUIRE(::pthread_join(thread, &result) == 0);
  CHECK(result == PTHREAD_CANCELED);
  CHECK_FALSE(context.went_on);
}

TEST_CASE("processes that begin while the detector does are told once each") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  constexpr std::size_t each = sanitized ? 8 : 20;
  std::deque<Watched> started;
  for (std::size_t i = 0; i < each; ++i) started.emplace_back();
  Running running(backend, quick());
  for (std::size_t i = 0; i < each; ++i) started.emplace_back();
  for (Watched& process : started) CHECK(running.told(process.pid(), {Type::exec}));
  for (Watched& process : started) process.end();
  for (Watched& process : started) CHECK(running.told(process.pid(), {Type::exec, Type::exit}));
}

// ---- exec

TEST_CASE("a thread that executes something does so for the process, which goes on") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  const ScratchDir dir;
  Running running(backend, quick());
  Watched process;
  CHECK(running.told(process.pid(), {Type::exec}));
  const std::string app = copied(dir, "app");
  process.become("exec-in-thread", app);
  CHECK(running.told(process.pid(), {Type::exec, Type::exec}));
  CHECK(running.of(process.pid()).at(1).executable == app);
  process.end();
  CHECK(running.told(process.pid(), {Type::exec, Type::exec, Type::exit}));
}

TEST_CASE("execveat and fexecve are an exec") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  const ScratchDir dir;
  const std::string how = GENERATE("execveat", "fexecve");
  Running running(backend, quick());
  Watched process;
  CHECK(running.told(process.pid(), {Type::exec}));
  process.become(how, copied(dir, "app"));
  CHECK(running.told(process.pid(), {Type::exec, Type::exec}));
  CHECK(running.of(process.pid()).at(1).executable == dir / "app");
}

TEST_CASE("an exec that fails leaves nothing") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  const ScratchDir dir;
  Running running(backend, quick());
  Watched process;
  CHECK(running.told(process.pid(), {Type::exec}));
  std::ofstream(dir / "app-of-no-format") << "neither a program nor a script";
  std::filesystem::permissions(dir / "app-of-no-format", std::filesystem::perms::owner_all);
  for (const std::string& path : {dir / "app-that-is-not-there", dir.path(), dir / "app-of-no-format"}) {
    CHECK(process.tell("exec-fails " + path) == "done");
  }
  running.catch_up();
  CHECK(running.types(process.pid()) == Types{Type::exec});
}

TEST_CASE("a filter is decided at each exec: of a script that becomes the application, the exit is told") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  const ScratchDir dir;
  copied(dir, "app");
  Running running(backend, quick());
  Process process({script(dir, "start", dir / "app")});
  running.catch_up();
  CHECK(running.types(process.pid()).empty());
  REQUIRE(::write(process.fd(0), "\n", 1) == 1);
  CHECK(running.told(process.pid(), {Type::exec}));
  CHECK(running.of(process.pid()).at(0).executable == dir / "app");
  process.close(0);
  CHECK(running.told(process.pid(), {Type::exec, Type::exit}));
}

TEST_CASE("of an application that becomes something else, the exit is told as well") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  const ScratchDir dir;
  copied(dir, "other");
  Running running(backend, quick());
  Watched process;
  CHECK(running.told(process.pid(), {Type::exec}));
  process.become("exec", dir / "other");
  running.catch_up();
  CHECK(running.types(process.pid()) == Types{Type::exec});
  process.end();
  CHECK(running.told(process.pid(), {Type::exec, Type::exit}));
}

// ---- threads and forks

TEST_CASE("the exit of the first thread is not that of the process, which can still be read") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  DetectorOptions options = quick();
  options.environment = {"WEIR_TEST_A"};
  SECTION("while it is followed") {
    Running running(backend, options);
    Watched process;
    CHECK(running.told(process.pid(), {Type::exec}));
    CHECK(process.tell("leader-exits") == "done");
    running.catch_up();
    CHECK(running.types(process.pid()) == Types{Type::exec});
    process.end();
    CHECK(running.told(process.pid(), {Type::exec, Type::exit}));
  }
  SECTION("before it is first seen") {
    Watched process(WEIR_WATCHED_PROGRAM, {{"WEIR_TEST_A", "1"}});
    CHECK(process.tell("leader-exits") == "done");
    Running running(backend, options);
    CHECK(running.told(process.pid(), {Type::exec}));
    CHECK(running.of(process.pid()).at(0).executable == WEIR_WATCHED_PROGRAM);
    CHECK(running.of(process.pid()).at(0).environment.count("WEIR_TEST_A") == 1);
    process.end();
    CHECK(running.told(process.pid(), {Type::exec, Type::exit}));
  }
}

TEST_CASE("forks of told processes are told, threads never") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  Running running(backend, quick());
  Watched process;
  CHECK(running.told(process.pid(), {Type::exec}));
  CHECK(process.tell("threads 20") == "done");
  const pid_t child = std::stoi(process.tell("fork"));
  CHECK(running.told(child, {Type::fork}));
  const ProcessEvent event = running.of(child).at(0);
  CHECK(event.parent == process.pid());
  CHECK(event.executable == WEIR_WATCHED_PROGRAM);
  process.end();  // which ends its child
  CHECK(running.told(child, {Type::fork, Type::exit}));
  CHECK(running.told(process.pid(), {Type::exec, Type::exit}));
  for (const ProcessEvent& other : running.all())
    CHECK((other.pid == process.pid() || other.pid == child || other.parent != process.pid()));
}

TEST_CASE("forks of processes that are not told are not either") {
  const Backend backend = a_kernel_backend();
  if (backend.name == nullptr) return;
  CAPTURE(backend.name);
  const ScratchDir dir;
  Watched other(copied(dir, "other"));
  Running running(backend, quick());
  const pid_t child = std::stoi(other.tell("fork"));
  running.catch_up();
  CHECK(running.types(other.pid()).empty());
  CHECK(running.types(child).empty());
}

// ---- filters

TEST_CASE("processes are told by their environment, in which much else may be") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  Process::Environment environment;
  for (int i = 0; i < 2'000; ++i)
    environment["WEIR_TEST_FILLER_" + std::to_string(i)] = std::string(static_cast<std::size_t>(i % 100 + 1), 'x');
  environment["WEIR_TEST_WANTED"] = "yes";
  environment["WEIR_TEST_SPLIT"] = "a=b=c";
  environment["WEIR_TEST_LONG"] = std::string(100'000, 'y');  // longer than what is read at once
  DetectorOptions options = quick();
  options.filters.environment = {"WEIR_TEST_WANTED=yes"};
  options.environment = {"WEIR_TEST_SPLIT", "WEIR_TEST_FILLER_1234", "WEIR_TEST_LONG", "WEIR_TEST_EMPTY", "WEIR_TEST_UNSET"};
  Watched without, other(WEIR_WATCHED_PROGRAM, {{"WEIR_TEST_WANTED", "yess"}});
  ::setenv("WEIR_TEST_EMPTY", "", 1);
  Watched with(WEIR_WATCHED_PROGRAM, environment);
  ::unsetenv("WEIR_TEST_EMPTY");
  Running running(backend, options);
  CHECK(running.told(with.pid(), {Type::exec}));
  CHECK(running.of(with.pid()).at(0).environment ==
        std::map<std::string, std::string, std::less<>>{{"WEIR_TEST_WANTED", "yes"},
                                                        {"WEIR_TEST_SPLIT", "a=b=c"},
                                                        {"WEIR_TEST_FILLER_1234", std::string(35, 'x')},
                                                        {"WEIR_TEST_LONG", std::string(100'000, 'y')},
                                                        {"WEIR_TEST_EMPTY", ""}});
  Watched later(WEIR_WATCHED_PROGRAM, {{"WEIR_TEST_WANTED", "yes"}});
  CHECK(running.told(later.pid(), {Type::exec}));
  CHECK(running.types(without.pid()).empty());
  CHECK(running.types(other.pid()).empty());
}

TEST_CASE("processes are told by their user and by their cgroup, and not if excluded") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  const ScratchDir dir;
  DetectorOptions options = quick();
  Watched process, app(copied(dir, "app"));
  const std::string cgroup = read_process(process.pid()).value().cgroup;
  SECTION("uid") {
    options.filters.uids = {::geteuid() + 1};
    Running running(backend, options);
    running.catch_up_by_tracking();  // it has seen all of them as they are
    if (::geteuid() == 0) {          // who else may change it?
      std::filesystem::permissions(dir.path(), std::filesystem::perms::all);
      CHECK(app.tell("user 1") == "done");
      app.become("exec", copied(dir, "app-under-quite-another-name"));  // without address randomization, looks take the same for the same
      CHECK(running.told(app.pid(), {Type::exec}));
      CHECK(running.of(app.pid()).at(0).uid == 1);
    }
    CHECK(running.types(process.pid()).empty());
  }
  SECTION("excluded") {
    options.filters.excluded_paths = {WEIR_WATCHED_PROGRAM};
    Running running(backend, options);
    CHECK(running.told(app.pid(), {Type::exec}));
    CHECK(running.types(process.pid()).empty());
  }
  SECTION("cgroup") {
    if (cgroup.empty()) return;  // no unified hierarchy here
    options.filters.cgroups = {cgroup};
    {
      Running running(backend, options);
      CHECK(running.told(process.pid(), {Type::exec}));
      CHECK(running.of(process.pid()).at(0).cgroup == cgroup);
    }
    options.filters.cgroups = {"/surely/another", cgroup + "x"};
    options.filters.executables.push_back("/none");
    Running other(backend, options);
    REQUIRE(other.detector().track(std::array{app.pid()}));
    app.end();
    CHECK(other.told(app.pid(), {Type::exit}));
    CHECK(other.types(process.pid()).empty());
  }
}

// ---- minimum age

TEST_CASE("what ends before its minimum age is not told, what lives longer is, once") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  const ScratchDir dir;
  copied(dir, "app");
  copied(dir, "other");
  Running running(backend, quick(300ms));
  std::vector<pid_t> brief;
  for (int i = 0; i < 10; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    Watched process;
    process.end();
    if (std::chrono::steady_clock::now() - begin < 250ms) brief.push_back(process.pid());  // a busy machine may take longer
  }
  Watched process;
  process.become("exec", dir / "app");  // one wait, one event
  Watched left;
  left.become("exec", dir / "other");
  CHECK(running.told_executable(process.pid(), dir / "app"));
  running.catch_up();
  for (const pid_t pid : brief) CHECK(running.types(pid).empty());
  left.end();
  process.end();
  CHECK(eventually([&] { return !running.types(process.pid()).empty() && running.types(process.pid()).back() == Type::exit; }));
}

TEST_CASE("what is old enough already is told at once") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  DetectorOptions options = quick(24h);
  Watched young;
  options.filters.executables = {"*"};
  Running running(backend, options);  // nothing here is a day old, unless the machine is
  REQUIRE(running.detector().track(std::array{young.pid()}));
  young.end();
  CHECK(running.told(young.pid(), {Type::exit}));
}

// ---- tracking

TEST_CASE("a tracked process is told of by its exit and forks, never by an exec") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  const ScratchDir dir;
  Watched before(copied(dir, "other")), after(dir / "other");
  auto detector = backend.make(quick()).value();
  CHECK(detector->track(std::array{before.pid(), before.pid()}));
  CHECK(detector->track(std::array{before.pid()}));
  Running running(std::move(detector));
  running.start();
  running.catch_up();
  CHECK(running.detector().track(std::array{after.pid()}));
  const pid_t child = std::stoi(before.tell("fork")), other_child = std::stoi(after.tell("fork"));
  CHECK(running.told(child, {Type::fork}));
  CHECK(running.told(other_child, {Type::fork}));
  copied(dir, "something");
  before.become("exec", dir / "something");
  running.catch_up();
  CHECK(running.types(before.pid()).empty());
  before.end();
  after.end();
  CHECK(running.told(before.pid(), {Type::exit}));
  CHECK(running.told(after.pid(), {Type::exit}));
}

TEST_CASE("a process that ended after it was tracked and before the detector ran is told") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  const ScratchDir dir;
  Watched process(copied(dir, "other"));
  auto detector = backend.make(quick()).value();
  CHECK(detector->track(std::array{process.pid()}));
  process.end();
  Running running(std::move(detector));
  running.start();
  CHECK(running.told(process.pid(), {Type::exit}));
}

TEST_CASE("what is no process is not tracked, and the others are") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  const ScratchDir dir;
  Watched ended, lives(copied(dir, "other"));
  ended.end();
  Running running(backend, quick());
  const auto tracked = running.detector().track(std::array{ended.pid(), 0, -1, lives.pid()});
  REQUIRE_FALSE(tracked);
  CHECK(tracked.error().message.find("process " + std::to_string(ended.pid())) != std::string::npos);
  lives.end();
  CHECK(running.told(lives.pid(), {Type::exit}));
}

// ---- files

TEST_CASE("files that told processes open are told, where the detector can") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  const ScratchDir dir;
  DetectorOptions options = quick();
  options.files = {dir / "plugin"};
  std::ofstream(dir / "plugin") << "x";
  std::ofstream(dir / "plugins") << "x";
  copied(dir, "other");
  Running running(backend, options);
  Watched process, other(dir / "other");
  CHECK(running.told(process.pid(), {Type::exec}));
  if (!running.detector().capabilities().file_open) return;
  for (Watched* who : {&other, &process}) {
    CHECK(who->tell("open " + (dir / "plugins")) == "done");
    CHECK(who->tell("open " + (dir / "plugin")) == "done");
  }
  CHECK(running.told(process.pid(), {Type::exec, Type::file_open}));
  CHECK(running.of(process.pid()).at(1).file == dir / "plugin");
  CHECK(running.of(process.pid()).at(1).executable == WEIR_WATCHED_PROGRAM);
  CHECK(running.types(other.pid()).empty());
}

// ---- reused pids

namespace {

/// A child with that pid which executes our program; 0 when the kernel does not permit to choose.
pid_t start_with_pid(pid_t pid, int input, int output) {
  struct {
    std::uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
  } arguments{};
  arguments.exit_signal = SIGCHLD;
  arguments.set_tid = reinterpret_cast<std::uint64_t>(&pid);
  arguments.set_tid_size = 1;
  static char name[] = WEIR_WATCHED_PROGRAM;
  char* const words[] = {name, nullptr};
  const auto child = static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof arguments));
  if (child == 0) {
    ::dup2(input, 0);
    ::dup2(output, 1);
    ::execv(name, words);
    ::syscall(SYS_exit_group, 1);
  }
  return child < 0 ? 0 : child;
}

}  // namespace

TEST_CASE("a pid that is used again is another process") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const net::Fd input(ends[0]);
  net::Fd output(ends[1]);
  const net::Fd nothing(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  Running running(backend, quick());
  pid_t pid = 0;
  std::uint64_t first_start = 0;
  {
    Watched first;
    pid = first.pid();
    CHECK(running.told(pid, {Type::exec}));
    first_start = running.of(pid).at(0).start_time;
    first.end();
  }
  pid_t again = 0;
  for (int i = 0; i < 20 && again == 0; ++i) again = start_with_pid(pid, input.get(), nothing.get());
  if (again == 0) {
    WARN("not tested: the kernel does not let us choose a pid: " << std::strerror(errno));
    return;
  }
  CHECK(running.told(pid, {Type::exec, Type::exit, Type::exec}));
  CHECK(running.of(pid).at(1).start_time == first_start);
  CHECK(running.of(pid).at(2).start_time >= first_start);
  output.reset();
  REQUIRE(::waitpid(pid, nullptr, 0) == pid);
  CHECK(running.told(pid, {Type::exec, Type::exit, Type::exec, Type::exit}));
}

// ---- storms and loss

TEST_CASE("a storm of processes that nobody asked for loses nothing, or what is lost is noticed") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  const ScratchDir dir;
  Watched storm(copied(dir, "other"));
  Running running(backend, quick());
  running.catch_up();
  const std::uint64_t before = running.stats().events;
  CHECK(storm.tell("storm " + std::to_string(storm_size) + " 10") == "done");
  std::deque<Watched> after(5);
  for (Watched& process : after) CHECK(running.told(process.pid(), {Type::exec}));
  const DetectorStats stats = running.stats();
  if (backend.kernel)
    CHECK(eventually([&] { return running.stats().events + running.stats().lost - before >= storm_size + storm_size / 10; }));
  CHECK((stats.lost == 0 || eventually([&] { return running.stats().rescans > 0; })));
  CHECK(running.types(storm.pid()).empty());
  CHECK(eventually([&] { return running.stats().processes == after.size(); }));
}

TEST_CASE("forks of a told process in a storm leave nothing behind") {
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  Watched storm;
  Running running(backend, quick(backend.kernel ? 0ms : 200ms));
  CHECK(eventually([&] { return !running.types(storm.pid()).empty(); }));
  CHECK(storm.tell("storm " + std::to_string(storm_size / 10) + " 10") == "done");
  running.catch_up();  // before, there may be one process at times, and events to come
  CHECK(eventually([&] { return running.stats().processes == 1; }));
  std::map<std::pair<pid_t, std::uint64_t>, Types> told;
  for (const ProcessEvent& event : running.all()) told[{event.pid, event.start_time}].push_back(event.type);
  std::size_t unpaired = 0;
  for (const auto& [process, types] : told) unpaired += process.first != storm.pid() && types.back() != Type::exit ? 1 : 0;
  CHECK(unpaired == 0);
}

TEST_CASE("events that find no room are counted, and a scan repairs what they would have said") {
  const Backend backend = a_kernel_backend();
  if (backend.name == nullptr) return;
  CAPTURE(backend.name);
  const ScratchDir dir;
  copied(dir, "app");
  DetectorOptions options = quick();
  options.receive_buffer = 1;  // as little as the kernel allows
  auto detector = backend.make(options).value();
  std::atomic<bool> held{false}, let_go{false};
  std::mutex mutex;
  std::map<pid_t, Types> told;
  StopSource stop;
  Result<void> done;
  std::thread thread([&] {
    done = detector->run(stop.token(), [&](const ProcessEvent& event) {
      {
        const std::lock_guard lock(mutex);
        told[event.pid].push_back(event.type);
      }
      held = true;
      (void)eventually([&] { return let_go.load(); });  // who does not come to read loses events
    });
  });
  const auto types = [&](pid_t pid) {
    const std::lock_guard lock(mutex);
    return told[pid];
  };
  Watched first, second;
  CHECK(eventually([&] { return held.load(); }));
  Watched storm(dir / "app");
  CHECK(storm.tell("storm 2000 0") == "done");
  second.become("exec", dir / "app");
  const pid_t child = std::stoi(storm.tell("fork"));
  let_go = true;
  CHECK(eventually([&] { return detector->stats().lost > 0 && detector->stats().rescans > 0; }));
  CHECK(eventually([&] { return types(storm.pid()) == Types{Type::exec}; }));
  CHECK(eventually([&] { return !types(child).empty(); }));
  CHECK(types(child).size() == 1);
  CHECK(eventually([&] { return !types(first.pid()).empty() && !types(second.pid()).empty(); }));
  // The events that came and those that were lost are all that there were: at least one for each fork.
  CHECK(detector->stats().events + detector->stats().lost >= 2000);
  stop.request_stop();
  thread.join();
  CHECK(done);
}

// ---- the source, made up

namespace {

class MadeUpSource final : public instrument::RawSource {
 public:
  struct Control {
    net::EventFd ready = net::EventFd::create().value();
    std::mutex mutex;
    std::vector<instrument::RawEvent> events;  // guarded by mutex, as what follows
    std::uint64_t lost = 0;
    bool broken = false, attached = false;
    std::function<void()> on_attach;
    void say(const instrument::RawEvent& event) {
      const std::lock_guard lock(mutex);
      events.push_back(event);
      ready.wake();
    }
  };
  explicit MadeUpSource(std::shared_ptr<Control> control) : control_(std::move(control)) {}
  std::string_view name() const noexcept override { return "made up"; }
  Result<void> attach() override {
    const std::lock_guard lock(control_->mutex);
    control_->attached = true;
    if (control_->on_attach) control_->on_attach();
    return {};
  }
  int fd() const noexcept override { return control_->ready.fd(); }
  Result<void> read(const std::function<void(const instrument::RawEvent&)>& take) override {
    control_->ready.drain();
    std::vector<instrument::RawEvent> events;
    {
      const std::lock_guard lock(control_->mutex);
      if (control_->broken) return Error{{}, "made up: broken"};
      events.swap(control_->events);
    }
    for (const instrument::RawEvent& event : events) take(event);
    return {};
  }
  std::uint64_t lost() const noexcept override {
    const std::lock_guard lock(control_->mutex);
    return control_->lost;
  }
  void detach() noexcept override {
    const std::lock_guard lock(control_->mutex);
    control_->attached = false;
  }

 private:
  std::shared_ptr<Control> control_;
};

std::unique_ptr<ProcessDetector> made_up_detector(const std::shared_ptr<MadeUpSource::Control>& control, const DetectorOptions& options) {
  return instrument::DetectorCore::create(options, std::make_unique<MadeUpSource>(control)).value();
}

}  // namespace

TEST_CASE("the source is attached before the first look") {
  const auto control = std::make_shared<MadeUpSource::Control>();
  std::atomic<bool> attaching{false}, go_on{false};
  control->on_attach = [&] {
    attaching = true;
    (void)eventually([&] { return go_on.load(); });
  };
  Running running(made_up_detector(control, quick()));
  running.start();
  CHECK(eventually([&] { return attaching.load(); }));
  Watched process;  // the first look sees it
  go_on = true;
  CHECK(eventually([&] { return running.stats().processes == 1; }));
  control->say({instrument::RawEvent::Type::exec, process.pid(), 0, {}});  // as the source does, later
  CHECK(eventually([&] { return running.stats().events == 1; }));
  CHECK(running.types(process.pid()) == Types{Type::exec});
}

TEST_CASE("a loss is repaired by a scan, once") {
  const auto control = std::make_shared<MadeUpSource::Control>();
  Running running(made_up_detector(control, quick()));
  running.start();
  CHECK(eventually([&] {
    const std::lock_guard lock(control->mutex);
    return control->attached;
  }));
  Watched first;
  REQUIRE(running.detector().track(std::array{first.pid()}));
  first.end();
  CHECK(eventually(
      [&] { return !running.types(first.pid()).empty() && running.types(first.pid()).back() == Type::exit; }));  // the first scan is over
  Watched process;
  {
    const std::lock_guard lock(control->mutex);
    control->lost = 3;
  }
  control->ready.wake();
  CHECK(running.told(process.pid(), {Type::exec}));
  CHECK(eventually([&] { return running.stats().rescans == 1; }));
  CHECK(running.stats().lost == 3);
  control->ready.wake();  // nothing new
  process.end();
  CHECK(running.told(process.pid(), {Type::exec, Type::exit}));
  CHECK(running.stats().rescans == 1);
}

TEST_CASE("events of processes that are none do no harm") {
  const auto control = std::make_shared<MadeUpSource::Control>();
  Running running(made_up_detector(control, quick()));
  running.start();
  for (const pid_t pid : {0, -1, 1 << 30}) {
    control->say({instrument::RawEvent::Type::exec, pid, 0, {}});
    control->say({instrument::RawEvent::Type::fork, pid, pid, {}});
    control->say({instrument::RawEvent::Type::open, pid, 0, "/x"});
  }
  CHECK(eventually([&] { return running.stats().events == 9; }));
}

TEST_CASE("an error of the source ends the run, and is returned") {
  const auto control = std::make_shared<MadeUpSource::Control>();
  control->broken = true;
  const auto detector = made_up_detector(control, quick());
  control->ready.wake();
  const auto done = detector->run({}, [](const ProcessEvent&) {});
  REQUIRE_FALSE(done);
  CHECK(done.error().message == "made up: broken");
  CHECK_FALSE(control->attached);
}

// ---- without descriptors

namespace {

/// Remembers the warnings.
class Memory final : public Logger {
 public:
  void log(Level level, std::string_view message, std::span<const Attribute> attributes) noexcept override {
    const std::lock_guard lock(mutex_);
    if (level != Level::warning) return;
    std::string line(message);
    for (const Attribute& attribute : attributes) {
      if (attribute.value.type() == AttributeValue::Type::string) line.append(": ").append(attribute.value.text());
    }
    lines_.push_back(line);
  }
  bool has(const std::string& text) const {
    const std::lock_guard lock(mutex_);
    return std::any_of(lines_.begin(), lines_.end(), [&](const std::string& line) { return line.find(text) != line.npos; });
  }

 private:
  mutable std::mutex mutex_;
  Words lines_;  // guarded by mutex_
};

/// No more descriptors for this process, as long as it lives.
class NoDescriptors {
 public:
  NoDescriptors() {
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &before_) == 0);
    const rlimit low{3, before_.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &low) == 0);
  }
  ~NoDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  NoDescriptors(const NoDescriptors&) = delete;
  NoDescriptors& operator=(const NoDescriptors&) = delete;

 private:
  rlimit before_{};
};

}  // namespace

TEST_CASE("a detector that is out of descriptors goes on, and finds what began meanwhile") {
  if (sanitized) return;  // UBSan needs descriptors to look at an object
  const Backend backend = any_backend();
  CAPTURE(backend.name);
  Memory memory;
  DetectorOptions options = quick();
  options.logger = &memory;
  Watched process;
  Running running(backend, options);
  REQUIRE(running.told(process.pid(), {Type::exec}));
  pid_t child = 0;
  {
    const NoDescriptors none;
    child = std::stoi(process.tell("fork"));
    CHECK(eventually([&] { return memory.has("for want of descriptors"); }));
    CHECK(running.types(child).empty());
    const auto tracked = running.detector().track(std::array{process.pid()});
    REQUIRE_FALSE(tracked);
    CHECK(tracked.error().code == std::errc::too_many_files_open);
    CHECK(read_process(process.pid()).error().code == std::errc::too_many_files_open);
  }
  CHECK(running.told(child, {Type::fork}));
  CHECK(running.types(process.pid()) == Types{Type::exec});
  process.end();
  CHECK(running.told(process.pid(), {Type::exec, Type::exit}));
}

TEST_CASE("a detector that begins without descriptors looks again when there are some") {
  if (sanitized) return;  // UBSan needs descriptors to look at an object
  const auto control = std::make_shared<MadeUpSource::Control>();
  Memory memory;
  DetectorOptions options = quick();
  options.logger = &memory;
  Watched process;
  Running running(made_up_detector(control, options));
  {
    const NoDescriptors none;
    running.start();
    CHECK(eventually([&] { return memory.has("for want of descriptors"); }));
  }
  CHECK(running.told(process.pid(), {Type::exec}));
}

// ---- choosing

TEST_CASE("who asks for opened files where eBPF does not work is told why") {
  Memory memory;
  DetectorOptions options = quick();
  options.logger = &memory;
  options.files = {"/" + std::string(4095, 'x')};  // longer than it takes
  const auto why = ProcessDetector::ebpf(options);
  REQUIRE_FALSE(why);
  const auto best = ProcessDetector::best_available(options);
  REQUIRE(best);
  CHECK_FALSE((*best)->capabilities().file_open);
  CHECK(memory.has("will not be told"));
  CHECK(memory.has(why.error().message));
}

TEST_CASE("eBPF works where it must") {
  if (std::getenv("WEIR_REQUIRE_BPF") == nullptr) return;
  CHECK(std::any_of(working().begin(), working().end(), [](const Backend& backend) { return std::string(backend.name) == "eBPF"; }));
}

TEST_CASE("the best detector that works here is chosen, by trying") {
  const auto best = ProcessDetector::best_available(quick());
  REQUIRE(best);
  CHECK((*best)->capabilities().backend == working().front().name);
}

TEST_CASE("each self-test says whether its detector works here") {
  std::size_t good = 0;
  for (const instrument::DetectorSelftest& test : instrument::detector_selftests()) {
    const Result<void> result = test.try_it();
    CAPTURE(test.name);
    if (!result) CHECK(result.error().message.size() > 20);
    const bool works = std::any_of(working().begin(), working().end(), [&](const Backend& backend) { return backend.name == test.name; });
    CHECK(result.has_value() == works);
    good += result ? 1 : 0;
  }
  CHECK(good == working().size());
  errno = 0;
  CHECK(::waitpid(-1, nullptr, WNOHANG | __WALL) == -1);  // it leaves no children
  CHECK(errno == ECHILD);
}

TEST_CASE("a process is read with what it is asked for") {
  Watched process(WEIR_WATCHED_PROGRAM, {{"WEIR_TEST_A", "x=y"}}, {"argument"});
  const Words names{"WEIR_TEST_A", "WEIR_TEST_UNSET"};
  const auto event = read_process(process.pid(), names);
  REQUIRE(event);
  CHECK(event->type == Type::exec);
  CHECK(event->pid == process.pid());
  CHECK(event->executable == WEIR_WATCHED_PROGRAM);
  CHECK(event->arguments == Words{WEIR_WATCHED_PROGRAM, "argument"});
  CHECK(event->environment == std::map<std::string, std::string, std::less<>>{{"WEIR_TEST_A", "x=y"}});
  CHECK(event->start_time > 0);
  process.end();
  CHECK_FALSE(read_process(process.pid()));
  CHECK_FALSE(read_process(0));
  CHECK_FALSE(read_process(-1));
}
