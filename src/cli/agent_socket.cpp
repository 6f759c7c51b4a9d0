#include "cli/agent_socket.hpp"

#include <poll.h>
#include <cerrno>
#include <system_error>
#include <utility>

#include "weir/trace/socket_path.hpp"

namespace weir::cli {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds reading_time{1};
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

void AgentSocket::serve() {
  using Status = net::Accepted::Status;
  bool exhausted = false;
  for (;;) {
    pollfd entries[] = {{end_.fd(), POLLIN, 0}, {listener_.fd(), POLLIN, 0}};
    if (exhausted) entries[1].fd = -1;
    const int ready =
        net::uninterrupted([&] { return ::poll(entries, 2, exhausted ? static_cast<int>(pause_when_exhausted.count()) : -1); });
    if (ready < 0 || entries[0].revents != 0) return;
    net::Accepted accepted;
    for (;;) {
      accepted = listener_.accept();
      if (accepted.status == Status::accepted) tell(accepted.peer.fd, state_() + "\n");
      if (accepted.status != Status::accepted && accepted.status != Status::refused) break;
    }
    if (accepted.status == Status::failed) return;
    exhausted = accepted.status == Status::exhausted;
  }
}

void AgentSocket::tell(const net::Fd& reader, const std::string& line) const {
  const Clock::time_point deadline = Clock::now() + reading_time;
  for (std::size_t sent = 0; sent < line.size();) {
    const ssize_t size = net::send_some(reader.get(), line.data() + sent, line.size() - sent);
    if (size >= 0) {
      sent += static_cast<std::size_t>(size);
      continue;
    }
    if (size != -EAGAIN && size != -EWOULDBLOCK) return;
    pollfd entries[] = {{end_.fd(), POLLIN, 0}, {reader.get(), POLLOUT, 0}};
    const int ready = net::uninterrupted([&] { return ::poll(entries, 2, left(deadline)); });
    if (ready <= 0 || entries[0].revents != 0) return;
  }
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
