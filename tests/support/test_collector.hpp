#pragma once
// TestCollector: a plain listening socket that plays the collector. It accepts when told to and reads what there is.

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "net/unix_socket.hpp"

namespace weir::testing {

/// One accepted connection.
class TestConnection {
 public:
  explicit TestConnection(int fd) : fd_(fd) {}
  bool open() const { return static_cast<bool>(fd_); }
  void close() { fd_.reset(); }
  /// Reads until `done(text so far)` or the other side closes; gives up after 20 s.
  template <class Done>
  const std::string& read_until(Done done) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds{20};
    while (!done(text_) && std::chrono::steady_clock::now() < deadline) {
      pollfd waiting{fd_.get(), POLLIN, 0};
      if (::poll(&waiting, 1, 100) <= 0) continue;
      char buffer[65536];
      const ssize_t size = ::recv(fd_.get(), buffer, sizeof buffer, 0);
      ended_ = size == 0;
      if (size <= 0) break;
      text_.append(buffer, static_cast<std::size_t>(size));
    }
    return text_;
  }
  const std::string& read_to_end() {
    return read_until([](const std::string&) { return false; });
  }
  /// Reads about `bytes`, no more.
  void read_some(std::size_t bytes) {
    std::string buffer(bytes, '\0');
    const ssize_t size = ::recv(fd_.get(), buffer.data(), bytes, 0);
    if (size > 0) text_.append(buffer, 0, static_cast<std::size_t>(size));
  }
  const std::string& text() const { return text_; }
  /// The other side has closed, and everything was read.
  bool ended() const { return ended_; }
  /// The whole lines so far.
  std::vector<std::string> lines() const {
    std::vector<std::string> lines;
    std::size_t begin = 0;
    for (std::size_t end; (end = text_.find('\n', begin)) != std::string::npos; begin = end + 1)
      lines.push_back(text_.substr(begin, end - begin));
    return lines;
  }

 private:
  net::Fd fd_;
  std::string text_;
  bool ended_ = false;
};

class TestCollector {
 public:
  explicit TestCollector(const std::string& path) : path_(path) {
    ::unlink(path.c_str());
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    fd_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 || ::listen(fd_.get(), 16) != 0) {
      throw std::runtime_error("cannot listen on " + path);
    }
  }
  ~TestCollector() { ::unlink(path_.c_str()); }
  /// Waits up to 20 s; not open() if nobody comes.
  TestConnection accept() {
    pollfd waiting{fd_.get(), POLLIN, 0};
    ::poll(&waiting, 1, 20'000);
    return TestConnection(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  }

 private:
  std::string path_;
  net::Fd fd_;
};

}  // namespace weir::testing
