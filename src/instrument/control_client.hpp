#pragma once
// ControlClient: a connection to a process's control socket; one request at a time, each within a time.

#include <sys/types.h>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "net/fd.hpp"
#include "net/unix_socket.hpp"
#include "weir/core/result.hpp"
#include "weir/instrument/instrumentation.hpp"

namespace weir::inline v0::instrument {

/// Where the control socket of a process is.
struct ControlPlace {
  std::string path;
  bool promised = false;  // not there yet, but its environment asks for one
};

/// `directory`: of sockets, empty for the process's own. Errors: as ControlFactory::create.
Result<ControlPlace> find_control_socket(pid_t pid, const std::string& directory);

/// Thread-safety: shared: safe.
class ControlClient {
 public:
  using Deadline = std::chrono::steady_clock::time_point;

  /// Waits for a socket to come if it is promised. Errors: it does not come, nobody answers in time, another process listens
  /// there, it speaks another version.
  static Result<std::unique_ptr<ControlClient>> connect(pid_t pid, const std::string& directory, std::chrono::milliseconds timeout,
                                                        const net::EventFd* cancel = nullptr);

  /// Sends {"id":N,`what`}, and returns the answer without its newline. Error: none in time, or the connection is over; or what
  /// the answer has under "error", and then `refused` is set.
  Result<std::string> request(std::string_view what, bool& refused);

  /// For poll: it tells of the end of the connection.
  int fd() const noexcept { return fd_.get(); }

 private:
  ControlClient(pid_t pid, net::Fd fd, std::chrono::milliseconds timeout, const net::EventFd* cancel)
      : pid_(pid), fd_(std::move(fd)), timeout_(timeout), cancel_(cancel) {}

  Result<std::string> line(Deadline deadline);
  Result<void> send(std::string_view text, Deadline deadline);
  Result<void> wait(short events, Deadline deadline);
  Result<void> greeted(Deadline deadline);

  const pid_t pid_;
  const net::Fd fd_;
  const std::chrono::milliseconds timeout_;
  const net::EventFd* const cancel_;
  std::mutex mutex_;  // guards what follows
  std::uint64_t last_id_ = 0;
  std::string received_;
};

/// The member "set" of a request. Error: a number that JSON does not have.
Result<std::string> set_member(const Config& config);

}  // namespace weir::inline v0::instrument
