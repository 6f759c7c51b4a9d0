#pragma once
// ProcessTable: which processes are waiting and reported, and what is to be told of them (private to src). It has no thread and no
// clock: whoever has the source of events tells it what happened and what time it is, so that its tests are exact.
//
//             ┌─fails the filters─▶ forgotten (nothing was told) or owed (its exit, nothing else)
//   nothing ──┤
//             └─passes─▶ waiting ─minimum age─▶ reported ─exec that passes─▶ told again, at once
//   parent followed ─fork─▶ waiting ─minimum age─▶ reported      └─exec that fails─▶ owed
//
// Filters are asked at each exec and the newest answer counts, while the wait that the first one began goes on. Each process has a
// pidfd in an epoll set. An exec that is known already, by the image of its memory, is nothing new: so what a scan has seen and what the
// source says of the same exec are told once, whichever comes first.

#include <sys/types.h>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <queue>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "instrument/process_filters.hpp"
#include "instrument/process_reader.hpp"
#include "net/fd.hpp"
#include "weir/instrument/detector.hpp"

namespace weir::inline v0::instrument {

/// Thread-safety: shared: unsafe.
class ProcessTable {
 public:
  using Time = std::chrono::steady_clock::time_point;

  struct Options {
    FilterSet filters;
    std::vector<std::string> files;  // whose openings are told
    std::chrono::milliseconds minimum_age{};
    bool remembers = false;  // scans are all there is: what they turn down is looked at again only when it has changed
    const ProcessReader* reader = nullptr;
    int epoll = -1;                                   // pidfds are added with the token that exited() takes
    std::function<void(const ProcessEvent&)> emit;    // must not throw, nor come back
    std::function<void(pid_t)> watch = [](pid_t) {};  // files that it opens are of interest
    std::function<void(pid_t)> unwatch = [](pid_t) {};
  };

  explicit ProcessTable(Options options) : options_(std::move(options)), all_(options_.filters.without_filters()) {}
  ~ProcessTable();
  ProcessTable(const ProcessTable&) = delete;
  ProcessTable& operator=(const ProcessTable&) = delete;

  // What the source says.
  void exec(pid_t pid, Time now);
  void fork(pid_t child, pid_t parent, Time now);
  void opened(pid_t pid, std::string_view file);

  /// All that runs is looked at: what is new, and what has changed. In the first scan, a fork is as good as an exec. Error: what runs
  /// cannot be listed, and not for want of descriptors.
  Result<void> scan(Time now);
  /// The exit of this process is owed, and its forks are told. `pidfd` is its own, and `start_time`.
  /// False: there are no more descriptors.
  bool track(pid_t pid, std::uint64_t start_time, net::Fd pidfd);
  /// The pidfd with this token is readable.
  void exited(std::uint64_t token);
  /// Those that have waited long enough are told.
  void let_pass(Time now);

  /// When let_pass() has something to do; nothing: it has not.
  std::optional<Time> next() const;
  std::size_t size() const noexcept { return entries_.size(); }
  std::uint64_t changes() const noexcept { return changes_; }  // that scans found, but for the first
  std::uint64_t unreadable() const noexcept { return unreadable_; }
  /// Whether something could not be looked at or followed for want of descriptors since the last call: a scan will make it good.
  bool take_exhausted() noexcept { return std::exchange(exhausted_, false); }

 private:
  enum class Pending : std::uint8_t { nothing, exec, fork };
  struct Entry {
    std::uint64_t start_time = 0;
    std::uint64_t image = 0;
    net::Fd pidfd;
    pid_t inner_pid = 0;
    pid_t parent = 0;
    std::uint32_t generation = 0;
    Pending pending = Pending::nothing;
    bool passes = false;   // the newest answer of the filters, or a fork of one that is followed
    bool tracked = false;  // whatever the filters say
    bool told = false;
    bool exit_owed = false;             // it was told, or is tracked, or what it executed could not be told
    bool asked = false;                 // the filters, of this image
    Time due{};                         // the end of the wait
    std::vector<std::string> opened{};  // while it waits
    bool followed() const noexcept { return passes || tracked; }
  };
  struct Due {
    Time time;
    pid_t pid;
    std::uint32_t generation;
    bool operator<(const Due& other) const noexcept { return time > other.time; }  // the earliest is on top
  };
  struct Seen {
    std::uint64_t start_time = 0, image = 0, scan = 0;
    bool again = false;  // it could not be followed, or not be asked
  };
  enum class Verdict { passes, fails, unreadable, changing, gone, not_now };
  enum class Origin { event, scan };

  Entry* find(pid_t pid, const ProcessStat& stat);
  Verdict decide(pid_t pid, ProcessStat& stat, const FilterSet& filters, ProcessEvent& event);
  bool not_now(const Error& error) noexcept;
  void executed(pid_t pid, ProcessStat stat, Entry* entry, Time due, Time now, Origin origin);
  void forked(pid_t child, pid_t parent, const ProcessStat& stat, Time due, Time now);
  Entry* add(pid_t pid, const ProcessStat& stat, net::Fd pidfd = {});
  void look_again(pid_t pid);
  void wait(pid_t pid, Entry& entry, Pending what, Time due);
  void wait_longer(pid_t pid, Entry& entry, Time now);
  void tell_waiting(pid_t pid, Entry& entry, Time now);
  void tell(Entry& entry, ProcessEvent& event, ProcessEvent::Type type);
  void tell_opened(pid_t pid, std::string_view file, ProcessEvent& event);
  void turn_down(pid_t pid, Entry& entry);
  void end(pid_t pid, Entry& entry);
  void erase(pid_t pid, Entry& entry);

  Options options_;
  FilterSet all_;  // everything passes; keeps the same variables
  std::unordered_map<pid_t, Entry> entries_;
  std::priority_queue<Due> due_;                            // also of waits that were given up
  std::unordered_map<pid_t, Seen> seen_;                    // what scans turned down, where they are all there is
  std::deque<std::pair<pid_t, std::uint64_t>> told_exits_;  // the last ones
  std::uint64_t scans_ = 0, changes_ = 0, unreadable_ = 0;
  std::uint32_t generation_ = 0;
  bool scanned_ = false, exhausted_ = false;
};

}  // namespace weir::inline v0::instrument
