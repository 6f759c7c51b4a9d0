#include "trace/text.hpp"

#include <array>
#include <charconv>

namespace weir::inline v0::detail {

namespace {

constexpr char hex[] = "0123456789abcdef";

/// What a byte becomes inside a JSON string.
enum class Byte : std::uint8_t { plain, special, html, multibyte };

constexpr std::array<Byte, 256> byte_classes = [] {
  std::array<Byte, 256> classes{};
  for (unsigned c = 0; c < 256; ++c) classes[c] = c < 0x20 ? Byte::special : c < 0x80 ? Byte::plain : Byte::multibyte;
  classes['"'] = classes['\\'] = Byte::special;
  classes['<'] = classes['>'] = classes['&'] = Byte::html;
  return classes;
}();

void append_escaped(std::string& out, char c) {
  switch (c) {
    case '"': out += "\\\""; return;
    case '\\': out += "\\\\"; return;
    case '\b': out += "\\b"; return;
    case '\f': out += "\\f"; return;
    case '\n': out += "\\n"; return;
    case '\r': out += "\\r"; return;
    case '\t': out += "\\t"; return;
    default: break;
  }
  out += "\\u00";
  out += hex[static_cast<unsigned char>(c) >> 4];
  out += hex[c & 15];
}

}  // namespace

bool valid_utf8(std::string_view text) noexcept {
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string repair_utf8(std::string_view text) {
  std::string repaired;
  repaired.reserve(text.size() + 16);
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    repaired.append(length == 0 ? std::string_view("\xef\xbf\xbd") : text.substr(0, length));
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return repaired;
}

void append_json_string(std::string& out, std::string_view text, HtmlEscapes html) {
  out += '"';
  std::size_t copied = 0;  // everything before it is in `out`
  for (std::size_t i = 0; i < text.size();) {
    const Byte byte = byte_classes[static_cast<unsigned char>(text[i])];
    if (byte == Byte::plain || (byte == Byte::html && html == HtmlEscapes::off)) {
      ++i;
      continue;
    }
    std::size_t length = 1;
    bool separator = false;  // U+2028 and U+2029, which end lines in JavaScript
    if (byte == Byte::multibyte) {
      length = utf8_length(text.substr(i, 4));
      separator = length == 3 && (text.substr(i, 3) == "\xe2\x80\xa8" || text.substr(i, 3) == "\xe2\x80\xa9");
      if (length != 0 && !separator) {
        i += length;
        continue;
      }
    }
    out.append(text, copied, i - copied);
    if (separator) {
      out.append(text[i + 2] == '\xa8' ? "\\u2028" : "\\u2029");
    } else if (byte == Byte::multibyte) {
      out.append("\\ufffd");
      length = 1;
    } else {
      append_escaped(out, text[i]);
    }
    i += length;
    copied = i;
  }
  out.append(text, copied);
  out += '"';
}

void append_integer(std::string& out, std::int64_t number) {
  char digits[24];
  out.append(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
}

}  // namespace weir::inline v0::detail
