#pragma once
// in_a_child(body): runs `body` in a child process made by fork, with a guard against hanging. (Not under ThreadSanitizer:
// fork and it do not mix.)

#include <sys/wait.h>
#include <unistd.h>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <string>

#include "support/catch.hpp"

namespace weir::testing {

struct Child {
  int status = 0;
  std::string text;  // what it wrote to stderr

  bool hung() const { return WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM; }
  /// Its exit code, or 1000 + the signal that killed it.
  int code() const { return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status); }
};

/// In a child: what Catch2 does with signals and with exceptions that nobody catches is not for children.
inline void become_a_child(unsigned guard_seconds) {
  for (const int signal : {SIGABRT, SIGSEGV, SIGALRM}) std::signal(signal, SIG_DFL);
  ::alarm(guard_seconds);
}

/// `body` may return, or end the child itself; if it returns something, that is the exit code.
template <class Body>
Child in_a_child(Body body, unsigned guard_seconds = 60) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t pid = ::fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    become_a_child(guard_seconds);
    ::close(ends[0]);
    ::dup2(ends[1], 2);
    ::close(ends[1]);
    try {
      if constexpr (std::is_void_v<decltype(body())>) {
        body();
        ::_exit(0);
      } else {
        ::_exit(body());
      }
    } catch (...) {
      ::_exit(99);
    }
  }
  ::close(ends[1]);
  Child child;
  char buffer[1024];
  for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;) child.text.append(buffer, static_cast<std::size_t>(n));
  ::close(ends[0]);
  REQUIRE(::waitpid(pid, &child.status, 0) == pid);
  return child;
}

}  // namespace weir::testing
