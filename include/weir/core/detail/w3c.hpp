#pragma once
// The rules of W3C Trace Context (https://www.w3.org/TR/trace-context-2/) and W3C Baggage (https://www.w3.org/TR/baggage/)
// for one header's text. Pure functions.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "weir/core/detail/context_data.hpp"
#include "weir/core/ids.hpp"

namespace weir::inline v0::detail {

inline constexpr std::size_t max_tracestate_members = 32, max_baggage_members = 180, max_baggage_bytes = 8192;

constexpr std::string_view trim(std::string_view text) noexcept {  // OWS of RFC 9110
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}
constexpr int hex_digit(char c) noexcept {  // lower case only
  return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}
constexpr int hex_byte(std::string_view two) noexcept {
  const int high = hex_digit(two[0]), low = hex_digit(two[1]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/// Takes the next member off a comma-separated list. Requires: more.
constexpr std::string_view next_member(std::string_view& list, bool& more) noexcept {
  const std::size_t comma = list.find(',');
  const std::string_view member = list.substr(0, comma);
  more = comma != list.npos;
  list.remove_prefix(more ? comma + 1 : list.size());
  return trim(member);
}
template <class F>
constexpr void for_each_member(std::string_view list, F f) {
  for (bool more = !list.empty(); more;) f(next_member(list, more));
}

/// 3.2: version "-" trace-id "-" parent-id "-" flags. Of a later version what is known of this one; nullopt: to be ignored.
inline std::optional<Position> parse_traceparent(std::string_view text) noexcept {
  text = trim(text);
  constexpr std::size_t size = 55;
  if (text.size() < size || text[2] != '-' || text[35] != '-' || text[52] != '-') return {};
  const int version = hex_byte(text), flags = hex_byte(text.substr(53));
  if (version < 0 || version == 0xff || flags < 0) return {};
  if (text.size() > size && (version == 0 || text[size] != '-')) return {};
  Position position;
  position.trace = TraceId::from_hex(text.substr(3, 32));
  position.span = SpanId::from_hex(text.substr(36, 16));
  if (!position.trace.valid() || !position.span.valid()) return {};
  position.flags = static_cast<std::uint8_t>(flags) & (version == 0 ? flag_sampled | flag_random : flag_sampled);
  return position;
}

inline std::string format_traceparent(const Position& position) {
  std::string text(55, '-');
  text[0] = text[1] = text[53] = '0';
  put_hex(&text[3], position.trace.high);
  put_hex(&text[19], position.trace.low);
  put_hex(&text[36], position.span.value);
  text[54] = static_cast<char>('0' + position.flags);
  return text;
}

/// 3.3.1.3.1: a letter or digit and up to 255 of a-z 0-9 _ - * / @. (Level 1 allowed one "@", with a limit for either side.)
constexpr bool is_tracestate_key(std::string_view key) noexcept {
  if (key.empty() || key.size() > 256) return false;
  for (std::size_t i = 0; i < key.size(); ++i) {
    const char c = key[i];
    const bool alphanumeric = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (!alphanumeric && (i == 0 || (c != '_' && c != '-' && c != '*' && c != '/' && c != '@'))) return false;
  }
  return true;
}
/// 3.3.1.3.2: up to 256 printable ASCII characters but "," and "=", the last of them no space.
constexpr bool is_tracestate_value(std::string_view value) noexcept {
  if (value.empty() || value.size() > 256 || value.back() == ' ') return false;
  for (const char c : value)
    if (c < 0x20 || c > 0x7e || c == ',' || c == '=') return false;
  return true;
}

/// The header without empty members, white space around members, and all but the first of a key; empty if one of them is not
/// what 3.3.1 allows, or if there are more than 32.
inline std::string parse_tracestate(std::string_view header) {
  std::string kept;
  std::string_view keys[max_tracestate_members];
  std::size_t count = 0;
  bool good = true;
  for_each_member(header, [&](std::string_view member) {
    if (member.empty() || !good) return;
    const std::size_t equals = member.find('=');
    const std::string_view key = member.substr(0, equals);
    good =
        equals != member.npos && is_tracestate_key(key) && is_tracestate_value(member.substr(equals + 1)) && count < max_tracestate_members;
    if (!good) return;
    for (std::size_t i = 0; i < count; ++i)
      if (keys[i] == key) return;
    keys[count++] = key;
    if (!kept.empty()) kept += ',';
    kept += member;
  });
  return good ? kept : std::string();
}

/// Requires: a parsed `state`, a good key and value.
inline std::string set_tracestate(std::string_view state, std::string_view key, std::string_view value) {
  std::string out;
  out.reserve(state.size() + key.size() + value.size() + 2);
  out.append(key).append("=").append(value);
  std::size_t count = 1;
  for_each_member(state, [&](std::string_view member) {
    if (count == max_tracestate_members || member.substr(0, member.find('=')) == key) return;
    ++count;
    out.append(",").append(member);
  });
  return out;
}

constexpr bool is_token(std::string_view text) noexcept {  // RFC 9110, 5.6.2
  for (const char c : text) {
    const bool alphanumeric = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!alphanumeric && (c == '\0' || std::string_view("!#$%&'*+-.^_`|~").find(c) == std::string_view::npos)) return false;
  }
  return !text.empty();
}
/// The characters that a baggage value may have as they are (W3C Baggage, 3.3.1.3), but "%".
constexpr bool is_baggage_octet(char c) noexcept {
  return c > 0x20 && c < 0x7f && c != '"' && c != ',' && c != ';' && c != '\\' && c != '%';
}

/// key "=" value, and properties after semicolons: key, or key "=" value; white space around each.
constexpr bool is_baggage_member(std::string_view member) noexcept {
  for (bool first = true;; first = false) {
    const std::size_t semicolon = member.find(';');
    const std::string_view part = member.substr(0, semicolon);
    const std::size_t equals = part.find('=');
    if (!is_token(trim(part.substr(0, equals))) || (first && equals == part.npos)) return false;
    if (equals != part.npos)
      for (const char c : trim(part.substr(equals + 1)))
        if (!is_baggage_octet(c) && c != '%') return false;
    if (semicolon == member.npos) return true;
    member.remove_prefix(semicolon + 1);
  }
}

/// The header without white space around members. Members that are none are left out, and so is what would be more than 180
/// members or 8,192 bytes.
inline std::string parse_baggage(std::string_view header) {
  std::string kept;
  std::size_t count = 0;
  for_each_member(header, [&](std::string_view member) {
    const std::size_t comma = kept.empty() ? 0 : 1;
    if (count == max_baggage_members || kept.size() + comma + member.size() > max_baggage_bytes || !is_baggage_member(member)) return;
    kept.append(comma, ',').append(member);
    ++count;
  });
  return kept;
}

inline std::string percent_decoded(std::string_view text) {
  const auto digit = [](char c) { return hex_digit(c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c); };
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const int high = text[i] == '%' && i + 2 < text.size() ? digit(text[i + 1]) : -1, low = high < 0 ? -1 : digit(text[i + 2]);
    out += low < 0 ? text[i] : static_cast<char>(high * 16 + low);
    if (low >= 0) i += 2;
  }
  return out;
}
inline void append_percent_encoded(std::string& out, std::string_view text) {
  for (const char c : text) {
    if (is_baggage_octet(c)) {
      out += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      out += '%';
      out += "0123456789ABCDEF"[byte >> 4];
      out += "0123456789ABCDEF"[byte & 15];
    }
  }
}

/// The value of the first member with this key, percent-encoded and without its properties.
inline std::optional<std::string_view> find_baggage(std::string_view baggage, std::string_view key) noexcept {
  std::optional<std::string_view> found;
  for_each_member(baggage, [&](std::string_view member) {
    const std::size_t equals = member.find('=');
    if (!found && equals != member.npos && trim(member.substr(0, equals)) == key) {
      const std::string_view value = member.substr(equals + 1);
      found = trim(value.substr(0, value.find(';')));
    }
  });
  return found;
}

/// With `key` at its end, or without it if `value` is empty. Requires: `key` is a token.
inline std::string set_baggage(std::string_view baggage, std::string_view key, std::string_view value) {
  std::string out;
  for_each_member(baggage, [&](std::string_view member) {
    if (member.empty() || trim(member.substr(0, member.find('='))) == key) return;
    if (!out.empty()) out += ',';
    out += member;
  });
  if (value.empty()) return out;
  if (!out.empty()) out += ',';
  out.append(key).append("=");
  append_percent_encoded(out, value);
  return out;
}

}  // namespace weir::inline v0::detail
