#include "text/hex.hpp"

#include <cstdint>
#include <string>

#include "support/catch.hpp"

using namespace weir::detail;

namespace {

/// A digit at a time, as the plainest way would.
bool plainly(const std::string& text, std::uint64_t& value) {
  value = 0;
  for (const char c : text) {
    const std::size_t digit = std::string("0123456789abcdef").find(c);
    if (digit == std::string::npos) return false;
    value = value << 4 | digit;
  }
  return true;
}

void check_reading(const std::string& text) {
  std::uint64_t expected = 0;
  const bool good = plainly(text, expected);
  for (const auto read : {parse_hex, read_hex_halves, read_hex}) {
    std::uint64_t value = 0;
    if (read(text.data(), value) != good) FAIL(text << " is judged wrongly");
    if (good && value != expected) FAIL(text << " is read wrongly");
  }
}

}  // namespace

TEST_CASE("hex digits are written, and read back, in every way") {
  std::uint64_t state = 1;
  for (int i = 0; i < 100'000; ++i) {
    const std::uint64_t value = split_mix(state);
    std::string fast(16, '?'), portable(16, '?');
    REQUIRE(write_hex(fast.data(), value) == fast.data() + 16);
    put_hex(portable.data(), value);
    std::uint64_t read = 0;
    REQUIRE((fast == portable && plainly(fast, read) && read == value));
    check_reading(fast);
  }
}

TEST_CASE("a byte that is no digit is noticed wherever it is, and whatever its neighbours are") {
  for (const char others : {'0', '9', 'a', 'f', '/', ':', '`', 'g', '\0', '\xff'}) {
    for (std::size_t place = 0; place < 16; ++place) {
      for (int byte = 0; byte < 256; ++byte) {
        std::string text(16, others);
        text[place] = static_cast<char>(byte);
        check_reading(text);
      }
    }
  }
}

TEST_CASE("several bytes that are no digits do not make up for each other") {
  std::uint64_t state = 2;
  for (int i = 0; i < 100'000; ++i) {
    std::string text = "0123456789abcdef";
    for (int changes = 0; changes < 4; ++changes) {
      const std::uint64_t random = split_mix(state);
      text[random % 16] = static_cast<char>(random >> 8);
    }
    check_reading(text);
  }
}
