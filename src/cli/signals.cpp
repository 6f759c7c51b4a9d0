#include "cli/signals.hpp"

#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <chrono>
#include <optional>
#include <utility>

namespace weir::cli {

Result<Signals> Signals::block(std::initializer_list<int> signals) {
  Signals result;
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : signals) {
    struct sigaction action {};
    ::sigaction(signal, nullptr, &action);
    // A hang-up that nohup told us to ignore stays ignored. Shells ignore SIGINT for what they start in the background, but
    // who sends it there means it.
    if (signal != SIGHUP || action.sa_handler != SIG_IGN) sigaddset(&set, signal);
  }
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &ignore, &result.pipe_before_);
  if (const int error = ::pthread_sigmask(SIG_BLOCK, &set, &result.before_); error != 0) return system_error(error, "cannot block signals");
  result.fd_.reset(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!result.fd_) return system_error(errno, "cannot receive signals");
  return result;
}

void Signals::restore() const {
  ::sigaction(SIGPIPE, &pipe_before_, nullptr);
  ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

SignalThread::SignalThread(const Signals& signals, net::EventFd end, std::function<void(int, bool)> on_signal)
    : end_(std::move(end)), thread_([this, fd = signals.fd(), call = std::move(on_signal)] {
        for (;;) {
          std::array<pollfd, 2> entries{pollfd{end_.fd(), POLLIN, 0}, pollfd{fd, POLLIN, 0}};
          (void)::poll(entries.data(), entries.size(), -1);
          if (entries[0].revents != 0) return;
          signalfd_siginfo info{};
          if (::read(fd, &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
            call(static_cast<int>(info.ssi_signo), info.ssi_code != SI_KERNEL);
          }
        }
      }) {}

SignalThread::~SignalThread() {
  end_.wake();
  thread_.join();
}

std::function<void(int, bool)> stop_on_signal(StopSource stop) {
  using Clock = std::chrono::steady_clock;
  return [stop = std::move(stop), first = std::optional<Clock::time_point>()](int number, bool) mutable {
    const Clock::time_point now = Clock::now();
    if (stop.request_stop()) {
      first = now;
    } else if (!first || now - *first > std::chrono::milliseconds{200}) {
      ::_exit(128 + number);
    }
  };
}

}  // namespace weir::cli
