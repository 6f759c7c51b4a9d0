#pragma once
// File descriptors: one that somebody owns, and system calls that signals do not interrupt.

#include <unistd.h>

#include <cerrno>
#include <utility>

#include "weir/core/version.hpp"

namespace weir::inline v0::net {

/// Owns a file descriptor. Thread-safety: Distinct objects: safe. Shared: unsafe (reading get() beside other reads is fine).
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) noexcept : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  ~Fd() { reset(); }

  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  /// Gives the descriptor up without closing it.
  int release() noexcept { return std::exchange(fd_, -1); }
  /// Closes what it holds, keeps errno.
  void reset(int fd = -1) noexcept {
    if (fd_ >= 0) {
      const int kept = errno;
      ::close(fd_);  // never repeated: Linux closes the descriptor even when interrupted
      errno = kept;
    }
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

/// call(), again while it fails with EINTR.
template <class Call>
auto uninterrupted(Call call) noexcept {
  for (;;) {
    const auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

}  // namespace weir::inline v0::net
