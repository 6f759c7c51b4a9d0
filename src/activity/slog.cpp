#include "activity/slog.hpp"

#include <charconv>
#include <cmath>
#include <limits>
#include <new>

#include "text/json.hpp"
#include "text/plain.hpp"
#include "text/printable.hpp"
#include "weir/core/text.hpp"

namespace weir::inline v0::detail {

namespace {

/// Text that stands in a line of text as it is, and text that only needs the quotes around it.
using Bare = Plain<'!', '"', '='>;
using Quoted = Plain<' ', '"', '\\', '\x7f'>;

/// Requires: not empty, and not of the kind Bare.
bool needs_quotes(std::string_view text) noexcept {
  for (std::size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (static_cast<unsigned char>(c) < 0x80) {
      if (static_cast<unsigned char>(c) <= 0x20 || c == '"' || c == '=') return true;  // not DEL, as slog has it
      ++i;
      continue;
    }
    const std::size_t length = utf8_length(text.substr(i, 4));
    if (length == 0) return true;
    const char32_t point = code_point(text.substr(i, length));
    if (point == 0xfffd || !is_printable(point)) return true;
    i += length;
  }
  return false;
}

constexpr char hex[] = "0123456789abcdef";

/// Appends what stands for a character that does not show: "\x1f", "\u2028", "\U000e0001".
void append_number_escape(LineBuffer& out, char letter, unsigned digits, char32_t c) noexcept {
  char escape[10] = {'\\', letter};
  for (unsigned i = 0; i < digits; ++i) escape[2 + i] = hex[c >> (4 * (digits - 1 - i)) & 15];
  out.append(std::string_view(escape, 2 + digits));
}

void append_ascii_escape(LineBuffer& out, char c) noexcept {
  constexpr std::string_view named = "\"\\\a\b\f\n\r\t\v", names = "\"\\abfnrtv";
  const std::size_t name = named.find(c);
  if (name == named.npos) return append_number_escape(out, 'x', 2, static_cast<unsigned char>(c));
  const char escape[] = {'\\', names[name]};
  out.append(std::string_view(escape, sizeof escape));
}

/// As Go's strconv.Quote.
void append_quoted(LineBuffer& out, std::string_view text) noexcept {
  if (char* to = out.room(text.size() + 2)) {
    *to = '"';
    if (char* const end = copy_if<Quoted>(to + 1, text)) {
      *end = '"';
      return out.finish(end + 1);
    }
  }
  out.append('"');
  std::size_t copied = 0;  // everything before it is in `out`
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length(text.substr(i, 4));
    const char32_t c = length == 0 ? 0 : code_point(text.substr(i, length));
    if (length != 0 && c != '"' && c != '\\' && is_printable(c)) {
      i += length;
      continue;
    }
    out.append(text.substr(copied, i - copied));
    if (length == 0) {
      append_number_escape(out, 'x', 2, static_cast<unsigned char>(text[i]));
    } else if (length == 1) {
      append_ascii_escape(out, text[i]);
    } else if (c < 0x10000) {
      append_number_escape(out, 'u', 4, c);
    } else {
      append_number_escape(out, 'U', 8, c);
    }
    i += length == 0 ? 1 : length;
    copied = i;
  }
  out.append(text.substr(copied));
  out.append('"');
}

/// A key or a value of a line of text.
void append_text(LineBuffer& out, std::string_view text) noexcept {
  if (!text.empty()) {
    char* const to = out.room(text.size());
    if (to == nullptr) return;
    if (char* const end = copy_if<Bare>(to, text)) return out.finish(end);
    if (!needs_quotes(text)) return out.append(text);
  }
  append_quoted(out, text);
}

void append_json(LineBuffer& out, std::string_view text) noexcept {
  if (char* to = out.room(text.size() + 2)) {
    *to = '"';
    if (char* const end = copy_if<JsonText>(to + 1, text)) {
      *end = '"';
      return out.finish(end + 1);
    }
  }
  append_json_string(out, text, JsonEscapes::slog);
}

/// Room for any number, or what stands for it.
constexpr std::size_t max_number_size = 48;

/// The shortest digits that give `value` back, laid out as Go does: fixed for decimal exponents from `lowest` to below `highest`,
/// else with an exponent. Returns the end. Requires: finite.
char* put_real(char* to, double value, int lowest, int highest) noexcept {
  char text[max_number_size];  // "-1.2345e+06"
  const char* const text_end = std::to_chars(text, text + sizeof text, value, std::chars_format::scientific).ptr;
  const char* from = text;
  if (*from == '-') *to++ = *from++;
  char digits[max_number_size];
  int count = 0, exponent = 0;
  for (; *from != 'e'; ++from)
    if (*from != '.') digits[count++] = *from;
  std::from_chars(from[1] == '+' ? from + 2 : from + 1, text_end, exponent);
  const auto put_digits = [&](int first, int last) {
    for (int i = first; i < last; ++i) *to++ = i < count ? digits[i] : '0';
  };
  if (exponent < lowest || exponent >= highest) {
    put_digits(0, 1);
    if (count > 1) *to++ = '.';
    put_digits(1, count);
    for (; from != text_end; ++from) *to++ = *from;
  } else if (exponent < 0) {
    to = put(to, "0.");
    for (int i = exponent + 1; i < 0; ++i) *to++ = '0';
    put_digits(0, count);
  } else {
    put_digits(0, exponent + 1);
    if (count > exponent + 1) *to++ = '.';
    put_digits(exponent + 1, count);
  }
  return to;
}

/// As strconv.FormatFloat(value, 'g', -1, 64).
char* put_text_real(char* to, double value) noexcept {
  if (std::isnan(value)) return put(to, "NaN");
  if (std::isinf(value)) return value > 0 ? put(to, "+Inf") : put(to, "-Inf");
  return put_real(to, value, -4, 6);
}

/// As encoding/json, which writes no zero in front of an exponent's only digit.
char* put_json_real(char* to, double value) noexcept {
  char* const end = put_real(to, value, -6, 21);
  if (end - to < 4 || end[-4] != 'e' || end[-2] != '0') return end;
  end[-2] = end[-1];
  return end - 1;
}

/// As Go's time.Duration.String, up to `end`. Returns where it begins.
char* put_duration_before(char* end, std::int64_t nanos) noexcept {
  auto value = static_cast<std::uint64_t>(nanos);
  if (nanos < 0) value = -value;
  const auto put_fraction = [&](int places) {
    bool shown = false;
    for (; places > 0; --places, value /= 10) {
      shown = shown || value % 10 != 0;
      if (shown) *--end = static_cast<char>('0' + value % 10);
    }
    if (shown) *--end = '.';
  };
  const auto put_whole = [&](std::uint64_t number) {
    do *--end = static_cast<char>('0' + number % 10);
    while ((number /= 10) != 0);
  };
  *--end = 's';
  if (value < 1'000'000'000) {
    if (value >= 1'000'000) {
      *--end = 'm';
      put_fraction(6);
    } else if (value >= 1'000) {
      *--end = '\xb5';  // the micro sign
      *--end = '\xc2';
      put_fraction(3);
    } else if (value > 0) {
      *--end = 'n';
    }
    put_whole(value);
  } else {
    put_fraction(9);
    put_whole(value % 60);
    if (value >= 60) {
      *--end = 'm';
      put_whole(value / 60 % 60);
    }
    if (value >= 3600) {
      *--end = 'h';
      put_whole(value / 3600);
    }
  }
  if (nanos < 0) *--end = '-';
  return end;
}

std::string_view level_name(Logger::Level level) noexcept {
  switch (level) {
    case Logger::Level::debug: return "DEBUG";
    case Logger::Level::info: return "INFO";
    case Logger::Level::warning: return "WARN";
    case Logger::Level::error: break;
  }
  return "ERROR";
}

}  // namespace

bool LineBuffer::grow(std::size_t size) noexcept {
  if (failed_) return false;
  const std::size_t capacity = 2 * (size_ + size);
  auto* const data = static_cast<char*>(::operator new(capacity, std::nothrow));
  if (data == nullptr) {
    limit_ = size_, failed_ = true;
    return false;
  }
  std::memcpy(data, data_, size_);
  if (data_ != inline_) ::operator delete(data_);
  data_ = data;
  capacity_ = limit_ = capacity;
  return true;
}

void SlogLine::begin(SecondCache& cache, Timestamp time, Logger::Level level, std::string_view message) noexcept {
  char* to = out_.room(max_time_size + 40);
  if (to == nullptr) return;
  const std::string_view name = level_name(level);
  to = json_ ? write_time(put(to, "{\"time\":\""), time, cache) : write_time_millis(put(to, "time="), time, cache);
  to = json_ ? put(to, "\",\"level\":\"") : put(to, " level=");
  to = copy_if<Bare>(to, name);
  out_.finish(json_ ? put(to, "\",\"msg\":") : put(to, " msg="));
  json_ ? append_json(out_, message) : append_text(out_, message);
}

void SlogLine::key(std::string_view key) noexcept {
  if (char* to = out_.room(key.size() + 4)) {  // most keys are short and plain
    if (json_) {
      to = copy_if<JsonText>(put(to, ",\""), key);
      if (to != nullptr) return out_.finish(put(to, "\":"));
    } else if (!key.empty()) {
      to = copy_if<Bare>(put(to, " "), key);
      if (to != nullptr) return out_.finish(put(to, "="));
    }
  }
  out_.append(json_ ? ',' : ' ');
  json_ ? append_json(out_, key) : append_text(out_, key);
  out_.append(json_ ? ':' : '=');
}

void SlogLine::string(std::string_view key, std::string_view value) noexcept {
  this->key(key);
  json_ ? append_json(out_, value) : append_text(out_, value);
}

void SlogLine::integer(std::string_view key, std::int64_t value) noexcept {
  this->key(key);
  if (char* const to = out_.room(max_number_size)) out_.finish(std::to_chars(to, to + max_number_size, value).ptr);
}

void SlogLine::real(std::string_view key, double value) noexcept {
  this->key(key);
  char* const to = out_.room(max_number_size);
  if (to == nullptr) return;
  if (!json_) return out_.finish(put_text_real(to, value));
  if (std::isfinite(value)) return out_.finish(put_json_real(to, value));
  out_.finish(put(put_text_real(put(to, "\"!ERROR:json: unsupported value: "), value), "\""));
}

void SlogLine::boolean(std::string_view key, bool value) noexcept {
  this->key(key);
  out_.append(std::string_view(value ? "true" : "false"));
}

void SlogLine::duration(std::string_view key, std::chrono::nanoseconds value) noexcept {
  if (json_) return integer(key, value.count());
  this->key(key);
  char text[max_number_size];
  char* const end = text + sizeof text;
  const char* const begin = put_duration_before(end, value.count());
  out_.append(std::string_view(begin, static_cast<std::size_t>(end - begin)));
}

void SlogLine::json(std::string_view key, std::string_view value) noexcept {
  this->key(key);
  json_ ? out_.append(value) : append_quoted(out_, value);
}

void SlogLine::attribute(const Attribute& attribute) noexcept {
  const std::string_view key = attribute.key.view();
  const AttributeValue& value = attribute.value;
  switch (value.type()) {
    case AttributeValue::Type::string: return string(key, value.text());
    case AttributeValue::Type::integer: return integer(key, value.integer());
    case AttributeValue::Type::real: return real(key, value.real());
    case AttributeValue::Type::boolean: return boolean(key, value.boolean());
  }
}

void SlogLine::end() noexcept { out_.append(std::string_view(json_ ? "}\n" : "\n")); }

}  // namespace weir::inline v0::detail
