#pragma once
// Intake: one line from a service into the store. Lines that are of no use are counted, and shown in the log once in a while.
// Called with the collector's lock held, which it lets go of while it logs. Thread-safety: shared: unsafe.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "collect/gap_tracker.hpp"
#include "collect/native_source.hpp"
#include "collect/span_store.hpp"
#include "net/line_splitter.hpp"
#include "trace/event_decoder.hpp"
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

/// Who sends on a connection. A hello line changes it.
struct Source {
  std::string service;
  GapTracker::Place place{};
  std::unique_ptr<NativeSource> native{};     // it speaks the native format
  std::vector<net::Fd> passed{};              // descriptors that have come, for lines that have not
  std::string reply{};                        // to be sent to it
  std::optional<std::uint32_t> service_id{};  // in the store
};

using LossCallback = std::function<void(std::string_view service, std::uint64_t spans)>;

class Intake {
 public:
  Intake(SpanStore& store, CollectorStats& stats, std::unique_lock<std::mutex>& held, const LossCallback& on_loss,
         const CollectorOptions& options, net::BufferBudget& budget, Logger& logger);

  /// Takes the line at the front of what has come from a connection, or a start and its end, if they are there as a whole and in the form
  /// that is usual. False, and nothing has happened: they are not.
  bool take_usual(std::string_view& data, Source& source, TimePoint now);
  /// Takes one line of a connection, and from `following`, what came behind it, the next one too, if they are a start and its end.
  /// False if it was refused.
  bool take(std::string_view line, std::string_view& following, Source& source, TimePoint now);
  /// Counts a line that never came in whole.
  void refuse_too_long(const Source& source, TimePoint now);
  void refuse_no_room(const Source& source, TimePoint now);
  /// Takes the raw bytes from the front of `data` that a native line announced. Requires: source.native->wants_raw().
  void take_raw(std::string_view& data, Source& source, TimePoint now);
  /// Reads about `limit` bytes of each of its rings; returns how many there were.
  std::size_t drain(Source& source, std::size_t limit, TimePoint now);
  /// Takes the starts of its spans that have been open for a while.
  void look_for_open(Source& source, TimePoint now);
  /// The connection has ended, and all that is ever read from it was taken.
  void ended(Source& source, TimePoint now);

 private:
  bool take_event(std::string_view line, std::string_view& following, Source& source, TimePoint now);
  void apply(const EventView& event, std::string_view& following, Source& source, TimePoint now);
  bool take_control(std::string_view line, Source& source, TimePoint now);
  void take_hello(const ControlLine& hello, Source& source);
  void take_drops(const ControlLine& line, const Source& source, TimePoint now);
  void add_lost(const Source& source, std::uint64_t spans);
  bool refuse(std::uint64_t& counter, std::string_view reason, std::string_view line, const Source& source, TimePoint now);

  SpanStore& store_;
  CollectorStats& stats_;
  std::unique_lock<std::mutex>& held_;  // guards both
  const LossCallback& on_loss_;
  Logger& logger_;
  LogLimiter limiter_;  // of refused lines
  LogLimiter drops_limiter_;
  GapTracker gaps_;
  const bool native_, shared_memory_;
  const std::size_t max_line_;
  NativeBounds bounds_;
  net::BufferBudget& budget_;
  std::unique_ptr<RingReader::Buffer> buffer_;
  EventDecoder decoder_;
};

}  // namespace weir::inline v0::detail
