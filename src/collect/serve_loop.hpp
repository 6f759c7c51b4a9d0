#pragma once
// ServeLoop: the thread in Collector::serve(). One epoll instance, non-blocking throughout; each ready connection is read
// once per turn, 64 KiB at most, so that a flood from one delays the others by no more than that.
//
// Services that share their rings say when there is something to read ("wake"); from then on the rings are looked at again and
// again, in growing intervals, until they have been empty for a while.
//
//   listener  armed ──at max_connections──▶ paused ──a connection ends──▶ armed
//             armed ──out of descriptors──▶ paused ──5 ms, 10 ms, … 1 s─▶ armed

#include <sys/epoll.h>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "collect/intake.hpp"
#include "collect/span_store.hpp"
#include "net/line_splitter.hpp"
#include "net/unix_socket.hpp"
#include "weir/collect/collector.hpp"

namespace weir::inline v0::detail {

/// What the serving thread changes and any thread reads.
struct Core {
  explicit Core(TraceStoreOptions options) : store(options) {}

  std::mutex mutex;  // guards store and stats
  /// The serving thread's hold on `mutex`; touched by that thread only. Callbacks let go of it while they run.
  std::unique_lock<std::mutex> serving{mutex, std::defer_lock};
  /// "name: what", of the first callback that threw since it was last logged; the serving thread's, too.
  std::string callback_problem;
  LossCallback on_loss;  // set before serving; lets go of the lock
  SpanStore store;
  CollectorStats stats;
};

/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class ServeLoop {
 public:
  ServeLoop(net::UnixListener& listener, const net::EventFd& wake, Core& core, const CollectorOptions& options, Logger& logger);

  /// Serves until `stopping` is true after a wake-up; then takes what has arrived, closes the listener and completes all traces.
  Result<void> run(const std::function<bool()>& stopping);

 private:
  struct Connection {
    Connection(net::Peer peer, std::string name, TimePoint now, std::size_t max_line, net::BufferBudget& budget)
        : fd(std::move(peer.fd)), source{std::move(name)}, lines(max_line, budget), idle_since(now) {}
    net::Fd fd;
    Source source;
    net::LineSplitter lines;
    TimePoint idle_since;  // nothing of use, or half a line, since then; max(): whole lines only
    bool sharing = false;  // in sharing_

    bool incomplete() const { return lines.incomplete() || (source.native && source.native->wants_raw()); }
  };
  static constexpr std::chrono::microseconds no_pause{0}, first_pause{100}, last_pause{10'000};
  using Connections = std::unordered_map<int, std::unique_ptr<Connection>>;

  bool watch(int fd, std::uint32_t events, int operation);
  std::chrono::nanoseconds timeout_from(TimePoint now);
  int wait(epoll_event* ready, int size);
  Result<void> accept_some(TimePoint now, int count, int& accepted);
  void add(net::Peer peer, TimePoint now);
  void pause_listener(TimePoint until);
  void resume_listener();
  /// Reads once; false when the connection has ended.
  bool read_once(Connection& connection, std::size_t limit, TimePoint now, std::size_t& received);
  void take_lines(Connection& connection, std::string_view data, TimePoint now);
  void answer(Connection& connection);
  void note_sharing(Connection& connection);
  /// Reads the rings of all services, and decides when to look again.
  void drain_rings(TimePoint now);
  void take_rest(Connection& connection, TimePoint now);
  void close(int fd);
  void end(Connection& connection, TimePoint now);
  void drop_idle(TimePoint now);
  void pass_time(TimePoint now);
  void take_arrived(TimePoint now);
  void note_connections();
  void log_limited(LogLimiter& limiter, TimePoint now, Logger::Level level, std::string_view message);
  void count_one(std::uint64_t CollectorStats::*counter, std::uint64_t count = 1);

  net::UnixListener& listener_;
  const net::EventFd& wake_;
  Core& core_;
  const CollectorOptions& options_;
  Logger& logger_;
  std::size_t max_connections_;
  net::BufferBudget budget_;
  Intake intake_;
  net::Fd epoll_;
  std::unique_ptr<char[]> buffer_;
  Connections connections_;                     // by descriptor
  std::vector<Connection*> sharing_;            // those with rings
  std::chrono::microseconds pause_ = no_pause;  // until the rings are looked at again
  TimePoint look_again_ = TimePoint::max(), look_for_open_ = TimePoint::min();
  bool paused_ = false;
  TimePoint resume_at_ = TimePoint::max();  // paused for want of descriptors: when to try again
  std::chrono::milliseconds backoff_{0};
  TimePoint next_idle_scan_ = TimePoint::min();
  std::uint64_t seen_failed_callbacks_ = 0;
  LogLimiter refused_log_, pause_log_, callback_log_;
};

}  // namespace weir::inline v0::detail
