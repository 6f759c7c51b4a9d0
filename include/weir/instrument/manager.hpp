#pragma once
// (public interface; bodies and documentation to come)
#include "weir/instrument/detector.hpp"
#include "weir/instrument/instrumentation.hpp"

namespace weir::inline v0 {

// concepts: ProcessDetails (to_string() -> std::string, copyable), ConfigGroup / ProcessGroup (equality-comparable, hashable by weir::hash_of:
// std::hash where there is one, else a combination of the members of an aggregate / a hash_value() found by ADL), with readable errors.

template <class Details>
class Reporter {  // calls come on the manager's workers, in order per process; an error is logged and changes nothing
 public:
  virtual ~Reporter() = default;
  virtual Result<void> on_init(pid_t pid, const std::optional<Error>& error, const Details& details, const StopToken& stop) = 0;
  virtual Result<void> on_load(pid_t pid, const std::optional<Error>& error, const Details& details, const Status& status, const StopToken& stop) = 0;
  virtual Result<void> on_run(pid_t pid, const std::optional<Error>& error, const Details& details, const StopToken& stop) = 0;
  virtual Result<void> on_exit(pid_t pid, const Details& details, const StopToken& stop) = 0;
};

template <class Details, class ConfigGroup, class ProcessGroup>
struct Handler {
  std::function<Result<Details>(const ProcessEvent&, const StopToken&)> process_details;
  std::function<Result<ConfigGroup>(const Details&, const Distribution&, const StopToken&)> config_group;
  std::function<Result<ProcessGroup>(const Details&, const StopToken&)> process_group;
  std::function<Result<Distribution>(const Details&, const StopToken&)> distribution;
  std::function<Result<Settings>(const Details&, const Distribution&, const StopToken&)> settings;
  std::shared_ptr<Reporter<Details>> reporter;
};

template <class Details, class ConfigGroup, class ProcessGroup>
struct ManagerOptions {
  Logger* logger = nullptr;
  std::map<Distribution, std::shared_ptr<Factory>> factories;
  std::vector<std::shared_ptr<Factory>> generic_factories;
  Handler<Details, ConfigGroup, ProcessGroup> handler;
  std::shared_ptr<ProcessDetector> detector;   // from unique_ptr
  // + std::size_t workers = 4; std::chrono::milliseconds step_timeout{10'000}; std::chrono::milliseconds stop_timeout{10'000};
  // + Telemetry* telemetry = nullptr;
};

struct Instrument { std::vector<pid_t> pids; };
template <class ProcessGroup> struct Uninstrument { ProcessGroup group; };   // + deduction guide (clang 14)
struct RetryFailed { std::optional<Distribution> distribution{}; };          // nothing: all

enum class ProcessState { starting, instrumented, failed, generic, ended_run, uninstrumented, closing };  // as the helper finds right
template <class Details> struct ManagedProcess {   // one row of processes(): for people (weir ps)
  pid_t pid; std::uint64_t start_time; Details details; ProcessState state; Distribution distribution; std::optional<Error> error; Status status; Config config;
};
struct ManagerStats { std::map<Distribution, std::uint64_t> instrumented; std::uint64_t failed = 0, abandoned = 0, config_errors = 0; DetectorStats detector; };

template <class Details, class ConfigGroup, class ProcessGroup>
class Manager {  // movable
 public:
  using Options = ManagerOptions<Details, ConfigGroup, ProcessGroup>;
  static Result<Manager> create(Options options);
  void update_config(std::vector<std::pair<ConfigGroup, Config>> update);  // any thread; {{Group{"checkout"}, Config{{"sampling", 0.1}}}}
  void request(Instrument request); void request(Uninstrument<ProcessGroup> request); void request(RetryFailed request);  // any thread
  Result<void> run(const StopToken& stop);
  std::vector<ManagedProcess<Details>> processes() const;  // any thread
  ManagerStats stats() const;                              // any thread
};

}  // namespace weir::inline v0
