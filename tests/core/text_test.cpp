#include "weir/core/text.hpp"

#include <string>

#include "support/catch.hpp"

using weir::detail::append_printable;
using weir::detail::code_point;
using weir::detail::utf8_length;

namespace {

std::string printed(std::string_view text) {
  std::string out;
  append_printable(out, text);
  return out;
}

}  // namespace

TEST_CASE("a UTF-8 sequence has the length its first byte says, if it is whole and the shortest") {
  CHECK(utf8_length("") == 0);
  CHECK(utf8_length("a") == 1);
  CHECK(utf8_length("\xc3\xa9") == 2);
  CHECK(utf8_length("\xe2\x82\xac") == 3);
  CHECK(utf8_length("\xf0\x9f\x98\x80") == 4);
  CHECK(utf8_length("\xc3") == 0);
  CHECK(utf8_length("\xc0\x80") == 0);
  CHECK(utf8_length("\xe0\x9f\xbf") == 0);
  CHECK(utf8_length("\xed\xa0\x80") == 0);
  CHECK(utf8_length("\xf4\x90\x80\x80") == 0);
  CHECK(utf8_length("\x80") == 0);
}

TEST_CASE("code points are read from one to four bytes") {
  CHECK(code_point("a") == U'a');
  CHECK(code_point("\xc3\xa9") == U'\u00e9');
  CHECK(code_point("\xe2\x82\xac") == U'\u20ac');
  CHECK(code_point("\xf0\x9f\x98\x80") == U'\U0001f600');
  CHECK(code_point("\xf4\x8f\xbf\xbf") == U'\U0010ffff');
}

TEST_CASE("what would move a cursor or turn the writing is shown escaped, everything else is kept") {
  CHECK(printed("größe 日本 👍 \\") == "größe 日本 👍 \\");
  CHECK(printed("a\x1b[2Jb\n\x7f") == "a\\x1b[2Jb\\x0a\\x7f");
  CHECK(printed("\xc2\x9b|\xe2\x80\xae|\xd8\x9c") == "\\u{009b}|\\u{202e}|\\u{061c}");
  CHECK(printed("a\xff") == "a\xef\xbf\xbd");
}
