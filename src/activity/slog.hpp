#pragma once
// Log lines, byte for byte as the handlers of Go's log/slog write them in UTC:
//
//   time=2026-11-21T11:13:56.123Z level=INFO msg="Operation started" operation=update user_id=42
//   {"time":"2026-11-21T11:13:56.123456789Z","level":"INFO","msg":"Operation started","operation":"update","user_id":42}
//
// What a log tracker has to say goes through a SlogLine into a LineBuffer; the finished line goes to a sink. Whatever is in
// keys and values, a line is one line and one value cannot pass for another.
//
//   LineBuffer buffer;
//   SlogLine line(buffer, SlogFormat::text);
//   line.begin(cache, clock.now(), Logger::Level::info, "Operation started");
//   line.string("operation", "update");
//   line.end();
//   sink(buffer.view());

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "text/time.hpp"
#include "weir/core/attribute.hpp"
#include "weir/core/logger.hpp"

namespace weir::inline v0::detail {

/// The text of one line. Short lines need no heap. When there is no memory to grow, nothing more is added and failed() is
/// true: what it holds is cut between two pieces.
/// Thread-safety: distinct objects: safe. Shared: unsafe.
class LineBuffer {
 public:
  static constexpr std::size_t inline_size = 1536;

  LineBuffer() noexcept {}  // `inline_` stays uninitialized
  ~LineBuffer() {
    if (data_ != inline_) ::operator delete(data_);
  }
  LineBuffer(const LineBuffer&) = delete;
  LineBuffer& operator=(const LineBuffer&) = delete;

  void append(std::string_view text) noexcept {
    char* const end = room(text.size());
    if (end == nullptr) return;
    if (!text.empty()) std::memcpy(end, text.data(), text.size());
    size_ += text.size();
  }
  void append(char c) noexcept { append(std::string_view(&c, 1)); }

  /// Where `size` bytes may be written behind what it holds, to be followed by finish(); null when there is no memory.
  char* room(std::size_t size) noexcept { return size <= limit_ - size_ || grow(size) ? data_ + size_ : nullptr; }
  /// Takes what was written into room() up to `end`.
  void finish(const char* end) noexcept { size_ = static_cast<std::size_t>(end - data_); }

  std::string_view view() const noexcept { return {data_, size_}; }
  std::size_t size() const noexcept { return size_; }
  bool failed() const noexcept { return failed_; }
  /// Forgets what comes after the first `size` bytes. Requires: there are as many.
  void truncate(std::size_t size) noexcept { size_ = size; }
  /// Empties it, and forgets that it failed. Keeps its memory.
  void clear() noexcept { size_ = 0, limit_ = capacity_, failed_ = false; }

 private:
  bool grow(std::size_t size) noexcept;

  char* data_ = inline_;
  std::size_t size_ = 0;
  std::size_t capacity_ = inline_size;
  std::size_t limit_ = inline_size;  // what may be used of it: nothing more after failing
  bool failed_ = false;
  char inline_[inline_size];
};

enum class SlogFormat : std::uint8_t {
  text,  ///< slog.TextHandler
  json,  ///< slog.JSONHandler
};

/// Appends one line: begin(), then fields, then end(). Keys may be any text, and may come twice.
/// Thread-safety: distinct objects: safe. Shared: unsafe.
class SlogLine {
 public:
  /// Borrows the buffer, and adds to what it holds.
  SlogLine(LineBuffer& buffer, SlogFormat format) noexcept : out_(buffer), json_(format == SlogFormat::json) {}

  /// Time (text: milliseconds, JSON: nanoseconds; both cut), level and message.
  void begin(SecondCache& cache, Timestamp time, Logger::Level level, std::string_view message) noexcept;

  void string(std::string_view key, std::string_view value) noexcept;
  void integer(std::string_view key, std::int64_t value) noexcept;
  /// NaN and infinities are strings in JSON, as slog has them.
  void real(std::string_view key, double value) noexcept;
  void boolean(std::string_view key, bool value) noexcept;
  /// Text: as Go's time.Duration prints it, "1.234567ms"; JSON: nanoseconds.
  void duration(std::string_view key, std::chrono::nanoseconds value) noexcept;
  /// A value that is JSON already: as it is, or as one quoted string in a line of text. Requires: valid JSON without newlines.
  void json(std::string_view key, std::string_view value) noexcept;
  void attribute(const Attribute& attribute) noexcept;

  /// Ends the line with its newline.
  void end() noexcept;

 private:
  void key(std::string_view key) noexcept;

  LineBuffer& out_;
  bool json_;
};

}  // namespace weir::inline v0::detail
