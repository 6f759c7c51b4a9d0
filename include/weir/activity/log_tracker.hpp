#pragma once
// LogTracker: activities as structured log lines, as Go's log/slog writes them.
//
//   weir::LogTracker log;                                                              // text, to stderr
//   weir::LogTracker log{{.format = weir::LogFormat::json, .asynchronous = true}};
//   weir::LogTracker log{weir::FileSink::open("activities.log").value(), {}};          // or a callable: (const weir::LogLine&)
//
//   time=2026-11-21T11:13:56.123Z level=INFO msg="Operation started" operation=update subject=user op_id=1 user_id=42
//   time=… level=ERROR msg="Operation failed" operation=update subject=user op_id=1 user_id=42 error="no such user"
//   time=… level=INFO msg="State changed" … change_id=42 change_data="{\"name\":\"Ada\"}"
//   time=… level=INFO msg="Operation completed" … duration=1.204ms
//
// Every line has the attributes of the activity, and request_id, trace_id, span_id and trace_flags if its context has
// them. What looks like a secret is redacted (redaction.hpp), then what is long is cut. Times are UTC. In JSON a duration is
// an integer, nanoseconds.
//
//   synchronous   the calling thread makes the line and writes it: it is out when the call returns, and the call takes as long
//   asynchronous  the calling thread copies what there is to say into a ring of its own; one thread of the tracker makes
//                 lines of it, nearly in order of time, and writes them. A full ring loses lines; a line says how many
//
// exit() waits for the rings to be written; who is killed loses what was said in the last 80 ms. Once exit() has begun, and in
// the child of a fork, all is synchronous. What the parent said is written by the parent; an activity that was open when the
// process forked is so in both.

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "weir/activity/activity.hpp"
#include "weir/activity/log_sink.hpp"
#include "weir/activity/redaction.hpp"
#include "weir/core/clock.hpp"

namespace weir::inline v0 {

namespace detail {
class LogState;
}

enum class LogFormat : std::uint8_t { text, json };

struct LogOptions {
  LogFormat format = LogFormat::text;
  Logger::Level level = Logger::Level::debug;  ///< the least that is written: starts, changes and ends are info, failures error
  /// See above. The thread that is started takes no signals.
  bool asynchronous = false;
  Redactor redactor{};
  /// Bytes; longer values of attributes, errors and ids are cut, and end in "…". (Change data has its own bound.) If
  /// asynchronous, at most a quarter of ring_bytes.
  std::size_t max_value_bytes = 32u << 10;
  /// Bytes of each thread's ring if asynchronous; rounded up to a power of two, at least 128 KiB. Larger: longer bursts lose
  /// nothing. A line whose values take more than half of it is lost.
  std::size_t ring_bytes = 256u << 10;
  /// How many rings there may be at a time; lines of further threads are lost, counted.
  std::size_t max_rings = 256;
  /// How long the destructor, or exit(), may wait for a sink that holds a thread up. Then that thread goes on, with the sink.
  std::chrono::milliseconds stop_timeout{1000};
  /// Hears of a sink that fails (once until it has recovered, and no more than once a minute), of one that works again, and of one
  /// that held the destructor up. Outlives the tracker; nullptr: stderr_logger().
  Logger* logger = nullptr;
  const Clock* clock = nullptr;  ///< for tests; outlives the tracker, and calls in progress; nullptr: the machine's
};

/// In lines. Those that say how many were lost count as any others.
struct LogStats {
  std::uint64_t written = 0;       ///< taken by the sink
  std::uint64_t lost_by_sink = 0;  ///< the sink reported an error
  std::uint64_t lost_full = 0;     ///< no room in the thread's ring, no ring, or no memory
};

/// Activities may outlive it: they say no more, and are counted by nobody. Constructors throw std::bad_alloc.
/// Thread-safety: shared: safe.
class LogTracker final : public ActivityTracker {
 public:
  explicit LogTracker(LogOptions options = {}) : LogTracker(stderr_sink(), std::move(options)) {}
  /// Requires: `sink` is not null.
  explicit LogTracker(std::shared_ptr<LogSink> sink, LogOptions options = {});
  template <class F>
  requires std::is_invocable_v<F&, const LogLine&>
  explicit LogTracker(F callable, LogOptions options = {})
      : LogTracker(std::make_shared<FunctionSink>(std::move(callable)), std::move(options)) {}
  ~LogTracker() override;
  LogTracker(const LogTracker&) = delete;
  LogTracker& operator=(const LogTracker&) = delete;

  /// Waits until what was said before is written, or lost; true if that took no longer than `timeout`.
  bool flush(std::chrono::milliseconds timeout = std::chrono::milliseconds{1000}) noexcept;
  LogStats stats() const noexcept;

  /// Lines below it are not written from now on; of activities in progress, too.
  void set_level(Logger::Level level) noexcept;
  /// The one in force: while all trackers are steered (steer_level), that.
  Logger::Level level() const noexcept;
  /// In the place of what each tracker of the process has been set to, those that are made later included, until there is none
  /// again. For control.hpp.
  static void steer_level(std::optional<Logger::Level> level) noexcept;

 private:
  void started(ActivityStart& start) override;

  detail::LogState* state_;  // there for ever, so that late activities may ask it whether it is over
};

}  // namespace weir::inline v0
