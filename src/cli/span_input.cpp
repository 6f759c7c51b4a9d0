#include "cli/span_input.hpp"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <string_view>
#include <utility>
#include <vector>

#include "net/fd.hpp"
#include "net/line_splitter.hpp"
#include "net/unix_socket.hpp"

namespace weir::cli {

namespace {

constexpr std::size_t max_line = 16u << 20;  // a whole tree may be on one

bool blank(std::string_view line) { return line.find_first_not_of(" \t\r") == std::string_view::npos; }

}  // namespace

Result<std::uint64_t> read_spans(const std::string& path, const StopToken& stop, const std::function<void(const Span&)>& on_span) {
  net::Fd file;
  if (path != "-") {
    file = net::Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // a FIFO opens at once
    if (!file) return system_error(errno, "cannot open '" + path + "'");
  }
  const int fd = path == "-" ? STDIN_FILENO : file.get();
  Result<net::EventFd> wake = net::EventFd::create();
  if (!wake) return wake.error();
  StopCallback on_stop(stop, [&] { wake->wake(); });

  std::uint64_t skipped = 0;
  const auto take = [&](net::LineSplitter::Got got, std::string_view line) {
    if (got == net::LineSplitter::Got::nothing || (got == net::LineSplitter::Got::line && blank(line))) return;
    const Result<Span> span = got == net::LineSplitter::Got::line ? parse_span(line) : Result<Span>(Error{});
    if (span)
      on_span(*span);
    else
      ++skipped;
  };
  net::BufferBudget budget{max_line, 0};
  net::LineSplitter lines(max_line, budget);
  std::string_view line;
  std::vector<char> buffer(64u << 10);
  while (!stop.stop_requested()) {
    std::array<pollfd, 2> entries{pollfd{wake->fd(), POLLIN, 0}, pollfd{fd, POLLIN, 0}};
    if (::poll(entries.data(), entries.size(), -1) < 0 || entries[1].revents == 0) continue;
    const ssize_t size = ::read(fd, buffer.data(), buffer.size());
    if (size < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (size < 0) return system_error(errno, path == "-" ? "cannot read stdin" : "cannot read '" + path + "'");
    if (size == 0) {
      const auto got = lines.finish(line);
      take(got, line);
      break;
    }
    for (std::string_view data(buffer.data(), static_cast<std::size_t>(size)); !data.empty() && !stop.stop_requested();) {
      const auto got = lines.next(data, line);
      take(got, line);
    }
  }
  return skipped;
}

}  // namespace weir::cli
