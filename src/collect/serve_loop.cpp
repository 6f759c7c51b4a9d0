#include "collect/serve_loop.hpp"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <algorithm>
#include <cerrno>
#include <fstream>

namespace weir::inline v0::detail {

namespace {

using std::chrono::milliseconds;

constexpr std::size_t quantum = 64u << 10;        // bytes read from one connection per turn
constexpr std::size_t ring_quantum = 256u << 10;  // bytes read from one ring per turn
constexpr milliseconds open_interval{500};        // between two looks for spans that stay open
constexpr std::size_t max_passed = 8;             // descriptors of one connection that no line has claimed yet
constexpr int accepts_per_turn = 64;
constexpr int accepts_at_stop = 1024;  // of those that wait in the backlog
constexpr std::size_t spare_descriptors = 64;
constexpr milliseconds first_backoff{5}, last_backoff{1000};

/// As many connections as the limit on open files leaves room for.
std::size_t connection_limit(std::size_t wanted) {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur == RLIM_INFINITY) return std::max<std::size_t>(wanted, 1);
  const auto limit = static_cast<std::size_t>(files.rlim_cur);
  const std::size_t room = limit > 2 * spare_descriptors ? limit - spare_descriptors : limit / 2;
  return std::clamp<std::size_t>(wanted, 1, std::max<std::size_t>(room, 1));
}

std::string process_name(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/comm");
  std::string name;
  if (pid <= 0 || !std::getline(file, name) || name.empty()) return "unknown";
  return name;
}

TimePoint clock_now() { return std::chrono::steady_clock::now(); }

}  // namespace

ServeLoop::ServeLoop(net::UnixListener& listener, const net::EventFd& wake, Core& core, const CollectorOptions& options, Logger& logger)
    : listener_(listener),
      wake_(wake),
      core_(core),
      options_(options),
      logger_(logger),
      max_connections_(connection_limit(options.max_connections)),
      budget_{options.max_buffered, 0},
      intake_(core.store, core.stats, core.serving, core.on_loss, options, budget_, logger),
      buffer_(std::make_unique<char[]>(quantum)) {}

Result<void> ServeLoop::run(const std::function<bool()>& stopping) {
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_ || !watch(wake_.fd(), EPOLLIN, EPOLL_CTL_ADD) || !watch(listener_.fd(), EPOLLIN, EPOLL_CTL_ADD)) {
    return system_error(errno, "cannot wait for connections on " + listener_.path());
  }
  Result<void> result;
  while (result && !stopping()) {
    epoll_event ready[64];
    const int count = wait(ready, std::size(ready));
    if (count < 0 && errno != EINTR) result = system_error(errno, "cannot wait for connections on " + listener_.path());
    const TimePoint now = clock_now();
    for (int i = 0; i < count && result; ++i) {
      const int fd = ready[i].data.fd;
      if (fd == wake_.fd()) {
        wake_.drain();
      } else if (fd == listener_.fd()) {
        int accepted = 0;
        result = accept_some(now, accepts_per_turn, accepted);
      } else if (const auto found = connections_.find(fd); found != connections_.end()) {
        std::size_t received = 0;
        if (!read_once(*found->second, quantum, now, received)) close(fd);
      }
    }
    drain_rings(clock_now());
    pass_time(now);
  }
  take_arrived(clock_now());
  listener_.close();
  {
    const std::lock_guard locked(core_.serving);
    core_.store.complete_all(clock_now());
  }
  pass_time(clock_now());
  return result;
}

bool ServeLoop::watch(int fd, std::uint32_t events, int operation) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  return ::epoll_ctl(epoll_.get(), operation, fd, &event) == 0;
}

/// Less than none: without an end.
std::chrono::nanoseconds ServeLoop::timeout_from(TimePoint now) {
  TimePoint due = std::min(resume_at_, look_again_);
  {
    const std::lock_guard locked(core_.serving);
    due = std::min(due, core_.store.next_deadline());
  }
  if (!sharing_.empty()) due = std::min(due, look_for_open_);
  if (connections_.size() * 10 >= max_connections_ * 9) due = std::min(due, next_idle_scan_);
  if (due == TimePoint::max()) return std::chrono::nanoseconds{-1};
  return std::clamp<std::chrono::nanoseconds>(due - now, std::chrono::nanoseconds{0}, std::chrono::minutes{1});
}

int ServeLoop::wait(epoll_event* ready, int size) {
  const std::chrono::nanoseconds timeout = timeout_from(clock_now());
  if (timeout.count() < 0) return ::epoll_wait(epoll_.get(), ready, size, -1);
  if (timeout.count() > 0) {  // epoll_wait itself knows milliseconds only
    pollfd one{epoll_.get(), POLLIN, 0};
    const timespec time{timeout.count() / 1'000'000'000, timeout.count() % 1'000'000'000};
    if (::ppoll(&one, 1, &time, nullptr) <= 0) return 0;
  }
  return ::epoll_wait(epoll_.get(), ready, size, 0);
}

Result<void> ServeLoop::accept_some(TimePoint now, int count, int& accepted) {
  for (; accepted < count; ++accepted) {
    if (connections_.size() >= max_connections_) {
      if (accepted == 0) pause_listener(TimePoint::max());  // someone waits
      return {};
    }
    net::Accepted next = listener_.accept();
    switch (next.status) {
      case net::Accepted::Status::accepted:
        backoff_ = milliseconds{0};
        add(std::move(next.peer), now);
        break;
      case net::Accepted::Status::refused:
        count_one(&CollectorStats::refused_peers);
        log_limited(refused_log_, now, Logger::Level::warning,
                    "refused a connection from " + net::describe_user(next.peer.uid) + " on " + listener_.path() +
                        "; name the user with allow_uids (--allow-uid) to let it in");
        break;
      case net::Accepted::Status::empty: return {};
      case net::Accepted::Status::exhausted:
        backoff_ = std::clamp(backoff_ * 2, first_backoff, last_backoff);
        pause_listener(now + backoff_);
        log_limited(pause_log_, now, Logger::Level::warning,
                    system_error(next.error, "cannot let a service in", "Raise the limit on open files").message);
        return {};
      case net::Accepted::Status::failed: return system_error(next.error, "cannot accept connections on " + listener_.path());
    }
  }
  return {};
}

void ServeLoop::add(net::Peer peer, TimePoint now) {
  const int fd = peer.fd.get();
  std::string name = process_name(peer.pid);
  auto connection = std::make_unique<Connection>(std::move(peer), std::move(name), now, options_.max_line, budget_);
  if (!watch(fd, EPOLLIN, EPOLL_CTL_ADD)) {
    log_limited(pause_log_, now, Logger::Level::warning, system_error(errno, "cannot watch a connection").message);
    return;
  }
  connections_.emplace(fd, std::move(connection));
  count_one(&CollectorStats::connections);
  note_connections();
}

void ServeLoop::pause_listener(TimePoint until) {
  resume_at_ = until;
  if (std::exchange(paused_, true)) return;
  (void)watch(listener_.fd(), 0, EPOLL_CTL_MOD);
  count_one(&CollectorStats::listener_pauses);
}

void ServeLoop::resume_listener() {
  if (!std::exchange(paused_, false)) return;
  resume_at_ = TimePoint::max();
  (void)watch(listener_.fd(), EPOLLIN, EPOLL_CTL_MOD);
}

bool ServeLoop::read_once(Connection& connection, std::size_t limit, TimePoint now, std::size_t& received) {
  std::uint64_t refused = 0;
  const ssize_t size = net::receive_with_descriptors(connection.fd.get(), buffer_.get(), std::min(limit, quantum), connection.source.passed,
                                                     connection.source.native ? max_passed : 0, refused);
  if (refused != 0) count_one(&CollectorStats::refused_descriptors, refused);
  if (size == -EAGAIN || size == -EWOULDBLOCK) return true;
  if (size <= 0) {
    take_rest(connection, now);
    return false;
  }
  received = static_cast<std::size_t>(size);
  take_lines(connection, {buffer_.get(), received}, now);
  return true;
}

void ServeLoop::take_lines(Connection& connection, std::string_view data, TimePoint now) {
  bool useful = false;
  {
    const std::lock_guard locked(core_.serving);
    core_.stats.bytes += data.size();
    while (!data.empty()) {
      if (connection.source.native && connection.source.native->wants_raw()) {
        intake_.take_raw(data, connection.source, now);
        useful |= !connection.source.native->wants_raw();
        continue;
      }
      if (!connection.lines.incomplete()) {
        connection.lines.let_go();
        if (intake_.take_usual(data, connection.source, now)) {
          useful = true;
          continue;
        }
      }
      std::string_view line;
      switch (connection.lines.next(data, line)) {
        case net::LineSplitter::Got::line: useful |= intake_.take(line, data, connection.source, now); break;
        case net::LineSplitter::Got::nothing: break;
        case net::LineSplitter::Got::too_long: intake_.refuse_too_long(connection.source, now); break;
        case net::LineSplitter::Got::no_room: intake_.refuse_no_room(connection.source, now); break;
      }
    }
  }
  if (!connection.source.reply.empty()) answer(connection);
  note_sharing(connection);
  if (!connection.incomplete()) {
    if (useful) connection.idle_since = TimePoint::max();
  } else if (useful || connection.idle_since == TimePoint::max()) {
    connection.idle_since = now;
  }
}

/// A service that does not take it goes on with JSON lines.
void ServeLoop::answer(Connection& connection) {
  const std::string reply = std::exchange(connection.source.reply, {});
  (void)net::send_some(connection.fd.get(), reply.data(), reply.size());
}

void ServeLoop::note_sharing(Connection& connection) {
  const bool shares = connection.source.native && connection.source.native->rings() != 0;
  if (shares == connection.sharing) return;
  if (shares) {
    sharing_.push_back(&connection);
  } else {
    std::erase(sharing_, &connection);
  }
  connection.sharing = shares;
}

void ServeLoop::drain_rings(TimePoint now) {
  if (sharing_.empty()) {
    look_again_ = TimePoint::max();
    return;
  }
  bool woken = false;
  for (const Connection* connection : sharing_) woken |= connection->source.native->woken();
  const bool look_for_open = now >= look_for_open_;
  if (look_for_open) look_for_open_ = now + open_interval;
  if (!woken && now < look_again_ && !look_for_open) return;
  std::size_t bytes = 0;
  for (Connection* connection : sharing_) {
    const std::lock_guard locked(core_.serving);
    bytes += intake_.drain(connection->source, ring_quantum, now);
    if (look_for_open) intake_.look_for_open(connection->source, now);
  }
  // Much: there will be more at once. Little: soon. None: later and later, then not before they say so.
  if (bytes >= ring_quantum / 4) {
    pause_ = no_pause;
  } else if (bytes > 0) {
    pause_ = std::max(first_pause, std::min(pause_, last_pause) / 2);
  } else if (woken) {
    pause_ = first_pause;
  } else {
    pause_ = std::clamp(pause_ * 2, first_pause, last_pause * 2);
  }
  look_again_ = pause_ <= last_pause ? now + pause_ : TimePoint::max();
}

/// The last line, which may have come without its newline.
void ServeLoop::take_rest(Connection& connection, TimePoint now) {
  std::string_view line, nothing;
  if (connection.lines.finish(line) != net::LineSplitter::Got::line) return;
  const std::lock_guard locked(core_.serving);
  (void)intake_.take(line, nothing, connection.source, now);
}

void ServeLoop::close(int fd) {
  const auto found = connections_.find(fd);
  if (found == connections_.end()) return;
  end(*found->second, clock_now());
  connections_.erase(found);  // which takes it out of epoll too
  note_connections();
  resume_listener();
}

void ServeLoop::end(Connection& connection, TimePoint now) {
  const std::lock_guard locked(core_.serving);
  intake_.ended(connection.source, now);
  note_sharing(connection);
}

void ServeLoop::drop_idle(TimePoint now) {
  if (connections_.size() * 10 < max_connections_ * 9 || now < next_idle_scan_) return;
  next_idle_scan_ = now + std::clamp(options_.idle_limit / 8, milliseconds{10}, milliseconds{1000});
  std::vector<int> idle;
  for (const auto& [fd, connection] : connections_) {
    if (connection->idle_since != TimePoint::max() && now - connection->idle_since >= options_.idle_limit) idle.push_back(fd);
  }
  for (const int fd : idle) {
    take_rest(*connections_.at(fd), now);
    close(fd);
    count_one(&CollectorStats::dropped_idle);
  }
}

void ServeLoop::pass_time(TimePoint now) {
  if (now >= resume_at_) resume_listener();
  drop_idle(now);
  std::uint64_t failed = 0;
  {
    const std::lock_guard locked(core_.serving);
    core_.store.advance(now);
    failed = core_.store.stats().failed_callbacks;
  }
  if (std::exchange(seen_failed_callbacks_, failed) != failed) {
    log_limited(callback_log_, now, Logger::Level::error,
                "a callback of the collector threw, " + std::exchange(core_.callback_problem, {}));
  }
}

/// Everything that services had sent when the stop came, from those too that were not let in yet. What they go on sending
/// is left, so that a flood does not hold the stop up.
void ServeLoop::take_arrived(TimePoint now) {
  int budget = accepts_at_stop;
  do {
    for (const auto& [fd, connection] : connections_) {
      int waiting = 0;
      if (::ioctl(fd, FIONREAD, &waiting) != 0) waiting = 0;
      for (std::size_t left = static_cast<std::size_t>(std::max(waiting, 0)), received = 0; left > 0; left -= std::min(left, received)) {
        received = 0;
        if (!read_once(*connection, left, now, received) || received == 0) break;
      }
      take_rest(*connection, now);
    }
    for (const auto& [fd, connection] : connections_) end(*connection, now);
    connections_.clear();
    int accepted = 0;
    if (!accept_some(now, std::min(budget, accepts_per_turn), accepted)) break;
    budget -= accepted;
  } while (!connections_.empty());
  note_connections();
}

void ServeLoop::note_connections() {
  const std::lock_guard locked(core_.serving);
  core_.stats.open_connections = connections_.size();
}

void ServeLoop::count_one(std::uint64_t CollectorStats::*counter, std::uint64_t count) {
  const std::lock_guard locked(core_.serving);
  core_.stats.*counter += count;
}

void ServeLoop::log_limited(LogLimiter& limiter, TimePoint now, Logger::Level level, std::string_view message) {
  std::uint64_t suppressed = 0;
  if (!limiter.allow(now, suppressed)) return;
  const Attribute attributes[] = {{"suppressed", suppressed}};
  logger_.log(level, message, attributes);
}

}  // namespace weir::inline v0::detail
