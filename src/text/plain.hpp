#pragma once
// Text that stands in a line as it is. Most strings need neither quotes nor escapes: whether one does is found out while it is
// copied, sixteen bytes at a time. Free functions, which write through a bare pointer where there is room; thread-safe.
//
//   to = put(to, ",\"name\":\"");
//   if (char* end = copy_if<JsonText>(to, name)) …
//   // else: byte by byte, by append_json_escaped()

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

template <class Word>
Word load(const char* from) noexcept {
  Word word;
  std::memcpy(&word, from, sizeof word);
  return word;
}
template <class Word>
void store(char* to, Word word) noexcept {
  std::memcpy(to, &word, sizeof word);
}

template <std::size_t N>
char* put(char* to, const char (&literal)[N]) noexcept {
  std::memcpy(to, literal, N - 1);
  return to + N - 1;
}
inline char* put(char* to, std::string_view text) noexcept {
  if (!text.empty()) std::memcpy(to, text.data(), text.size());
  return to + text.size();
}

/// The ASCII text from the character `First` on that has none of `others`.
template <char First, char... others>
struct Plain {
  /// A bit for each of sixteen bytes, the first lowest: the byte does not fit. Of the bits that are set only the lowest is sure.
  static unsigned stops(std::uint64_t first, std::uint64_t last) noexcept {
#if defined(__SSE2__)
    const __m128i bytes = _mm_set_epi64x(static_cast<long long>(last), static_cast<long long>(first));
    __m128i found = _mm_cmplt_epi8(bytes, _mm_set1_epi8(First));  // beyond ASCII they are negative
    ((found = _mm_or_si128(found, _mm_cmpeq_epi8(bytes, _mm_set1_epi8(others)))), ...);
    return static_cast<unsigned>(_mm_movemask_epi8(found));
#else
    return gather(find(first)) | gather(find(last)) << 8;
#endif
  }
  static bool fits(std::uint64_t first, std::uint64_t last) noexcept { return stops(first, last) == 0; }
  /// Bytes at the beginning of `text` that fit. Some of the last fifteen may not be looked at.
  static std::size_t prefix(std::string_view text) noexcept {
    std::size_t i = 0;
    for (; i + 16 <= text.size(); i += 16) {
      const unsigned found = stops(load<std::uint64_t>(text.data() + i), load<std::uint64_t>(text.data() + i + 8));
      if (found != 0) return i + static_cast<std::size_t>(std::countr_zero(found));
    }
    return i;
  }

  // What stops() does without SSE2: the top bits of the bytes that do not fit. One above the lowest of them may be wrong.
  static constexpr std::uint64_t find(std::uint64_t word) noexcept {
    constexpr std::uint64_t ones = 0x0101010101010101;
    std::uint64_t found = word | ((word - ones * First) & ~word);
    ((found |= ((word ^ ones * others) - ones) & ~(word ^ ones * others)), ...);
    return found & 0x80 * ones;
  }
  static constexpr unsigned gather(std::uint64_t tops) noexcept { return static_cast<unsigned>((tops >> 7) * 0x0102040810204080 >> 56); }
};

/// What needs no escape between the quotes of JSON; and what needs none in encoding/json's, which minds HTML as well.
using JsonText = Plain<' ', '"', '\\'>;
using JsonHtmlText = Plain<' ', '"', '\\', '<', '>', '&'>;

/// Copies `text` if all of it is of the kind. Returns the end, or null if it is not; then some may have been copied.
template <class Kind>
char* copy_if(char* to, std::string_view text) noexcept {
  const char* const from = text.data();
  const std::size_t size = text.size();
  const auto copy = [=](std::size_t i, std::size_t j) {
    const auto first = load<std::uint64_t>(from + i), last = load<std::uint64_t>(from + j);
    store(to + i, first);
    store(to + j, last);
    return Kind::fits(first, last);
  };
  if (size > 16) {
    for (std::size_t i = 0; i + 16 < size; i += 16)
      if (!copy(i, i + 8)) return nullptr;
    if (!copy(size - 16, size - 8)) return nullptr;
  } else if (size >= 8) {
    if (!copy(0, size - 8)) return nullptr;
  } else if (size >= 4) {
    const auto first = load<std::uint32_t>(from), last = load<std::uint32_t>(from + size - 4);
    const std::uint64_t both = std::uint64_t{last} << 32 | first;
    if (!Kind::fits(both, both)) return nullptr;
    store(to, first);
    store(to + size - 4, last);
  } else if (size > 0) {
    const char first = from[0], middle = from[size / 2], last = from[size - 1];
    const auto byte = [](char c) { return std::uint64_t{static_cast<unsigned char>(c)}; };
    const std::uint64_t all = 0x6161616161000000 | byte(first) << 16 | byte(middle) << 8 | byte(last);  // 'a' is of every kind
    if (!Kind::fits(all, all)) return nullptr;
    to[0] = first;
    to[size / 2] = middle;
    to[size - 1] = last;
  }
  return to + size;
}

}  // namespace weir::inline v0::detail
