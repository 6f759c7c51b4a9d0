#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <csignal>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>

#include "cli/commands.hpp"
#include "cli/signals.hpp"
#include "cli/station.hpp"
#include "cli/summary.hpp"
#include "weir/trace/socket_path.hpp"

namespace weir::cli {

namespace {

constexpr int exit_not_executable = 126, exit_not_found = 127;  // as shells have it

/// Starts the command with WEIR_SOCKET set. Error: the exec failed, with its errno.
Result<pid_t> start(const std::vector<std::string>& command, const std::string& socket, const Signals& signals) {
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  // All memory is had before the fork: other threads run.
  std::string variable = "WEIR_SOCKET=" + socket;
  std::vector<char*> environment{variable.data()};
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!std::string_view(*entry).starts_with("WEIR_SOCKET=")) environment.push_back(*entry);
  }
  environment.push_back(nullptr);
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return system_error(errno, "cannot start '" + command.front() + "'");
  const net::Fd read_end(ends[0]);
  net::Fd write_end(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return system_error(errno, "cannot start '" + command.front() + "'");
  if (child == 0) {
    signals.restore();
    ::execvpe(arguments[0], arguments.data(), environment.data());
    const int error = errno;
    (void)!::write(write_end.get(), &error, sizeof error);
    ::_exit(exit_not_found);
  }
  write_end.reset();
  int error = 0;
  ssize_t size;
  do size = ::read(read_end.get(), &error, sizeof error);  // ends without a byte when exec has closed the other end
  while (size < 0 && errno == EINTR);
  if (size <= 0) return child;
  ::waitpid(child, nullptr, 0);
  return system_error(error, "cannot run '" + command.front() + "'",
                      error == ENOENT && command.front().find('/') == std::string::npos ? "Is it installed, and in PATH?" : "");
}

/// The child, for as long as it may be signalled: a pid that has been waited for can be somebody else's.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}

  void signal(int number) {
    std::lock_guard lock(mutex_);
    if (pid_) ::kill(*pid_, number);
  }
  bool ended() {
    std::lock_guard lock(mutex_);
    return !pid_;
  }

  /// Waits for its end; the exit code to pass on.
  int wait() {
    const pid_t pid = *pid_;
    siginfo_t info{};
    while (::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) {}
    std::lock_guard lock(mutex_);
    pid_.reset();
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }

 private:
  std::mutex mutex_;
  std::optional<pid_t> pid_;
};

}  // namespace

int run(const CollectSettings& given, const std::vector<std::string>& command) {
  CollectSettings settings = given;
  if (settings.socket.empty()) settings.socket = default_socket_directory() + "/run-" + std::to_string(::getpid()) + ".sock";

  Result<Signals> signals = Signals::block({SIGINT, SIGTERM, SIGHUP, SIGQUIT});
  if (!signals) return say(signals.error().message), exit_failed;
  Result<net::EventFd> end = net::EventFd::create();
  if (!end) return say(end.error().message), exit_failed;
  // The sockets are bound before the command starts; its first spans wait in the kernel until we serve.
  std::optional<Station> station(std::in_place, settings, STDERR_FILENO, "stderr");
  if (auto bound = station->listen(); !bound) return say(bound.error().message), exit_failed;
  const Result<pid_t> pid = start(command, station->socket(), *signals);
  if (!pid) {
    station.reset();
    say(pid.error().message);
    return pid.error().code == std::errc::no_such_file_or_directory ? exit_not_found : exit_not_executable;
  }

  Child child(*pid);
  StopSource stop;
  // The terminal signals the command itself; what was sent to us alone is passed on. The command decides when it ends.
  // Once it has, a signal means us, who may be waiting for the reader of stderr.
  SignalThread on_signal(*signals, std::move(*end), [&](int number, bool sent) {
    if (child.ended()) ::_exit(128 + number);
    if (sent) child.signal(number);
  });
  Result<void> served;
  std::thread serving([&] { served = station->serve(stop.token()); });
  const int code = child.wait();
  stop.request_stop();
  serving.join();
  if (!served) say(served.error().message);
  const CollectorStats stats = station->stats();
  say_summary(stats, station->not_stored());
  if (stats.connections == 0) say("nothing connected: is the program linked with weir, and does it call weir::init()?");
  return code;
}

}  // namespace weir::cli
