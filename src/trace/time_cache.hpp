#pragma once
// TimeCache: parse_time() for times that come one after another. Most are of the same second and offset as the one before, and then
// only their fraction is read. For EventDecoder.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "weir/trace/span.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class TimeCache {
 public:
  static constexpr std::size_t usual_size = 30;  ///< 2006-01-02T15:04:05.123456789Z

  /// False where parse_time() fails, and of texts of any other form or second than that known. Requires: usual_size bytes.
  [[gnu::always_inline]] bool parse_usual(const char* text, Timestamp& time) const noexcept {
    if (std::memcmp(text, known_, second_size) != 0 || known_[second_size] != 'Z' || text[second_size] != '.' ||
        text[usual_size - 1] != 'Z')
      return false;
    // Eight digits at once, each pair of bytes, of pairs, of fours joined by one multiplication.
    constexpr std::uint64_t ones = 0x0101010101010101;
    std::uint64_t digits = 0;
    std::memcpy(&digits, text + second_size + 1, sizeof digits);
    digits ^= '0' * ones;
    const unsigned last = static_cast<unsigned char>(text[usual_size - 2]) ^ unsigned { '0' };
    if (((digits | (digits + 0x76 * ones)) & 0x80 * ones) != 0 || last > 9) return false;
    digits = (digits * 10 + (digits >> 8)) & 0x00ff00ff00ff00ff;
    digits = (digits * 100 + (digits >> 16)) & 0x0000ffff0000ffff;
    digits = (digits * 10'000 + (digits >> 32)) & 0xffffffff;
    time = base_ + std::chrono::nanoseconds{static_cast<std::int64_t>(digits * 10 + last)};
    return true;
  }
  /// False where parse_time() fails.
  bool parse(std::string_view text, Timestamp& time) {
    std::int64_t nanos = 0;
    if (text.size() > second_size && std::memcmp(text.data(), known_, second_size) == 0 &&
        text.substr(read_fraction(text, nanos)) == std::string_view(known_ + second_size, known_size_ - second_size)) {
      time = base_ + std::chrono::nanoseconds{nanos};
      return true;
    }
    return parse_other(text, time);
  }

 private:
  static constexpr std::size_t second_size = 19;  // 2006-01-02T15:04:05
  static constexpr std::size_t offset_at_most = 6;

  /// Where the fraction behind the second ends. Of one that is empty or has more than nine digits, too early.
  static std::size_t read_fraction(std::string_view text, std::int64_t& nanos) noexcept {
    if (text[second_size] != '.') return second_size;
    constexpr std::size_t begin = second_size + 1;
    constexpr std::int64_t units[] = {1'000'000'000, 100'000'000, 10'000'000, 1'000'000, 100'000, 10'000, 1'000, 100, 10, 1};
    const std::size_t end = std::min(text.size(), begin + 9);
    std::size_t at = begin;
    for (; at < end && text[at] >= '0' && text[at] <= '9'; ++at) nanos = nanos * 10 + (text[at] - '0');
    nanos *= units[at - begin];
    return at > begin ? at : second_size;
  }
  bool parse_other(std::string_view text, Timestamp& time);

  char known_[second_size + offset_at_most + 1] = "1970-01-01T00:00:00Z";  // a time without fraction
  std::size_t known_size_ = second_size + 1;
  Timestamp base_{};  // what it means
};

}  // namespace weir::inline v0::detail
