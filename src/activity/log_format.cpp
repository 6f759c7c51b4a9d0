#include "activity/log_format.hpp"

#include <new>

#include "weir/core/text.hpp"

namespace weir::inline v0::detail {

namespace {

constexpr std::string_view ellipsis = "…";

constinit SecondCache second_cache;

/// At most `max` bytes, of whole characters if it is UTF-8, and the ellipsis. Requires: there are more.
std::string cut(std::string_view text, std::size_t max) {
  std::size_t end = max;
  while (end > 0 && max - end < 4 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  std::string out(text.substr(0, max - end < 4 ? end : max));
  out += ellipsis;
  return out;
}

}  // namespace

LogMessage message_of(LogRecord::Kind kind) noexcept {
  switch (kind) {
    case LogRecord::started: return {level_of(kind), "Operation started"};
    case LogRecord::failed: return {level_of(kind), "Operation failed"};
    case LogRecord::changed: return {level_of(kind), "State changed"};
    case LogRecord::completed: break;
  }
  return {level_of(kind), "Operation completed"};
}

void LogFormatter::fields(LineBuffer& out, const LogFields& fields) const noexcept {
  SlogLine line(out, format_);
  line.string("operation", fields.operation);
  line.string("subject", fields.subject);
  line.integer("op_id", static_cast<std::int64_t>(fields.id));
  if (!fields.request_id.empty()) text(line, "request_id", fields.request_id);
  char hex[32];
  if (fields.trace.valid()) {
    put_hex(hex, fields.trace.high);
    put_hex(hex + 16, fields.trace.low);
    line.string("trace_id", {hex, 32});
  }
  if (fields.span.valid()) {
    put_hex(hex, fields.span.value);
    line.string("span_id", {hex, 16});
  }
  if (fields.trace.valid()) {
    const char flags[2] = {'0', static_cast<char>('0' + (fields.flags & 15))};
    line.string("trace_flags", {flags, 2});
  }
  for (const Attribute& each : fields.attributes) attribute(line, each.key.view(), each.value);
}

std::size_t LogFormatter::line(LineBuffer& out, Timestamp time, const LogMessage& message, std::string_view fields,
                               std::span<const LogExtra> extras, std::optional<std::chrono::nanoseconds> duration) const noexcept {
  const std::size_t begin = out.size();
  SlogLine line(out, format_);
  line.begin(second_cache, time, message.level, message.text);
  constexpr std::size_t before_message = 36;  // the shortest time and key of the level
  const std::size_t body = format_ == SlogFormat::json ? begin : out.view().find(" msg=", begin + before_message) + 1;
  out.append(fields);
  for (const LogExtra& extra : extras) {
    if (extra.form == LogExtra::Form::value)
      attribute(line, extra.key, extra.value);
    else
      data(line, extra);
  }
  if (duration) line.duration("duration", *duration);
  line.end();
  return body - begin;
}

LogLine LogFormatter::view(std::string_view text, std::size_t body, Logger::Level level) noexcept {
  return {level, text, text.substr(body, text.size() - body - 1)};
}

std::string LogFormatter::shortened(std::string_view key, std::string_view value) const {
  if (redactor_.is_sensitive(key)) return std::string(Redactor::mark);
  std::string redacted;
  if (redactor_.redact_text(value, redacted)) value = redacted;
  return value.size() > max_value_bytes_ ? cut(value, max_value_bytes_) : std::string(value);
}

void LogFormatter::shorten(LogExtra& extra, std::string& text) const {
  if (extra.form == LogExtra::Form::json) {
    Result<std::string> json = redactor_.truncate_json(extra.value.text());
    extra.form = json ? LogExtra::Form::ready_json : LogExtra::Form::failure;
    text = json ? *std::move(json) : std::move(json).error().message;
  } else {
    text = shortened(extra.key, extra.value.text());
  }
  extra.value = text;
}

void LogFormatter::attribute(SlogLine& line, std::string_view key, const AttributeValue& value) const noexcept {
  if (key.empty()) [[unlikely]]
    key = "!BADKEY";  // as slog names a value whose key is missing
  if (redactor_.is_sensitive(key)) return line.string(key, Redactor::mark);
  switch (value.type()) {
    case AttributeValue::Type::string: return text(line, key, value.text());
    case AttributeValue::Type::integer: return line.integer(key, value.integer());
    case AttributeValue::Type::real: return line.real(key, value.real());
    case AttributeValue::Type::boolean: return line.boolean(key, value.boolean());
  }
}

void LogFormatter::text(SlogLine& line, std::string_view key, std::string_view value) const noexcept {
  std::string redacted;
  if (redactor_.redact_text(value, redacted)) value = redacted;
  if (value.size() <= max_value_bytes_) return line.string(key, value);
  try {
    line.string(key, cut(value, max_value_bytes_));
  } catch (const std::bad_alloc&) {
    line.string(key, Redactor::mark);
  }
}

void LogFormatter::data(SlogLine& line, const LogExtra& extra) const noexcept {
  const std::string_view text = extra.value.text();
  if (redactor_.is_sensitive(extra.key)) return line.string(extra.key, Redactor::mark);
  if (extra.form == LogExtra::Form::failure) return failure(line, extra.key, text);
  if (extra.form == LogExtra::Form::ready_json) return line.json(extra.key, text);
  const Result<std::string> redacted = redactor_.truncate_json(text);
  redacted ? line.json(extra.key, *redacted) : failure(line, extra.key, redacted.error().message);
}

void LogFormatter::failure(SlogLine& line, std::string_view key, std::string_view why) const noexcept {
  try {
    line.string(key, "!ERROR:" + std::string(why));  // as slog says it
  } catch (const std::bad_alloc&) {
    line.string(key, Redactor::mark);
  }
}

}  // namespace weir::inline v0::detail
