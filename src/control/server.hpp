#pragma once
// ControlServer: the thread that answers on a control socket. One line in, one line out, in order; a connection is not read while its
// answer waits to be taken, so that what nobody reads costs one answer of memory.

#include <poll.h>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>

#include "net/fd.hpp"
#include "net/line_splitter.hpp"
#include "net/unix_socket.hpp"
#include "telemetry/fork_handler.hpp"
#include "weir/core/logger.hpp"
#include "weir/core/result.hpp"

namespace weir::inline v0::control {

inline constexpr std::size_t max_connections = 4;
inline constexpr std::size_t max_line = 256u << 10;  // bytes of a request

/// What a line is answered with, and whether it was a request at all.
struct Answer {
  std::string line;  // without newline
  bool good = false;
};

/// In the child of a fork nothing is left of it but memory: it must not be destroyed there. Thread-safety: shared: unsafe, but for path().
class ControlServer final : private detail::ForkHandler {
 public:
  /// `greeting`: the first line that a client gets, without newline. `answer` is called on the thread, and may throw std::bad_alloc.
  using Answering = std::function<Answer(std::string_view line)>;
  static Result<std::unique_ptr<ControlServer>> start(const std::string& path, std::string greeting, Answering answer, Logger& logger);

  /// Ends the thread, closes all connections and removes the socket.
  ~ControlServer() override;
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  const std::string& path() const noexcept { return path_; }

 private:
  struct Connection {
    net::Fd fd;
    std::optional<net::LineSplitter> lines;
    std::array<char, 4096> input;
    std::string_view unread;  // of input
    std::string output;
    std::size_t sent = 0;      // of output
    bool good = false;         // it has asked for something that makes sense
    std::uint64_t number = 0;  // of its accept
  };

  ControlServer(std::string path, std::string greeting, Answering answer, Logger& logger)
      : path_(std::move(path)), greeting_(std::move(greeting)), answer_(std::move(answer)), logger_(logger) {}

  void in_child() noexcept override;
  void run() noexcept;
  void wait_without_poll(std::span<pollfd> entries) noexcept;
  void accept_all();
  Connection* place_for_one_more() noexcept;
  void refuse(net::Fd fd) noexcept;
  bool serve(Connection& connection);  // false: it is over
  static bool flush(Connection& connection) noexcept;
  static void close(Connection& connection) noexcept;

  const std::string path_, greeting_;
  const Answering answer_;
  Logger& logger_;
  // Descriptors are made and closed while nobody forks, so that in_child() knows of all.
  net::UnixListener listener_;
  std::optional<net::EventFd> wake_;
  net::BufferBudget budget_{max_connections * max_line};
  std::array<Connection, max_connections> connections_;
  std::uint64_t accepted_ = 0;
  bool listening_ = true, exhausted_ = false, warned_ = false;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace weir::inline v0::control
