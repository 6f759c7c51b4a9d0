#pragma once
// LogState: what is behind a LogTracker. Never freed, but used again for a later tracker, so that an activity that outlives its
// tracker can still ask whether that is over: by the id, which no two trackers share. Until it knows (InUse), it touches nothing
// that open() sets; what it says into a ring needs the ring alone.

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <thread>

#include "activity/log_format.hpp"
#include "activity/log_record.hpp"
#include "activity/log_ring.hpp"
#include "weir/activity/log_tracker.hpp"
#include "weir/activity/tracker.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: shared: safe.
class LogState {
 public:
  /// Throws std::bad_alloc.
  static LogState* open(std::shared_ptr<LogSink> sink, const LogOptions& options);
  /// What is still in the rings is written within the options' stop_timeout. No activity gets here any more.
  void close() noexcept;

  void start(ActivityStart& start) noexcept;
  bool flush(std::chrono::milliseconds timeout) noexcept;
  LogStats stats() const noexcept;

  void set_level(Logger::Level level) noexcept;
  Logger::Level level() const noexcept { return level_.load(std::memory_order_relaxed); }
  static void steer_level(std::optional<Logger::Level> level) noexcept;

 private:
  struct Following;
  struct InUse;
  class Batch;

  /// It has a writing thread. (Not in the child of a fork that came after open().)
  bool asynchronous() const noexcept { return asynchronous_ && !is_copy(); }
  bool is_copy() const noexcept;
  std::int64_t steady_now() const noexcept;
  Timestamp wall_time(std::int64_t steady) noexcept;

  // on the threads of activities
  bool wants(LogRecord::Kind kind) const noexcept { return level_of(kind) >= level(); }
  void write(LogRecord::Kind kind, const Following& activity, std::span<const LogExtra> extras) noexcept;
  void put(LogRecord::Kind kind, const Following& activity, std::span<const LogExtra> extras) noexcept;
  void put_shortened(LogRecord::Kind kind, const Following& activity, std::span<LogExtra> extras) noexcept;
  LogRing* attach(std::uint64_t id) noexcept;
  void wake() noexcept;

  // on the writing thread
  void run() noexcept;
  void drain(Batch& batch, bool last) noexcept;

  // on either
  void deliver(std::span<const LogLine> lines) noexcept;
  void sink_failed(std::error_code error) noexcept;
  void sink_recovered() noexcept;
  void tell(Logger::Level level, std::string_view message, std::span<const Attribute> attributes = {}) noexcept;
  void count_full(std::uint64_t lines) noexcept { lost_full_.fetch_add(lines, std::memory_order_relaxed); }

  std::atomic<std::uint64_t> id_{0};  // 0: closed
  bool asynchronous_ = false;
  std::uint64_t fork_ = 0;  // it was opened in
  LogFormatter formatter_;
  std::shared_ptr<LogSink> sink_;
  std::atomic<Logger::Level> level_{Logger::Level::debug};  // in force
  Logger::Level own_level_ = Logger::Level::debug;          // guarded by the registry's mutex
  LogOptions options_;
  Ticker ticker_;                                              // of rings
  std::atomic<std::int64_t> wall_offset_{0}, next_offset_{0};  // wall - steady, and when to look again: nanoseconds
  std::atomic<int> users_{0};                                  // threads that write
  std::atomic<bool> given_up_{false};                          // closed while the sink held a thread up

  mutable std::mutex mutex_;
  std::condition_variable changed_, drained_;
  std::thread writer_;
  LogRing* rings_ = nullptr;  // guarded by mutex_, as what follows
  std::size_t ring_count_ = 0;
  std::uint64_t lost_with_rings_ = 0;  // by rings that are gone
  std::uint64_t flush_wanted_ = 0, flush_done_ = 0;
  bool stop_ = false, stopped_ = false;
  std::atomic<bool> woken_{false};

  std::atomic<std::uint64_t> written_{0}, lost_by_sink_{0}, lost_full_{0};
  std::atomic<bool> failing_{false};           // and told
  std::atomic<std::int64_t> next_message_{0};  // steady nanoseconds before which no failure is told

  LogState* next_ = nullptr;  // in one of the registry's lists: guarded by its mutex
  friend struct LogStates;
};

}  // namespace weir::inline v0::detail
