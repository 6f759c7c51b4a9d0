#pragma once
// Where the lines of a LogTracker go: stderr, a file, a callable; or whatever derives from LogSink (spdlog_sink.hpp).

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "weir/core/logger.hpp"
#include "weir/core/result.hpp"

namespace weir::inline v0 {

/// One event, one line. Borrowed for the call.
struct LogLine {
  Logger::Level level = Logger::Level::info;
  std::string_view text;  ///< the line with its newline; the texts of one call follow each other in memory
  std::string_view body;  ///< of the text format, without time, level and newline; of JSON: the whole object
};

/// Implementations may be called by several threads at once, and must not throw.
class LogSink {
 public:
  /// `may_block`: write() may reach a cancellation point (pthreads(7)), as most that wait or write are. The calling thread's
  /// cancellation is put off meanwhile, which takes 10 ns a line.
  explicit LogSink(bool may_block = true) noexcept : blocks(may_block) {}
  virtual ~LogSink() = default;
  /// Writes lines, the oldest first, and returns how many. Fewer than there are: the others are lost, and `error` says why;
  /// the tracker counts and reports it.
  virtual std::size_t write(std::span<const LogLine> lines, std::error_code& error) noexcept = 0;

  const bool blocks;
};

/// Standard error. One that is never destroyed.
std::shared_ptr<LogSink> stderr_sink();

/// A file that lines are appended to, each batch in one write. Several processes may append to one file. What could not be
/// written whole (the disk is full; Linux ends the write of a process that is killed, or exits while its threads log, at a page
/// of the file) may leave a piece of a line, which the next write ends with a newline; a piece of another process is ended when
/// the file is opened, if it can be read. Thread-safety: shared: safe.
class FileSink final : public LogSink {
 public:
  /// Creates the file, readable for its owner and group, if it is not there. Error: from open(2), naming the file. Throws
  /// std::bad_alloc.
  static Result<std::shared_ptr<FileSink>> open(std::string path);
  ~FileSink() override;
  FileSink(const FileSink&) = delete;
  FileSink& operator=(const FileSink&) = delete;

  std::size_t write(std::span<const LogLine> lines, std::error_code& error) noexcept override;
  /// Opens the path anew, after somebody has moved the file away (logrotate). Waits for a write in progress. On an error,
  /// from open(2), the old file stays in use.
  Result<void> reopen();

 private:
  struct State;
  explicit FileSink(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

/// A callable: called as callable(const LogLine&), one line at a time, by one thread at a time. What it throws counts as a lost
/// line, and so does a line that it causes itself while it runs. The child of a fork may call it though another thread of the
/// parent was in the middle of it. Thread-safety: shared: safe.
class FunctionSink final : public LogSink {
 public:
  explicit FunctionSink(std::function<void(const LogLine&)> callable);
  ~FunctionSink() override;
  std::size_t write(std::span<const LogLine> lines, std::error_code& error) noexcept override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weir::inline v0
