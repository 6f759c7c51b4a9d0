#pragma once
// TimeCache: parse_time() for times that come one after another. Most are of the same second and offset as the one before, and then
// only their fraction is read. For EventDecoder.

#include <cstring>
#include <string_view>

#include "weir/trace/span.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class TimeCache {
 public:
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
    std::size_t at = second_size + 1;
    std::int64_t unit = 1'000'000'000;
    for (; at < text.size() && text[at] >= '0' && text[at] <= '9' && unit > 1; ++at) {
      unit /= 10;
      nanos = nanos * 10 + (text[at] - '0');
    }
    nanos *= unit;
    return at > second_size + 1 ? at : second_size;
  }
  bool parse_other(std::string_view text, Timestamp& time);

  char known_[second_size + offset_at_most + 1] = "1970-01-01T00:00:00Z";  // a time without fraction
  std::size_t known_size_ = second_size + 1;
  Timestamp base_{};  // what it means
};

}  // namespace weir::inline v0::detail
