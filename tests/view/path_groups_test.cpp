#include "weir/view/path_groups.hpp"

#include <iterator>
#include <random>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

#include "support/catch.hpp"

using weir::parse_path_group;
using weir::parse_path_groups;
using weir::PathGroup;
using weir::PathGroups;

namespace {

bool matches(std::string_view pattern, std::string_view path) {
  const auto groups = PathGroups::create({{std::string(pattern), "name"}});
  if (!groups) FAIL(groups.error().message);
  return groups->find(path).has_value();
}

std::string error_of(std::string_view pattern) {
  const auto groups = PathGroups::create({{"/fine", "fine"}, {std::string(pattern), "name"}});
  CAPTURE(pattern);
  REQUIRE_FALSE(groups);
  return groups.error().message;
}

}  // namespace

TEST_CASE("the first group that matches a whole path gives it its name") {
  const auto groups = PathGroups::create({{R"(/users/\d+)", "/users/:id"}, {"/users/.*", "/users/…"}, {"/a|/b", "/a or b"}});
  REQUIRE(groups);
  CHECK(groups->find("/users/17") == "/users/:id");
  CHECK(groups->find("/users/anna") == "/users/…");
  CHECK(groups->find("/users/17/orders") == "/users/…");
  CHECK(groups->find("/a") == "/a or b");
  CHECK_FALSE(groups->find("/ab"));
  CHECK_FALSE(groups->find("x/users/17"));
  CHECK_FALSE(groups->find(""));
  CHECK_FALSE(PathGroups().find("/users/17"));
}

TEST_CASE("expressions match as those who write them expect") {
  struct Case {
    std::string_view pattern, path;
    bool matched;
  };
  constexpr Case cases[] = {
      {"", "", true},
      {"", "a", false},
      {"a.c", "abc", true},
      {"a.c", "aäc", true},
      {"a.{2}c", "aäöc", true},
      {"a.c",
       "a\xff"
       "c",
       true},
      {"a.c", "ac", false},
      {"[a-c]+", "abcabc", true},
      {"[^/]+", "a/b", false},
      {"[^/]+", "größe", true},
      {"[]x]*", "]x]", true},
      {"[a\\]-]*", "a]-", true},
      {"[\\d-]+", "20-24", true},
      {"[^\\d\\s]+", "abc", true},
      {"[^\\d\\s]+", "a c", false},
      {"[\\D]", "5", false},
      {"[\\D]", "x", true},
      {"[ä-ü]", "ö", true},
      {R"(\w+\.\w+)", "a_1.b", true},
      {R"(\w+\.\w+)", "a_1xb", false},
      {R"(\S\s\W\D)", "a b-", false},
      {R"(\S\s\W\D)", "a .-", true},
      {R"(\x41\x{e4})", "Aä", true},
      {R"(\/a\?b)", "/a?b", true},
      {R"(\t\n)", "\t\n", true},
      {"a{3}", "aaa", true},
      {"a{3}", "aa", false},
      {"a{2,}", "aaaaa", true},
      {"a{2,3}", "aaaa", false},
      {"a{,3}", "a{,3}", true},
      {"/users/{id}", "/users/{id}", true},
      {"(ab|c)*d?", "abccab", true},
      {"(?:ab)+?", "abab", true},
      {"(?P<id>\\d+)/(?<x>.)", "17/y", true},
      {"(|a)b", "b", true},
      {"a|b|", "", true},
      {"^/a$", "/a", true},
      {"/a^b", "/ab", false},
      {"\\A/a\\z", "/a", true},
      {"(^a|b$)+", "ab", true},
      {"(a*)*", "aaaa", true},
      {"(a*)*b", "aaaac", false},
      {"(()|())*", "", true},
      {".*", "", true},
  };
  for (const Case& one : cases) {
    CAPTURE(one.pattern, one.path);
    CHECK(matches(one.pattern, one.path) == one.matched);
  }
}

TEST_CASE("expressions match what std::regex matches") {
  std::mt19937 random(1);
  constexpr std::string_view atoms[] = {"a", "b", "c", ".", "[ab]", "[^a]", "(a|bc)", "(b*c|)", "(?:a|b|)", "\\w"};
  constexpr std::string_view repeats[] = {"", "", "", "*", "+", "?", "{2}", "{1,2}", "{0,1}", "*?"};
  int matched = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string pattern;
    for (std::size_t n = 1 + random() % 5; n > 0; --n) {
      pattern += atoms[random() % std::size(atoms)];
      pattern += repeats[random() % std::size(repeats)];
      if (n > 1 && random() % 6 == 0) pattern += '|';
    }
    const auto groups = PathGroups::create({{pattern, "x"}});
    CAPTURE(pattern);
    REQUIRE(groups);
    const std::regex expected(pattern);
    for (int k = 0; k < 10; ++k) {
      std::string text;
      for (std::size_t n = random() % 6; n > 0; --n) text += static_cast<char>('a' + random() % 3);
      CAPTURE(text);
      const bool is_match = std::regex_match(text, expected);
      matched += is_match ? 1 : 0;
      REQUIRE(groups->find(text).has_value() == is_match);
    }
  }
  CHECK(matched > 3000);
}

TEST_CASE("an error names the expression and where it breaks") {
  struct Case {
    std::string_view pattern, what;
  };
  constexpr Case cases[] = {
      {"/users/(\\d+", "a ( without its ) at character 8 ('(\\d+')"},
      {"/users)", "a ) without its ( at character 7 (')')"},
      {"/ä[a-", "a [ without its ] at character 3 ('[a-')"},
      {"/[z-a]", "a range whose end is below its beginning at character 3 ('z-a]')"},
      {"*a", "nothing to repeat at character 1 ('*a')"},
      {"a**", "nothing to repeat at character 3 ('*')"},
      {"a|+", "nothing to repeat at character 3 ('+')"},
      {"a{3,2}", "a repetition whose end is below its beginning at character 2 ('{3,2}')"},
      {"a\\", "a \\ with nothing behind it at character 2 ('\\')"},
      {"\\q", "this escape is not known at character 1 ('\\q')"},
      {"(a)\\1", "this escape is not known at character 4 ('\\1')"},
      {"\\x{}", "this is no \\xHH and no \\x{HHHH} at character 1"},
      {"\\x4", "this is no \\xHH and no \\x{HHHH} at character 1"},
      {"\\x{110000}", "this is no \\xHH and no \\x{HHHH} at character 1"},
      {"(?=a)", "this sort of group is not known at character 1 ('(?=a)')"},
      {"(?i)a", "this sort of group is not known"},
      {"[[:alpha:]]", "classes with a name are not known at character 2"},
      {"(a{100}){100}", "the expression is too large"},
      {"(){5000}", "the expression is too large"},
      {"a{99999999999999999999}", "the expression is too large"},
  };
  for (const Case& one : cases) {
    const std::string message = error_of(one.pattern);
    INFO(message);
    CHECK(message.starts_with("path group '" + std::string(one.pattern) + "': " + std::string(one.what)));
  }
  CHECK(error_of(std::string(100'000, '(')).find("too many groups in each other at character 101") != std::string::npos);
}

TEST_CASE("no path and no expression costs more than the product of their lengths") {
  // By backtracking these take longer than anybody waits, or the whole stack.
  const std::string path(PathGroups::max_path, 'a');
  CHECK_FALSE(matches("(a+)+b", path));
  CHECK_FALSE(matches("(a|a)*b", path));
  CHECK_FALSE(matches("(.*)(.*)(.*)(.*)(.*)(.*)b", path));
  CHECK(matches("(a*)*", path));
  CHECK_FALSE(matches("(a?){500}b", path));
  CHECK_FALSE(matches("a*", path + "a"));  // too long for any
}

TEST_CASE("a group is written REGEX=NAME") {
  const auto check = [](std::string_view text, std::string_view pattern, std::string_view name) {
    CAPTURE(text);
    const auto group = parse_path_group(text);
    REQUIRE(group);
    CHECK(group->pattern == pattern);
    CHECK(group->name == name);
  };
  check(R"(/users/\d+=/users/:id)", R"(/users/\d+)", "/users/:id");
  check("/a=b=c", "/a=b", "c");
  check(" /a.* = all of a ", "/a.*", "all of a");
  check("/a/[0-9]+", "/a/[0-9]+", "/a/[0-9]+");
  for (const std::string_view text : {"", "=", "/a=", "=name", "  "}) {
    CAPTURE(text);
    const auto group = parse_path_group(text);
    REQUIRE_FALSE(group);
    CHECK(group.error().message.find("'" + std::string(text) + "' is no path group: write it as REGEX=NAME") == 0);
  }
}

TEST_CASE("groups in a file stand one to a line") {
  const auto groups = parse_path_groups("# users\n/users/\\d+=/users/:id\r\n\n  # more\n/a.*=a");
  REQUIRE(groups);
  REQUIRE(groups->size() == 2);
  CHECK((*groups)[0].name == "/users/:id");
  CHECK((*groups)[1].pattern == "/a.*");
  const auto wrong = parse_path_groups("/a=a\n\n/b=\n");
  REQUIRE_FALSE(wrong);
  CHECK(wrong.error().message.starts_with("line 3: '/b=' is no path group"));
  CHECK(parse_path_groups("")->empty());
}
