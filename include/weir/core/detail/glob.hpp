#pragma once
// Glob: patterns of names, for samplers and for what is steered from outside.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// A pattern with `*` and `?`. Matching takes time in proportion to the text: all places in the pattern that the text so far may
/// have come to are the bits of a few words. Thread-safety: safe to read.
class Glob {
 public:
  static constexpr std::size_t max_bytes = 255;

  explicit Glob(std::string_view pattern) : pattern_(pattern) {
    std::size_t size = 0;
    for (const char c : pattern) size += c != '*';
    if (size > max_bytes) return;
    words_ = size / 64 + 1;
    end_ = size;
    any_ = size == 0 && !pattern.empty();
    masks_.resize(257 * words_);
    std::size_t at = 0;
    for (const char c : pattern) {
      if (c == '*') {
        set(256, at);
        continue;
      }
      for (std::size_t byte = 0; byte < 256; ++byte)
        if (c == '?' || static_cast<unsigned char>(c) == byte) set(byte, at);
      ++at;
    }
  }

  bool matches(std::string_view text) const noexcept {
    if (any_) return true;
    if (words_ == 0) return false;
    std::uint64_t places[max_bytes / 64 + 1] = {1};
    for (const char c : text) {
      const std::uint64_t* const mask = &masks_[static_cast<unsigned char>(c) * words_];
      const std::uint64_t* const star = &masks_[256 * words_];
      std::uint64_t carry = 0, some = 0;
      for (std::size_t i = 0; i < words_; ++i) {
        const std::uint64_t matched = places[i] & mask[i];
        places[i] = (places[i] & star[i]) | matched << 1 | carry;
        carry = matched >> 63;
        some |= places[i];
      }
      if (some == 0) return false;
    }
    return (places[end_ / 64] >> end_ % 64 & 1) != 0;
  }
  const std::string& pattern() const noexcept { return pattern_; }

 private:
  void set(std::size_t mask, std::size_t place) noexcept { masks_[mask * words_ + place / 64] |= std::uint64_t{1} << place % 64; }

  std::string pattern_;
  std::size_t words_ = 0, end_ = 0;
  bool any_ = false;
  std::vector<std::uint64_t> masks_;  // of each byte: the places that it leads on from; then: the places with a star
};

}  // namespace weir::inline v0::detail
