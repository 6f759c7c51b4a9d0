#pragma once
// Ids as hex digits, for where there are millions of them: sixteen at once where the processor has SSE2. Free functions; thread-safe.

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <bit>
#include <cstdint>
#include <cstring>

#include "weir/core/ids.hpp"

namespace weir::inline v0::detail {

/// Does what put_hex() does. Returns the end of the digits.
inline char* write_hex(char* to, std::uint64_t value) noexcept {
#if defined(__SSE2__)
  const __m128i bytes = _mm_cvtsi64_si128(static_cast<long long>(__builtin_bswap64(value)));
  const __m128i nibbles = _mm_and_si128(_mm_unpacklo_epi8(_mm_srli_epi16(bytes, 4), bytes), _mm_set1_epi8(15));
  const __m128i letters = _mm_and_si128(_mm_cmpgt_epi8(nibbles, _mm_set1_epi8(9)), _mm_set1_epi8('a' - '9' - 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_add_epi8(_mm_add_epi8(nibbles, _mm_set1_epi8('0')), letters));
#else
  put_hex(to, value);
#endif
  return to + 16;
}

/// Does what parse_hex() does, eight digits at once.
inline bool read_hex_halves(const char* in, std::uint64_t& value) noexcept {
  constexpr std::uint64_t ones = 0x0101010101010101, tops = 0x80 * ones;
  const auto from = [](std::uint64_t x, unsigned char least) { return x + (0x80u - least) * ones; };  // top bit: a byte is that or more
  std::uint64_t wrong = 0;
  value = 0;
  for (int half = 0; half < 2; ++half) {
    std::uint64_t x = 0;
    std::memcpy(&x, in + 8 * half, sizeof x);
    wrong |= x | ~((from(x, '0') & ~from(x, '9' + 1)) | (from(x, 'a') & ~from(x, 'f' + 1)));
    x = ((x & 0x0f * ones) + 9 * (x >> 6 & ones)) & 0x0f * ones;
    if (std::endian::native == std::endian::little) x = __builtin_bswap64(x);
    x = (x | x >> 4) & 0x00ff00ff00ff00ff;
    x = (x | x >> 8) & 0x0000ffff0000ffff;
    value = value << 32 | ((x | x >> 16) & 0xffffffff);
  }
  return (wrong & tops) == 0;
}

/// The same, all at once.
inline bool read_hex(const char* in, std::uint64_t& value) noexcept {
#if defined(__SSE2__)
  const auto at_most = [](__m128i bytes, char limit) { return _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(limit)), bytes); };
  const __m128i text = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
  const __m128i digit = _mm_sub_epi8(text, _mm_set1_epi8('0')), letter = _mm_sub_epi8(text, _mm_set1_epi8('a'));
  const __m128i is_digit = at_most(digit, 9), is_letter = at_most(letter, 5);
  const __m128i ten = _mm_set1_epi8(10);
  const __m128i nibbles = _mm_or_si128(_mm_and_si128(is_digit, digit), _mm_and_si128(is_letter, _mm_add_epi8(letter, ten)));
  const __m128i pairs = _mm_or_si128(_mm_slli_epi16(nibbles, 4), _mm_srli_epi16(nibbles, 8));
  const __m128i bytes = _mm_packus_epi16(_mm_and_si128(pairs, _mm_set1_epi16(0xff)), _mm_setzero_si128());
  value = __builtin_bswap64(static_cast<std::uint64_t>(_mm_cvtsi128_si64(bytes)));
  return _mm_movemask_epi8(_mm_or_si128(is_digit, is_letter)) == 0xffff;
#else
  return read_hex_halves(in, value);
#endif
}

}  // namespace weir::inline v0::detail
