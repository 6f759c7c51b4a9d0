#include "weir/view/tree.hpp"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"

using namespace std::chrono_literals;
using weir::format_duration;
using weir::format_tree;
using weir::printable;
using weir::Span;
using weir::SpanKind;

namespace {

Span make(std::string name, SpanKind kind, std::chrono::nanoseconds duration) {
  Span span;
  span.name = std::move(name);
  span.kind = kind;
  span.end_time = span.start_time + duration;
  return span;
}

/// Takes a deep tree apart without recursion.
void dismantle(Span root) {
  std::vector<Span> spans = std::move(root.children);
  while (!spans.empty()) {
    std::vector<Span> children = std::move(spans.back().children);
    spans.pop_back();
    std::move(children.begin(), children.end(), std::back_inserter(spans));
  }
}

/// `levels` spans, each the only child of the one before.
Span chain(int levels) {
  Span root = make("deep", SpanKind::function, 1us);
  for (int i = 1; i < levels; ++i) {
    Span parent = make("deep", SpanKind::function, 1us);
    parent.children.push_back(std::move(root));
    root = std::move(parent);
  }
  return root;
}

}  // namespace

TEST_CASE("a tree is drawn one line per span") {
  Span root = make("GET /orders", SpanKind::http, 12'340us);
  Span query = make("select orders", SpanKind::sql, 1200us);
  query.children.push_back(make("parse", SpanKind::function, 5us));
  query.children.push_back(make("plan", SpanKind::function, 6us));
  Span render = make("render", SpanKind::function, 250us);
  render.children.push_back(make("", SpanKind{9}, 0ns));
  root.children = {query, render};
  CHECK(format_tree(root) ==
        "GET /orders [http] 12.3ms\n"
        "├── select orders [sql] 1.20ms\n"
        "│   ├── parse [function] 5.00µs\n"
        "│   └── plan [function] 6.00µs\n"
        "└── render [function] 250µs\n"
        "    └── (unnamed) [unknown(9)] 0ns\n");
}

TEST_CASE("an unfinished span says so") {
  Span span;
  span.name = "job";
  span.attrs = {{"weir.unfinished", "true"}};
  CHECK(format_tree(span) == "job [function] unfinished\n");
}

TEST_CASE("a failed span says why") {
  Span span = make("charge", SpanKind::http, 1s).with_attr("error", "true");
  CHECK(format_tree(span) == "charge [http] 1.00s error\n");
  span.attrs["error.message"] = "card\ndeclined";
  CHECK(format_tree(span) == "charge [http] 1.00s error: card\\x0adeclined\n");
  span.attrs["error"] = "false";
  CHECK(format_tree(span) == "charge [http] 1.00s\n");
}

TEST_CASE("colours follow the kind, and errors are red") {
  const weir::TreeStyle style{.colour = true};
  CHECK(format_tree(make("a", SpanKind::http, 1s), style) == "\x1b[36ma\x1b[0m\x1b[36m [http]\x1b[0m 1.00s\n");
  CHECK(format_tree(make("a", SpanKind::sql, 1s), style) == "\x1b[33ma\x1b[0m\x1b[33m [sql]\x1b[0m 1.00s\n");
  CHECK(format_tree(make("a", SpanKind::function, 1s), style) == "\x1b[35ma\x1b[0m\x1b[35m [function]\x1b[0m 1.00s\n");
  CHECK(format_tree(make("a", SpanKind{7}, 1s), style) == "a [unknown(7)] 1.00s\n");
  CHECK(format_tree(make("a", SpanKind{7}, 1s).with_attr("error", "true"), style) == "a [unknown(7)] 1.00s \x1b[31merror\x1b[0m\n");
  CHECK(format_tree(make("a", SpanKind::http, 1s)).find('\x1b') == std::string::npos);
}

TEST_CASE("names from services move no cursor") {
  const Span root = make("\x1b[2J\r\nrm\u202e", SpanKind::http, 1s);
  const Span child = make(std::string("\x9b") + "31m\u009b", SpanKind::sql, 1s);
  CHECK(format_tree(root.with_child(child)) == "\\x1b[2J\\x0d\\x0arm\\u{202e} [http] 1.00s\n└── \uFFFD31m\\u{009b} [sql] 1.00s\n");
}

TEST_CASE("a chain of 100,000 spans is drawn without recursion and without growing sideways") {
  const int depth = 100'000;
  Span root = chain(depth);
  const std::string tree = format_tree(root);
  dismantle(std::move(root));
  CHECK(std::count(tree.begin(), tree.end(), '\n') == depth);
  CHECK(tree.size() < std::size_t{depth} * 400);
  CHECK(tree.find("(depth 65) deep [function]") != std::string::npos);
  CHECK(tree.find("(depth 64)") == std::string::npos);
  CHECK(tree.find("(depth 99999) deep [function]") != std::string::npos);
}

TEST_CASE("indentation comes back after a deep branch") {
  Span root = make("root", SpanKind::function, 1us);
  root.children.push_back(chain(80));
  root.children.push_back(make("after", SpanKind::function, 1us));
  CHECK(format_tree(root).ends_with("\n└── after [function] 1.00µs\n"));
}

TEST_CASE("durations have three significant digits") {
  const std::vector<std::pair<std::chrono::nanoseconds, std::string>> cases{{0ns, "0ns"},
                                                                            {1ns, "1ns"},
                                                                            {999ns, "999ns"},
                                                                            {1000ns, "1.00µs"},
                                                                            {1234ns, "1.23µs"},
                                                                            {1235ns, "1.24µs"},
                                                                            {9994ns, "9.99µs"},
                                                                            {9996ns, "10.0µs"},
                                                                            {99'960ns, "100µs"},
                                                                            {250us, "250µs"},
                                                                            {999'499ns, "999µs"},
                                                                            {999'500ns, "1.00ms"},
                                                                            {1200us, "1.20ms"},
                                                                            {12'340us, "12.3ms"},
                                                                            {999'600us, "1.00s"},
                                                                            {1200ms, "1.20s"},
                                                                            {12s, "12.0s"},
                                                                            {59'940ms, "59.9s"},
                                                                            {59'960ms, "1m00s"},
                                                                            {60s, "1m00s"},
                                                                            {125s, "2m05s"},
                                                                            {3599s, "59m59s"},
                                                                            {3599'600ms, "1h00m"},
                                                                            {3h + 2min, "3h02m"},
                                                                            {100h, "100h00m"},
                                                                            {-1200ms, "-1.20s"},
                                                                            {std::chrono::nanoseconds::max(), "2562047h47m"},
                                                                            {std::chrono::nanoseconds::min(), "-2562047h47m"}};
  for (const auto& [duration, text] : cases) CHECK(format_duration(duration) == text);
}

TEST_CASE("printable text is one line and keeps what people read") {
  CHECK(printable("") == "");
  CHECK(printable("SELECT 'größe', '日本', '👍' \\ ") == "SELECT 'größe', '日本', '👍' \\ ");
  CHECK(printable(std::string_view("\0\t\x1f\x7f", 4)) == "\\x00\\x09\\x1f\\x7f");
  CHECK(printable("\u0080\u009f\u00a0") == "\\u{0080}\\u{009f}\u00a0");
  CHECK(printable("\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069") ==
        "\\u{061c}\\u{200e}\\u{200f}\\u{2028}\\u{2029}\\u{202a}\\u{202e}\\u{2066}\\u{2069}");
  CHECK(printable("\u200d\u202f\u2065\u206a") == "\u200d\u202f\u2065\u206a");
  CHECK(printable("a\xff\xc3(\xe2\x82") == "a\uFFFD\uFFFD(\uFFFD\uFFFD");
  CHECK(printable("\xc0\x9b\xed\xa0\x80") == "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD");
}

TEST_CASE("no byte sequence gets a control character through") {
  for (int a = 0; a < 256; ++a) {
    for (int b = 0; b < 256; ++b) {
      const std::string shown = printable(std::string{static_cast<char>(a), static_cast<char>(b)});
      const bool control =
          std::any_of(shown.begin(), shown.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
      REQUIRE_FALSE(control);
      REQUIRE(shown.find("\xc2\x9b") == std::string::npos);
      REQUIRE(printable(shown) == shown);
    }
  }
}
