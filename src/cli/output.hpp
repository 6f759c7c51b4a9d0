#pragma once
// What the command writes: text to a descriptor, and single lines to stderr.

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

namespace weir::cli {

enum ExitCode { exit_ok = 0, exit_failed = 1, exit_usage = 2 };

/// Writes all of `text`, waiting as long as it takes. 0, or errno.
int write_all(int fd, std::string_view text);

/// "weir: <message>" as one line on stderr, control characters escaped.
void say(std::string_view message);

/// True when `fd` is a terminal, NO_COLOR is unset or empty, and TERM is not "dumb".
bool wants_colour(int fd);

/// Writes texts to a descriptor on a thread of its own, so that a reader who pauses does not hold up who prints. Bounded:
/// what does not fit is dropped and counted. Once writing fails (the reader went) it says so once, and drops the rest.
/// Thread-safety: shared: safe.
class Printer {
 public:
  Printer(int fd, std::string name, std::size_t max_bytes = 64u << 20);
  ~Printer() { finish(); }
  Printer(const Printer&) = delete;
  Printer& operator=(const Printer&) = delete;

  /// Never blocks on the reader.
  void print(std::string text);
  /// Writes what waits, then returns. Idempotent.
  void finish();

  std::uint64_t printed() const;  ///< texts
  std::uint64_t dropped() const;  ///< texts

 private:
  void write_loop();

  const int fd_;
  const std::string name_;
  const std::size_t max_bytes_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::deque<std::string> queue_;
  std::size_t bytes_ = 0;
  std::uint64_t printed_ = 0, dropped_ = 0;
  bool broken_ = false, full_said_ = false, finished_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace weir::cli
