#pragma once
// LogFormatter: values to lines. Redacts, then cuts.

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "activity/log_record.hpp"
#include "activity/slog.hpp"
#include "weir/activity/log_tracker.hpp"
#include "weir/core/logger.hpp"

namespace weir::inline v0::detail {

struct LogMessage {
  Logger::Level level;
  std::string_view text;
};
LogMessage message_of(LogRecord::Kind kind) noexcept;
constexpr Logger::Level level_of(LogRecord::Kind kind) noexcept {
  return kind == LogRecord::failed ? Logger::Level::error : Logger::Level::info;
}
inline constexpr LogMessage lines_lost{Logger::Level::warning, "Log lines lost"};

/// Never throws; what finds no memory is cut, and the buffer knows. Thread-safety: shared: safe.
class LogFormatter {
 public:
  LogFormatter() = default;
  explicit LogFormatter(const LogOptions& options)
      : redactor_(options.redactor),
        max_value_bytes_(options.max_value_bytes),
        format_(options.format == LogFormat::json ? SlogFormat::json : SlogFormat::text) {}

  /// Appends what all lines of an activity say, as a part of a line.
  void fields(LineBuffer& out, const LogFields& fields) const noexcept;
  /// Appends one line: `fields` is what the function above has appended elsewhere. Returns where in the line its body begins.
  std::size_t line(LineBuffer& out, Timestamp time, const LogMessage& message, std::string_view fields, std::span<const LogExtra> extras,
                   std::optional<std::chrono::nanoseconds> duration = {}) const noexcept;
  /// `text`: what line() appended; `body`: counted from its begin.
  static LogLine view(std::string_view text, std::size_t body, Logger::Level level) noexcept;
  /// Whether a value will be cut.
  static bool is_long(const AttributeValue& value, std::size_t max_value_bytes) noexcept {
    return value.type() == AttributeValue::Type::string && value.text().size() > max_value_bytes;
  }
  static bool is_long(const LogExtra& extra, std::size_t max_value_bytes) noexcept {
    switch (extra.form) {
      case LogExtra::Form::value: return is_long(extra.value, max_value_bytes);
      case LogExtra::Form::json: return is_long(extra.value, Redactor::max_json_bytes);
      case LogExtra::Form::ready_json:
      case LogExtra::Form::failure: break;
    }
    return false;
  }
  /// A long value as it will be in the line: redacted and cut. Throws std::bad_alloc.
  std::string shortened(std::string_view key, std::string_view value) const;
  /// The same; `text` holds what `extra` views afterwards. Throws std::bad_alloc.
  void shorten(LogExtra& extra, std::string& text) const;

 private:
  void attribute(SlogLine& line, std::string_view key, const AttributeValue& value) const noexcept;
  void text(SlogLine& line, std::string_view key, std::string_view value) const noexcept;
  void data(SlogLine& line, const LogExtra& extra) const noexcept;
  void failure(SlogLine& line, std::string_view key, std::string_view why) const noexcept;

  Redactor redactor_;
  std::size_t max_value_bytes_ = 0;
  SlogFormat format_ = SlogFormat::text;
};

}  // namespace weir::inline v0::detail
