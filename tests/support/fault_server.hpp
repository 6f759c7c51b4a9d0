#pragma once
// FaultServer: a server that does to each connection what a script says, as badly as that may be. It listens on a free port of
// 127.0.0.1 or on a Unix socket; each connection has a thread.
//
//   FaultServer server{[](Connection& c) { c.request(); c.send("HTTP/1.1 200 OK\r\nContent-Le"); }};
//   HttpTransport transport{server.url()};

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace weir::testing {

/// Something that happens once, and may be waited for.
class Signal {
 public:
  void set() {
    std::lock_guard lock(mutex_);
    set_ = true;
    changed_.notify_all();
  }
  /// False: it did not happen, within a time that only guards against hanging.
  bool wait(std::chrono::seconds guard = std::chrono::seconds{60}) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, guard, [&] { return set_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;
};

/// Bytes over a socket: plainly, or as a subclass has it. Blocks; sockets give up after a minute.
class Channel {
 public:
  explicit Channel(int fd) : fd_(fd) {}
  virtual ~Channel() = default;
  virtual bool handshake() { return true; }
  /// 0 or less: the other side is gone.
  virtual ssize_t receive(char* data, std::size_t size) { return ::recv(fd_, data, size, 0); }
  virtual ssize_t send(const char* data, std::size_t size) { return ::send(fd_, data, size, MSG_NOSIGNAL); }
  int fd() const { return fd_; }

 private:
  int fd_;
};

/// One connection, for its script.
class Connection {
 public:
  explicit Connection(std::unique_ptr<Channel> channel) : channel_(std::move(channel)) {}
  bool handshake() { return channel_->handshake(); }

  /// The next request, as it came, or what came of it before the other side closed.
  std::string request() {
    std::string text = head();
    std::size_t at = 0;
    std::size_t body = 0;
    while ((at = text.find("\r\n", at)) != std::string::npos) {
      at += 2;
      constexpr std::string_view name = "Content-Length: ";
      if (text.compare(at, name.size(), name) == 0) body = std::strtoul(text.c_str() + at + name.size(), nullptr, 10);
    }
    while (read_.size() < body && more()) {}
    text += read_.substr(0, body);
    read_.erase(0, body);
    return text;
  }
  /// As request(), up to the blank line after the headers.
  std::string head() {
    std::size_t end;
    while ((end = read_.find("\r\n\r\n")) == std::string::npos) {
      if (!more()) return std::exchange(read_, {});
    }
    std::string text = read_.substr(0, end + 4);
    read_.erase(0, end + 4);
    return text;
  }
  /// False: the other side is gone.
  bool more() {
    char part[65536];
    const ssize_t size = channel_->receive(part, sizeof part);
    if (size > 0) read_.append(part, static_cast<std::size_t>(size));
    return size > 0;
  }
  bool send(std::string_view data) {
    while (!data.empty()) {
      const ssize_t size = channel_->send(data.data(), data.size());
      if (size <= 0) return false;
      sent_ += static_cast<std::size_t>(size);
      data.remove_prefix(static_cast<std::size_t>(size));
    }
    return true;
  }
  /// Sends the parts again and again, until the other side is gone.
  void send_endlessly(std::string_view part, std::size_t at_most = SIZE_MAX) {
    while (sent_ < at_most && send(part)) {}
  }
  std::size_t sent() const { return sent_; }
  /// The whole answer, with its length and the headers given ("Name: value\r\n").
  bool answer(int status, std::string_view body, const std::string& headers = "Content-Type: application/json\r\n") {
    return send("HTTP/1.1 " + std::to_string(status) + " As told\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" + headers +
                "\r\n" + std::string(body));
  }
  /// Until the other side is gone; what it says is thrown away.
  void wait_until_closed() {
    while (more()) read_.clear();
  }
  /// True once the other side is gone, false after a few milliseconds in which it is not.
  bool closed_soon() {
    pollfd entry{channel_->fd(), POLLIN, 0};
    char byte;
    return ::poll(&entry, 1, 5) > 0 && ::recv(channel_->fd(), &byte, 1, MSG_PEEK) <= 0;
  }
  /// The end of the script closes with a reset, not with an end.
  void reset() {
    const linger now{1, 0};
    ::setsockopt(channel_->fd(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  }

 private:
  std::unique_ptr<Channel> channel_;
  std::string read_;
  std::size_t sent_ = 0;
};

class FaultServer {
 public:
  using Script = std::function<void(Connection&)>;
  using MakeChannel = std::function<std::unique_ptr<Channel>(int fd)>;
  struct Options {
    std::string unix_path{};  // empty: TCP
    int backlog = 64;
    int receive_buffer = 0;  // bytes; 0: the system's
    bool accepting = true;
    MakeChannel channel{};
    std::string scheme = "http";
  };

  /// The first connection gets the first script, and so on; the last script goes for all that follow.
  explicit FaultServer(std::vector<Script> scripts) : FaultServer(Options{}, std::move(scripts)) {}
  explicit FaultServer(Script script) : FaultServer(Options{}, {std::move(script)}) {}
  FaultServer(Options options, std::vector<Script> scripts) : options_(std::move(options)), scripts_(std::move(scripts)) {
    listen();
    if (options_.accepting) acceptor_ = std::thread([this] { accept_all(); });
  }
  ~FaultServer() {
    char byte = 0;
    (void)!::write(wake_[1], &byte, 1);
    if (acceptor_.joinable()) acceptor_.join();
    {
      std::lock_guard lock(mutex_);
      for (Served& served : connections_)
        if (served.fd >= 0) ::shutdown(served.fd, SHUT_RDWR);
    }
    for (Served& served : connections_) served.thread.join();
    for (const int fd : {listener_, wake_[0], wake_[1]}) ::close(fd);
    if (!options_.unix_path.empty()) ::unlink(options_.unix_path.c_str());
  }
  FaultServer(const FaultServer&) = delete;
  FaultServer& operator=(const FaultServer&) = delete;

  std::string origin() const { return options_.scheme + "://127.0.0.1:" + std::to_string(port_); }
  std::string url() const { return origin() + "/v1/update/"; }
  int port() const { return port_; }
  std::size_t connections() const {
    std::lock_guard lock(mutex_);
    return connections_.size();
  }

 private:
  struct Served {
    int fd = -1;  // guarded by mutex_
    std::thread thread;
  };

  void listen() {
    const bool local = !options_.unix_path.empty();
    listener_ = ::socket(local ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (options_.receive_buffer > 0)
      ::setsockopt(listener_, SOL_SOCKET, SO_RCVBUF, &options_.receive_buffer, sizeof options_.receive_buffer);
    int failed = 0;
    if (local) {
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      std::strncpy(address.sun_path, options_.unix_path.c_str(), sizeof address.sun_path - 1);
      failed = ::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address);
    } else {
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      socklen_t size = sizeof address;
      failed = ::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address);
      failed |= ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
      port_ = ntohs(address.sin_port);
    }
    if (failed != 0 || ::listen(listener_, options_.backlog) != 0 || ::pipe(wake_) != 0)
      throw std::runtime_error("no server: " + std::string(std::strerror(errno)));
  }

  void accept_all() {
    for (;;) {
      pollfd entries[] = {{listener_, POLLIN, 0}, {wake_[0], POLLIN, 0}};
      if (::poll(entries, 2, -1) < 0 && errno == EINTR) continue;
      if (entries[1].revents != 0) return;
      const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) continue;
      const timeval guard{60, 0};
      ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &guard, sizeof guard);
      ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &guard, sizeof guard);
      std::lock_guard lock(mutex_);
      const Script& script = scripts_[std::min(connections_.size(), scripts_.size() - 1)];
      Served& served = connections_.emplace_back();
      served.fd = fd;
      served.thread = std::thread([this, &served, &script, fd] { serve(served, script, fd); });
    }
  }

  void serve(Served& served, const Script& script, int fd) {
    sigset_t pipe;  // TLS libraries write without MSG_NOSIGNAL; the client's threads are left as they are
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
    {
      Connection connection(options_.channel ? options_.channel(fd) : std::make_unique<Channel>(fd));
      if (connection.handshake()) script(connection);
    }
    std::lock_guard lock(mutex_);
    served.fd = -1;
    ::close(fd);
  }

  Options options_;
  std::vector<Script> scripts_;
  int listener_ = -1;
  int wake_[2] = {-1, -1};
  int port_ = 0;
  mutable std::mutex mutex_;
  std::list<Served> connections_;  // the list is guarded by mutex_
  std::thread acceptor_;
};

}  // namespace weir::testing
