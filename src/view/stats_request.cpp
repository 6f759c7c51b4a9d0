// ViewClient::stats: the request ["stats"] and its answer (docs/wire_format.md).
#include <poll.h>
#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <vector>

#include "net/line_splitter.hpp"
#include "net/unix_socket.hpp"
#include "view/view_line.hpp"
#include "weir/view/view_client.hpp"

namespace weir::inline v0 {

namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr std::string_view request = "[\"stats\"]\n", answer_begin = "[\"stats\",";

/// What ["stats",…] says; empty for any other line.
std::string answer_in(std::string_view line) {
  if (!line.starts_with(answer_begin) || !line.ends_with(']')) return {};
  line = line.substr(answer_begin.size(), line.size() - answer_begin.size() - 1);
  return nlohmann::json::accept(line) ? std::string(line) : std::string();
}

/// Until `fd` (-1: nothing) is readable, or then.
void wait(int fd, SteadyClock::time_point until) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - SteadyClock::now()).count();
  pollfd entry{fd, POLLIN, 0};
  (void)::poll(&entry, 1, static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000)));  // EINTR: the caller looks and waits again
}

}  // namespace

Result<std::string> ViewClient::stats(std::chrono::milliseconds timeout) const {
  const auto end =
      SteadyClock::now() + std::clamp(timeout, std::chrono::milliseconds{0}, std::chrono::milliseconds{std::chrono::hours{24}});
  const auto failed = [&](std::errc code, const std::string& what) {
    return Error{std::make_error_code(code), "the collector on '" + socket_path_ + "' " + what};
  };
  const auto late = [&] {
    return failed(std::errc::timed_out, "did not tell its counters within " + std::to_string(timeout.count()) +
                                            "ms. It is not weir's, or older than this request; or it is busy, or stopped");
  };
  net::Fd fd;
  while (!fd) {
    Result<net::Fd> connected = net::connect_unix(socket_path_);
    if (connected) {
      fd = std::move(*connected);
    } else if (connected.error().code != std::errc::resource_unavailable_try_again) {
      return connected.error();
    } else if (SteadyClock::now() >= end) {
      return late();
    } else {
      wait(-1, std::min(end, SteadyClock::now() + std::chrono::milliseconds{50}));  // its backlog is full
    }
  }
  (void)net::send_some(fd.get(), request.data(), request.size());  // an empty socket takes it; a closed one shows below

  net::BufferBudget budget{2 * detail::max_view_line, 0};
  net::LineSplitter lines(detail::max_view_line, budget);
  std::vector<char> buffer(64u << 10);
  std::string_view line;
  do {
    const ssize_t size = net::receive_some(fd.get(), buffer.data(), buffer.size());
    if (size == -EAGAIN) {
      wait(fd.get(), end);
      continue;
    }
    if (size <= 0) {
      return failed(std::errc::connection_reset,
                    "closed the connection without an answer. It has as many viewers as it lets in, or is ending");
    }
    for (std::string_view data(buffer.data(), static_cast<std::size_t>(size)); !data.empty();) {
      if (lines.next(data, line) != net::LineSplitter::Got::line) continue;
      if (std::string answer = answer_in(line); !answer.empty()) return answer;
    }
  } while (SteadyClock::now() < end);
  return late();
}

}  // namespace weir::inline v0
