#pragma once
// LineSocket: one end of a stream socket, read line by line, with a guard against hanging.

#include <poll.h>
#include <cerrno>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "net/unix_socket.hpp"
#include "support/catch.hpp"

namespace weir::testing {

class LineSocket {
 public:
  explicit LineSocket(net::Fd fd) : fd_(std::move(fd)) {}
  static LineSocket connect(const std::string& path) {
    auto connected = net::connect_unix(path);
    REQUIRE(connected);
    return LineSocket(std::move(*connected));
  }

  int fd() const { return fd_.get(); }
  void close() { fd_.reset(); }

  /// The next line without its newline; nothing when the other side closed. A torn last line fails the test.
  std::optional<std::string> line() {
    for (;;) {
      const std::size_t end = buffer_.find('\n');
      if (end != std::string::npos) {
        std::string result = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return result;
      }
      char part[16384];
      const ssize_t size = net::receive_some(fd_.get(), part, sizeof part);
      if (size > 0) {
        buffer_.append(part, static_cast<std::size_t>(size));
      } else if (size == -EAGAIN) {
        pollfd entry{fd_.get(), POLLIN, 0};
        REQUIRE(::poll(&entry, 1, 60'000) == 1);
      } else {
        REQUIRE(buffer_.empty());
        return std::nullopt;
      }
    }
  }

  /// Reads `size` bytes, to be handed out by line() later.
  void read_ahead(std::size_t size) {
    std::string part(size, '\0');
    while (size > 0) {
      const ssize_t got = net::receive_some(fd_.get(), part.data(), size);
      if (got == -EAGAIN) {
        pollfd entry{fd_.get(), POLLIN, 0};
        REQUIRE(::poll(&entry, 1, 60'000) == 1);
        continue;
      }
      REQUIRE(got > 0);
      buffer_.append(part, 0, static_cast<std::size_t>(got));
      size -= static_cast<std::size_t>(got);
    }
  }

  /// All lines until the other side closes.
  std::vector<std::string> rest() {
    std::vector<std::string> lines;
    while (auto next = line()) lines.push_back(std::move(*next));
    return lines;
  }

  /// Sends all of it, waiting for the other side to read. False when the other side is gone, or seems to hang. For any thread.
  bool send(std::string_view data) {
    while (!data.empty()) {
      const ssize_t size = net::send_some(fd_.get(), data.data(), data.size());
      if (size > 0) {
        data.remove_prefix(static_cast<std::size_t>(size));
      } else if (size == -EAGAIN) {
        pollfd entry{fd_.get(), POLLOUT, 0};
        if (::poll(&entry, 1, 60'000) != 1) return false;
      } else {
        return false;
      }
    }
    return true;
  }

 private:
  net::Fd fd_;
  std::string buffer_;
};

}  // namespace weir::testing
