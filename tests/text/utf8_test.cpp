#include "text/utf8.hpp"

#include "support/catch.hpp"

using weir::detail::repair_utf8;
using weir::detail::valid_utf8;

TEST_CASE("UTF-8 is repaired byte by byte, as Go does") {
  CHECK(repair_utf8("plain") == "plain");
  CHECK(repair_utf8("\xc3\xa9\xff\xe2\x82") == "\xc3\xa9\ufffd\ufffd\ufffd");
  for (const char* bad :
       {"\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xc3"}) {
    CHECK_FALSE(valid_utf8(bad));
    CHECK(valid_utf8(repair_utf8(bad)));
  }
  for (const char* good :
       {"", "\x7f", "\xc2\x80", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    CHECK(valid_utf8(good));
  }
}
