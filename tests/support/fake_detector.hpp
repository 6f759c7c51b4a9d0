#pragma once
// FakeDetector: tells what a test tells it to, and remembers what it was asked to track.

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "weir/instrument/detector.hpp"

namespace weir::testing {

inline ProcessEvent exec_of(pid_t pid, std::string executable, std::uint64_t start_time = 1) {
  ProcessEvent event;
  event.pid = pid;
  event.start_time = start_time;
  event.executable = std::move(executable);
  return event;
}

/// Thread-safety: shared: safe.
class FakeDetector final : public ProcessDetector {
 public:
  Result<void> run(const StopToken& stop, Sink sink) override {
    const StopCallback wake(stop, [this] {
      std::lock_guard inner(mutex_);
      ended_ = ended_ || !deaf_;
      changed_.notify_all();
    });
    std::unique_lock lock(mutex_);
    sink_ = std::move(sink);
    for (const ProcessEvent& event : before_) sink_(event);
    before_.clear();
    changed_.wait(lock, [this] { return ended_; });
    sink_ = nullptr;
    return result_;
  }
  Result<void> track(std::span<const pid_t> pids) override {
    std::lock_guard lock(mutex_);
    tracked_.insert(pids.begin(), pids.end());
    return {};
  }
  DetectorCapabilities capabilities() const override { return {.backend = "fake", .every_exec = true, .fork = true, .file_open = true}; }
  DetectorStats stats() const override {
    std::lock_guard lock(mutex_);
    return stats_;
  }

  /// On the test's thread; before run(): when it runs.
  void tell(const ProcessEvent& event) {
    std::lock_guard lock(mutex_);
    if (event.type != ProcessEvent::Type::exit) started_[event.pid] = event.start_time;
    if (sink_) {
      sink_(event);
    } else {
      before_.push_back(event);
    }
  }
  void exec(pid_t pid, std::string executable = "/bin/app", std::uint64_t start_time = 1) {
    tell(exec_of(pid, std::move(executable), start_time));
  }
  void other(ProcessEvent::Type type, pid_t pid, std::uint64_t start_time = 1, std::string executable = "/bin/app") {
    ProcessEvent event = exec_of(pid, std::move(executable), start_time);
    event.type = type;
    tell(event);
  }
  void exit(pid_t pid, std::uint64_t start_time = 1) {
    ProcessEvent event;
    event.type = ProcessEvent::Type::exit;
    event.pid = pid;
    event.start_time = start_time;
    tell(event);
  }
  /// The pid is another process's now, of which nobody was told.
  void took(pid_t pid, std::uint64_t start_time) {
    std::lock_guard lock(mutex_);
    started_[pid] = start_time;
  }
  /// run() returns this.
  void end(Result<void> result = {}) {
    std::lock_guard lock(mutex_);
    result_ = std::move(result);
    ended_ = true;
    changed_.notify_all();
  }
  /// Does not hear that it is to stop.
  void be_deaf() {
    std::lock_guard lock(mutex_);
    deaf_ = true;
  }
  void count(const DetectorStats& stats) {
    std::lock_guard lock(mutex_);
    stats_ = stats;
  }
  /// When the process began that was told of last, of those with this pid.
  std::optional<std::uint64_t> started(pid_t pid) const {
    std::lock_guard lock(mutex_);
    const auto found = started_.find(pid);
    return found == started_.end() ? std::nullopt : std::optional(found->second);
  }
  std::set<pid_t> tracked() const {
    std::lock_guard lock(mutex_);
    return tracked_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Sink sink_;
  std::vector<ProcessEvent> before_;
  std::set<pid_t> tracked_;
  std::map<pid_t, std::uint64_t> started_;
  DetectorStats stats_;
  Result<void> result_;
  bool ended_ = false, deaf_ = false;
};

}  // namespace weir::testing
