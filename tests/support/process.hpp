#pragma once
// Process: a program under test, with its output, its exit code, and a guard against hanging.

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "net/unix_socket.hpp"
#include "support/catch.hpp"

namespace weir::testing {

/// Our environment with some variables set or, where the value is empty, unset: for execve(2). Made before a fork, because in
/// the child of a process with threads nothing may allocate.
class EnvironmentBlock {
 public:
  explicit EnvironmentBlock(const std::map<std::string, std::string>& changes) {
    for (char** variable = environ; *variable != nullptr; ++variable) {
      const std::string_view text = *variable;
      if (!changes.contains(std::string(text.substr(0, text.find('='))))) texts_.emplace_back(text);
    }
    for (const auto& [name, value] : changes)
      if (!value.empty()) texts_.push_back(name + "=" + value);
    for (std::string& text : texts_) pointers_.push_back(text.data());
    pointers_.push_back(nullptr);
  }
  EnvironmentBlock(const EnvironmentBlock&) = delete;
  EnvironmentBlock& operator=(const EnvironmentBlock&) = delete;
  char* const* get() const { return pointers_.data(); }

 private:
  std::vector<std::string> texts_;
  std::vector<char*> pointers_;
};

class Process {
 public:
  using Environment = std::map<std::string, std::string>;

  /// `environment` is added to ours; an empty value unsets.
  explicit Process(std::vector<std::string> command, const Environment& environment = {}) {
    std::array<int, 2> in{}, out{}, err{};
    REQUIRE(::pipe2(in.data(), O_CLOEXEC) == 0);
    REQUIRE(::pipe2(out.data(), O_CLOEXEC) == 0);
    REQUIRE(::pipe2(err.data(), O_CLOEXEC) == 0);
    std::vector<char*> arguments;
    for (std::string& word : command) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const EnvironmentBlock variables(environment);
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      ::dup2(in[0], 0);
      ::dup2(out[1], 1);
      ::dup2(err[1], 2);
      ::execve(arguments[0], arguments.data(), variables.get());
      ::_exit(99);
    }
    for (const int fd : {in[0], out[1], err[1]}) ::close(fd);
    streams_[0] = net::Fd(in[1]);
    streams_[1] = net::Fd(out[0]);
    streams_[2] = net::Fd(err[0]);
  }
  ~Process() {
    if (exited_) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  int fd(int stream) const { return streams_[static_cast<std::size_t>(stream)].get(); }
  void signal(int number) const { ::kill(pid_, number); }
  /// Closes our end of stdin (0), stdout (1) or stderr (2).
  void close(int stream) { streams_[static_cast<std::size_t>(stream)].reset(); }

  /// The next line of stdout (1) or stderr (2); nothing at its end.
  std::optional<std::string> line(int stream) {
    std::string& text = text_[static_cast<std::size_t>(stream)];
    std::size_t end;
    while ((end = text.find('\n')) == std::string::npos) {
      if (!more()) return std::nullopt;
    }
    std::string line = text.substr(0, end);
    text.erase(0, end + 1);
    return line;
  }
  /// The first line of the stream that contains `part`.
  std::string line_with(int stream, const std::string& part) {
    for (;;) {
      const auto next = line(stream);
      REQUIRE(next);
      if (next->find(part) != std::string::npos) return *next;
    }
  }

  /// Waits for its end. Its exit code, or 1000 + the signal that killed it; what it wrote is in out() and err().
  int wait() {
    while (more()) {}
    if (!exited_) {
      int status = 0;
      REQUIRE(::waitpid(pid_, &status, 0) == pid_);
      exited_ = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    }
    return *exited_;
  }
  const std::string& out() const { return text_[1]; }
  const std::string& err() const { return text_[2]; }

 private:
  /// Reads what there is; false when both streams have ended.
  bool more() {
    std::array<pollfd, 2> entries{pollfd{streams_[1].get(), POLLIN, 0}, pollfd{streams_[2].get(), POLLIN, 0}};
    if (!streams_[1] && !streams_[2]) return false;
    int ready;
    do ready = ::poll(entries.data(), entries.size(), 60'000);
    while (ready < 0 && errno == EINTR);
    INFO("stdout: " << text_[1] << "\nstderr: " << text_[2]);
    REQUIRE(ready > 0);
    for (std::size_t i = 0; i < entries.size(); ++i) {
      if (entries[i].revents == 0) continue;
      char part[4096];
      const ssize_t size = ::read(entries[i].fd, part, sizeof part);
      if (size > 0) {
        text_[i + 1].append(part, static_cast<std::size_t>(size));
      } else {
        streams_[i + 1].reset();
      }
    }
    return true;
  }

  pid_t pid_ = -1;
  std::array<net::Fd, 3> streams_;
  std::array<std::string, 3> text_;
  std::optional<int> exited_;
};

}  // namespace weir::testing
