#pragma once
// Intake: one line from a service into the store. Lines that are of no use are counted, and shown in the log once in a while.
// Called with the collector's lock held, which it lets go of while it logs. Thread-safety: shared: unsafe.

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

#include "weir/collect/collector.hpp"

namespace weir::inline v0::detail {

using TimePoint = std::chrono::steady_clock::time_point;

/// Lets go of a lock for a scope.
class Unlocked {
 public:
  explicit Unlocked(std::unique_lock<std::mutex>& lock) : lock_(lock) { lock_.unlock(); }
  ~Unlocked() { lock_.lock(); }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  std::unique_lock<std::mutex>& lock_;
};

/// Lets one message through per interval and counts the others. Thread-safety: shared: unsafe.
class LogLimiter {
 public:
  /// True if the message may be logged; then `suppressed` says how many were not since the last one.
  bool allow(TimePoint now, std::uint64_t& suppressed);

 private:
  TimePoint next_ = TimePoint::min();
  std::uint64_t suppressed_ = 0;
};

/// At most 80 characters of `line`, those beside printable ASCII as \xNN.
std::string excerpt_of(std::string_view line);

class Intake {
 public:
  Intake(TraceStore& store, CollectorStats& stats, std::unique_lock<std::mutex>& held, Logger& logger)
      : store_(store), stats_(stats), held_(held), logger_(logger) {}

  /// Takes one line of the connection whose service is called `service`, which a hello line changes. False if it was refused.
  bool take(std::string_view line, std::string& service, TimePoint now);
  /// Counts a line that never came in whole.
  void refuse_too_long(std::string_view service, TimePoint now);
  void refuse_no_room(std::string_view service, TimePoint now);

 private:
  bool take_event(std::string_view line, std::string_view service, TimePoint now);
  bool take_control(std::string_view line, std::string& service, TimePoint now);
  bool refuse(std::uint64_t& counter, std::string_view reason, std::string_view line, std::string_view service, TimePoint now);

  TraceStore& store_;
  CollectorStats& stats_;
  std::unique_lock<std::mutex>& held_;  // guards both
  Logger& logger_;
  LogLimiter limiter_;
};

}  // namespace weir::inline v0::detail
