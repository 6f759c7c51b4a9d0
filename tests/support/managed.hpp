#pragma once
// A Manager over a FakeDetector, whose factories, handler and reporter write down every call and do what a test says: fail, throw, or
// wait at a gate.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/audit_trail.hpp"
#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/fake_detector.hpp"
#include "weir/instrument/manager.hpp"

namespace weir::testing {

struct AppDetails {
  std::string executable;
  pid_t pid = 0;
  std::string to_string() const { return executable + "#" + std::to_string(pid); }
};
struct AppGroup {
  std::string service;
  auto operator<=>(const AppGroup&) const = default;
};
using AppManager = Manager<AppDetails, AppGroup, AppGroup>;

inline const Distribution cpp_weir{"cpp", "weir"}, cpp_probes{"cpp", "uprobes"};

/// Closed until it is opened, for good. Thread-safety: shared: safe.
class Gate {
 public:
  void open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.wait(lock, [this] { return open_; });
    --waiting_;
  }
  int waiting() const {
    std::lock_guard lock(mutex_);
    return waiting_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  int waiting_ = 0;
};

/// What was called, in order, as "step pid" and what follows; and what is to happen in such a call. Shared by all that a test's manager
/// calls, so that what was given up can still use it. Thread-safety: shared: safe.
class Script {
 public:
  using Action = std::function<Result<void>()>;

  /// `action` happens in each call of that name: "create 7", or "create" of all processes.
  void on(const std::string& call, Action action) {
    std::lock_guard lock(mutex_);
    actions_[call] = std::move(action);
  }
  void fail(const std::string& call, std::string message = "refused") {
    on(call, [message]() -> Result<void> { return Error{{}, message}; });
  }
  /// The gate is opened at the end of the rig, at the latest.
  std::shared_ptr<Gate> block(const std::string& call) {
    auto gate = std::make_shared<Gate>();
    on(call, [gate]() -> Result<void> {
      gate->pass();
      return {};
    });
    std::lock_guard lock(mutex_);
    gates_.push_back(gate);
    return gate;
  }
  void allow(const std::string& call) {
    std::lock_guard lock(mutex_);
    actions_.erase(call);
  }
  void open_gates() {
    std::lock_guard lock(mutex_);
    for (const auto& gate : gates_) gate->open();
  }

  Result<void> call(const std::string& step, pid_t pid, const std::string& more = {}) {
    const std::string name = step + " " + std::to_string(pid);
    Action action;
    {
      std::lock_guard lock(mutex_);
      lines_.push_back(more.empty() ? name : name + " " + more);
      if (const auto one = actions_.find(name); one != actions_.end()) {
        action = one->second;
      } else if (const auto all = actions_.find(step); all != actions_.end()) {
        action = all->second;
      }
    }
    return action ? action() : Result<void>();
  }

  std::vector<std::string> lines() const {
    std::lock_guard lock(mutex_);
    return lines_;
  }
  /// Those of a process, without its pid, and without those that only read it.
  std::vector<std::string> of(pid_t pid) const {
    std::vector<std::string> found;
    const std::string number = " " + std::to_string(pid);
    for (std::string line : lines()) {
      const std::size_t at = line.find(number);
      if (at == line.npos || (at + number.size() < line.size() && line[at + number.size()] != ' ')) continue;
      if (line.find(' ') != at) continue;
      line.erase(at, number.size());
      if (line == "read") continue;
      found.push_back(std::move(line));
    }
    return found;
  }
  std::size_t count(std::string_view line) const {
    const auto all = lines();
    return static_cast<std::size_t>(std::count(all.begin(), all.end(), line));
  }
  bool has(std::string_view line) const { return count(line) != 0; }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
  std::map<std::string, Action> actions_;
  std::vector<std::shared_ptr<Gate>> gates_;
};

inline std::string text_of(const Config& config) {
  std::string text;
  for (const auto& [key, value] : config) {
    if (!text.empty()) text += ",";
    text += key + "=" + (std::holds_alternative<std::int64_t>(value) ? std::to_string(std::get<std::int64_t>(value)) : "?");
  }
  return text;
}
inline Config config_of(std::int64_t level) { return {{"level", level}}; }

/// Thread-safety: shared: safe.
class ScriptedInstrumentation final : public Instrumentation {
 public:
  ScriptedInstrumentation(std::shared_ptr<Script> script, std::string prefix, pid_t pid)
      : script_(std::move(script)), prefix_(std::move(prefix)), pid_(pid) {}
  ~ScriptedInstrumentation() override { (void)script_->call(prefix_ + "destroy", pid_); }

  Result<Status> load() override {
    if (Result<void> done = script_->call(prefix_ + "load", pid_); !done) return done.error();
    return Status{{"probe", std::nullopt}};
  }
  Result<void> run(const StopToken& stop) override {
    Result<void> result = script_->call(prefix_ + "run", pid_);
    if (result) {
      const StopCallback wake(stop, [this] { end(); });
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return ended_; });
    }
    (void)script_->call(prefix_ + "ran", pid_);
    return result;
  }
  Result<void> close() override {
    Result<void> result = script_->call(prefix_ + "close", pid_);
    end();
    return result;
  }
  Result<void> apply_config(const Config& config) override { return script_->call(prefix_ + "apply", pid_, text_of(config)); }

 private:
  void end() {
    std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }

  const std::shared_ptr<Script> script_;
  const std::string prefix_;
  const pid_t pid_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
};

/// "PREFIXcreate", "PREFIXload" … are its calls.
class ScriptedFactory final : public Factory {
 public:
  explicit ScriptedFactory(std::shared_ptr<Script> script, std::string prefix = {})
      : script_(std::move(script)), prefix_(std::move(prefix)) {}
  Result<std::unique_ptr<Instrumentation>> create(pid_t pid, const Settings& settings) override {
    if (Result<void> done = script_->call(prefix_ + "create", pid, text_of(settings.initial_config)); !done) return done.error();
    return std::unique_ptr<Instrumentation>(std::make_unique<ScriptedInstrumentation>(script_, prefix_, pid));
  }

 private:
  const std::shared_ptr<Script> script_;
  const std::string prefix_;
};

class ScriptedReporter final : public Reporter<AppDetails> {
 public:
  explicit ScriptedReporter(std::shared_ptr<Script> script) : script_(std::move(script)) {}
  Result<void> on_init(pid_t pid, const std::optional<Error>& error, const AppDetails&, const StopToken&) override {
    return script_->call("on_init", pid, text_of(error));
  }
  Result<void> on_load(pid_t pid, const std::optional<Error>& error, const AppDetails&, const Status& status, const StopToken&) override {
    return script_->call("on_load", pid, text_of(error) + (status.contains("probe") ? " probe" : ""));
  }
  Result<void> on_run(pid_t pid, const std::optional<Error>& error, const AppDetails&, const StopToken&) override {
    return script_->call("on_run", pid, text_of(error));
  }
  Result<void> on_exit(pid_t pid, const AppDetails& details, const StopToken&) override {
    return script_->call("on_exit", pid, details.executable);
  }

 private:
  static std::string text_of(const std::optional<Error>& error) { return error ? "error: " + error->message : "ok"; }

  const std::shared_ptr<Script> script_;
};

/// The handler puts a process into the group "checkout" if its executable has that in it, else "other"; it is cpp/weir.
struct Rig {
  std::shared_ptr<Script> script = std::make_shared<Script>();
  std::shared_ptr<FakeDetector> detector = std::make_shared<FakeDetector>();
  RecordingLogger logger;
  AppManager::Options options;
  std::optional<AppManager> manager;
  StopSource stop;
  std::thread loop;
  std::atomic<bool> returned{false};
  std::optional<Result<void>> result;

  Rig() {
    options.logger = &logger;
    options.factories = {{cpp_weir, std::make_shared<ScriptedFactory>(script)}};
    options.detector = detector;
    options.step_timeout = std::chrono::seconds(60);
    options.stop_timeout = std::chrono::seconds(60);
    options.handler = handler();
    options.read_process = [to = script, from = detector](pid_t pid) -> Result<ProcessEvent> {
      if (Result<void> done = to->call("read", pid); !done) return done.error();
      return exec_of(pid, "/bin/app", from->started(pid).value_or(1));
    };
  }
  ~Rig() {
    script->open_gates();
    (void)finish();
    manager.reset();
    options = {};
    CHECK(eventually([&] { return script.use_count() == 1; }));  // what was given up has returned, and was released
  }
  Rig(const Rig&) = delete;
  Rig& operator=(const Rig&) = delete;

  Handler<AppDetails, AppGroup, AppGroup> handler() {
    const auto group = [](const AppDetails& details) {
      return AppGroup{details.executable.find("checkout") != std::string::npos ? "checkout" : "other"};
    };
    return {.process_details = [to = script](const ProcessEvent& event, const StopToken&) -> Result<AppDetails> {
              if (Result<void> done = to->call("details", event.pid); !done) return done.error();
              return AppDetails{event.executable, event.pid};
            },
            .config_group = [to = script, group](const AppDetails& details, const Distribution&, const StopToken&) -> Result<AppGroup> {
              if (Result<void> done = to->call("config_group", details.pid); !done) return done.error();
              return group(details);
            },
            .process_group = [to = script, group](const AppDetails& details, const StopToken&) -> Result<AppGroup> {
              if (Result<void> done = to->call("process_group", details.pid); !done) return done.error();
              return group(details);
            },
            .distribution = [to = script](const AppDetails& details, const StopToken&) -> Result<Distribution> {
              if (Result<void> done = to->call("distribution", details.pid); !done) return done.error();
              return details.executable.find("probed") != std::string::npos ? cpp_probes : cpp_weir;
            },
            .settings = [to = script](const AppDetails& details, const Distribution&, const StopToken&) -> Result<Settings> {
              if (Result<void> done = to->call("settings", details.pid); !done) return done.error();
              return Settings{.service_name = "app"};
            },
            .reporter = std::make_shared<ScriptedReporter>(script)};
  }

  void start() {
    auto made = AppManager::create(options);
    REQUIRE(made);
    manager.emplace(*std::move(made));
    loop = std::thread([this] {
      result = manager->run(stop.token());
      returned = true;
    });
  }
  Result<void> finish() {
    if (loop.joinable()) {
      stop.request_stop();
      loop.join();
    }
    return result.value_or(Result<void>());
  }

  bool waits_for(const std::string& line, std::size_t times = 1) const {
    return eventually([&] { return script->count(line) >= times; });
  }
  /// The process is in this state, and so are the counts.
  bool is(pid_t pid, ProcessState state) const {
    return eventually([&] {
      const auto all = manager->processes();
      return std::any_of(all.begin(), all.end(), [&](const auto& one) { return one.pid == pid && one.state == state; });
    });
  }
  bool gone(pid_t pid) const {
    return eventually([&] {
      const auto all = manager->processes();
      return std::none_of(all.begin(), all.end(), [&](const auto& one) { return one.pid == pid; });
    });
  }
  /// The manager has done all that it was told before: what it is told afterwards happens after that.
  void settle() {
    const pid_t marker = ++marker_;
    script->fail("details " + std::to_string(marker));
    detector->exec(marker);
    REQUIRE(waits_for("details " + std::to_string(marker)));
  }
  std::uint64_t instrumented(const Distribution& distribution = cpp_weir) const {
    const ManagerStats stats = manager->stats();
    const auto found = stats.instrumented.find(distribution);
    return found == stats.instrumented.end() ? 0 : found->second;
  }

 private:
  pid_t marker_ = 1'000'000;
};

}  // namespace weir::testing
