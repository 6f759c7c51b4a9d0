#pragma once
// The parts of JSON text that everything which writes it shares: strings with the escapes of Go's packages, and integers.
// `Out` is what has append(std::string_view): a std::string, the buffer of a log line. Free functions; thread-safe.

#include <algorithm>
#include <array>
#include <charconv>
#include <concepts>
#include <cstdint>
#include <string_view>

#include "text/plain.hpp"
#include "weir/core/text.hpp"

namespace weir::inline v0::detail {

/// Which of Go's writers a string looks like. Each escapes " \ U+2028, U+2029 and control characters but DEL.
enum class JsonEscapes : std::uint8_t {
  html,     ///< encoding/json: < > & are \u003c \u003e \u0026
  no_html,  ///< encoding/json after SetEscapeHTML(false): < > & stay
  slog,     ///< log/slog: < > & stay; backspace and form feed are \u0008 \u000c, not \b \f
};

/// What a byte becomes inside a JSON string.
enum class JsonByte : std::uint8_t { plain, special, html, multibyte };

inline constexpr std::array<JsonByte, 256> json_bytes = [] {
  std::array<JsonByte, 256> classes{};
  for (unsigned c = 0; c < 256; ++c) classes[c] = c < 0x20 ? JsonByte::special : c < 0x80 ? JsonByte::plain : JsonByte::multibyte;
  classes['"'] = classes['\\'] = JsonByte::special;
  classes['<'] = classes['>'] = classes['&'] = JsonByte::html;
  return classes;
}();

template <class Out>
void append_json_escape(Out& out, char c, JsonEscapes escapes) {
  constexpr char hex[] = "0123456789abcdef";
  constexpr std::string_view named = "\"\\\n\r\t\b\f", names = "\"\\nrtbf";
  const std::size_t name = named.substr(0, escapes == JsonEscapes::slog ? 5 : 7).find(c);
  if (name != named.npos) {
    const char escape[] = {'\\', names[name]};
    out.append(std::string_view(escape, sizeof escape));
  } else {
    const char escape[] = {'\\', 'u', '0', '0', hex[static_cast<unsigned char>(c) >> 4], hex[c & 15]};
    out.append(std::string_view(escape, sizeof escape));
  }
}

/// Appends `text` escaped, without the quotes. Each byte that is not part of valid UTF-8 is written as \ufffd.
template <class Out>
void append_json_escaped(Out& out, std::string_view text, JsonEscapes escapes) {
  std::size_t copied = 0;  // everything before it is in `out`
  for (std::size_t i = 0; i < text.size();) {
    const JsonByte byte = json_bytes[static_cast<unsigned char>(text[i])];
    if (byte == JsonByte::plain || (byte == JsonByte::html && escapes != JsonEscapes::html)) {
      const std::string_view rest = text.substr(i);  // more such bytes, most often
      const std::size_t plain = escapes == JsonEscapes::html ? JsonHtmlText::prefix(rest) : JsonText::prefix(rest);
      i += std::max<std::size_t>(plain, 1);
      continue;
    }
    std::size_t length = 1;
    bool separator = false;  // U+2028 and U+2029, which end lines in JavaScript
    if (byte == JsonByte::multibyte) {
      length = utf8_length(text.substr(i, 4));
      separator = length == 3 && (text.substr(i, 3) == "\xe2\x80\xa8" || text.substr(i, 3) == "\xe2\x80\xa9");
      if (length != 0 && !separator) {
        i += length;
        continue;
      }
    }
    out.append(text.substr(copied, i - copied));
    if (separator) {
      out.append(std::string_view(text[i + 2] == '\xa8' ? "\\u2028" : "\\u2029"));
    } else if (byte == JsonByte::multibyte) {
      out.append(std::string_view("\\ufffd"));
      length = 1;
    } else {
      append_json_escape(out, text[i], escapes);
    }
    i += length;
    copied = i;
  }
  out.append(text.substr(copied));
}

/// Appends `text` as a JSON string with its quotes. Each byte that is not part of valid UTF-8 is written as \ufffd.
template <class Out>
void append_json_string(Out& out, std::string_view text, JsonEscapes escapes = JsonEscapes::html) {
  out.append(std::string_view("\""));
  append_json_escaped(out, text, escapes);
  out.append(std::string_view("\""));
}

template <class Out>
void append_integer(Out& out, std::integral auto number) {
  char digits[24];
  out.append(std::string_view(digits, static_cast<std::size_t>(std::to_chars(digits, digits + sizeof digits, number).ptr - digits)));
}

}  // namespace weir::inline v0::detail
