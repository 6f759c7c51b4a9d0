#include "weir/activity/log_sink.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <mutex>

#include "activity/fork_mutex.hpp"

namespace weir::inline v0 {

namespace {

/// Keeps a write to a pipe that nobody reads from killing the program, whatever it does with SIGPIPE.
class NoSigpipe {
 public:
  explicit NoSigpipe(bool needed) noexcept : active_(needed) {
    if (!active_) return;
    sigemptyset(&sigpipe_);
    sigaddset(&sigpipe_, SIGPIPE);
    sigset_t pending;
    sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &sigpipe_, &before_);
  }
  ~NoSigpipe() {
    if (!active_) return;
    const int error = errno;
    if (!was_pending_) {
      const timespec now{};
      while (sigtimedwait(&sigpipe_, nullptr, &now) < 0 && errno == EINTR) {}
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    errno = error;
  }
  NoSigpipe(const NoSigpipe&) = delete;
  NoSigpipe& operator=(const NoSigpipe&) = delete;

 private:
  bool active_, was_pending_ = false;
  sigset_t sigpipe_, before_;
};

/// write(2) is a cancellation point, and leaving by cancellation what must not throw would end the program.
class NoCancellation {
 public:
  NoCancellation() noexcept { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before_); }
  ~NoCancellation() { pthread_setcancelstate(before_, nullptr); }
  NoCancellation(const NoCancellation&) = delete;
  NoCancellation& operator=(const NoCancellation&) = delete;

 private:
  int before_ = 0;
};

bool is_regular(int descriptor) noexcept {
  struct stat status {};
  return fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
}

/// Writes lines, which follow each other in memory. `torn`: whether the last write that failed left a piece of a line behind.
std::size_t write_lines(int descriptor, bool regular, std::atomic<bool>& torn, std::span<const LogLine> lines,
                        std::error_code& error) noexcept {
  if (lines.empty()) return 0;
  const char* const begin = lines.front().text.data();
  const char* const end = lines.back().text.data() + lines.back().text.size();
  std::string_view text(begin, static_cast<std::size_t>(end - begin));
  const NoCancellation no_cancellation;
  const NoSigpipe no_sigpipe(!regular);
  if (torn.load(std::memory_order_relaxed) && torn.exchange(false) && ::write(descriptor, "\n", 1) != 1) torn.store(true);
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    if (written > 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (written == 0 || errno != EINTR) {
      error.assign(written == 0 ? ENOSPC : errno, std::system_category());
      if (text.data() != begin && text.data()[-1] != '\n') torn.store(true);
      std::size_t whole = 0;
      while (lines[whole].text.data() + lines[whole].text.size() <= text.data()) ++whole;
      return whole;
    }
  }
  return lines.size();
}

class StderrSink final : public LogSink {
 public:
  std::size_t write(std::span<const LogLine> lines, std::error_code& error) noexcept override {
    return write_lines(STDERR_FILENO, is_regular(STDERR_FILENO), torn_, lines, error);  // the program may redirect it at any time
  }

 private:
  std::atomic<bool> torn_{false};
};

int open_for_appending(const std::string& path) noexcept {
  int descriptor = -1;
  do descriptor = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);
  while (descriptor < 0 && errno == EINTR);
  return descriptor;
}

}  // namespace

std::shared_ptr<LogSink> stderr_sink() {
  static auto* const sink = new std::shared_ptr<LogSink>(std::make_shared<StderrSink>());
  return *sink;
}

// ---- FileSink

/// One open file. reopen() puts another file under the same number, so that a write in progress on another thread is harmless.
class FileSink::Descriptor {
 public:
  explicit Descriptor(int number) noexcept : number_(number), regular_(is_regular(number)) {}
  ~Descriptor() { ::close(number_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  std::size_t write(std::span<const LogLine> lines, std::error_code& error) noexcept {
    return write_lines(number_, regular_.load(std::memory_order_relaxed), torn_, lines, error);
  }
  /// Takes `other` over; false: errno.
  bool replace(int other) noexcept {
    const bool done = ::dup3(other, number_, O_CLOEXEC) >= 0;
    if (done) {
      regular_.store(is_regular(number_), std::memory_order_relaxed);
      torn_.store(false);
    }
    const int error = errno;
    ::close(other);
    errno = error;
    return done;
  }

 private:
  const int number_;
  std::atomic<bool> regular_, torn_{false};
};

FileSink::FileSink(std::string path, int descriptor) noexcept
    : path_(std::move(path)), descriptor_(std::make_unique<Descriptor>(descriptor)) {}
FileSink::~FileSink() = default;

Result<std::shared_ptr<FileSink>> FileSink::open(std::string path) {
  const int descriptor = open_for_appending(path);
  if (descriptor < 0) return system_error(errno, "cannot open the log file " + path, "Check that the directory is there and writable");
  return std::shared_ptr<FileSink>(new FileSink(std::move(path), descriptor));
}

std::size_t FileSink::write(std::span<const LogLine> lines, std::error_code& error) noexcept { return descriptor_->write(lines, error); }

Result<void> FileSink::reopen() {
  const int descriptor = open_for_appending(path_);
  if (descriptor < 0 || !descriptor_->replace(descriptor))
    return system_error(errno, "cannot open the log file " + path_ + " anew", "Lines still go to the file that was open");
  return {};
}

// ---- FunctionSink

struct FunctionSink::State {
  detail::ForkMutex mutex;
  std::function<void(const LogLine&)> callable;
};

FunctionSink::FunctionSink(std::function<void(const LogLine&)> callable) : state_(std::make_unique<State>()) {
  state_->callable = std::move(callable);
}
FunctionSink::~FunctionSink() = default;

std::size_t FunctionSink::write(std::span<const LogLine> lines, std::error_code& error) noexcept {
  const NoCancellation no_cancellation;
  const std::lock_guard lock(state_->mutex);
  std::size_t taken = 0;
  for (const LogLine& line : lines) {
    try {
      state_->callable(line);
      ++taken;
    } catch (...) {
      error = std::make_error_code(std::errc::io_error);
    }
  }
  return taken;
}

}  // namespace weir::inline v0
