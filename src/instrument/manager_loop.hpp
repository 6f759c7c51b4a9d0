#pragma once
// The loop of a Manager: all that it knows, and what it does next (private to src). Everything here runs on the thread of
// Manager::run(), but for what is given to call(), which runs on a worker and leaves what the next step needs in its result.
//
// A slot is what is known of a pid: a process, one that took its pid, and whether somebody asked for it. A slot is busy from the first
// call of a sequence to its last, so that one call at a time is made for a process; what comes meanwhile is noted in the process, where
// newer notes replace older ones, and done by advance() afterwards.
//
//   advance ─▶ exit ▸ un-instrument ▸ executes something else ▸ a run that ended ▸ try again ▸ configure ▸ who took the pid ▸ read it
//
//   resolve ▸ find_distribution ▸ find_config_group ▸ find_process_group ▸ decide ▸ get_settings ▸ next_generic … ▸ create ▸ load ▸
//   start_run close ▸ (its run ends, or is given up) ▸ closed
//
// manager_loop.cpp: events, requests, deadlines. manager_start.cpp: from resolve to start_run. manager_close.cpp: closing, and the end.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "instrument/manager_inbox.hpp"
#include "instrument/worker_pool.hpp"
#include "weir/instrument/detail/manager_engine.hpp"
#include "weir/instrument/manager.hpp"
#include "weir/telemetry/telemetry.hpp"

namespace weir::inline v0::detail {

/// What others may see. Thread-safety: under its mutex.
struct ManagerBoard {
  std::mutex mutex;
  std::map<pid_t, ManagedRow> rows;
  ManagerStats stats;
};

/// An instrumentation and its run. What is atomic, `instrumentation` and `stop` are used by whoever calls it, the rest is the loop's.
struct Instance {
  ~Instance() {
    if (thread.joinable()) thread.detach();
  }
  /// Once.
  Result<void> close() { return close_called.exchange(true) ? Result<void>() : instrumentation->close(); }

  pid_t pid = 0;
  std::uint64_t serial = 0;
  bool generic = false;
  std::unique_ptr<Instrumentation> instrumentation;
  std::atomic<bool> close_called{false};
  std::atomic<bool> applying{false};  ///< a worker is in apply_config(), or comes out of it: who gives that call up leaves the close to it
  StopSource stop;
  std::thread thread;
  bool started = false, ended = false;
  std::optional<Error> run_error;
};

/// An instrumentation that was loaded.
struct Loaded {
  std::shared_ptr<Instance> instance;
  Status status;
};

/// What one update of configurations came to: its errors are logged together when the last process has it.
struct ConfigRound {
  explicit ConfigRound(Logger& to) : logger(to) {}
  ~ConfigRound();
  Logger& logger;
  std::string errors;
  std::size_t count = 0;
};

/// A process that is to be instrumented again.
struct Again {
  ProcessEvent event;
  bool anew = false;          ///< with its generic factories, and closed before
  std::uint64_t request = 0;  ///< the number of the request that wants it; 0: none
};

struct Process {
  ProcessEvent event;
  std::uint64_t request = 0;
  std::optional<AnyDetails> details;
  std::optional<Distribution> distribution;
  GroupKey config_group, process_group;
  std::shared_ptr<Factory> factory;
  Settings settings;
  ProcessState state = ProcessState::starting;
  std::optional<Error> error;
  std::optional<Error> config_error;  ///< of the last configuration, while an instrumentation runs
  std::string logged;                 ///< the failure that was logged last
  Status status;
  Config config;
  std::shared_ptr<Instance> fresh;  ///< created, not loaded
  std::shared_ptr<Instance> instance;
  std::optional<Distribution> counted;  ///< as instrumented
  std::vector<std::shared_ptr<Instance>> generics;
  bool tracked = false;  ///< on_exit is owed
  bool generics_done = false, failed_before = false;
  // Notes.
  bool exited = false, uninstrument = false, config_changed = false;
  std::shared_ptr<ConfigRound> round;
  std::optional<Again> again;
};

struct Slot {
  pid_t pid = 0;
  bool busy = false;
  std::unique_ptr<Process> process;
  std::optional<Again> successor;  ///< another process of this pid
  std::uint64_t wanted_read = 0;   ///< the number of the request
  bool reading = false;
  std::vector<std::uint64_t> exited_meanwhile;  ///< start times
  // While an instance is closed.
  std::shared_ptr<Instance> closing;
  std::optional<Error> close_error;
  std::optional<Job::Clock::time_point> run_deadline;
};

class ManagerLoop {
 public:
  using Clock = Job::Clock;

  ManagerLoop(const ManagerParts& parts, std::shared_ptr<Inbox> inbox, ManagerBoard& board);
  Result<void> run(const StopToken& stop);

 private:
  // ---- manager_loop.cpp
  void handle(ProcessEvent& event);
  void handle(Instrument& request);
  void handle(Inbox::Uninstruments& request);
  void handle(RetryFailed& request);
  void handle(std::shared_ptr<Job>& job);
  void handle(RunEnded& ended);
  void handle(DetectorEnded& ended);
  void configure(GroupMap<Config> configs);

  /// The process runs this now.
  void seen(Slot& slot, const ProcessEvent& event, std::uint64_t request);
  void ended(const ProcessEvent& event);
  void read(Slot& slot);
  void want_again(Process& process, const ProcessEvent& event, bool anew, std::uint64_t request);
  /// Begins what comes next of a slot that is not busy. The slot may be gone afterwards.
  void advance(Slot& slot);
  /// The sequence is over. The slot may be gone afterwards.
  void idle(Slot& slot);
  /// True: go no further, as the process is to be closed.
  bool cut(const Slot& slot) const;
  void begin(Slot& slot, const Again& what);
  void forget(Slot& slot);

  template <class T>
  void call(pid_t pid, std::string_view step, typename CallJob<T>::Work work, typename CallJob<T>::Then then,
            typename CallJob<T>::Late late = {}, bool cancellable = false) {
    auto job = std::make_shared<CallJob<T>>(std::move(work), std::move(then), std::move(late));
    job->pid = pid;
    job->step = step;
    job->cancellable = cancellable;
    pool_->submit(std::move(job));
  }
  void report(Slot& slot, std::string_view step, CallJob<void>::Work work, std::function<void()> then);
  /// When a call that began at `began` is given up.
  Clock::time_point deadline(Clock::time_point began) const;
  Error late_error(std::string_view step) const;
  void check_deadlines();
  std::optional<Clock::time_point> next_look() const;
  /// False: it is done, and on its way.
  bool give_up(Job& job);
  void poll_detector();

  void publish(const Slot& slot);
  void publish_stats();
  void count(Process& process);
  void uncount(Process& process);
  void count_failure(Process& process);
  void set_failed(Slot& slot, std::string_view step, const Error& error);
  void log(Logger::Level level, std::string_view message, pid_t pid, std::initializer_list<Attribute> more = {});

  // ---- manager_start.cpp
  void resolve(Slot& slot);
  void unresolved(Slot& slot, std::string_view step, const Error& error, bool given_up);
  void find_distribution(Slot& slot);
  void find_config_group(Slot& slot);
  void find_process_group(Slot& slot);
  void decide(Slot& slot);
  void get_settings(Slot& slot);
  void next_generic(Slot& slot, std::size_t index);
  void create(Slot& slot);
  void load(Slot& slot);
  void load_instance(Slot& slot, std::shared_ptr<Instance> instance, CallJob<Loaded>::Then then);
  std::shared_ptr<Instance> make_instance(Slot& slot, std::unique_ptr<Instrumentation> instrumentation, bool generic);
  void start_run(const std::shared_ptr<Instance>& instance);
  void apply_config(Slot& slot, std::size_t index, std::shared_ptr<const Config> config);

  // ---- manager_close.cpp
  /// Closes one of its instances. False: it has none.
  bool close_one(Slot& slot);
  /// `call_close` false: somebody is in another call of it, and will.
  void close(Slot& slot, std::shared_ptr<Instance> instance, bool call_close = true);
  void wait_for_run(Slot& slot, Clock::time_point until);
  void closed(Slot& slot);
  /// Of what was created and will not be loaded.
  void dispose(Slot& slot);
  void report_exit(Slot& slot);
  void begin_stop();
  bool stopped() const;
  void finish();

  const ManagerParts& parts_;
  Logger& logger_;
  const std::shared_ptr<const ManagerCalls> calls_;
  const std::shared_ptr<Inbox> inbox_;
  ManagerBoard& board_;
  const std::shared_ptr<WorkerPool> pool_;
  std::unordered_map<pid_t, Slot> slots_;
  std::set<pid_t> waiting_;  // for a run to end
  GroupMap<std::shared_ptr<const Config>> configs_;
  GroupMap<std::uint64_t> uninstrumented_;  // the number of the request
  std::uint64_t serial_ = 0, requests_ = 0;

  std::thread detector_thread_;
  StopSource detector_stop_;
  bool detector_ended_ = false;
  Result<void> detector_result_;

  std::optional<Telemetry> telemetry_;
  std::map<Distribution, Gauge> gauges_;
  DetectorStats told_;  // to telemetry
  std::uint64_t told_lost_events_ = 0;
  Clock::time_point next_poll_{};
  bool polling_ = false, polled_last_ = false, poll_works_ = true;

  bool stopping_ = false;
  Clock::time_point stop_began_{}, stop_deadline_{};
};

}  // namespace weir::inline v0::detail
