// `weir agent`: a manager for the processes that a file names.
//
//   detector ─▶ Manager ─▶ ControlFactory ══▶ the processes' control sockets
//                 ▲  └─▶ lines on stdout, AgentSocket ══▶ weir ps, the collector's GET /v1/processes
//   the file ─────┘ looked at each second
#include <sys/resource.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <charconv>
#include <condition_variable>
#include <csignal>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "cli/agent_config.hpp"
#include "cli/agent_socket.hpp"
#include "cli/commands.hpp"
#include "cli/output.hpp"
#include "cli/signals.hpp"
#include "weir/core/version.hpp"
#include "weir/instrument/control_factory.hpp"
#include "weir/instrument/manager.hpp"
#include "weir/view/tree.hpp"

namespace weir::cli {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::chrono::seconds look_interval{1};

/// What a process is to the agent. Its group's name is empty if it is in none.
struct Details {
  ProcessEvent process;
  std::string group;
  std::uint64_t generation = 0;  ///< of the group, see Current
  std::string to_string() const { return process.executable + " in group " + group; }
};

struct Group {
  std::string name;
  auto operator<=>(const Group&) const = default;
};

/// A group that leaves the file and comes back is another one: what was said of the first does not hold for it.
struct Membership {
  std::string group;
  std::uint64_t generation = 0;
  auto operator<=>(const Membership&) const = default;
};

using AgentManager = Manager<Details, Group, Membership>;

/// A line on stdout for each change; what fails again and again for one reason is said once.
class Announcer final : public Reporter<Details> {
 public:
  /// From now on processes are let go; they do not end.
  void leave() noexcept { leaving_.store(true, std::memory_order_relaxed); }
  /// Writes what waits.
  void finish() { printer_.finish(); }

  Result<void> on_init(pid_t pid, const std::optional<Error>& error, const Details& details, const StopToken&) override {
    return error ? failed(pid, error->message, details) : Result<void>();
  }
  Result<void> on_load(pid_t pid, const std::optional<Error>& error, const Details& details, const Status& status,
                       const StopToken&) override {
    if (error) return failed(pid, error->message, details);
    for (const auto& [part, why] : status) {
      if (why)
        say("process " + std::to_string(pid) + " in group " + printable(details.group) + ": " + part + ": " + printable(why->message));
    }
    {
      std::lock_guard lock(mutex_);
      said_.erase(pid);
    }
    return line("instrumented", pid, details, "");
  }
  Result<void> on_run(pid_t pid, const std::optional<Error>& error, const Details& details, const StopToken&) override {
    return error ? failed(pid, error->message, details) : Result<void>();
  }
  Result<void> on_exit(pid_t pid, const Details& details, const StopToken&) override {
    {
      std::lock_guard lock(mutex_);
      said_.erase(pid);
    }
    return line(leaving_.load(std::memory_order_relaxed) ? "left" : "exited", pid, details, "");
  }

 private:
  Result<void> failed(pid_t pid, const std::string& why, const Details& details) {
    {
      std::lock_guard lock(mutex_);
      if (std::exchange(said_[pid], why) == why) return {};
    }
    return line("failed", pid, details, why);
  }
  Result<void> line(std::string_view what, pid_t pid, const Details& details, const std::string& why) {
    std::string text = std::string(what) + " pid=" + std::to_string(pid) + " group=" + printable(details.group) +
                       " executable=" + printable(details.process.executable);
    if (!why.empty()) text += ": " + printable(why);
    printer_.print(text + "\n");
    return {};
  }

  Printer printer_{STDOUT_FILENO, "stdout", 1u << 20};
  std::atomic<bool> leaving_{false};
  std::mutex mutex_;
  std::map<pid_t, std::string> said_;  // guarded by mutex_: why a process fails
};

/// The configuration in force, and how often there was another before each of its groups began.
struct InForce {
  AgentConfig config;
  std::map<std::string, std::uint64_t, std::less<>> generations;
};

/// Thread-safety: shared: safe.
class Current {
 public:
  explicit Current(AgentConfig config) { set(std::move(config)); }
  std::shared_ptr<const InForce> get() const {
    std::lock_guard lock(mutex_);
    return in_force_;
  }
  void set(AgentConfig config) {
    auto next = std::make_shared<InForce>();
    std::lock_guard lock(mutex_);
    for (const AgentGroup& group : config.groups) {
      const bool known = in_force_ != nullptr && in_force_->generations.contains(group.name);
      next->generations[group.name] = known ? in_force_->generations.at(group.name) : changes_;
    }
    next->config = std::move(config);
    ++changes_;
    in_force_ = std::move(next);
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const InForce> in_force_;  // guarded by mutex_
  std::uint64_t changes_ = 0;                // guarded by mutex_
};

Handler<Details, Group, Membership> handler_of(const std::shared_ptr<Current>& current, std::shared_ptr<Reporter<Details>> reporter) {
  const auto unknown = [](const std::string& group) {
    return Error{std::make_error_code(std::errc::no_such_file_or_directory), "the group '" + group + "' is not configured any more"};
  };
  Handler<Details, Group, Membership> handler;
  handler.process_details = [current](const ProcessEvent& event, const StopToken&) -> Result<Details> {
    const auto in_force = current->get();
    // Read anew: which variables are asked for may have changed since the detector began.
    auto process = read_process(event.pid, in_force->config.variables());
    if (!process) return process.error();
    if (process->start_time != event.start_time) {
      return Error{std::make_error_code(std::errc::no_such_process), "process " + std::to_string(event.pid) + " has ended"};
    }
    const AgentGroup* const group = in_force->config.group_of(*process);
    process->environment.clear();
    if (group == nullptr) return Details{std::move(*process), "", 0};
    return Details{std::move(*process), group->name, in_force->generations.at(group->name)};
  };
  handler.distribution = [current, unknown](const Details& details, const StopToken&) -> Result<Distribution> {
    if (details.group.empty()) return Distribution{};  // which no factory is for
    const auto in_force = current->get();
    const AgentGroup* const group = in_force->config.find(details.group);
    if (group == nullptr) return unknown(details.group);
    return group->distribution;
  };
  handler.config_group = [](const Details& details, const Distribution&, const StopToken&) -> Result<Group> {
    return Group{details.group};
  };
  handler.process_group = [](const Details& details, const StopToken&) -> Result<Membership> {
    return Membership{details.group, details.generation};
  };
  handler.settings = [current, unknown](const Details& details, const Distribution&, const StopToken&) -> Result<Settings> {
    const auto in_force = current->get();
    const AgentGroup* const group = in_force->config.find(details.group);
    if (group == nullptr) return unknown(details.group);
    return Settings{group->service_name, {}, group->config};
  };
  handler.reporter = std::move(reporter);
  return handler;
}

/// Every process of this machine that is in a group.
std::vector<pid_t> members(const AgentConfig& config) {
  std::vector<pid_t> pids;
  const std::vector<std::string> variables = config.variables();
  std::error_code error;
  for (std::filesystem::directory_iterator entry("/proc", error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename();
    pid_t pid = 0;
    const auto [rest, failed] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (failed != std::errc{} || rest != name.data() + name.size()) continue;
    const auto process = read_process(pid, variables);
    if (process && config.group_of(*process) != nullptr) pids.push_back(pid);
  }
  return pids;
}

bool same_match(const ProcessFilters& a, const ProcessFilters& b) {
  return a.executables == b.executables && a.environment == b.environment && a.uids == b.uids && a.cgroups == b.cgroups;
}

/// Brings a new configuration to the manager.
void change(AgentManager& manager, Current& current, AgentConfig next) {
  const auto in_force = current.get();
  const AgentConfig* const before = &in_force->config;
  std::vector<std::pair<Group, Config>> update;
  bool match_changed = before->groups.size() != next.groups.size();
  for (std::size_t i = 0; i < next.groups.size(); ++i) {
    const AgentGroup& group = next.groups[i];
    update.emplace_back(Group{group.name}, group.config);
    match_changed = match_changed || before->groups[i].name != group.name || !same_match(before->groups[i].match, group.match);
  }
  current.set(next);
  for (const AgentGroup& group : before->groups) {
    if (next.find(group.name) != nullptr) continue;
    manager.request(Uninstrument<Membership>{{group.name, in_force->generations.at(group.name)}});
  }
  manager.update_config(std::move(update));
  if (match_changed) manager.request(Instrument{members(next)});
}

std::string state_of(const AgentManager& manager, const AgentSettings& settings, std::string_view detector, const std::string& wrong) {
  const ManagerStats stats = manager.stats();
  Json agent{{"pid", ::getpid()}, {"version", WEIR_VERSION_STRING}, {"config", settings.config}, {"detector", detector}};
  agent["config_error"] = wrong.empty() ? Json(nullptr) : Json(wrong);
  std::uint64_t instrumented = 0;
  for (const auto& [distribution, count] : stats.instrumented) instrumented += count;
  agent["stats"] = {{"instrumented", instrumented},       {"failed", stats.failed},
                    {"abandoned", stats.abandoned},       {"events", stats.detector.events},
                    {"events_lost", stats.detector.lost}, {"rescans", stats.detector.rescans}};
  Json processes = Json::array();
  for (const ManagedProcess<Details>& process : manager.processes()) {
    Json row{{"pid", process.pid}, {"start_time", process.start_time}, {"uid", process.details.process.uid}};
    row["executable"] = process.details.process.executable;
    row["cgroup"] = process.details.process.cgroup;
    row["group"] = process.details.group;
    row["distribution"] = process.distribution.to_string();
    row["state"] = to_string(process.state);
    row["error"] = process.error ? Json(process.error->message) : Json(nullptr);
    Json components = Json::object();
    for (const auto& [name, error] : process.status) components[name] = error ? Json(error->message) : Json(nullptr);
    row["components"] = std::move(components);
    row["config"] = Json::parse(to_json(process.config), nullptr, false);
    processes.push_back(std::move(row));
  }
  return Json{{"agent", std::move(agent)}, {"processes", std::move(processes)}}.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<std::unique_ptr<ProcessDetector>> make_detector(const AgentSettings& settings) {
  DetectorOptions options;
  options.minimum_age = settings.minimum_age;
  switch (settings.detector) {
    case AgentDetector::kernel_events: return ProcessDetector::kernel_events(options);
    case AgentDetector::ebpf: return ProcessDetector::ebpf(options);
    case AgentDetector::proc: return ProcessDetector::proc_scan(options);
    case AgentDetector::best: break;
  }
  return ProcessDetector::best_available(options);
}

/// A descriptor is held for each process that is followed.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

/// Looks at the file, and at what failed, until the end.
class Steward {
 public:
  Steward(AgentManager& manager, Current& current, AgentConfigFile& file, std::chrono::milliseconds retry)
      : manager_(manager), current_(current), file_(file), retry_(retry), thread_([this] { watch(); }) {}
  ~Steward() {
    {
      std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Steward(const Steward&) = delete;
  Steward& operator=(const Steward&) = delete;

  /// What is wrong with the file, if it is.
  std::string wrong() const {
    std::lock_guard lock(mutex_);
    return wrong_;
  }

 private:
  void watch() {
    auto next_retry = std::chrono::steady_clock::now() + retry_;
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        if (changed_.wait_for(lock, look_interval, [&] { return ended_; })) return;
      }
      look();
      if (std::chrono::steady_clock::now() < next_retry) continue;
      next_retry = std::chrono::steady_clock::now() + retry_;
      manager_.request(RetryFailed{});
    }
  }
  void look() {
    auto next = file_.look();
    if (!next) {
      say(next.error().message + "; the configuration from before stays");
      std::lock_guard lock(mutex_);
      wrong_ = next.error().message;
    } else if (*next) {
      say("the configuration has changed");
      change(manager_, current_, std::move(**next));
      std::lock_guard lock(mutex_);
      wrong_.clear();
    }
  }

  AgentManager& manager_;
  Current& current_;
  AgentConfigFile& file_;
  const std::chrono::milliseconds retry_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  bool ended_ = false;
  std::string wrong_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace

int agent(const AgentSettings& settings) {
  Result<Signals> signals = Signals::block({SIGINT, SIGTERM, SIGHUP});
  if (!signals) return say(signals.error().message), exit_failed;
  Result<net::EventFd> end = net::EventFd::create();
  if (!end) return say(end.error().message), exit_failed;

  raise_descriptor_limit();
  const auto control = std::make_shared<ControlFactory>(ControlFactoryOptions{.directory = {}, .timeout = settings.timeout});
  const std::map<Distribution, std::shared_ptr<Factory>> factories{{{"cpp", "weir"}, control}};
  std::vector<Distribution> distributions;
  for (const auto& [distribution, factory] : factories) distributions.push_back(distribution);
  AgentConfigFile file(settings.config, distributions);
  auto config = file.look();
  if (!config) return say(config.error().message), exit_failed;
  const auto current = std::make_shared<Current>(std::move(**config));

  auto detector = make_detector(settings);
  if (!detector) return say(detector.error().message), exit_failed;
  const std::string backend((*detector)->capabilities().backend);
  AgentManager::Options options;
  options.factories = factories;
  const auto announcer = std::make_shared<Announcer>();
  options.handler = handler_of(current, announcer);
  options.detector = std::move(*detector);
  auto manager = AgentManager::create(std::move(options));
  if (!manager) return say(manager.error().message), exit_failed;

  StopSource stop;
  const StopCallback leaving(stop.token(), [&] { announcer->leave(); });  // before the manager hears of it
  SignalThread on_signal(*signals, std::move(*end), stop_on_signal(stop));
  const std::string path = settings.socket.empty() ? default_agent_socket() : settings.socket;
  Steward steward(*manager, *current, file, settings.retry);
  auto socket = AgentSocket::open(path, [&] { return state_of(*manager, settings, backend, steward.wrong()); });
  if (!socket) return say(socket.error().message), exit_failed;
  (void)write_all(STDERR_FILENO,
                  "watching config=" + printable(settings.config) + " socket=" + printable(path) + " detector=" + backend + "\n");
  const Result<void> ran = manager->run(stop.token());
  socket->reset();
  announcer->finish();  // while a second signal still ends the process
  if (!ran) return say(ran.error().message), exit_failed;
  return exit_ok;
}

}  // namespace weir::cli
