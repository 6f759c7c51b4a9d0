#pragma once
// ProcessDetector: says which processes start and end, to a Manager (manager.hpp) or to anybody.
//
//   auto detector = weir::ProcessDetector::best_available({.environment = {"WEIR_CONTROL"}});
//   (*detector)->run(stop.token(), [](const weir::ProcessEvent& event) { … });
//
//   kernel ─▶ backend (kernel events, eBPF, /proc) ─▶ process table: filters, minimum age, one pidfd each ─▶ sink
//
// What runs already is reported as if it had just begun, then what begins, each process once. A process is (pid, start time),
// held by a pidfd: its exit comes from there, and a pid that is used again is another process.
//
//   unseen ─exec, passes the filters─▶ waiting ─minimum age─▶ reported (exec) ─exit─▶ reported (exit), forgotten
//     │                                  │  ▲                     │   └─exec─▶ passes: reported again, at once
//     └─fork of one that is followed─────┼──┘                     │            does not: its exit is still to come, nothing else
//                                        ├─exec that does not pass─▶ forgotten, nobody is told
//                                        └─exit─▶ forgotten, nobody is told
//
// Filters are asked at each exec and the newest answer counts: of a script that becomes the application, the application and its exit
// are reported. An exec during the wait does not begin it anew; what runs at its end is reported. Followed are processes that wait,
// that are reported, and that are tracked (track()).
//
// What cannot be read when it would be reported (it is somebody else's) is not; its exit is, if the kernel told of its exec.
// Arguments and environment are read from the process's own memory: one that keeps them in a mapped file whose file system does not
// answer (FUSE, NFS) holds up the detector for as long, for /proc knows no reading with a deadline.
//
// Without free descriptors nothing can be looked at: that is logged, what is told already stays told, and once a second all that runs is
// looked at again until there are some.

#include <sys/types.h>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "weir/core/logger.hpp"
#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"

namespace weir::inline v0 {

struct ProcessEvent {
  enum class Type {
    exec,       ///< it runs this executable now; also what ran before the detector did
    fork,       ///< a child of a process that is followed, which has not executed anything; never a thread
    file_open,  ///< it opened one of DetectorOptions::files
    exit        ///< it has ended: all of its threads. Of the fields below only the pids and the start time are set
  };
  Type type = Type::exec;
  pid_t pid = 0;
  pid_t inner_pid = 0;  ///< in the innermost pid namespace that it is in
  pid_t parent = 0;
  std::uint64_t start_time = 0;        ///< in clock ticks since the machine booted, as in /proc/PID/stat
  uid_t uid = 0;                       ///< the effective one
  std::string executable;              ///< its path, as the kernel has it: with " (deleted)" behind it when it was removed or replaced
  std::vector<std::string> arguments;  ///< the first 128 KiB of them
  /// Of the variables that DetectorOptions and its filters name, those it began with. The value is what follows the first '='.
  std::map<std::string, std::string, std::less<>> environment;
  std::string cgroup;  ///< its path below the root of the (unified) hierarchy; empty where there is none
  std::string file;    ///< of file_open: the path as the process gave it
};

std::string_view to_string(ProcessEvent::Type type) noexcept;

/// Which processes are reported: those that pass all of these. Decided at each exec, and at the first sight of what runs already; a
/// process that changes its user or cgroup later is not looked at again. Paths of executables are compared with and without " (deleted)".
struct ProcessFilters {
  std::vector<std::string> executables{};             ///< globs of the whole path (`*`: any text, slashes too; `?`: one byte); none: all
  std::vector<std::string> environment{};             ///< NAME (is set) or NAME=VALUE; each must hold
  std::vector<uid_t> uids{};                          ///< none: all
  std::vector<std::string> cgroups{};                 ///< prefixes of the cgroup's path, whole components; none: all
  std::vector<std::string> excluded_paths{"/pause"};  ///< of executables, exact

  static constexpr std::size_t max_entries = 256;  ///< of each list
  static constexpr std::size_t max_text = 4096;    ///< bytes of each text
};

struct DetectorOptions {
  ProcessFilters filters{};
  std::vector<std::string> environment{};  ///< names of the variables that events carry, beside those of the filters
  std::vector<std::string> files{};        ///< exact paths: a reported process that opens one is told of. Where capabilities().file_open
  std::chrono::milliseconds minimum_age{
      1000};  ///< what ends sooner is not reported at all; 0: at once. Of what runs already, since it began
  std::chrono::milliseconds scan_interval{
      250};  ///< between two looks of proc_scan(); smaller: short lives are seen, at 9 µs per process and look
  std::size_t receive_buffer = 4u << 20;  ///< bytes, of kernel_events() and ebpf(); larger: longer storms without loss
  Logger* logger = nullptr;               ///< nullptr: stderr_logger(). Must outlive the detector
};

struct DetectorCapabilities {
  std::string_view backend;  ///< "kernel events", "eBPF", "/proc"
  bool every_exec = false;   ///< also of processes that live too short to be looked at
  bool fork = false;         ///< without every_exec: of children that live long enough
  bool file_open = false;
};

struct DetectorStats {
  std::uint64_t events = 0;      ///< that the kernel told, or changes that were seen
  std::uint64_t lost = 0;        ///< that it could not tell; a rescan has repaired what they said of processes that still run
  std::uint64_t rescans = 0;     ///< not counting the first
  std::uint64_t unreadable = 0;  ///< times that the details of a process could not be read, and it was not reported
  std::size_t processes = 0;     ///< waiting and reported, now
};

/// Thread-safety: shared: safe, but that run() is called once.
class ProcessDetector {
 public:
  /// Called on run()'s thread, outside locks; must not throw, and should be quick.
  using Sink = std::function<void(const ProcessEvent&)>;

  virtual ~ProcessDetector() = default;

  /// Attaches, tells what runs already and then what changes, until stop is requested. Error: it cannot go on, or ran before.
  virtual Result<void> run(const StopToken& stop, Sink sink) = 0;
  /// Tells of the exit of these, too, whatever the filters say, and of their forks and opened files; never of an exec, but of those that
  /// pass the filters, which are told anyway. Also before run(). Idempotent. Error: one of them is no process now, or run() has ended; the
  /// others are tracked.
  virtual Result<void> track(std::span<const pid_t> pids) = 0;
  virtual DetectorCapabilities capabilities() const = 0;
  virtual DetectorStats stats() const = 0;

  // Errors of all of these: filters beyond their limits, or a self-test that failed (it saw no event of a child of its own), which says
  // why.
  /// The proc connector of the kernel (netlink). Works in the first pid and user namespace only; unprivileged since Linux 6.6, else with
  /// CAP_NET_ADMIN. (Who may not read a process cannot report it.)
  static Result<std::unique_ptr<ProcessDetector>> kernel_events(DetectorOptions options = {});
  /// Tracepoints. Needs root or CAP_BPF and CAP_PERFMON, and a weir that was built with clang, libbpf and bpftool.
  static Result<std::unique_ptr<ProcessDetector>> ebpf(DetectorOptions options = {});
  /// Looks into /proc again and again. Needs nothing; sees what lives for two looks.
  static Result<std::unique_ptr<ProcessDetector>> proc_scan(DetectorOptions options = {});
  /// The first of these that works here; why others do not is logged at debug. With DetectorOptions::files, eBPF is tried first, and if it
  /// does not work, that is logged as a warning.
  static Result<std::unique_ptr<ProcessDetector>> best_available(DetectorOptions options = {});
};

/// What runs as `pid` now, as an exec event with all of `environment` that it has. Error: no such process, or not readable.
/// Thread-safety: safe.
Result<ProcessEvent> read_process(pid_t pid, std::span<const std::string> environment = {});

}  // namespace weir::inline v0
