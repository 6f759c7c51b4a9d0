#include "trace/pump.hpp"

#include <linux/sockios.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <new>
#include <system_error>
#include <utility>
#include <vector>

#include "text/json.hpp"
#include "text/time.hpp"
#include "trace/control_line.hpp"
#include "trace/shared_names.hpp"
#include "weir/core/detail/exceptions.hpp"
#include "weir/core/ids.hpp"

namespace weir::inline v0::detail {

namespace {

using SteadyClock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds answer_timeout{100};  // for a collector to say that it speaks the native format

/// What was dropped between two moments.
std::string dropped_line(const DroppedSpans& before, const DroppedSpans& now) {
  std::string reasons;
  std::uint64_t sum = 0;
  const auto add = [&](const char* name, std::uint64_t from, std::uint64_t to) {
    if (to == from) return;
    sum += to - from;
    reasons += std::string(reasons.empty() ? "\"" : ",\"") + name + "\":" + std::to_string(to - from);
  };
  add("full", before.full, now.full);
  add("too_large", before.too_large, now.too_large);
  add("no_ring", before.no_ring, now.no_ring);
  add("reentrant", before.reentrant, now.reentrant);
  return "[\"dropped\"," + std::to_string(sum) + ",{" + reasons + "}]";
}

}  // namespace

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
    random_ = random_seed();
    calibration_.emplace(Ticker(config_.setup.clock));
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

DroppedSpans Pump::drops() const noexcept {
  const RingSet::Totals totals = rings_.totals();
  const std::uint64_t unwritten = config_.setup.unwritten != nullptr ? config_.setup.unwritten->load(std::memory_order_relaxed) : 0;
  return {totals.dropped_full, totals.dropped_too_large + too_large_.load(std::memory_order_relaxed), unwritten, totals.dropped_reentrant};
}

TracerStats Pump::stats() const noexcept {
  std::lock_guard lock(mutex_);
  TracerStats stats;
  const RingSet::Totals totals = rings_.totals(left_to_collector_.load(std::memory_order_relaxed));
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

FlushResult Pump::flush(TimePoint deadline) noexcept {
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

FlushResult Pump::stop(TimePoint deadline) noexcept {
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
      if (mode_ != WireMode::memory) disconnect("out of memory");  // who reads the rings goes on reading them
      ::usleep(1000);
    }
  }
  leave();
  tell_drops(true);
  socket_.reset();
  std::lock_guard lock(mutex_);
  finished_ = true;
  changed_.notify_all();
}

void Pump::tell_drops(bool last) noexcept {
  if (!config_.options.on_drop) return;
  const DroppedSpans now = drops();
  if (now == seen_drops_) return;
  const TimePoint time = SteadyClock::now();
  if (!last && told_drops_ != TimePoint{} && time - told_drops_ < std::chrono::seconds{1}) return;
  told_drops_ = time;
  const DroppedSpans before = std::exchange(seen_drops_, now);
  const DroppedSpans dropped{now.full - before.full, now.too_large - before.too_large, now.no_ring - before.no_ring,
                             now.reentrant - before.reentrant};
  (void)call_guarded(config_.options.on_drop, dropped);
}

/// What could not be delivered in time, a collector that shares the rings still finds there.
void Pump::leave() noexcept {
  if (!socket_ || mode_ != WireMode::memory) return;
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
  const std::vector<ReaderRing*>& rings = rings_.refresh();
  const bool flushing = flushing_ticket_ < orders.flush_ticket;
  const bool stop_seen = orders.stop && !stopping_;
  if (stop_seen || (flushing && delivered_up_to_targets())) {
    // A new target for all who wait now; those who come later wait for the next.
    flushing_ticket_ = orders.flush_ticket;
    stopping_ = orders.stop;
    for (ReaderRing* ring : rings) ring->flush_target = ring->head();
  }
  const bool waiting = std::any_of(rings.begin(), rings.end(), [](const ReaderRing* ring) { return ring->tail() != ring->head(); });
  const bool urgent = !delivered_up_to_targets();
  if (!socket_ && (waiting || !stopping_)) tried_since_stop_ = connect_if_due(waiting, urgent) ? stopping_ : tried_since_stop_;
  const bool more = socket_ && pump();
  const bool moved = std::exchange(seen_taken_, rings_.totals().taken) != seen_taken_;
  interval_ = moved ? config_.options.flush_interval : std::min(milliseconds{50}, interval_ * 2 + milliseconds{1});
  const bool done = delivered_up_to_targets();
  rings_.reap();
  tell_drops(false);
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
  const std::vector<ReaderRing*>& rings = const_cast<RingSet&>(rings_).refresh();
  return std::all_of(rings.begin(), rings.end(), [](const ReaderRing* ring) { return ring->tail() >= ring->flush_target; });
}

/// True if it tried.
bool Pump::connect_if_due(bool waiting, bool urgent) {
  const TimePoint now = SteadyClock::now();
  const milliseconds pause = urgent ? std::min(backoff_, milliseconds{20}) : waiting ? backoff_ : std::max(backoff_, milliseconds{5000});
  if (last_attempt_ != TimePoint{} && now - last_attempt_ < pause) return false;
  const bool first = last_attempt_ == TimePoint{};
  last_attempt_ = now;
  Result<net::Fd> connected = net::connect_unix(config_.path, &connecting_);
  if (!connected || !trusted(*connected, now)) {
    connecting_.store(-1, std::memory_order_relaxed);
    const auto jitter = milliseconds{split_mix(random_) % 50};
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
  mode_ = config_.options.wire == Wire::json ? WireMode::lines : WireMode::asking;
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
bool Pump::trusted(const net::Fd& socket, TimePoint now) {
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
  append_json_string(line, config_.setup.resource.service_name);
  line += R"(,"pid":)" + std::to_string(::getpid()) + R"(,"start_time":")";
  append_time(line, start_time_);
  line += R"(","sequence":)" + std::to_string(stats().delivered);
  if (config_.options.wire != Wire::json) {
    const RingMemory* memory = rings_.memory();
    const bool shared = memory != nullptr && memory->fd() >= 0 && shared_names() >= 0;
    line += std::string(R"(,"native":1,"memory":)") + (shared ? "true" : "false");
  }
  return line + "}]";
}

/// Lines that no finished span stands behind.
void Pump::add_reports() {
  reporting_ = drops();
  if (reporting_ != reported_) batch_.add_report(dropped_line(reported_, reporting_));
  const TimePoint now = SteadyClock::now();
  const milliseconds age = config_.options.send_ahead_after;
  if (now - last_look_for_open_ < std::min(age / 4, milliseconds{250})) return;
  last_look_for_open_ = now;
  const Timestamp wall = calibration_->to_time(calibration_->ticker().now());
  batch_.add_open_spans(rings_.refresh(), *calibration_, wall - age);
}

/// Sends what there is, as far as the collector takes it. True: there may be more.
bool Pump::pump() {
  if (mode_ == WireMode::asking && !decide()) {
    (void)send_batch();  // the hello
    return false;
  }
  if (mode_ == WireMode::memory) return share();
  bool reported = false;
  for (int batches = 0; batches < 16; ++batches) {
    if (batch_.empty()) {
      if (mode_ == WireMode::lines && answer_) return decide();  // late, but here
      if (!std::exchange(reported, true)) add_reports();
      if (mode_ == WireMode::records) {
        if (const TimePoint now = SteadyClock::now(); now - told_clock_ >= std::chrono::seconds{1}) {
          told_clock_ = now;
          std::string line = clock_line(calibration_->scale());
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
    mode_ = *answer_ ? WireMode::memory : WireMode::records;
    answer_.reset();
    if (mode_ == WireMode::memory) link_.begin(*calibration_, shared_names());
    return true;
  }
  if (mode_ == WireMode::asking && !answer_ && config_.options.wire == Wire::automatic &&
      SteadyClock::now() - connected_at_ >= answer_timeout) {
    mode_ = WireMode::lines;
  }
  return mode_ != WireMode::asking;
}

/// The collector reads the rings; it only has to be told.
bool Pump::share() {
  link_.look(rings_, *calibration_, std::exchange(woken_, false) || !delivered_up_to_targets());
  if (const DroppedSpans now = drops(); now != reporting_) {
    link_.add(dropped_line(reporting_, now) + "\n");
    reporting_ = now;
  }
  const int result = link_.send(socket_.get());
  blocked_ = result == -EAGAIN;
  if (result == 0) reported_ = reporting_;
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
    const Batch::Accepted accepted = batch_.accept(static_cast<std::size_t>(sent));
    too_large_.fetch_add(accepted.too_large, std::memory_order_relaxed);
    if (accepted.reported) reported_ = reporting_;
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
  reporting_ = reported_;
}

void Pump::disconnect(std::string_view reason) noexcept {
  if (!socket_) return;
  const TimePoint now = SteadyClock::now();
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
  const TimePoint now = SteadyClock::now();
  milliseconds timeout = interval_;
  if (more) {
    timeout = milliseconds{0};
  } else if (socket_ && blocked_) {
    timeout = milliseconds{50};
  } else if (!socket_) {
    timeout = std::clamp(std::chrono::ceil<milliseconds>(last_attempt_ + backoff_ - now), milliseconds{1}, milliseconds{50});
    if (!delivered_up_to_targets()) timeout = std::min(timeout, milliseconds{20});
  }
  if (socket_ && mode_ == WireMode::asking) timeout = std::min(timeout, std::chrono::ceil<milliseconds>(answer_timeout / 4));
  if (mode_ == WireMode::memory && !delivered_up_to_targets()) timeout = std::min(timeout, milliseconds{1});
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
    const std::optional<ControlLine> reply = parse_control_line(line);
    if (!reply || reply->name != "weir" || reply->value(0).unsigned_integer() != 1u) continue;
    if (reply->option("native").unsigned_integer() != 1u) continue;
    const bool memory = reply->option("memory").is_true();
    if (mode_ == WireMode::asking || mode_ == WireMode::lines) {
      answer_ = memory;
    } else if (mode_ == WireMode::memory && !memory) {  // it cannot read the rings, and has let go of them
      mode_ = WireMode::records;
      forget_sent();
    }
  }
}

}  // namespace weir::inline v0::detail
