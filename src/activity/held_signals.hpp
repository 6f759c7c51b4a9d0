#pragma once
// HeldSignals: keeps what a write(2) may raise from ending the program, whatever that does with signals: SIGPIPE for a pipe that
// nobody reads, SIGXFSZ for a file at its limit. The write fails instead.

#include <pthread.h>
#include <signal.h>
#include <time.h>

#include <cerrno>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// From its construction to its end, on this thread. Keeps errno. Thread-safety: shared: unsafe.
class HeldSignals {
 public:
  HeldSignals() noexcept {
    sigset_t raised;
    sigemptyset(&raised);
    for (const int signal : signals) sigaddset(&raised, signal);
    pthread_sigmask(SIG_BLOCK, &raised, &before_);
    sigemptyset(&not_ours_);
    for (const int signal : signals)
      if (sigismember(&before_, signal) == 1) sigpending(&not_ours_);  // only what the thread had blocked can be there already
  }
  ~HeldSignals() {
    const int error = errno;
    if (failed_)
      for (const int signal : signals) take_back(signal);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    errno = error;
  }
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;

  /// A write has failed, or may have.
  void failed() noexcept { failed_ = true; }

 private:
  static constexpr int signals[] = {SIGPIPE, SIGXFSZ};

  void take_back(int signal) const noexcept {
    if (sigismember(&not_ours_, signal) == 1) return;
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, signal);
    const timespec now{};
    while (sigtimedwait(&one, nullptr, &now) < 0 && errno == EINTR) {}
  }

  sigset_t before_, not_ours_;
  bool failed_ = false;
};

}  // namespace weir::inline v0::detail
