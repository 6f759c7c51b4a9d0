#include "control/server.hpp"

#include <pthread.h>
#include <signal.h>

#include <cerrno>
#include <chrono>
#include <new>
#include <system_error>
#include <utility>

namespace weir::inline v0::control {

namespace {

constexpr int most_at_once = 16;     // connections, before those that are there get their turn
constexpr int exhausted_wait = 100;  // ms, until the next try to accept, or to do without poll

}  // namespace

Result<std::unique_ptr<ControlServer>> ControlServer::start(const std::string& path, std::string greeting, Answering answer,
                                                            Logger& logger) {
  std::unique_ptr<ControlServer> server(new ControlServer(path, std::move(greeting), std::move(answer), logger));
  detail::add_fork_handler(*server);
  {
    const auto no_forks = detail::no_forks();
    Result<net::EventFd> wake = net::EventFd::create();
    if (!wake) return std::move(wake).error();
    server->wake_.emplace(std::move(*wake));
  }
  {
    const auto no_forks = detail::no_forks();
    Result<net::UnixListener> listener = net::UnixListener::bind(path, {.allow_uids = {0}, .backlog = 16});
    if (!listener) return std::move(listener).error();
    server->listener_ = std::move(*listener);
  }
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are the program's
  std::error_code error;
  try {
    server->thread_ = std::thread([running = server.get()] { running->run(); });
  } catch (const std::system_error& thrown) {
    error = thrown.code();
  } catch (const std::bad_alloc&) {
    error = std::make_error_code(std::errc::not_enough_memory);
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error) return Error{error, "cannot start the thread of the control socket " + path + ": " + error.message()};
  return server;
}

ControlServer::~ControlServer() {
  stop_.store(true, std::memory_order_relaxed);
  if (thread_.joinable()) {
    wake_->wake();
    thread_.join();
  }
  const auto no_forks = detail::no_forks();
  listener_.close();
  for (Connection& connection : connections_) connection.fd.reset();
  wake_.reset();
  detail::remove_fork_handler(*this, no_forks);
}

/// Its copies of the descriptors would keep the parent's clients waiting after the parent's end.
void ControlServer::in_child() noexcept {
  listener_.close();  // which leaves the file to the parent
  for (Connection& connection : connections_) connection.fd.reset();
  wake_.reset();
}

void ControlServer::run() noexcept {
  while (!stop_.load(std::memory_order_relaxed)) {
    std::array<pollfd, 2 + max_connections> entries{};  // no more than there are: poll refuses more than RLIMIT_NOFILE
    std::array<Connection*, max_connections> connected{};
    nfds_t used = 0;
    for (Connection& connection : connections_) {
      if (!connection.fd) continue;
      connected[used] = &connection;
      entries[used++] = {connection.fd.get(), static_cast<short>(connection.output.empty() ? POLLIN : POLLOUT), 0};
    }
    const nfds_t clients = used;
    entries[used++] = {wake_->fd(), POLLIN, 0};
    if (listening_ && !exhausted_) entries[used++] = {listener_.fd(), POLLIN, 0};
    const int ready = ::poll(entries.data(), used, exhausted_ ? exhausted_wait : -1);
    exhausted_ = false;
    if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
    if (ready < 0) wait_without_poll(std::span(entries).first(used));
    for (nfds_t i = 0; i < clients; ++i) {
      if (entries[i].revents == 0) continue;
      bool lives = false;
      try {
        lives = serve(*connected[i]);
      } catch (const std::bad_alloc&) {}
      if (!lives) close(*connected[i]);
    }
    if (used == clients + 2 && entries[clients + 1].revents != 0) accept_all();
  }
}

/// poll has failed, most likely because the program has lowered RLIMIT_NOFILE. Looks at everything, now and then.
void ControlServer::wait_without_poll(std::span<pollfd> entries) noexcept {
  if (!std::exchange(warned_, true))
    logger_.log(Logger::Level::warning, "the control socket answers slowly from now on: poll fails, perhaps for a low RLIMIT_NOFILE");
  std::this_thread::sleep_for(std::chrono::milliseconds(exhausted_wait));
  for (pollfd& entry : entries) entry.revents = entry.events;
}

void ControlServer::accept_all() {
  for (int i = 0; i < most_at_once; ++i) {
    const auto no_forks = detail::no_forks();
    net::Accepted accepted = listener_.accept();
    switch (accepted.status) {
      case net::Accepted::Status::accepted: break;
      case net::Accepted::Status::refused: continue;
      case net::Accepted::Status::empty: return;
      case net::Accepted::Status::exhausted: exhausted_ = true; return;
      case net::Accepted::Status::failed:
        listening_ = false;
        logger_.log(Logger::Level::error, "the control socket accepts nobody any more");
        return;
    }
    Connection* const place = place_for_one_more();
    if (place == nullptr) {
      refuse(std::move(accepted.peer.fd));
      continue;
    }
    try {
      place->lines.emplace(max_line, budget_);
      place->output = greeting_ + '\n';
    } catch (const std::bad_alloc&) {
      place->lines.reset();
      continue;
    }
    place->unread = {};
    place->sent = 0;
    place->good = false;
    place->number = ++accepted_;
    place->fd = std::move(accepted.peer.fd);
  }
}

/// A free place; else that of the oldest client that has not asked for anything yet; else none. No thread forks.
ControlServer::Connection* ControlServer::place_for_one_more() noexcept {
  Connection* oldest = nullptr;
  for (Connection& connection : connections_) {
    if (!connection.fd) return &connection;
    if (!connection.good && (oldest == nullptr || connection.number < oldest->number)) oldest = &connection;
  }
  if (oldest == nullptr) return nullptr;
  oldest->fd.reset();
  oldest->lines.reset();
  return oldest;
}

void ControlServer::refuse(net::Fd fd) noexcept {
  constexpr std::string_view full = "{\"id\":null,\"error\":{\"connection\":\"too many managers are connected\"}}\n";
  (void)net::send_some(fd.get(), full.data(), full.size());
}

void ControlServer::close(Connection& connection) noexcept {
  connection.lines.reset();
  connection.output = std::string();
  const auto no_forks = detail::no_forks();
  connection.fd.reset();
}

bool ControlServer::serve(Connection& connection) {
  if (!flush(connection)) return false;
  if (connection.output.empty() && connection.unread.empty()) {
    const ssize_t size = net::receive_some(connection.fd.get(), connection.input.data(), connection.input.size());
    if (size == -EAGAIN) return true;
    if (size <= 0) return false;
    connection.unread = {connection.input.data(), static_cast<std::size_t>(size)};
  }
  while (connection.output.empty() && !connection.unread.empty()) {
    std::string_view line;
    Answer answer;
    switch (connection.lines->next(connection.unread, line)) {
      case net::LineSplitter::Got::nothing: continue;
      case net::LineSplitter::Got::line:
        if (line.empty()) continue;
        answer = answer_(line);
        break;
      case net::LineSplitter::Got::too_long:
      case net::LineSplitter::Got::no_room:
        answer.line = "{\"id\":null,\"error\":{\"request\":\"the line is longer than " + std::to_string(max_line) + " bytes\"}}";
        break;
    }
    connection.good |= answer.good;
    connection.output = std::move(answer.line);
    connection.output += '\n';
    if (!flush(connection)) return false;
  }
  return true;
}

/// False: nobody reads any more.
bool ControlServer::flush(Connection& connection) noexcept {
  while (connection.sent < connection.output.size()) {
    const ssize_t sent =
        net::send_some(connection.fd.get(), connection.output.data() + connection.sent, connection.output.size() - connection.sent);
    if (sent == -EAGAIN) return true;
    if (sent < 0) return false;
    connection.sent += static_cast<std::size_t>(sent);
  }
  connection.output.clear();
  connection.sent = 0;
  return true;
}

}  // namespace weir::inline v0::control
