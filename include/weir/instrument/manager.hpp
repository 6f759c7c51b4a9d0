#pragma once
// Manager: finds processes, instruments them, keeps them configured, and reports every step.
//
//   struct Details { std::string service; pid_t pid; std::string to_string() const; };
//   struct Group { std::string service; auto operator<=>(const Group&) const = default; };
//
//   auto manager = weir::Manager<Details, Group, Group>::create({
//       .factories = {{{"cpp", "weir"}, control_factory}}, .handler = {.process_details = …, .settings = …, .reporter = …, …},
//       .detector = std::move(detector)});
//   std::thread loop([&] { (void)manager->run(stop.token()); });
//   manager->update_config({{Group{"checkout"}, weir::Config{{"sampling", 0.1}}}});
//
// The user says in a Handler what a process is (Details), which Distribution instruments it, and which groups it is in: processes of
// one ConfigGroup have one configuration, those of one ProcessGroup are un-instrumented together. A process is a pid and a start time.
//
//                     details, distribution, groups, settings, generic factories, create ▸ on_init, load ▸ on_load
//   exec, fork,     ┌──────────┐                         all went well                    ┌──────────────┐ update_config: apply_config
//   file_open ─────▶│ starting │─────────────────────────────────────────────────────────▶│ instrumented │◀─┐
//   or Instrument   └──────────┘                                                          └──────────────┘──┘
//                     ▲   │ create or load failed      ┌────────┐                           │    │ run() ends by itself ▸ on_run
//                     │   ├───────────────────────────▶│ failed │                           │    ▼
//                     │   │ nothing but generic ones   ├────────┤                           │  ┌───────────┐
//                     │   └───────────────────────────▶│ generic│                           │  │ ended_run │
//                     │                                └────────┘                           │  └───────────┘
//                     └── exec, RetryFailed, Instrument ──┴───────────────────────────────  │ ───┘
//   any of them, tracked: ─exit, or the manager stops─▶ closing ▸ close, on_run, on_exit ─▶ forgotten
//                         ─Uninstrument of its group──▶ closing ▸ close, on_run ─▶ uninstrumented ─Instrument─▶ starting
//
// Threads. run()'s thread owns all state; of what is the user's it calls the logger, the groups' ==, and the destructors of Details and
// groups, which must be quick (update_config() calls ==, too, under a lock). The detector runs on a thread of its own; each live
// instrumentation has one for its run(). All else (handler, factories, load, close, apply_config, reporter, and the ends of
// instrumentations) is called on a small pool, for one process one call at a time, in order. A call that takes longer than
// `step_timeout`, or ends its thread (pthread_exit()), is given up: it is named in the log and counted, its stop token is requested, a
// new worker takes its thread's place, and it counts as failed with std::errc::timed_out. What it still returns is ignored: an
// instrumentation is closed (if it was loaded) and destroyed on that thread, whenever that is, also when the manager is gone; what
// there is no time to close before run() returns is closed and destroyed likewise. So whatever callables refer to must live as long as
// they may hang. (Reporters, factories and the detector are shared, and kept.) With 256 such threads at a time, no new ones take their
// place until one returns. A run() that hangs after close() keeps its own thread, and those have no bound.
//
// Who is instrumented. After each load the process is read again: if the pid is another process's by then, or nobody's, the
// instrumentation is closed, and the load has failed with std::errc::no_such_process. An event of who had a pid before is ignored.

#include <sys/types.h>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "weir/core/logger.hpp"
#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"
#include "weir/instrument/detail/manager_engine.hpp"
#include "weir/instrument/detector.hpp"
#include "weir/instrument/hash_of.hpp"
#include "weir/instrument/instrumentation.hpp"

namespace weir::inline v0 {

/// What the user knows of a process. to_string() is for logs.
template <class T>
concept ProcessDetails = std::copy_constructible<T> && requires(const T& details) {
  { details.to_string() } -> std::convertible_to<std::string>;
};

/// What processes can be put together by. Equal groups must have equal hashes (hash_of.hpp).
template <class T>
concept ProcessGrouping = std::copy_constructible<T> && std::equality_comparable<T> && Hashable<T>;

/// Is told every step. Called on workers: in order for each process, for several processes at once. An error is logged and changes
/// nothing. `stop` is requested when the call is given up.
template <class Details>
class Reporter {
 public:
  virtual ~Reporter() = default;
  /// An instrumentation was created, or could not be.
  virtual Result<void> on_init(pid_t /*pid*/, const std::optional<Error>& /*error*/, const Details&, const StopToken& /*stop*/) {
    return {};
  }
  /// It was loaded, or could not be. Only after an on_init without error. `status`: empty on failure.
  virtual Result<void> on_load(pid_t /*pid*/, const std::optional<Error>& /*error*/, const Details&, const Status&,
                               const StopToken& /*stop*/) {
    return {};
  }
  /// Its run() has ended, once for each that was loaded; with run()'s error, or that of close(), or none.
  virtual Result<void> on_run(pid_t /*pid*/, const std::optional<Error>& /*error*/, const Details&, const StopToken& /*stop*/) {
    return {};
  }
  /// The process has ended, or the manager stops. The last call for a process, after on_run.
  virtual Result<void> on_exit(pid_t /*pid*/, const Details&, const StopToken& /*stop*/) { return {}; }
};

/// What the user says of processes. Every callable gets a stop token last, requested when the call is given up and, but for those of the
/// reporter, when the manager stops. What they throw counts as an error.
template <class Details, class ConfigGroup, class ProcessGroup>
struct Handler {
  /// Required. Error: logged, and nothing becomes of the event.
  std::function<Result<Details>(const ProcessEvent&, const StopToken&)> process_details{};
  /// None: update_config() reaches nobody. Error: as of process_details.
  std::function<Result<ConfigGroup>(const Details&, const Distribution&, const StopToken&)> config_group{};
  /// None: Uninstrument reaches nobody. Error: as of process_details.
  std::function<Result<ProcessGroup>(const Details&, const StopToken&)> process_group{};
  /// None, or an error: generic factories only. InstrumentErrc::language_mismatch is logged at debug, other errors as warnings. One
  /// that has no factory: generic factories only, and nothing is logged.
  std::function<Result<Distribution>(const Details&, const StopToken&)> distribution{};
  /// Required. Error: logged, and instrumentation goes on with Settings{}.
  std::function<Result<Settings>(const Details&, const Distribution&, const StopToken&)> settings{};
  std::shared_ptr<Reporter<Details>> reporter{};  ///< required
};

template <class Details, class ConfigGroup, class ProcessGroup>
struct ManagerOptions {
  Logger* logger = nullptr;  ///< nullptr: stderr_logger(). Called by run()'s thread; must outlive it
  std::map<Distribution, std::shared_ptr<Factory>> factories{};
  /// Each gets every process once, before its distribution's; again when it executes something else. What they do is not reported.
  std::vector<std::shared_ptr<Factory>> generic_factories{};
  Handler<Details, ConfigGroup, ProcessGroup> handler{};
  std::shared_ptr<ProcessDetector> detector{};  ///< required; the manager runs it
  std::size_t workers = 4;  ///< 1 to 256; more: more slow calls at once. While it stops, up to 64 if there are more to close
  std::chrono::milliseconds step_timeout{10'000};  ///< of each call; longer: slower calls succeed, hung ones hold a worker longer
  std::chrono::milliseconds stop_timeout{10'000};  ///< from the stop to the end of run(); each call gets at most half of what is left
  /// Counts instrumented_processes:LANGUAGE/SDK (a gauge), failed_instrumentations:LANGUAGE/SDK, events_lost and rescans.
  const Telemetry* telemetry = nullptr;
  /// For Instrument, and to see that who was loaded is still the same: std::errc::no_such_process says it is not, other errors say
  /// nothing. Called on workers, by several at once. None: weir::read_process().
  std::function<Result<ProcessEvent>(pid_t)> read_process{};
};

/// Instruments these processes, whatever the detector's filters say, also of groups that were un-instrumented. Skips those that are
/// instrumented. It is about what they execute now: a group that they come into later stays un-instrumented. A pid that cannot be read
/// is logged.
struct Instrument {
  std::vector<pid_t> pids;
};

/// Un-instruments the processes of a group, and those that come, until Instrument names one of it: from then on those that come are
/// instrumented.
template <class ProcessGroup>
struct Uninstrument {
  ProcessGroup group;
};
template <class ProcessGroup>
Uninstrument(ProcessGroup) -> Uninstrument<ProcessGroup>;

/// Tries again what failed, or whose run has ended, and applies a configuration again that was refused: of all, or of those of one
/// distribution.
struct RetryFailed {
  std::optional<Distribution> distribution{};
};

enum class ProcessState {
  starting,        ///< calls are being made to instrument it
  instrumented,    ///< an instrumentation runs
  failed,          ///< create or load failed, or a call of its instrumentation was given up
  generic,         ///< instrumented by generic factories only
  ended_run,       ///< its instrumentation has ended by itself
  uninstrumented,  ///< was instrumented, on request or by what it executes now it is not
  closing          ///< is being closed
};

std::string_view to_string(ProcessState state) noexcept;

/// A process as the manager has it. Thread-safety: a value.
template <class Details>
struct ManagedProcess {
  pid_t pid = 0;
  std::uint64_t start_time = 0;  ///< as ProcessEvent::start_time
  Details details;
  ProcessState state = ProcessState::starting;
  Distribution distribution{};   ///< empty: none is known
  std::optional<Error> error{};  ///< why it is not instrumented; of `instrumented` and `generic`: why not configured as asked
  Status status{};               ///< of the load, see there
  Config config{};               ///< that it was given last, or began with
};

/// Thread-safety: a value.
struct ManagerStats {
  std::map<Distribution, std::uint64_t> instrumented{};  ///< now
  std::uint64_t failed = 0;                              ///< processes of which an instrumentation failed; each once
  std::uint64_t abandoned = 0;                           ///< calls that were given up
  std::uint64_t config_errors = 0;                       ///< apply_config() calls that failed
  std::uint64_t lost_events = 0;                         ///< of the detector, while 65,536 waited for run()'s thread
  std::uint64_t lost_requests = 0;                       ///< likewise, of 65,536
  DetectorStats detector{};
};

namespace detail {

template <class T>
class TypedGroup final : public AnyGroup {
 public:
  explicit TypedGroup(T group) : AnyGroup(hash_of(group)), value(std::move(group)) {}
  bool equals(const AnyGroup& other) const override { return value == static_cast<const TypedGroup&>(other).value; }
  const T value;
};

template <class T>
GroupKey make_group(T group) {
  return std::make_shared<TypedGroup<T>>(std::move(group));
}

/// A Handler without its types.
template <class Details, class ConfigGroup, class ProcessGroup>
ManagerCalls erase_types(Handler<Details, ConfigGroup, ProcessGroup> handler) {
  const auto details = [](const void* any) -> const Details& { return *static_cast<const Details*>(any); };
  ManagerCalls calls;
  if (handler.process_details) {
    calls.process_details = [ask = std::move(handler.process_details)](const ProcessEvent& event,
                                                                       const StopToken& stop) -> Result<AnyDetails> {
      Result<Details> answer = ask(event, stop);
      if (!answer) return std::move(answer).error();
      auto value = std::make_shared<const Details>(*std::move(answer));
      std::string text = value->to_string();
      return AnyDetails{std::move(value), std::move(text)};
    };
  }
  if (handler.config_group) {
    calls.config_group = [ask = std::move(handler.config_group), details](const void* any, const Distribution& distribution,
                                                                          const StopToken& stop) -> Result<GroupKey> {
      Result<ConfigGroup> answer = ask(details(any), distribution, stop);
      if (!answer) return std::move(answer).error();
      return make_group(*std::move(answer));
    };
  }
  if (handler.process_group) {
    calls.process_group = [ask = std::move(handler.process_group), details](const void* any, const StopToken& stop) -> Result<GroupKey> {
      Result<ProcessGroup> answer = ask(details(any), stop);
      if (!answer) return std::move(answer).error();
      return make_group(*std::move(answer));
    };
  }
  if (handler.distribution) {
    calls.distribution = [ask = std::move(handler.distribution), details](const void* any, const StopToken& stop) {
      return ask(details(any), stop);
    };
  }
  if (handler.settings) {
    calls.settings = [ask = std::move(handler.settings), details](const void* any, const Distribution& distribution,
                                                                  const StopToken& stop) { return ask(details(any), distribution, stop); };
  }
  if (const auto reporter = std::move(handler.reporter)) {
    calls.on_init = [reporter, details](pid_t pid, const std::optional<Error>& error, const void* any, const StopToken& stop) {
      return reporter->on_init(pid, error, details(any), stop);
    };
    calls.on_load = [reporter, details](pid_t pid, const std::optional<Error>& error, const void* any, const Status& status,
                                        const StopToken& stop) { return reporter->on_load(pid, error, details(any), status, stop); };
    calls.on_run = [reporter, details](pid_t pid, const std::optional<Error>& error, const void* any, const StopToken& stop) {
      return reporter->on_run(pid, error, details(any), stop);
    };
    calls.on_exit = [reporter, details](pid_t pid, const void* any, const StopToken& stop) {
      return reporter->on_exit(pid, details(any), stop);
    };
  }
  return calls;
}

}  // namespace detail

/// Thread-safety: shared: safe, but that run() is called once and that moving and destroying must not meet other calls.
template <class Details, class ConfigGroup, class ProcessGroup>
class Manager {
  static_assert(ProcessDetails<Details>, "Details must be copyable and have: std::string to_string() const");
  static_assert(std::equality_comparable<ConfigGroup> && std::equality_comparable<ProcessGroup>,
                "a group needs ==, as of: auto operator<=>(const Group&) const = default;");
  static_assert(
      Hashable<ConfigGroup> && Hashable<ProcessGroup>,
      "a group needs a std::hash, or a hash_value(const Group&) beside it, or to be an aggregate of at most six members that have "
      "(weir/instrument/hash_of.hpp)");
  static_assert(ProcessGrouping<ConfigGroup> && ProcessGrouping<ProcessGroup>, "a group must be copyable");

 public:
  using Options = ManagerOptions<Details, ConfigGroup, ProcessGroup>;

  /// Error (std::errc::invalid_argument), naming the part: no handler, reporter, process_details, settings or detector, a factory that is
  /// null, or a number out of range.
  static Result<Manager> create(Options options) {
    auto engine = detail::ManagerEngine::create({.logger = options.logger,
                                                 .factories = std::move(options.factories),
                                                 .generic_factories = std::move(options.generic_factories),
                                                 .calls = detail::erase_types(std::move(options.handler)),
                                                 .detector = std::move(options.detector),
                                                 .workers = options.workers,
                                                 .step_timeout = options.step_timeout,
                                                 .stop_timeout = options.stop_timeout,
                                                 .telemetry = options.telemetry,
                                                 .read_process = std::move(options.read_process)});
    if (!engine) return std::move(engine).error();
    return Manager(*std::move(engine));
  }

  /// The whole configuration of each of these groups from now on: of what is instrumented, and instead of Settings::initial_config of
  /// what comes. Errors are logged, those of one update together. Remembered for each group that was ever named, until the manager is
  /// gone. What a newer one replaces before it was applied is not applied. Before run(): waits for it.
  void update_config(std::vector<std::pair<ConfigGroup, Config>> update) {
    std::vector<std::pair<detail::GroupKey, Config>> erased;
    erased.reserve(update.size());
    for (auto& [group, config] : update) erased.emplace_back(detail::make_group(std::move(group)), std::move(config));
    engine_->update_config(std::move(erased));
  }

  // Requests are done in order. Before run() they wait for it; once it stops they do nothing.
  void request(const Instrument& request) { engine_->request(request); }
  void request(Uninstrument<ProcessGroup> request) { engine_->uninstrument(detail::make_group(std::move(request.group))); }
  void request(const RetryFailed& request) { engine_->request(request); }

  /// Runs the detector and instruments, until stop is requested or the detector ends; then closes and reports everything within
  /// `stop_timeout`, and returns. Errors: the detector's; it ran before; there are no threads.
  Result<void> run(const StopToken& stop) { return engine_->run(stop); }

  /// Those that are being instrumented or are tracked, by pid. A process comes and goes a moment after its reports.
  std::vector<ManagedProcess<Details>> processes() const {
    std::vector<ManagedProcess<Details>> processes;
    for (detail::ManagedRow& row : engine_->processes()) {
      processes.push_back({row.pid, row.start_time, *static_cast<const Details*>(row.details.get()), row.state, std::move(row.distribution),
                           std::move(row.error), std::move(row.status), std::move(row.config)});
    }
    return processes;
  }
  ManagerStats stats() const { return engine_->stats(); }

 private:
  explicit Manager(std::unique_ptr<detail::ManagerEngine> engine) : engine_(std::move(engine)) {}

  std::unique_ptr<detail::ManagerEngine> engine_;
};

}  // namespace weir::inline v0
