#include "weir/trace/socket_sender.hpp"

#include <linux/sockios.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <mutex>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "net/line_splitter.hpp"
#include "net/unix_socket.hpp"
#include "text/json.hpp"
#include "text/time.hpp"
#include "trace/batch.hpp"
#include "trace/native_link.hpp"
#include "trace/ring_set.hpp"
#include "trace/shared_names.hpp"
#include "weir/core/ids.hpp"
#include "weir/trace/detail/attach.hpp"

namespace weir::inline v0 {

namespace {

using SteadyClock = std::chrono::steady_clock;
using SteadyTime = SteadyClock::time_point;
using std::chrono::milliseconds;

constexpr milliseconds answer_timeout{100};  // for a collector to say that it speaks the native format

/// How the spans of a connection travel.
enum class Mode : std::uint8_t { asking, lines, records, memory };

/// What does not change after start().
struct Config {
  std::string path;
  SocketSenderOptions options;
  SenderSetup setup;
  bool usable = false;  // the path
  Logger& logger() const { return options.logger != nullptr ? *options.logger : stderr_logger(); }
};

/// Spans that the kernel accepted and that the collector may not have read: those within the last socket buffer.
class AtRisk {
 public:
  void sent(std::uint64_t bytes, std::uint64_t spans) {
    bytes_ += bytes;
    sends_.push_back({bytes_, spans});
    while (sends_.size() - first_ > 1 && bytes_ - sends_[first_].end >= buffer_bytes_) ++first_;
    if (first_ > 1024) sends_.erase(sends_.begin(), sends_.begin() + static_cast<std::ptrdiff_t>(first_)), first_ = 0;
  }
  void clear() noexcept { sends_.clear(), first_ = 0; }
  bool empty() const noexcept { return sends_.empty(); }
  std::uint64_t spans() const noexcept {
    std::uint64_t sum = 0;
    for (std::size_t i = first_; i < sends_.size(); ++i) sum += sends_[i].spans;
    return sum;
  }
  void set_buffer(std::uint64_t bytes) noexcept { buffer_bytes_ = bytes; }

 private:
  struct Send {
    std::uint64_t end, spans;
  };
  std::uint64_t bytes_ = 0, buffer_bytes_ = 212'992;
  std::vector<Send> sends_;
  std::size_t first_ = 0;
};

/// The background thread and all that it uses. Thread-safety: public functions: shared: safe.
class Pump {
 public:
  explicit Pump(const Config& config) noexcept
      : config_(config), rings_({config.options.ring_bytes, config.options.max_rings, config.options.max_total_bytes}) {}
  ~Pump() { stop(SteadyClock::now()); }
  Pump(const Pump&) = delete;
  Pump& operator=(const Pump&) = delete;

  /// True if the thread runs. If not, the next call tries again.
  bool start() noexcept;
  /// nullptr while nobody would empty it.
  detail::ThreadRing* open_ring() noexcept { return start() ? rings_.open() : nullptr; }
  void wake() noexcept {
    if (wake_) wake_->wake();  // who has a ring has been through start(): wake_ is set, and never again
  }
  FlushResult flush(SteadyTime deadline) noexcept;
  FlushResult stop(SteadyTime deadline) noexcept;
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
  bool trusted(const net::Fd& socket, SteadyTime now);
  bool pump();
  bool decide();
  void leave() noexcept;
  void forget_sent() noexcept;
  bool share();
  bool send_batch();
  void add_reports();
  std::uint64_t unreported_drops() const noexcept { return drops() - reported_drops_; }
  void disconnect(std::string_view reason) noexcept;
  bool delivered_up_to_targets() const;
  void wait(bool more);
  void read_replies();
  std::string hello();
  std::uint64_t drops() const noexcept;

  const Config& config_;
  detail::RingSet rings_;

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
  std::optional<detail::TickCalibration> calibration_;
  detail::Batch batch_;
  AtRisk at_risk_;
  Mode mode_ = Mode::asking;
  detail::NativeLink link_;
  std::optional<bool> answer_;  // the collector speaks the native format; true: and reads memory
  net::BufferBudget reply_budget_{4096, 0};
  std::optional<net::LineSplitter> replies_;
  std::uint32_t next_name_ = 1;      // to be sent over the socket
  std::uint64_t unsent_report_ = 0;  // drops that are told in lines of link_
  SteadyTime told_clock_{};
  bool woken_ = false;  // a ring is half full
  std::uint64_t seen_taken_ = 0;
  net::Fd socket_;
  std::atomic<int> connecting_{-1};  // what is to become socket_: the collector may know of it already
  bool blocked_ = false;             // the collector takes no more at the moment
  bool replies_ended_ = false;
  SteadyTime last_progress_{}, last_attempt_{}, connected_at_{}, last_look_for_open_{};
  std::optional<SteadyTime> last_complaint_, last_refusal_;  // when it was said
  bool complained_ = false;                                  // "lost" was said, "recovered" was not
  milliseconds backoff_{0};                                  // until the next attempt, while spans wait
  milliseconds interval_{0};                                 // between two rounds
  std::uint64_t reported_drops_ = 0;
  std::uint64_t flushing_ticket_ = 0;  // whose targets the rings have
  std::uint64_t random_ = 0;
  bool stopping_ = false, tried_since_stop_ = false;
  Timestamp start_time_{};
};

bool Pump::start() noexcept {
  std::lock_guard lock(mutex_);
  if (running_ || stopped_ || !config_.usable) return running_ && !stopped_;
  try {
    const auto fail = [this](const std::string& message) {
      if (!std::exchange(start_failed_, true)) config_.logger().log(Logger::Level::error, message + "; spans are dropped");
      return false;
    };
    if (!wake_) {
      Result<net::EventFd> created = net::EventFd::create();
      if (!created) return fail(created.error().message);
      wake_.emplace(std::move(created).value());
    }
    start_time_ = std::chrono::system_clock::now();
    random_ = detail::random_seed();
    calibration_.emplace(detail::Ticker(config_.setup.clock));
    (void)rings_.memory();
    sigset_t all, previous;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &previous);  // signals are the program's
    std::error_code error;
    try {
      thread_ = std::thread([this] { run(); });
      running_ = true;
    } catch (const std::system_error& thrown) {
      error = thrown.code();
    } catch (const std::bad_alloc&) {
      error = std::make_error_code(std::errc::not_enough_memory);
    }
    ::pthread_sigmask(SIG_SETMASK, &previous, nullptr);
    if (!running_) return fail("cannot start the thread that sends spans: " + error.message());
    start_failed_ = false;
  } catch (const std::bad_alloc&) {  // the next ring tries again
  }
  return running_;
}

std::uint64_t Pump::drops() const noexcept {
  const detail::RingSet::Totals totals = rings_.totals();
  const std::uint64_t unwritten = config_.setup.unwritten != nullptr ? config_.setup.unwritten->load(std::memory_order_relaxed) : 0;
  return totals.dropped_full + totals.dropped_too_large + totals.dropped_reentrant + too_large_.load(std::memory_order_relaxed) + unwritten;
}

TracerStats Pump::stats() const noexcept {
  std::lock_guard lock(mutex_);
  TracerStats stats;
  const detail::RingSet::Totals totals = rings_.totals(left_to_collector_.load(std::memory_order_relaxed));
  const std::uint64_t too_large = too_large_.load(std::memory_order_relaxed);  // those count as taken too
  stats.delivered = totals.taken - std::min(totals.taken, too_large);
  stats.emitted = totals.written + totals.dropped_full + totals.dropped_too_large + totals.dropped_reentrant;
  stats.dropped_full = totals.dropped_full;
  stats.dropped_too_large = totals.dropped_too_large + std::min(totals.taken, too_large);
  stats.dropped_reentrant = totals.dropped_reentrant;
  stats.truncated_attributes = totals.truncated;
  stats.not_sampled = totals.not_sampled;
  stats.unacknowledged = unacknowledged_.load(std::memory_order_relaxed);
  stats.connects = connects_.load(std::memory_order_relaxed);
  const std::uint64_t waiting = totals.written - totals.taken;
  stats.in_flight = stopped_ && !running_ ? totals.left : waiting;
  stats.dropped_stopped = waiting - stats.in_flight;
  return stats;
}

FlushResult Pump::flush(SteadyTime deadline) noexcept {
  const std::uint64_t before = stats().delivered;
  {
    std::unique_lock lock(mutex_);
    if (running_ && !stopped_) {
      const std::uint64_t ticket = ++orders_.flush_ticket;
      wake_->wake();
      changed_.wait_until(lock, deadline, [&] { return flushed_ticket_ >= ticket || finished_; });
    }
  }
  const TracerStats now = stats();
  return {now.delivered - before, now.dropped(), now.in_flight};
}

FlushResult Pump::stop(SteadyTime deadline) noexcept {
  const std::uint64_t before = stats().delivered;
  rings_.close();
  {
    std::unique_lock lock(mutex_);
    stopped_ = true;
    if (running_) {
      orders_.stop = true;
      wake_->wake();
      changed_.wait_until(lock, deadline, [&] { return finished_; });
      orders_.abort = true;
      wake_->wake();
      if (thread_.joinable()) {
        std::thread thread = std::move(thread_);
        lock.unlock();
        thread.join();  // it never blocks for longer than a system call
        lock.lock();
        running_ = false;
        changed_.notify_all();
      } else {
        changed_.wait(lock, [&] { return !running_; });  // another stop() joins
      }
    }
  }
  const TracerStats now = stats();
  return {now.delivered - before, now.dropped(), now.in_flight};
}

void Pump::run() noexcept {
  ::pthread_setname_np(::pthread_self(), "weir-send");
  interval_ = config_.options.flush_interval;
  bool go_on = true;
  while (go_on) {
    try {
      go_on = round();
    } catch (const std::bad_alloc&) {
      disconnect("out of memory");
      ::usleep(1000);
    }
  }
  leave();
  socket_.reset();
  std::lock_guard lock(mutex_);
  finished_ = true;
  changed_.notify_all();
}

/// What could not be delivered in time, a collector that shares the rings still finds there.
void Pump::leave() noexcept {
  if (!socket_ || mode_ != Mode::memory) return;
  try {
    (void)share();
  } catch (const std::bad_alloc&) {}
  left_to_collector_.store(link_.told(), std::memory_order_relaxed);
}

/// One look at everything. False: the end.
bool Pump::round() {
  const Orders orders = read_orders();
  if (orders.abort) return false;
  if (config_.setup.clock == nullptr) calibration_->update();
  const std::vector<detail::ReaderRing*>& rings = rings_.refresh();
  const bool flushing = flushing_ticket_ < orders.flush_ticket;
  const bool stop_seen = orders.stop && !stopping_;
  if (stop_seen || (flushing && delivered_up_to_targets())) {
    // A new target for all who wait now; those who come later wait for the next.
    flushing_ticket_ = orders.flush_ticket;
    stopping_ = orders.stop;
    for (detail::ReaderRing* ring : rings) ring->flush_target = ring->head();
  }
  const bool waiting = std::any_of(rings.begin(), rings.end(), [](const detail::ReaderRing* ring) { return ring->tail() != ring->head(); });
  const bool urgent = !delivered_up_to_targets();
  if (!socket_ && (waiting || !stopping_)) tried_since_stop_ = connect_if_due(waiting, urgent) ? stopping_ : tried_since_stop_;
  const bool more = socket_ && pump();
  const bool moved = std::exchange(seen_taken_, rings_.totals().taken) != seen_taken_;
  interval_ = moved ? config_.options.flush_interval : std::min(milliseconds{50}, interval_ * 2 + milliseconds{1});
  const bool done = delivered_up_to_targets();
  rings_.reap();
  if (done) {
    std::lock_guard lock(mutex_);
    if (flushed_ticket_ < flushing_ticket_) {
      flushed_ticket_ = flushing_ticket_;
      changed_.notify_all();
    }
    if (orders_.flush_ticket > flushing_ticket_ && !stopping_) return true;
  }
  const bool hopeless = !socket_ && tried_since_stop_ && connects_.load(std::memory_order_relaxed) == 0;
  if (stopping_ && (done || hopeless)) return false;
  wait(more);
  return true;
}

bool Pump::delivered_up_to_targets() const {
  const std::vector<detail::ReaderRing*>& rings = const_cast<detail::RingSet&>(rings_).refresh();
  return std::all_of(rings.begin(), rings.end(), [](const detail::ReaderRing* ring) { return ring->tail() >= ring->flush_target; });
}

/// True if it tried.
bool Pump::connect_if_due(bool waiting, bool urgent) {
  const SteadyTime now = SteadyClock::now();
  const milliseconds pause = urgent ? std::min(backoff_, milliseconds{20}) : waiting ? backoff_ : std::max(backoff_, milliseconds{5000});
  if (last_attempt_ != SteadyTime{} && now - last_attempt_ < pause) return false;
  const bool first = last_attempt_ == SteadyTime{};
  last_attempt_ = now;
  Result<net::Fd> connected = net::connect_unix(config_.path, &connecting_);
  if (!connected || !trusted(*connected, now)) {
    connecting_.store(-1, std::memory_order_relaxed);
    const auto jitter = milliseconds{detail::split_mix(random_) % 50};
    backoff_ = first ? milliseconds{100} + jitter : std::min(milliseconds{500}, backoff_ * 2 + jitter);
    return true;
  }
  socket_ = std::move(connected).value();
  connecting_.store(-1, std::memory_order_relaxed);
  int buffer = 0;
  socklen_t size = sizeof buffer;
  if (::getsockopt(socket_.get(), SOL_SOCKET, SO_SNDBUF, &buffer, &size) == 0 && buffer > 0)
    at_risk_.set_buffer(static_cast<std::uint64_t>(buffer));
  blocked_ = replies_ended_ = false;
  mode_ = config_.options.wire == Wire::json ? Mode::lines : Mode::asking;
  answer_.reset();
  replies_.emplace(reply_budget_.limit, reply_budget_);
  next_name_ = 1;
  told_clock_ = {};
  connected_at_ = last_progress_ = now;
  connects_.fetch_add(1, std::memory_order_relaxed);
  batch_.rewind(rings_.refresh());
  batch_.add_line(hello());
  if (complained_) {
    complained_ = false;
    config_.logger().log(Logger::Level::info, "recovered the collector at " + config_.path);
  }
  return true;
}

/// Spans are for ourselves, for root, and for those who were named.
bool Pump::trusted(const net::Fd& socket, SteadyTime now) {
  const Result<uid_t> uid = net::peer_uid(socket);
  const std::vector<uid_t>& allowed = config_.options.allow_uids;
  if (uid && (*uid == ::geteuid() || *uid == 0 || std::find(allowed.begin(), allowed.end(), *uid) != allowed.end())) return true;
  if (last_refusal_ && now - *last_refusal_ < std::chrono::minutes{1}) return false;
  last_refusal_ = now;
  const std::string why =
      uid ? "uid " + std::to_string(*uid) + " listens there, which SocketSenderOptions::allow_uids does not name" : uid.error().message;
  config_.logger().log(Logger::Level::warning,
                       "refused the collector at " + config_.path + ": " + why + "; spans are kept until the rings are full");
  return false;
}

std::string Pump::hello() {
  std::string line = R"(["weir",1,{"service":)";
  detail::append_json_string(line, config_.setup.resource.service_name);
  line += R"(,"pid":)" + std::to_string(::getpid()) + R"(,"start_time":")";
  detail::append_time(line, start_time_);
  line += R"(","sequence":)" + std::to_string(stats().delivered);
  if (config_.options.wire != Wire::json) {
    const detail::RingMemory* memory = rings_.memory();
    const bool shared = memory != nullptr && memory->fd() >= 0 && detail::shared_names() >= 0;
    line += std::string(R"(,"native":1,"memory":)") + (shared ? "true" : "false");
  }
  return line + "}]";
}

/// Lines that no finished span stands behind.
void Pump::add_reports() {
  if (const std::uint64_t dropped = unreported_drops(); dropped != 0) batch_.add_dropped(dropped);
  const SteadyTime now = SteadyClock::now();
  const milliseconds age = config_.options.send_ahead_after;
  if (now - last_look_for_open_ < std::min(age / 4, milliseconds{250})) return;
  last_look_for_open_ = now;
  const Timestamp wall = calibration_->to_time(calibration_->ticker().now());
  batch_.add_open_spans(rings_.refresh(), *calibration_, wall - age);
}

/// Sends what there is, as far as the collector takes it. True: there may be more.
bool Pump::pump() {
  if (mode_ == Mode::asking && !decide()) {
    (void)send_batch();  // the hello
    return false;
  }
  if (mode_ == Mode::memory) return share();
  bool reported = false;
  for (int batches = 0; batches < 16; ++batches) {
    if (batch_.empty()) {
      if (mode_ == Mode::lines && answer_) return decide();  // late, but here
      if (!std::exchange(reported, true)) add_reports();
      if (mode_ == Mode::records) {
        if (const SteadyTime now = SteadyClock::now(); now - told_clock_ >= std::chrono::seconds{1}) {
          told_clock_ = now;
          std::string line = detail::clock_line(calibration_->scale());
          line.pop_back();
          batch_.add_line(line);
        }
        batch_.fill_records(rings_.refresh(), next_name_);
      } else {
        batch_.fill(rings_.refresh(), *calibration_);
      }
      if (batch_.empty()) return false;
    }
    if (!send_batch()) return false;
  }
  return true;
}

/// How the spans of this connection travel. False: not known yet.
bool Pump::decide() {
  if (answer_ && batch_.empty()) {
    mode_ = *answer_ ? Mode::memory : Mode::records;
    answer_.reset();
    if (mode_ == Mode::memory) link_.begin(*calibration_, detail::shared_names());
    return true;
  }
  if (mode_ == Mode::asking && !answer_ && config_.options.wire == Wire::automatic &&
      SteadyClock::now() - connected_at_ >= answer_timeout) {
    mode_ = Mode::lines;
  }
  return mode_ != Mode::asking;
}

/// The collector reads the rings; it only has to be told.
bool Pump::share() {
  link_.look(rings_, *calibration_, std::exchange(woken_, false) || !delivered_up_to_targets());
  if (const std::uint64_t dropped = unreported_drops(); dropped != 0) {
    link_.add("[\"dropped\"," + std::to_string(dropped) + "]\n");
    reported_drops_ += dropped;
    unsent_report_ += dropped;
  }
  const int result = link_.send(socket_.get());
  blocked_ = result == -EAGAIN;
  if (result == 0) unsent_report_ = 0;
  if (result != 0 && !blocked_) disconnect(std::system_category().message(-result));
  return false;
}

/// False: the collector takes no more at the moment, or is gone.
bool Pump::send_batch() {
  while (!batch_.empty()) {
    const std::string_view text = batch_.unsent();
    const ssize_t sent = text.empty() ? 0 : net::send_some(socket_.get(), text.data(), text.size());
    if (sent == -EAGAIN) {
      blocked_ = true;
      if (SteadyClock::now() - last_progress_ >= config_.options.stall_timeout) disconnect("it accepts nothing");
      return false;
    }
    if (sent < 0) {
      disconnect(std::system_category().message(static_cast<int>(-sent)));
      return false;
    }
    const detail::Batch::Accepted accepted = batch_.accept(static_cast<std::size_t>(sent));
    too_large_.fetch_add(accepted.too_large, std::memory_order_relaxed);
    reported_drops_ += accepted.reported;
    at_risk_.sent(static_cast<std::uint64_t>(sent), accepted.spans);
    blocked_ = false;
    last_progress_ = SteadyClock::now();
  }
  return true;
}

/// What was not accepted is sent again.
void Pump::forget_sent() noexcept {
  batch_.rewind(rings_.refresh());
  link_.end();
  reported_drops_ -= std::exchange(unsent_report_, 0);
}

void Pump::disconnect(std::string_view reason) noexcept {
  if (!socket_) return;
  const SteadyTime now = SteadyClock::now();
  socket_.reset();
  forget_sent();
  unacknowledged_.fetch_add(at_risk_.spans(), std::memory_order_relaxed);
  at_risk_.clear();
  blocked_ = false;
  // At once, unless that is what just happened: a collector that closes each connection is not called in a loop.
  backoff_ = now - connected_at_ < milliseconds{100} ? milliseconds{100} : milliseconds{0};
  if (last_complaint_ && now - *last_complaint_ < std::chrono::minutes{1}) return;
  last_complaint_ = now;
  complained_ = true;
  try {
    config_.logger().log(Logger::Level::warning, "lost the collector at " + config_.path + ": " + std::string(reason) +
                                                     "; spans are kept until the rings are full");
  } catch (const std::bad_alloc&) {}
}

void Pump::wait(bool more) {
  const SteadyTime now = SteadyClock::now();
  milliseconds timeout = interval_;
  if (more) {
    timeout = milliseconds{0};
  } else if (socket_ && blocked_) {
    timeout = milliseconds{50};
  } else if (!socket_) {
    timeout = std::clamp(std::chrono::ceil<milliseconds>(last_attempt_ + backoff_ - now), milliseconds{1}, milliseconds{50});
    if (!delivered_up_to_targets()) timeout = std::min(timeout, milliseconds{20});
  }
  if (socket_ && mode_ == Mode::asking) timeout = std::min(timeout, std::chrono::ceil<milliseconds>(answer_timeout / 4));
  if (mode_ == Mode::memory && !delivered_up_to_targets()) timeout = std::min(timeout, milliseconds{1});
  pollfd fds[2] = {{wake_->fd(), POLLIN, 0}, {socket_.get(), 0, 0}};
  if (!replies_ended_) fds[1].events |= POLLIN;
  if (blocked_) fds[1].events |= POLLOUT;
  if (::poll(fds, socket_ ? 2 : 1, static_cast<int>(timeout.count())) <= 0) {
    int unread = 0;
    if (socket_ && !at_risk_.empty() && ::ioctl(socket_.get(), SIOCOUTQ, &unread) == 0 && unread == 0) at_risk_.clear();
    return;
  }
  if (fds[0].revents != 0) {
    wake_->drain();
    woken_ = true;
  }
  if ((fds[1].revents & POLLIN) != 0) read_replies();
  if ((fds[1].revents & (POLLHUP | POLLERR)) != 0) disconnect("it closed the connection");
}

/// Whether the collector speaks the native format. Anything else that it may say is of no interest, but must not fill its buffers.
void Pump::read_replies() {
  char buffer[4096];
  const ssize_t size = net::receive_some(socket_.get(), buffer, sizeof buffer);
  if (size == 0) replies_ended_ = true;  // it may still read
  if (size <= 0 || config_.options.wire == Wire::json) return;
  std::string_view data(buffer, static_cast<std::size_t>(size)), line;
  while (!data.empty()) {
    if (replies_->next(data, line) != net::LineSplitter::Got::line) continue;
    const auto reply = nlohmann::json::parse(line, nullptr, false);
    if (!reply.is_array() || reply.size() < 3 || reply[0] != "weir" || reply[1] != 1 || !reply[2].is_object()) continue;
    if (reply[2].value("native", nlohmann::json()) != 1) continue;
    const bool memory = reply[2].value("memory", nlohmann::json()) == true;
    if (mode_ == Mode::asking || mode_ == Mode::lines) {
      answer_ = memory;
    } else if (mode_ == Mode::memory && !memory) {  // it cannot read the rings, and has let go of them
      mode_ = Mode::records;
      forget_sent();
    }
  }
}

}  // namespace

struct SocketSender::Impl final : detail::ForkListener {
  Impl(std::string path, SocketSenderOptions options) : config{std::move(path), std::move(options), {}} {
    config.usable = !config.path.empty() && config.path.front() == '/' && config.path.size() <= net::max_socket_path &&
                    config.path.find('\0') == std::string::npos;
    ::new (&pump) Pump(config);
    detail::process().add(*this);
  }
  ~Impl() {
    detail::process().remove(*this);
    pump.~Pump();
  }
  void in_child() noexcept override {
    pump.close_inherited();
    ::new (&pump) Pump(config);  // the parent's, with its thread and rings, is abandoned
  }

  Config config;
  union {
    Pump pump;
  };
};

SocketSender::SocketSender(std::string path, SocketSenderOptions options)
    : impl_(std::make_unique<Impl>(std::move(path), std::move(options))) {}
SocketSender::~SocketSender() = default;
SocketSender::SocketSender(SocketSender&&) noexcept = default;
SocketSender& SocketSender::operator=(SocketSender&&) noexcept = default;

void SocketSender::start(const SenderSetup& setup) noexcept {
  impl_->config.setup = setup;
  if (!impl_->config.usable) {
    const Attribute path{"path", impl_->config.path};
    impl_->config.logger().log(Logger::Level::error,
                               impl_->config.path.size() > net::max_socket_path
                                   ? "the collector's socket path is too long: use one of at most 107 bytes; spans are dropped"
                                   : "the collector's socket path must be absolute; spans are dropped",
                               {&path, 1});
    return;
  }
  (void)impl_->pump.start();
}

detail::ThreadRing* SocketSender::open_ring() noexcept { return impl_->config.usable ? impl_->pump.open_ring() : nullptr; }
void SocketSender::wake() noexcept { impl_->pump.wake(); }
FlushResult SocketSender::flush(Deadline deadline) noexcept { return impl_->pump.flush(deadline); }
FlushResult SocketSender::stop(Deadline deadline) noexcept { return impl_->pump.stop(deadline); }
TracerStats SocketSender::stats() const noexcept { return impl_->pump.stats(); }

}  // namespace weir::inline v0
