#pragma once
// ProcessReader: what can be known of a process (private to src). ProcReader asks /proc; tests have one whose processes are made up.
//
// A process is known by its pid and its start time. While a pidfd says that it lives, what is read under its pid is its own.

#include <sys/types.h>
#include <chrono>
#include <cstdint>
#include <functional>

#include "instrument/process_filters.hpp"
#include "net/fd.hpp"
#include "weir/core/result.hpp"
#include "weir/instrument/detector.hpp"

namespace weir::inline v0::instrument {

struct ProcessStat {
  pid_t parent = 0;
  std::uint64_t start_time = 0;  // ticks since boot
  std::chrono::milliseconds age{};
  /// Of the layout of its memory: another after each exec, the same after a fork; 0 where it may not be read.
  std::uint64_t image = 0;
  bool ended = false;  // all of its threads have: it waits to be reaped
  bool kernel_thread = false;
  bool executing = false;  // in the middle of an exec, of which the source will say more: what can be read is neither old nor new
};

/// Thread-safety: shared: safe.
class ProcessReader {
 public:
  virtual ~ProcessReader() = default;
  /// Calls `take` with each pid there is. Error: they cannot be listed.
  virtual Result<void> list(const std::function<void(pid_t)>& take) const = 0;
  /// Error: no such process; or cannot_tell_now().
  virtual Result<ProcessStat> stat(pid_t pid) const = 0;
  /// Readable when the process has ended. Error: no such process; or cannot_tell_now().
  virtual Result<net::Fd> open(pid_t pid) const = 0;
  /// Fills `event` but for its type and start time, as far as `filters` pass; false as soon as one does not. Error: not readable;
  /// or cannot_tell_now().
  virtual Result<bool> read(pid_t pid, const FilterSet& filters, ProcessEvent& event) const = 0;
};

/// Never destroyed.
const ProcessReader& proc_reader();

/// Whether it is for want of descriptors or memory, which says nothing of the process: it can be asked again later.
bool cannot_tell_now(const Error& error) noexcept;

/// Whether the process of a pidfd has ended.
bool has_ended(const net::Fd& pidfd) noexcept;

}  // namespace weir::inline v0::instrument
