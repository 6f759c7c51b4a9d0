#pragma once
// Pump: the background thread of a SocketSender and all that it uses: the rings that threads write into, the connection to the
// collector, and what of the rings has gone there.
//
//   asking ─ answers: reads memory ─▶ memory     the collector reads the rings; the pump says what there is
//     │    └ answers: native ───────▶ records    the pump sends what lies in the rings
//     └ no answer in 100 ms ────────▶ lines      the pump writes JSON lines

#include <unistd.h>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "net/line_splitter.hpp"
#include "net/unix_socket.hpp"
#include "trace/at_risk.hpp"
#include "trace/batch.hpp"
#include "trace/native_link.hpp"
#include "trace/ring_set.hpp"
#include "weir/core/clock.hpp"
#include "weir/trace/sender.hpp"
#include "weir/trace/socket_sender.hpp"

namespace weir::inline v0::detail {

/// How the spans of a connection travel.
enum class WireMode : std::uint8_t { asking, lines, records, memory };

/// What does not change after start().
struct SenderConfig {
  std::string path;
  SocketSenderOptions options;
  SenderSetup setup;
  bool usable = false;  // the path
  Logger& logger() const { return options.logger != nullptr ? *options.logger : stderr_logger(); }
};

/// The background thread and all that it uses. Thread-safety: public functions: shared: safe.
class Pump {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit Pump(const SenderConfig& config) noexcept
      : config_(config), rings_({config.options.ring_bytes, config.options.max_rings, config.options.max_total_bytes}) {}
  ~Pump() { stop(std::chrono::steady_clock::now()); }
  Pump(const Pump&) = delete;
  Pump& operator=(const Pump&) = delete;

  /// True if the thread runs. If not, the next call tries again.
  bool start() noexcept;
  /// nullptr while nobody would empty it.
  ThreadRing* open_ring() noexcept { return start() ? rings_.open() : nullptr; }
  void wake() noexcept {
    if (wake_) wake_->wake();  // who has a ring has been through start(): wake_ is set, and never again
  }
  FlushResult flush(TimePoint deadline) noexcept;
  FlushResult stop(TimePoint deadline) noexcept;
  TracerStats stats() const noexcept;
  /// In the child of a fork: closes what was inherited. Nothing else may be used any more.
  void close_inherited() noexcept {
    if (const int connecting = connecting_.load(std::memory_order_relaxed); connecting >= 0 && connecting != socket_.get())
      ::close(connecting);
    socket_.reset();
    wake_.reset();
  }

 private:
  /// What other threads ask of the pump.
  struct Orders {
    std::uint64_t flush_ticket = 0;  // flush() calls so far
    bool stop = false;
    bool abort = false;
  };

  void run() noexcept;
  Orders read_orders() {
    std::lock_guard lock(mutex_);
    return orders_;
  }
  bool round();
  bool connect_if_due(bool waiting, bool urgent);
  bool trusted(const net::Fd& socket, TimePoint now);
  bool pump();
  bool decide();
  void leave() noexcept;
  void forget_sent() noexcept;
  bool share();
  bool send_batch();
  void add_reports();
  void disconnect(std::string_view reason) noexcept;
  bool delivered_up_to_targets() const;
  void wait(bool more);
  void read_replies();
  std::string hello();
  DroppedSpans drops() const noexcept;
  void tell_drops(bool last) noexcept;

  const SenderConfig& config_;
  RingSet rings_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Orders orders_;                                              // guarded by mutex_
  std::uint64_t flushed_ticket_ = 0;                           // guarded by mutex_: the latest flush() that is done
  bool running_ = false, stopped_ = false, finished_ = false;  // guarded by mutex_
  std::thread thread_;                                         // guarded by mutex_
  bool start_failed_ = false;                                  // guarded by mutex_: and was said
  std::optional<net::EventFd> wake_;                           // set once, under mutex_, before running_

  // Written by the pump, read by any thread.
  std::atomic<std::uint64_t> too_large_{0}, unacknowledged_{0}, connects_{0};
  std::atomic<std::size_t> left_to_collector_{0};  // rings that it reads after the end

  // The pump's own.
  std::optional<TickCalibration> calibration_;
  Batch batch_;
  AtRisk at_risk_;
  WireMode mode_ = WireMode::asking;
  NativeLink link_;
  std::optional<bool> answer_;  // the collector speaks the native format; true: and reads memory
  net::BufferBudget reply_budget_{4096, 0};
  std::optional<net::LineSplitter> replies_;
  std::uint32_t next_name_ = 1;  // to be sent over the socket
  TimePoint told_clock_{};
  bool woken_ = false;  // a ring is half full
  std::uint64_t seen_taken_ = 0;
  net::Fd socket_;
  std::atomic<int> connecting_{-1};  // what is to become socket_: the collector may know of it already
  bool blocked_ = false;             // the collector takes no more at the moment
  bool replies_ended_ = false;
  TimePoint last_progress_{}, last_attempt_{}, connected_at_{}, last_look_for_open_{};
  std::optional<TimePoint> last_complaint_, last_refusal_;  // when it was said
  bool complained_ = false;                                 // "lost" was said, "recovered" was not
  std::chrono::milliseconds backoff_{0};                    // until the next attempt, while spans wait
  std::chrono::milliseconds interval_{0};                   // between two rounds
  DroppedSpans reported_, reporting_;                       // told, and in a line that is on its way
  DroppedSpans seen_drops_;                                 // that on_drop knows of
  TimePoint told_drops_{};
  std::uint64_t flushing_ticket_ = 0;  // whose targets the rings have
  std::uint64_t random_ = 0;
  bool stopping_ = false, tried_since_stop_ = false;
  Timestamp start_time_{};
};

}  // namespace weir::inline v0::detail
