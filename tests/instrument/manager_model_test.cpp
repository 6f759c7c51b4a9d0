// Whatever processes, factories and users do, in whatever order: what a Manager calls keeps the rules of the life cycle, and when all is
// quiet, exactly what lives is instrumented, with the newest configuration.

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/fake_detector.hpp"
#include "weir/instrument/manager.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

struct Who {
  std::string executable;
  std::uint64_t start_time = 0;
  std::string to_string() const { return executable; }
};
struct Letter {
  char letter = 0;
  auto operator<=>(const Letter&) const = default;
};
using ModelManager = Manager<Who, Letter, Letter>;

const Distribution distribution{"cpp", "model"};
constexpr std::array<const char*, 4> executables{"/bin/a1", "/bin/a2", "/bin/b1", "/bin/b2"};
constexpr pid_t max_pid = 12;

Letter group_of(const std::string& executable) { return {executable.at(5)}; }
std::int64_t level_of(const Config& config) {
  const auto level = config.find("level");
  return level == config.end() ? 0 : std::get<std::int64_t>(level->second);
}

class QuietLogger final : public Logger {
  void log(Level, std::string_view, std::span<const Attribute>) noexcept override {}
};

/// The rules, pid by pid, and what was broken. Thread-safety: shared: safe.
class Ledger {
 public:
  enum class Phase { none, created, not_created, initialized, loaded, not_loaded, running, over };

  struct Entry {
    Phase phase = Phase::none;
    bool owes_exit = false, in_call = false, run_began = false, run_ended = false, run_failed = false, closed = false;
    std::int64_t level = 0;  // of the configuration
    bool hold = false, fail_create = false, fail_load = false;
    std::function<void()> break_run;
  };

  /// One call for `pid`: checked, and what it changes. No other is made for that pid meanwhile, whatever `inside` does.
  template <class Change>
  void call(pid_t pid, const std::string& what, Change change) {
    std::lock_guard lock(mutex_);
    Entry& entry = entries_[pid];
    if (entry.in_call) broken_.push_back(what + " " + std::to_string(pid) + ": during another call");
    if (!change(entry)) {
      broken_.push_back(what + " " + std::to_string(pid) + " in phase " + std::to_string(static_cast<int>(entry.phase)) +
                        (entry.closed ? " closed" : "") + (entry.run_ended ? " ended" : ""));
    }
    ++calls_;
  }
  void run_called(pid_t pid, const std::string& what, bool Entry::*flag) {
    std::lock_guard lock(mutex_);
    Entry& entry = entries_[pid];
    if (entry.*flag || (entry.phase != Phase::running && entry.phase != Phase::loaded)) broken_.push_back(what + " " + std::to_string(pid));
    entry.*flag = true;
  }
  template <class Use>
  auto with(pid_t pid, Use use) {
    std::lock_guard lock(mutex_);
    return use(entries_[pid]);
  }
  /// Waits while the test holds the process.
  void pass(pid_t pid) {
    std::unique_lock lock(mutex_);
    entries_[pid].in_call = true;
    changed_.wait(lock, [&] { return !entries_[pid].hold; });
    entries_[pid].in_call = false;
  }
  void hold(pid_t pid, bool held) {
    std::lock_guard lock(mutex_);
    entries_[pid].hold = held;
    changed_.notify_all();
  }
  std::vector<std::string> broken() const {
    std::lock_guard lock(mutex_);
    return broken_;
  }
  std::size_t calls() const {
    std::lock_guard lock(mutex_);
    return calls_;
  }
  std::map<pid_t, Entry> entries() const {
    std::lock_guard lock(mutex_);
    return entries_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<pid_t, Entry> entries_;
  std::vector<std::string> broken_;
  std::size_t calls_ = 0;
};
using Phase = Ledger::Phase;
using Entry = Ledger::Entry;

class ModelInstrumentation final : public Instrumentation {
 public:
  ModelInstrumentation(std::shared_ptr<Ledger> ledger, pid_t pid) : ledger_(std::move(ledger)), pid_(pid) {}

  Result<Status> load() override {
    bool failed = false;
    ledger_->pass(pid_);
    ledger_->call(pid_, "load", [&](Entry& entry) {
      const bool right = entry.phase == Phase::initialized;
      failed = entry.fail_load;
      entry.phase = failed ? Phase::not_loaded : Phase::loaded;
      entry.run_began = entry.run_ended = entry.run_failed = entry.closed = false;
      entry.break_run = [state = state_] { state->end(true); };
      return right;
    });
    if (failed) return Error{{}, "load fails"};
    return Status{};
  }
  Result<void> run(const StopToken& stop) override {
    ledger_->run_called(pid_, "run", &Entry::run_began);
    const StopCallback wake(stop, [this] { state_->end(false); });
    const bool failed = state_->wait();
    ledger_->with(pid_, [&](Entry& entry) { entry.run_failed = failed; });
    ledger_->run_called(pid_, "end of run", &Entry::run_ended);
    if (failed) throw std::runtime_error("run fails");
    return {};
  }
  Result<void> close() override {
    ledger_->call(pid_, "close", [&](Entry& entry) {
      const bool right = (entry.phase == Phase::running || entry.phase == Phase::loaded) && !entry.closed;
      entry.closed = true;
      if (entry.phase == Phase::loaded) entry.phase = Phase::not_loaded;  // its process was gone
      return right;
    });
    state_->end(false);
    return {};
  }
  Result<void> apply_config(const Config& config) override {
    ledger_->call(pid_, "apply_config", [&](Entry& entry) {
      const bool right = entry.phase == Phase::running && !entry.closed && level_of(config) > entry.level;
      entry.level = level_of(config);
      return right;
    });
    return {};
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    bool ended = false, failed = false;
    void end(bool by_failure) {
      std::lock_guard lock(mutex);
      failed = failed || (by_failure && !ended);
      ended = true;
      changed.notify_all();
    }
    bool wait() {
      std::unique_lock lock(mutex);
      changed.wait(lock, [this] { return ended; });
      return failed;
    }
  };

  const std::shared_ptr<Ledger> ledger_;
  const std::shared_ptr<State> state_ = std::make_shared<State>();
  const pid_t pid_;
};

class ModelFactory final : public Factory {
 public:
  explicit ModelFactory(std::shared_ptr<Ledger> ledger) : ledger_(std::move(ledger)) {}
  Result<std::unique_ptr<Instrumentation>> create(pid_t pid, const Settings& settings) override {
    bool failed = false;
    ledger_->pass(pid);
    ledger_->call(pid, "create", [&](Entry& entry) {
      // One that executes something else before it is loaded has no other end.
      const bool right = entry.phase == Phase::none || entry.phase == Phase::over || entry.phase == Phase::initialized;
      failed = entry.fail_create;
      entry.phase = failed ? Phase::not_created : Phase::created;
      entry.owes_exit = true;
      entry.level = level_of(settings.initial_config);
      return right;
    });
    if (failed) return Error{{}, "create fails"};
    return std::unique_ptr<Instrumentation>(std::make_unique<ModelInstrumentation>(ledger_, pid));
  }

 private:
  const std::shared_ptr<Ledger> ledger_;
};

/// Every fourth call fails; nothing may come of that.
class ModelReporter final : public Reporter<Who> {
 public:
  explicit ModelReporter(std::shared_ptr<Ledger> ledger) : ledger_(std::move(ledger)) {}

  Result<void> on_init(pid_t pid, const std::optional<Error>& error, const Who&, const StopToken&) override {
    ledger_->call(pid, "on_init", [&](Entry& entry) {
      const bool right = entry.phase == (error ? Phase::not_created : Phase::created);
      entry.phase = error ? Phase::over : Phase::initialized;
      return right;
    });
    return whether();
  }
  Result<void> on_load(pid_t pid, const std::optional<Error>& error, const Who&, const Status&, const StopToken&) override {
    ledger_->call(pid, "on_load", [&](Entry& entry) {
      const bool right = entry.phase == (error ? Phase::not_loaded : Phase::loaded) && !entry.run_began;
      entry.phase = error ? Phase::over : Phase::running;
      return right;
    });
    return whether();
  }
  Result<void> on_run(pid_t pid, const std::optional<Error>& error, const Who&, const StopToken&) override {
    ledger_->call(pid, "on_run", [&](Entry& entry) {
      const bool right =
          entry.phase == Phase::running && entry.closed && entry.run_began && entry.run_ended && entry.run_failed == error.has_value();
      entry.phase = Phase::over;
      return right;
    });
    return whether();
  }
  Result<void> on_exit(pid_t pid, const Who&, const StopToken&) override {
    ledger_->call(pid, "on_exit", [&](Entry& entry) {
      const bool right = entry.owes_exit && (entry.phase == Phase::over || entry.phase == Phase::initialized);
      entry.owes_exit = false;
      entry.phase = Phase::none;
      return right;
    });
    return whether();
  }

 private:
  Result<void> whether() {
    if (ledger_->calls() % 4 == 0) return Error{{}, "reporter fails"};
    return {};
  }
  const std::shared_ptr<Ledger> ledger_;
};

/// What runs, as the machine has it.
class Machine {
 public:
  void set(pid_t pid, std::string executable, std::uint64_t start_time) {
    std::lock_guard lock(mutex_);
    processes_[pid] = {std::move(executable), start_time};
  }
  void end(pid_t pid) {
    std::lock_guard lock(mutex_);
    processes_.erase(pid);
  }
  Result<ProcessEvent> read(pid_t pid) const {
    std::lock_guard lock(mutex_);
    const auto found = processes_.find(pid);
    if (found == processes_.end()) return Error{{}, "no such process"};
    return exec_of(pid, found->second.executable, found->second.start_time);
  }
  std::map<pid_t, Who> processes() const {
    std::lock_guard lock(mutex_);
    return processes_;
  }

 private:
  mutable std::mutex mutex_;
  std::map<pid_t, Who> processes_;
};

struct World {
  std::shared_ptr<Ledger> ledger = std::make_shared<Ledger>();
  std::shared_ptr<FakeDetector> detector = std::make_shared<FakeDetector>();
  std::shared_ptr<Machine> machine = std::make_shared<Machine>();
  QuietLogger logger;
  std::map<Letter, std::int64_t> levels;
  std::int64_t next_level = 1;
  std::uint64_t next_start = 1;
  std::mt19937_64 random;
  StopSource stop;

  explicit World(std::uint64_t seed) : random(seed) {}

  std::size_t below(std::size_t end) { return static_cast<std::size_t>(random() % end); }
  pid_t any_pid() { return 1 + static_cast<pid_t>(below(max_pid)); }

  ModelManager::Options options() {
    ModelManager::Options options;
    options.logger = &logger;
    options.factories = {{distribution, std::make_shared<ModelFactory>(ledger)}};
    options.detector = detector;
    options.workers = 1 + below(4);
    options.step_timeout = options.stop_timeout = std::chrono::seconds(120);
    options.read_process = [from = machine](pid_t pid) { return from->read(pid); };
    options.handler = {
        .process_details = [](const ProcessEvent& event, const StopToken&) -> Result<Who> {
          return Who{event.executable, event.start_time};
        },
        .config_group = [](const Who& who, const Distribution&, const StopToken&) -> Result<Letter> { return group_of(who.executable); },
        .process_group = [](const Who& who, const StopToken&) -> Result<Letter> { return group_of(who.executable); },
        .distribution = [](const Who&, const StopToken&) -> Result<Distribution> { return distribution; },
        .settings = [](const Who&, const Distribution&, const StopToken&) -> Result<Settings> { return Settings{}; },
        .reporter = std::make_shared<ModelReporter>(ledger)};
    return options;
  }

  void step(ModelManager& manager) {
    const pid_t pid = any_pid();
    const auto all = machine->processes();
    const auto process = all.find(pid);
    const bool lives = process != all.end();
    const std::string executable = executables[below(executables.size())];
    switch (below(14)) {
      case 0:
      case 1:
      case 2:
      case 3:                           // a process begins, or executes
        if (!lives || below(8) == 0) {  // or took the pid, and nobody told that the other ended
          const std::uint64_t start = next_start++;
          machine->set(pid, executable, start);
          detector->exec(pid, executable, start);
        } else {
          machine->set(pid, executable, process->second.start_time);
          detector->exec(pid, executable, process->second.start_time);
        }
        break;
      case 4:
        if (!lives) break;
        detector->exit(1000 + pid);  // of nobody
        detector->other(below(2) == 0 ? ProcessEvent::Type::fork : ProcessEvent::Type::file_open, pid, process->second.start_time,
                        process->second.executable);
        break;
      case 5:
      case 6:
        if (!lives) break;
        machine->end(pid);
        detector->exit(pid, process->second.start_time);
        if (below(4) == 0) detector->exit(pid, process->second.start_time);
        break;
      case 7: {
        const Letter group = group_of(executable);
        levels[group] = next_level++;
        manager.update_config({{group, Config{{"level", levels[group]}}}});
        break;
      }
      case 8: manager.request(Instrument{{pid, any_pid()}}); break;
      case 9:
        if (below(3) == 0) manager.request(Uninstrument{group_of(executable)});
        break;
      case 10: manager.request(RetryFailed{}); break;
      case 11: ledger->hold(pid, below(3) == 0); break;
      case 12: {
        const bool create = below(4) == 0, load = below(4) == 0;
        ledger->with(pid, [&](Entry& entry) {
          entry.fail_create = create;
          entry.fail_load = load;
        });
        break;
      }
      case 13: {
        const auto break_run = ledger->with(pid, [&](Entry& entry) { return entry.break_run; });
        if (break_run) break_run();
        break;
      }
    }
    if (below(8) == 0) std::this_thread::yield();
  }

  void make_well() {
    for (pid_t pid = 1; pid <= max_pid; ++pid) {
      ledger->with(pid, [](Entry& entry) { entry.fail_create = entry.fail_load = false; });
      ledger->hold(pid, false);
    }
  }

  /// Exactly what lives (and is in none of the `closed` group) is instrumented, with its newest configuration.
  bool is_as_it_should_be(const ModelManager& manager, std::optional<Letter> closed = {}) const {
    std::size_t wanted = 0;
    const auto entries = ledger->entries();
    const auto alive = machine->processes();
    const auto rows = manager.processes();
    for (const auto& row : rows) {
      if (!alive.contains(row.pid) || alive.at(row.pid).start_time != row.start_time) return false;
    }
    for (const auto& [pid, who] : alive) {
      const auto entry = entries.find(pid);
      const bool runs =
          entry != entries.end() && entry->second.phase == Phase::running && entry->second.run_began && !entry->second.run_ended;
      const bool right = group_of(who.executable) != closed;
      if (runs != right) return false;
      if (!right) continue;
      ++wanted;
      const auto row = std::find_if(rows.begin(), rows.end(), [pid = pid](const auto& one) { return one.pid == pid; });
      if (row == rows.end() || row->state != ProcessState::instrumented || row->details.executable != who.executable) return false;
      const auto level = levels.find(group_of(who.executable));
      if (entry->second.level != (level == levels.end() ? 0 : level->second) || level_of(row->config) != entry->second.level) return false;
    }
    const ManagerStats stats = manager.stats();
    const auto counted = stats.instrumented.find(distribution);
    return (counted == stats.instrumented.end() ? 0 : counted->second) == wanted;
  }

  void check_the_end(const ModelManager& manager) const {
    CHECK(ledger->broken() == std::vector<std::string>{});
    for (const auto& [pid, entry] : ledger->entries()) {
      INFO("pid " << pid);
      CHECK_FALSE(entry.owes_exit);
      CHECK(entry.phase == Phase::none);
      CHECK(entry.run_began == entry.run_ended);
    }
    CHECK(manager.processes().empty());
    CHECK(manager.stats().instrumented.empty());
    CHECK(manager.stats().abandoned == 0);
    CHECK(ledger.use_count() <= 3);  // ours, the factory's, the reporter's: every instrumentation is gone
  }
};

}  // namespace

TEST_CASE("random lives keep the rules, and end as they should") {
  const auto seed = GENERATE(range(1, 7));
  INFO("seed " << seed);
  World world(static_cast<std::uint64_t>(seed));
  auto manager = ModelManager::create(world.options());
  REQUIRE(manager);
  Result<void> result;
  for (int step = 0; step < 20; ++step) world.step(*manager);  // they wait
  std::thread loop([&] { result = manager->run(world.stop.token()); });
  for (int step = 0; step < 400; ++step) world.step(*manager);
  world.make_well();
  const bool settled = eventually([&] {
    for (const auto& [pid, who] : world.machine->processes()) manager->request(Instrument{{pid}});
    return world.is_as_it_should_be(*manager);
  });
  CHECK(settled);
  manager->request(Uninstrument{Letter{'a'}});
  CHECK(eventually([&] { return world.is_as_it_should_be(*manager, Letter{'a'}); }));
  CHECK(world.ledger->broken() == std::vector<std::string>{});
  world.stop.request_stop();
  loop.join();
  CHECK(result);
  world.check_the_end(*manager);
}

TEST_CASE("the manager may be stopped at any moment of random lives") {
  const auto seed = GENERATE(range(101, 113));
  INFO("seed " << seed);
  World world(static_cast<std::uint64_t>(seed));
  auto manager = ModelManager::create(world.options());
  REQUIRE(manager);
  Result<void> result;
  std::thread loop([&] { result = manager->run(world.stop.token()); });
  const std::size_t steps = world.below(120);
  for (std::size_t step = 0; step < steps; ++step) world.step(*manager);
  const bool by_detector = world.below(2) == 0;
  if (by_detector) {
    world.detector->end();
  } else {
    world.stop.request_stop();
  }
  for (int step = 0; step < 20; ++step) world.step(*manager);
  world.make_well();
  loop.join();
  CHECK(result);
  world.check_the_end(*manager);
}
