#pragma once
// Signals as calls on a thread of their own, where everything is allowed.

#include <signal.h>
#include <functional>
#include <initializer_list>
#include <thread>

#include "net/unix_socket.hpp"
#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"

namespace weir::cli {

/// Blocks the signals in the calling thread and all it starts later, and ignores SIGPIPE. Make it before any thread.
class Signals {
 public:
  static Result<Signals> block(std::initializer_list<int> signals);

  /// The mask from before, and SIGPIPE as it was: for the child of a fork, before exec.
  void restore() const;
  int fd() const { return fd_.get(); }

 private:
  Signals() = default;
  net::Fd fd_;
  sigset_t before_{};
  struct sigaction pipe_before_ {};
};

/// Calls `on_signal(number, sent by a process rather than the terminal)` for each signal until destroyed.
class SignalThread {
 public:
  SignalThread(const Signals& signals, net::EventFd end, std::function<void(int number, bool sent)> on_signal);
  ~SignalThread();
  SignalThread(const SignalThread&) = delete;
  SignalThread& operator=(const SignalThread&) = delete;

 private:
  net::EventFd end_;
  std::thread thread_;
};

/// The usual: the first signal requests a stop, the second ends the process at once with 128 + its number. What comes within
/// 200 ms is still the first: timeout(1) signals a process, and then its group with it.
std::function<void(int, bool)> stop_on_signal(StopSource stop);

}  // namespace weir::cli
