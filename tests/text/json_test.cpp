#include "text/json.hpp"

#include <cstdint>
#include <limits>
#include <string>

#include "support/catch.hpp"

using weir::detail::JsonEscapes;

namespace {

std::string json(std::string_view text, JsonEscapes escapes) {
  std::string out;
  weir::detail::append_json_string(out, text, escapes);
  return out;
}

}  // namespace

TEST_CASE("a JSON string is escaped as the Go package that is named escapes it") {
  constexpr std::string_view text = "<&>\"\\/\b\f\n\r\t\v\x7f";
  CHECK(json(text, JsonEscapes::html) == R"("\u003c\u0026\u003e\"\\/\b\f\n\r\t\u000b)"
                                         "\x7f\"");
  CHECK(json(text, JsonEscapes::no_html) == R"("<&>\"\\/\b\f\n\r\t\u000b)"
                                            "\x7f\"");
  CHECK(json(text, JsonEscapes::slog) == R"("<&>\"\\/\u0008\u000c\n\r\t\u000b)"
                                         "\x7f\"");
  CHECK(json({"\0\x1f", 2}, JsonEscapes::slog) == R"("\u0000\u001f")");
}

TEST_CASE("JSON strings are UTF-8 without line separators, whatever they are made of") {
  for (const JsonEscapes escapes : {JsonEscapes::html, JsonEscapes::no_html, JsonEscapes::slog}) {
    CHECK(json("\u2027\u2028\u2029\u202a", escapes) == "\"\u2027\\u2028\\u2029\u202a\"");
    CHECK(json("a\xff\xe2\x80 \xed\xa0\x80", escapes) == "\"a\\ufffd\\ufffd\\ufffd \\ufffd\\ufffd\\ufffd\"");
    CHECK(json("\xc3\xa9\xf0\x9f\x98\x80\xef\xbf\xbd", escapes) == "\"\xc3\xa9\xf0\x9f\x98\x80\xef\xbf\xbd\"");
  }
}

TEST_CASE("what comes between plain text is found wherever it is") {
  for (const JsonEscapes escapes : {JsonEscapes::html, JsonEscapes::no_html, JsonEscapes::slog}) {
    for (const std::string_view special : {"\"", "<", "\x01", "\xff", "\u2028", "\u00e9"}) {
      const std::string escaped = json(special, escapes);
      for (std::size_t before = 0; before < 40; ++before) {
        for (std::size_t after = 0; after < 40; ++after) {
          const std::string head(before, '-'), tail(after, 'x');
          const std::string expected = '"' + head + escaped.substr(1, escaped.size() - 2) + tail + '"';
          if (json(head + std::string(special) + tail, escapes) != expected)
            REQUIRE(json(head + std::string(special) + tail, escapes) == expected);
        }
      }
    }
  }
}

TEST_CASE("integers are written whole") {
  std::string out;
  weir::detail::append_integer(out, std::numeric_limits<std::int64_t>::min());
  weir::detail::append_integer(out, std::numeric_limits<std::uint64_t>::max());
  CHECK(out == "-922337203685477580818446744073709551615");
}
