#include "text/plain.hpp"

#include <algorithm>
#include <bit>
#include <random>
#include <string>

#include "support/catch.hpp"

using namespace weir::detail;

namespace {

using LogText = Plain<'!', '"', '='>;

bool in(std::string_view characters, char c) { return characters.find(c) != characters.npos; }

/// Whether `c` may be in text of the kind.
template <class Kind>
bool fits(char c) {
  const auto byte = static_cast<unsigned char>(c);
  if constexpr (std::is_same_v<Kind, LogText>) return byte > ' ' && byte < 0x80 && !in("\"=", c);
  return byte >= ' ' && byte < 0x80 && !in(std::is_same_v<Kind, JsonText> ? "\"\\" : "\"\\<>&", c);
}

template <class Kind>
std::size_t first_that_does_not_fit(std::string_view text) {
  return static_cast<std::size_t>(std::find_if_not(text.begin(), text.end(), fits<Kind>) - text.begin());
}

/// Without Catch's macros, which would take most of the time.
template <class Kind>
bool copied_rightly(const std::string& text) {
  std::string to(text.size() + 16, '\x5a');
  const char* const end = copy_if<Kind>(to.data(), text);
  if (to.substr(text.size()) != std::string(16, '\x5a')) return false;
  if (first_that_does_not_fit<Kind>(text) != text.size()) return end == nullptr;
  return end == to.data() + text.size() && to.substr(0, text.size()) == text;
}

template <class Kind>
bool prefix_is_right(const std::string& text) {
  const std::size_t first = first_that_does_not_fit<Kind>(text), prefix = Kind::prefix(text);
  return prefix == first || (prefix < first && prefix + 16 > text.size());
}

}  // namespace

TEMPLATE_TEST_CASE("text is copied if all of it fits, wherever a byte is that does not", "", JsonText, JsonHtmlText, LogText) {
  for (std::size_t size = 0; size <= 50; ++size) {
    std::string text(size, 'a');
    CHECK(copied_rightly<TestType>(text));
    CHECK(TestType::prefix(text) + 16 > size);
    bool good = true;
    for (std::size_t at = 0; at < size; ++at) {
      for (int byte = 0; byte < 256; ++byte) {
        text[at] = static_cast<char>(byte);
        good = good && copied_rightly<TestType>(text) && prefix_is_right<TestType>(text);
      }
      text[at] = static_cast<char>('b' + at % 20);
    }
    CHECK(good);
  }
}

TEMPLATE_TEST_CASE("the first byte that does not fit is found by either way of looking", "", JsonText, JsonHtmlText, LogText) {
  std::mt19937 random(1);
  constexpr std::string_view near = "\x1f !\"#%&'-./;<=>?[\\]^\x7f\x80\xa2\xbc\xdc\xff\0";
  bool good = true;
  for (int round = 0; round < 200'000; ++round) {
    std::string text(16, '\0');
    for (char& c : text) c = random() % 4 == 0 ? near[random() % near.size()] : static_cast<char>('A' + random() % 20);
    const auto first = load<std::uint64_t>(text.data()), last = load<std::uint64_t>(text.data() + 8);
    const unsigned stops = TestType::stops(first, last);
    const unsigned portable = TestType::gather(TestType::find(first)) | TestType::gather(TestType::find(last)) << 8;
    const std::size_t expected = first_that_does_not_fit<TestType>(text);
    good = good && static_cast<std::size_t>(std::countr_zero(stops | 0x10000)) == expected &&
           static_cast<std::size_t>(std::countr_zero(portable | 0x10000)) == expected;
  }
  CHECK(good);
}
