#include "weir/activity/log_sink.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <mutex>
#include <new>
#include <utility>

#include "activity/fork_mutex.hpp"
#include "activity/held_signals.hpp"

namespace weir::inline v0 {

namespace {

/// One open file, written by one thread at a time, because what does not go in one write may not be interrupted by other lines.
/// Thread-safety: shared: safe.
class LineFile {
 public:
  explicit LineFile(int descriptor) noexcept : descriptor_(descriptor) {}
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;

  std::size_t write(std::span<const LogLine> lines, std::error_code& error) noexcept {
    if (lines.empty()) return 0;
    const char* const begin = lines.front().text.data();
    const char* const end = lines.back().text.data() + lines.back().text.size();
    std::string_view text(begin, static_cast<std::size_t>(end - begin));
    const std::lock_guard lock(mutex_);
    if (torn_ && !end_line(error)) return 0;
    if (write_all(text, error)) return lines.size();
    torn_ = text.data() != begin && text.data()[-1] != '\n';
    std::size_t whole = 0;
    while (lines[whole].text.data() + lines[whole].text.size() <= text.data()) ++whole;
    return whole;
  }
  /// `torn`: the file ends in a piece of a line. Returns the descriptor that it had, which is the caller's.
  int exchange(int descriptor, bool torn = false) noexcept {
    const std::lock_guard lock(mutex_);
    const int before = std::exchange(descriptor_, descriptor);
    torn_ = torn;
    std::error_code ignored;  // the next write tries again
    if (torn_) end_line(ignored);
    return before;
  }

 private:
  bool end_line(std::error_code& error) noexcept {
    std::string_view newline = "\n";
    torn_ = !write_all(newline, error);
    return !torn_;
  }
  /// Removes from `text` what was written.
  bool write_all(std::string_view& text, std::error_code& error) noexcept {
    detail::HeldSignals signals;
    while (!text.empty()) {
      const ssize_t written = ::write(descriptor_, text.data(), text.size());
      if (written > 0) {
        text.remove_prefix(static_cast<std::size_t>(written));
      } else if (written == 0 || errno != EINTR) {
        error.assign(written == 0 ? ENOSPC : errno, std::system_category());
        signals.failed();
        return false;
      }
    }
    return true;
  }

  detail::ForkMutex mutex_;
  int descriptor_;     // guarded by mutex_, as what follows
  bool torn_ = false;  // a write that failed, or was cut short with its process, has left a piece of a line behind
};

class StderrSink final : public LogSink {
 public:
  std::size_t write(std::span<const LogLine> lines, std::error_code& error) noexcept override { return file_.write(lines, error); }

 private:
  LineFile file_{STDERR_FILENO};
};

int open_for_appending(const std::string& path) noexcept {
  int descriptor = -1;
  do descriptor = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);
  while (descriptor < 0 && errno == EINTR);
  return descriptor;
}

/// Whether the file that is open for appending ends in a piece of a line. Not if it cannot be read.
bool is_torn(int descriptor) noexcept {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
  struct stat status {};
  int reading = -1;
  if (::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) reading = ::open(path, O_RDONLY | O_CLOEXEC);
  if (reading < 0) return false;
  bool torn = false;
  off_t before = 0;
  for (int looks = 0; looks < 5 && !torn; ++looks) {
    const off_t size = ::lseek(reading, 0, SEEK_END);
    char last = '\n';
    if (size <= 0 || ::pread(reading, &last, 1, size - 1) != 1 || last == '\n') break;
    torn = size == before;
    before = size;
    (void)!::write(descriptor, "", 0);  // waits for another process in the middle of a write, on most file systems
  }
  ::close(reading);
  return torn;
}

}  // namespace

std::shared_ptr<LogSink> stderr_sink() {
  static auto* const sink = new std::shared_ptr<LogSink>(std::make_shared<StderrSink>());
  return *sink;
}

// ---- FileSink

struct FileSink::State {
  explicit State(std::string file_path) : path(std::move(file_path)) {}
  ~State() {
    if (const int descriptor = file.exchange(-1); descriptor >= 0) ::close(descriptor);
  }
  const std::string path;
  LineFile file{-1};
};

FileSink::FileSink(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
FileSink::~FileSink() = default;

Result<std::shared_ptr<FileSink>> FileSink::open(std::string path) {
  std::shared_ptr<FileSink> sink(new FileSink(std::make_unique<State>(std::move(path))));
  const std::string& name = sink->state_->path;
  const int descriptor = open_for_appending(name), error = errno;
  if (descriptor < 0) return system_error(error, "cannot open the log file " + name, "Check that the directory is there and writable");
  sink->state_->file.exchange(descriptor, is_torn(descriptor));
  return sink;
}

std::size_t FileSink::write(std::span<const LogLine> lines, std::error_code& error) noexcept { return state_->file.write(lines, error); }

Result<void> FileSink::reopen() {
  const int descriptor = open_for_appending(state_->path), error = errno;
  if (descriptor < 0)
    return system_error(error, "cannot open the log file " + state_->path + " anew", "Lines still go to the file that was open");
  ::close(state_->file.exchange(descriptor, is_torn(descriptor)));
  return {};
}

// ---- FunctionSink

struct FunctionSink::State {
  explicit State(std::function<void(const LogLine&)> function) : callable(std::move(function)) {}
  detail::ForkMutex mutex;
  const std::function<void(const LogLine&)> callable;  // called under the mutex
};

FunctionSink::FunctionSink(std::function<void(const LogLine&)> callable) : state_(std::make_unique<State>(std::move(callable))) {}
FunctionSink::~FunctionSink() = default;

std::size_t FunctionSink::write(std::span<const LogLine> lines, std::error_code& error) noexcept {
  if (state_->mutex.is_mine()) {
    error = std::make_error_code(std::errc::resource_deadlock_would_occur);
    return 0;
  }
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
