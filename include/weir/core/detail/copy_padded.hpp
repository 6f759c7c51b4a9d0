#pragma once
// How short texts get into records.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// Rounded up to a multiple of 8.
constexpr std::size_t padded(std::size_t size) noexcept { return (size + 7) & ~std::size_t{7}; }

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Warray-bounds"  // GCC 12 judges the branches for longer texts by a short literal
#pragma GCC diagnostic ignored "-Wstringop-overread"
#endif

/// Stores a word, best aligned to 8. Unlike memcpy it tells the compiler that nothing else changes but words: what it knows of
/// other variables it need not read again. Who reads the word reads words or bytes.
[[gnu::always_inline]] inline void store_word(std::byte* out, std::uint64_t word) noexcept {
  using Word [[gnu::aligned(1)]] = std::uint64_t;
  *reinterpret_cast<Word*>(out) = word;
}

/// Copies `text` to `out`, best aligned to 8, and pads it with zeros to a multiple of 8. Short texts, which are most, without a
/// call, and as whole words, so that who reads words afterwards need not wait for the stores.
[[gnu::always_inline]] inline void copy_padded(std::byte* out, std::string_view text) noexcept {
  const char* in = text.data();
  const std::size_t size = text.size();
  if (size > 16) {
    store_word(out + padded(size) - 8, 0);
    std::memcpy(out, in, size);
  } else if (size > 8) {
    std::uint64_t head = 0, tail = 0;
    std::memcpy(&head, in, 8);
    std::memcpy(&tail, in + size - 8, 8);
    store_word(out, head);
    asm("" : : "m"(*reinterpret_cast<const char(*)[8]>(out)));  // or GCC joins the words first, which takes longer than two stores
    store_word(out + 8, tail >> (0 - size * 8) % 64);
  } else if (size > 0) {
    std::uint64_t word = 0;
    if (size == 8) {
      std::memcpy(&word, in, 8);
    } else if (size >= 4) {
      std::uint32_t head = 0, tail = 0;
      std::memcpy(&head, in, 4);
      std::memcpy(&tail, in + size - 4, 4);
      word = head | static_cast<std::uint64_t>(tail) << (size - 4) * 8;
    } else if (size >= 2) {
      std::uint16_t head = 0, tail = 0;
      std::memcpy(&head, in, 2);
      std::memcpy(&tail, in + size - 2, 2);
      word = head | static_cast<std::uint64_t>(tail) << (size - 2) * 8;
    } else {
      word = static_cast<unsigned char>(in[0]);
    }
    store_word(out, word);
  }
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

/// Copies a multiple of 8 bytes, word by word: for what was written word by word a moment ago, which wider loads would wait for.
[[gnu::always_inline]] inline void copy_words(std::byte* out, const std::byte* in, std::size_t size) noexcept {
  for (std::size_t at = 0; at < size; at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, in + at, 8);
    asm("" : "+r"(word));  // keeps the compiler from using wider ones
    std::memcpy(out + at, &word, 8);
  }
}

}  // namespace weir::inline v0::detail
