#include "http/http_server.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include "http/engine.hpp"
#include "http/listener.hpp"
#include "net/unix_socket.hpp"

namespace weir::inline v0::http {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t read_size = 64 * 1024;  // of one connection, before the next has its turn
constexpr std::chrono::milliseconds drain_time{2000}, stop_time{1000}, accept_pause{100};
constexpr std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";

struct Connection {
  enum class Phase { reading, working, writing, draining };

  explicit Connection(net::Fd socket, const RequestLimits& limits, Clock::time_point end)
      : fd(std::move(socket)), frame(limits), deadline(end) {}

  net::Fd fd;
  Phase phase = Phase::reading;
  RequestFrame frame;
  std::string out;
  std::size_t sent = 0;     // of `out`
  std::size_t at_work = 0;  // bytes of the request, while a thread has it
  Clock::time_point deadline;
};

/// By their order of coming.
using Connections = std::map<std::uint64_t, Connection>;

struct Job {
  std::uint64_t connection = 0;
  std::string head, body;  // then `head` is the answer
};

/// The threads that answer, and what waits for them and for the loop. At most one job for each connection.
class Workers {
 public:
  Workers(Engine& engine, const net::EventFd& wake, std::size_t count) : engine_(engine), wake_(wake) {
    try {
      for (std::size_t i = 0; i < count; ++i) threads_.emplace_back([this] { work(); });
    } catch (...) {
      finish();
      throw;
    }
  }
  ~Workers() { finish(); }
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  void give(Job job) {
    std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(job));
    changed_.notify_one();
  }
  std::deque<Job> take_done() {
    std::lock_guard lock(mutex_);
    return std::exchange(done_, {});
  }

 private:
  void finish() {
    {
      std::lock_guard lock(mutex_);
      finished_ = true;
      changed_.notify_all();
    }
    for (std::thread& thread : threads_) thread.join();
  }

  void work() {
    for (;;) {
      Job job;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return finished_ || !waiting_.empty(); });
        if (finished_) return;
        job = std::move(waiting_.front());
        waiting_.pop_front();
      }
      std::string answer;
      try {
        answer = engine_.answer(job.head, job.body);
      } catch (...) {  // no memory: without an answer the connection is closed
      }
      job.head = std::move(answer);
      std::string().swap(job.body);
      {
        std::lock_guard lock(mutex_);
        done_.push_back(std::move(job));
      }
      wake_.wake();
    }
  }

  Engine& engine_;
  const net::EventFd& wake_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::deque<Job> waiting_, done_;
  bool finished_ = false;
  std::vector<std::thread> threads_;  // last: they use all of the above
};

}  // namespace

struct HttpServer::Impl {
  Address address;
  Handler& handler;
  ServerOptions options;
  Logger& logger;
  mutable std::mutex mutex;
  ServerStats counters;  // guarded by mutex
  bool serving = false;  // guarded by mutex
  std::optional<net::EventFd> event;
  Listener listener;
  std::unique_ptr<Engine> engine;
  // Of the thread that serves.
  Connections connections;
  std::uint64_t last_connection = 0;
  Workers* workers = nullptr;
  Clock::time_point accept_again{};
  bool broken = false;

  Impl(Address where, Handler& answers, ServerOptions given)
      : address(std::move(where)),
        handler(answers),
        options(std::move(given)),
        logger(options.logger != nullptr ? *options.logger : stderr_logger()) {
    options.max_connections = std::max<std::size_t>(options.max_connections, 1);
    options.threads = std::max<std::size_t>(options.threads, 1);
  }

  void count(std::uint64_t ServerStats::*counter) {
    std::lock_guard lock(mutex);
    ++(counters.*counter);
  }

  Connections::iterator close(Connections::iterator connection) { return connections.erase(connection); }

  void answer(Connection& connection, std::string text, Clock::time_point now) {
    connection.out = std::move(text);
    connection.sent = 0;
    connection.phase = Connection::Phase::writing;
    connection.deadline = now + options.answer_time;
    write_some(connection, now);
  }

  /// False: it is of no use any more.
  bool write_some(Connection& connection, Clock::time_point now) {
    while (connection.sent < connection.out.size()) {
      const ssize_t size =
          net::send_some(connection.fd.get(), connection.out.data() + connection.sent, connection.out.size() - connection.sent);
      if (size == -EAGAIN) return true;
      if (size < 0) {
        connection.deadline = now;
        connection.phase = Connection::Phase::draining;
        return false;
      }
      connection.sent += static_cast<std::size_t>(size);
    }
    if (connection.phase == Connection::Phase::reading) {  // "100 Continue"
      connection.out.clear();
      connection.sent = 0;
      return true;
    }
    // Closing while bytes of the client are unread would reset the connection, and could take the answer from it.
    std::string().swap(connection.out);
    connection.phase = Connection::Phase::draining;
    connection.deadline = now + drain_time;
    return ::shutdown(connection.fd.get(), SHUT_WR) == 0;
  }

  /// False: close it.
  bool read_some(std::uint64_t number, Connection& connection, Clock::time_point now) {
    char data[read_size];
    const ssize_t size = net::receive_some(connection.fd.get(), data, sizeof data);
    if (size == -EAGAIN) return true;
    if (size <= 0) return false;
    if (connection.phase == Connection::Phase::draining) return true;
    connection.frame.append({data, static_cast<std::size_t>(size)});
    if (connection.frame.failed() != 0) {
      count(&ServerStats::refused_requests);
      answer(connection, rendered(error_response(connection.frame.failed(), connection.frame.error())), now);
    } else if (connection.frame.complete()) {
      count(&ServerStats::requests);
      connection.phase = Connection::Phase::working;
      connection.out.clear();
      connection.at_work = connection.frame.bytes();
      workers->give({number, std::move(connection.frame.head()), std::move(connection.frame.body())});
    } else if (connection.frame.take_expects()) {
      connection.out = go_on;
      return write_some(connection, now);
    }
    return true;
  }

  /// A connection makes room, but for `spared`: one that is only closing, else the oldest that its client holds up. False: there is none.
  bool make_room(std::uint64_t spared) {
    auto oldest = connections.end();
    for (auto connection = connections.begin(); connection != connections.end(); ++connection) {
      const Connection::Phase phase = connection->second.phase;
      if (connection->first == spared || phase == Connection::Phase::working) continue;
      if (phase == Connection::Phase::draining) {
        close(connection);
        return true;
      }
      if (oldest == connections.end()) oldest = connection;
    }
    if (oldest == connections.end()) return false;
    count(&ServerStats::dropped);
    close(oldest);
    return true;
  }

  /// Bytes of requests and answers.
  std::size_t buffered() const {
    std::size_t bytes = 0;
    for (const auto& [number, connection] : connections) bytes += connection.frame.bytes() + connection.at_work + connection.out.size();
    return bytes;
  }

  /// Keeps the bound after `number` got more; if nobody else can make room, that one is told to come again.
  void keep_bound(std::uint64_t number, Clock::time_point now) {
    while (buffered() > options.max_buffered) {
      if (make_room(number)) continue;
      const auto connection = connections.find(number);
      if (connection == connections.end() || connection->second.phase != Connection::Phase::reading) return;
      count(&ServerStats::dropped);
      RequestFrame none(options.limits);
      std::swap(connection->second.frame, none);  // assigning empty strings would keep the memory, and the next one would pay for it
      Response busy = error_response(503, "there is no room for the request now. Try again later");
      busy.headers.emplace_back("Retry-After", "5");
      return answer(connection->second, rendered(busy), now);
    }
  }

  void accept_all(Clock::time_point now) {
    for (;;) {
      if (connections.size() >= options.max_connections && !make_room(0)) return;  // all are being answered: soon there is room
      net::Accepted accepted = listener.accept();
      switch (accepted.status) {
        case net::Accepted::Status::accepted:
          count(&ServerStats::connections);
          connections.try_emplace(++last_connection, std::move(accepted.peer.fd), options.limits, now + options.request_time);
          break;
        case net::Accepted::Status::refused: break;
        case net::Accepted::Status::empty: return;
        case net::Accepted::Status::exhausted:
          count(&ServerStats::listener_pauses);
          accept_again = now + accept_pause;
          return;
        case net::Accepted::Status::failed: broken = true; return;
      }
    }
  }

  void take_answers(Clock::time_point now) {
    for (Job& job : workers->take_done()) {
      const auto connection = connections.find(job.connection);
      if (connection == connections.end()) continue;
      if (job.head.starts_with("HTTP/1.1 403")) count(&ServerStats::refused_hosts);
      if (job.head.empty()) {
        close(connection);
      } else {
        connection->second.at_work = 0;
        answer(connection->second, std::move(job.head), now);
        keep_bound(job.connection, now);
      }
    }
  }

  void end_overdue(Clock::time_point now) {
    for (auto connection = connections.begin(); connection != connections.end();) {
      Connection& it = connection->second;
      if (it.phase == Connection::Phase::working || now < it.deadline) {
        ++connection;
        continue;
      }
      if (it.phase != Connection::Phase::draining) count(&ServerStats::timed_out);
      if (it.phase == Connection::Phase::reading && !it.frame.untouched()) {
        answer(it, rendered(error_response(408, "the request took too long")), now);
        ++connection;
      } else {
        connection = close(connection);
      }
    }
  }

  /// How long poll may wait, in milliseconds.
  int patience(Clock::time_point now, Clock::time_point end) const {
    Clock::time_point next = std::min(end, now + std::chrono::hours{1});
    if (accept_again > now) next = std::min(next, accept_again);
    for (const auto& [number, connection] : connections)
      if (connection.phase != Connection::Phase::working) next = std::min(next, connection.deadline);
    return static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(std::max(next - now, Clock::duration::zero())).count());
  }

  bool answering() const {
    return std::any_of(connections.begin(), connections.end(), [](const auto& entry) {
      return entry.second.phase == Connection::Phase::working || entry.second.phase == Connection::Phase::writing;
    });
  }

  Result<void> serve_until(const StopToken& stop) {
    std::vector<pollfd> entries;
    std::vector<std::uint64_t> numbers;
    Clock::time_point end = Clock::time_point::max();
    for (;;) {
      Clock::time_point now = Clock::now();
      if (end == Clock::time_point::max() && stop.stop_requested()) {
        end = now + stop_time;
        listener.close();
        std::erase_if(connections, [](const auto& entry) { return entry.second.phase == Connection::Phase::reading; });
      }
      if (end != Clock::time_point::max() && (now >= end || !answering())) return {};
      if (broken) {
        return Error{std::make_error_code(std::errc::io_error),
                     "stopped serving " + address.to_string() + ": the socket is of no use any more"};
      }
      {
        std::lock_guard lock(mutex);
        counters.open_connections = connections.size();
      }
      const bool listening = listener && now >= accept_again && (connections.size() < options.max_connections || can_drop());
      entries.assign({{event->fd(), POLLIN, 0}, {listening ? listener.fd() : -1, POLLIN, 0}});
      numbers.clear();
      for (const auto& [number, connection] : connections) {
        short events = 0;
        if (connection.phase == Connection::Phase::reading || connection.phase == Connection::Phase::draining) events = POLLIN;
        if (connection.sent < connection.out.size()) events |= POLLOUT;
        entries.push_back({events != 0 ? connection.fd.get() : -1, events, 0});
        numbers.push_back(number);
      }
      if (::poll(entries.data(), entries.size(), patience(now, end)) < 0 && errno != EINTR)
        return system_error(errno, "stopped serving " + address.to_string());
      now = Clock::now();
      event->drain();
      take_answers(now);
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        const short events = entries[i + 2].revents;
        const auto connection = connections.find(numbers[i]);
        if (events == 0 || connection == connections.end()) continue;
        Connection& it = connection->second;
        bool keep = true;
        if ((events & POLLOUT) != 0) keep = write_some(it, now);
        const bool reads = it.phase == Connection::Phase::reading || it.phase == Connection::Phase::draining;
        if (keep && reads && (events & (POLLIN | POLLHUP | POLLERR)) != 0) keep = read_some(numbers[i], it, now);
        if (keep && !reads && (events & (POLLERR | POLLNVAL)) != 0) keep = false;
        if (!keep) {
          close(connection);
        } else if ((events & POLLIN) != 0) {
          keep_bound(numbers[i], now);
        }
      }
      if (listening && entries[1].revents != 0) accept_all(now);
      end_overdue(now);
    }
  }

  bool can_drop() const {
    return std::any_of(connections.begin(), connections.end(),
                       [](const auto& entry) { return entry.second.phase != Connection::Phase::working; });
  }
};

HttpServer::HttpServer(Address address, Handler& handler, ServerOptions options)
    : impl_(std::make_unique<Impl>(std::move(address), handler, std::move(options))) {}

HttpServer::~HttpServer() = default;

Result<void> HttpServer::listen() {
  Impl& impl = *impl_;
  Result<net::EventFd> event = net::EventFd::create();
  if (!event) return event.error();
  Result<Listener> listener = Listener::bind(impl.address);
  if (!listener) return listener.error();
  Result<std::unique_ptr<Engine>> engine = Engine::create(impl.handler, impl.address, impl.options.limits.body);
  if (!engine) return engine.error();
  impl.event.emplace(std::move(*event));
  impl.listener = std::move(*listener);
  impl.engine = std::move(*engine);
  return {};
}

Result<void> HttpServer::serve(const StopToken& stop) {
  Impl& impl = *impl_;
  {
    std::lock_guard lock(impl.mutex);
    if (!impl.listener || impl.serving) {
      return Error{std::make_error_code(std::errc::invalid_argument),
                   "cannot serve " + impl.address.to_string() + ": " + (impl.serving ? "another thread serves it" : "call listen() first")};
    }
    impl.serving = true;
  }
  Result<void> result;
  try {
    StopCallback wake(stop, [&impl] { impl.event->wake(); });
    Workers workers(*impl.engine, *impl.event, impl.options.threads);
    impl.workers = &workers;
    result = impl.serve_until(stop);
  } catch (const std::bad_alloc&) {
    result = Error{std::make_error_code(std::errc::not_enough_memory), "stopped serving " + impl.address.to_string() + ": out of memory"};
  } catch (const std::system_error& error) {
    result = Error{error.code(), "cannot serve " + impl.address.to_string() + ": no thread"};
  }
  impl.connections.clear();
  impl.listener.close();
  std::lock_guard lock(impl.mutex);
  impl.serving = false;
  impl.counters.open_connections = 0;
  return result;
}

const Address& HttpServer::address() const noexcept { return impl_->address; }

ServerStats HttpServer::stats() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->counters;
}

}  // namespace weir::inline v0::http
