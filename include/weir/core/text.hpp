#pragma once
// Text from elsewhere, for terminals and logs: shown, never executed, and one record is one line.

#include <cstddef>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// Bytes of the UTF-8 sequence that `text` begins with; 0 if it begins with none, or is empty.
constexpr std::size_t utf8_length(std::string_view text) noexcept {
  if (text.empty()) return 0;
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x80) return 1;
  const std::size_t length = first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
  if (length == 0 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) return 0;
  const auto second = static_cast<unsigned char>(text[1]);
  const bool overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
  const bool surrogate = first == 0xed && second > 0x9f;
  const bool too_large = first == 0xf4 && second > 0x8f;
  return overlong || surrogate || too_large ? 0 : length;
}

/// Requires: `sequence` is one valid UTF-8 sequence.
constexpr char32_t code_point(std::string_view sequence) noexcept {
  char32_t c = static_cast<unsigned char>(sequence[0]);
  if (sequence.size() > 1) c &= 0x7fu >> sequence.size();
  for (std::size_t i = 1; i < sequence.size(); ++i) c = c << 6 | (static_cast<unsigned char>(sequence[i]) & 0x3f);
  return c;
}

/// Characters that move the cursor, turn the writing direction or break the line without showing.
constexpr bool hidden(char32_t c) noexcept {
  return c < 0x20 || (c >= 0x7f && c <= 0x9f) || c == 0x061c || c == 0x200e || c == 0x200f || (c >= 0x2028 && c <= 0x202e) ||
         (c >= 0x2066 && c <= 0x2069);
}

/// Appends `text` with hidden characters as \xNN (below U+0080) or \u{NNNN}, and each byte that is not UTF-8 as U+FFFD.
template <class Out>
void append_printable(Out& out, std::string_view text) {
  constexpr char hex[] = "0123456789abcdef";
  std::size_t copied = 0;
  const auto replace = [&](std::size_t at, std::size_t size, std::string_view by) {
    out.append(text.substr(copied, at - copied));
    out.append(by);
    copied = at + size;
  };
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t size = utf8_length(text.substr(i, 4));
    const char32_t c = size == 0 ? 0xfffd : code_point(text.substr(i, size));
    if (size == 0) {
      replace(i, 1, "\xef\xbf\xbd");
    } else if (hidden(c) && c < 0x80) {
      const char escape[] = {'\\', 'x', hex[c >> 4], hex[c & 15]};
      replace(i, size, {escape, sizeof escape});
    } else if (hidden(c)) {
      const char escape[] = {'\\', 'u', '{', hex[c >> 12 & 15], hex[c >> 8 & 15], hex[c >> 4 & 15], hex[c & 15], '}'};
      replace(i, size, {escape, sizeof escape});
    }
    i += size == 0 ? 1 : size;
  }
  out.append(text.substr(copied));
}

/// One line for stderr, without allocation: what does not fit is cut.
class StderrLine {
 public:
  void append(std::string_view text) noexcept {
    const std::size_t room = sizeof data_ - 1 - size_;
    const std::size_t size = text.size() < room ? text.size() : room;
    std::memcpy(data_ + size_, text.data(), size);
    size_ += size;
  }
  void write() noexcept {
    data_[size_++] = '\n';
    std::fwrite(data_, 1, size_, stderr);
    size_ = 0;
  }

 private:
  char data_[2048];
  std::size_t size_ = 0;
};

}  // namespace weir::inline v0::detail
