#include "cli/agent_socket.hpp"

#include <poll.h>
#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "weir/trace/socket_path.hpp"

namespace weir::cli {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds reading_time{10};
constexpr std::size_t max_readers = 16;
constexpr std::chrono::milliseconds pause_when_exhausted{100};
constexpr std::size_t max_answer = 64u << 20;

int left(Clock::time_point deadline) {
  const auto time = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
  return static_cast<int>(std::max<std::chrono::milliseconds::rep>(time.count(), 0));
}

}  // namespace

std::string default_agent_socket() { return default_socket_directory() + "/agent.sock"; }

Result<std::unique_ptr<AgentSocket>> AgentSocket::open(const std::string& path, std::function<std::string()> state) {
  auto listener = net::UnixListener::bind(path);
  if (!listener) return listener.error();
  auto end = net::EventFd::create();
  if (!end) return end.error();
  return std::unique_ptr<AgentSocket>(new AgentSocket(std::move(*listener), std::move(*end), std::move(state)));
}

AgentSocket::AgentSocket(net::UnixListener listener, net::EventFd end, std::function<std::string()> state)
    : listener_(std::move(listener)), end_(std::move(end)), state_(std::move(state)), thread_([this] { serve(); }) {}

AgentSocket::~AgentSocket() {
  end_.wake();
  thread_.join();
}

struct AgentSocket::Reader {
  net::Fd fd;
  std::string line;
  std::size_t sent = 0;
  Clock::time_point deadline = Clock::now() + reading_time;

  /// True: it has everything, or is not there any more.
  bool tell() {
    while (sent < line.size()) {
      const ssize_t size = net::send_some(fd.get(), line.data() + sent, line.size() - sent);
      if (size < 0) return size != -EAGAIN && size != -EWOULDBLOCK;
      sent += static_cast<std::size_t>(size);
    }
    return true;
  }
};

void AgentSocket::serve() {
  std::vector<Reader> readers;
  for (bool open = true;;) {
    std::vector<pollfd> entries{{end_.fd(), POLLIN, 0}, {open && readers.size() < max_readers ? listener_.fd() : -1, POLLIN, 0}};
    int wait = open ? -1 : static_cast<int>(pause_when_exhausted.count());
    for (const Reader& reader : readers) {
      entries.push_back({reader.fd.get(), POLLOUT, 0});
      const int time = left(reader.deadline);
      wait = wait < 0 ? time : std::min(wait, time);
    }
    const int ready = net::uninterrupted([&] { return ::poll(entries.data(), entries.size(), wait); });
    if (ready < 0 || entries[0].revents != 0) return;
    std::erase_if(readers, [](Reader& reader) { return reader.tell() || Clock::now() >= reader.deadline; });
    open = let_in(readers);
  }
}

bool AgentSocket::let_in(std::vector<Reader>& readers) {
  using Status = net::Accepted::Status;
  while (readers.size() < max_readers) {
    net::Accepted accepted = listener_.accept();
    if (accepted.status == Status::refused) continue;
    if (accepted.status != Status::accepted) return accepted.status == Status::empty;
    Reader reader{.fd = std::move(accepted.peer.fd), .line = state_() + "\n"};
    if (!reader.tell()) readers.push_back(std::move(reader));
  }
  return true;
}

Result<std::string> read_agent(const std::string& path, std::chrono::milliseconds timeout) {
  const Clock::time_point deadline = Clock::now() + timeout;
  auto connected = net::connect_unix(path);
  if (!connected) {
    const std::error_code code = connected.error().code;
    if (code != std::errc::no_such_file_or_directory && code != std::errc::connection_refused) return connected.error();
    return Error{code, "no agent listens at '" + path + "'. Start one: weir agent --config FILE"};
  }
  std::string text(64u << 10, '\0');
  std::size_t size = 0;
  for (;;) {
    if (size == max_answer)
      return Error{std::make_error_code(std::errc::message_size), "the agent at '" + path + "' says more than 64 MiB"};
    if (size == text.size()) text.resize(std::min(2 * text.size(), max_answer));
    const ssize_t got = net::receive_some(connected->get(), text.data() + size, text.size() - size);
    if (got > 0) {
      size += static_cast<std::size_t>(got);
      continue;
    }
    if (got == 0) break;
    if (got != -EAGAIN && got != -EWOULDBLOCK) return system_error(static_cast<int>(-got), "cannot read from the agent at '" + path + "'");
    pollfd entry{connected->get(), POLLIN, 0};
    if (net::uninterrupted([&] { return ::poll(&entry, 1, left(deadline)); }) <= 0) {
      return Error{std::make_error_code(std::errc::timed_out), "the agent at '" + path + "' does not answer"};
    }
  }
  text.resize(size);
  if (!text.ends_with('\n'))
    return Error{std::make_error_code(std::errc::io_error), "the agent at '" + path + "' ended in the middle of its answer"};
  text.pop_back();
  return text;
}

}  // namespace weir::cli
