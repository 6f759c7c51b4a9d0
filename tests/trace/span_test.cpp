#include "weir/trace/span.hpp"

#include <chrono>
#include <random>
#include <string>
#include <vector>

#include "support/catch.hpp"

using namespace weir;

namespace {

Timestamp at(std::int64_t seconds, std::int64_t nanoseconds = 0) {
  return Timestamp{std::chrono::seconds{seconds} + std::chrono::nanoseconds{nanoseconds}};
}

Span make_span(std::string id, std::string parent, std::string name, SpanKind kind, Timestamp start, Timestamp end) {
  return {std::move(id), "t", std::move(parent), std::move(name), kind, start, end, {}, {}};
}

std::string error_of(std::string_view json) {
  const Result<Span> span = parse_span(json);
  return span ? "accepted" : span.error().message;
}

/// Random text of any code points, U+0000 to U+10FFFF without the surrogates.
std::string random_text(std::mt19937& random) {
  std::string text;
  for (auto length = random() % 12; length > 0; --length) {
    switch (random() % 5) {
      case 0: text += static_cast<char>(random() % 0x80); break;
      case 1: text += {static_cast<char>(0xc2 + random() % 30), static_cast<char>(0x80 + random() % 64)}; break;
      case 2: text += {static_cast<char>(0xe2), static_cast<char>(0x80), static_cast<char>(0x80 + random() % 64)}; break;
      case 3:
        text += {static_cast<char>(0xf1), static_cast<char>(0x80 + random() % 64), static_cast<char>(0x80), static_cast<char>(0xbf)};
        break;
      default: text += static_cast<char>('a' + random() % 26);
    }
  }
  return text;
}

Span random_span(std::mt19937& random, int depth) {
  Span span;
  span.id = "i" + random_text(random);
  span.trace_id = "t" + random_text(random);
  span.parent_id = random_text(random);
  span.name = random_text(random);
  span.kind = static_cast<SpanKind>(static_cast<std::int32_t>(random()));
  span.start_time = Timestamp{std::chrono::nanoseconds{static_cast<std::int64_t>(std::uint64_t{random()} << 32 | random())}};
  span.end_time = at(static_cast<std::int32_t>(random()), random() % 4 == 0 ? 0 : random() % 1'000'000'000);
  for (auto count = random() % 4; count > 0; --count) span.attrs[random_text(random)] = random_text(random);
  if (depth > 0) {
    for (auto count = random() % 4; count > 0; --count) span.children.push_back(random_span(random, depth - 1));
  }
  return span;
}

std::string chain(std::size_t depth) {
  const std::string fields = R"("id":"i","trace_id":"t","start_time":"2026-01-01T00:00:00Z","end_time":"2026-01-01T00:00:00Z")";
  std::string json = "{" + fields;
  for (std::size_t i = 1; i < depth; ++i) json += ",\"children\":[{" + fields;
  for (std::size_t i = 1; i < depth; ++i) json += "}]";
  return json + "}";
}

const std::string minimal = R"("id":"i","trace_id":"t","start_time":"2026-01-01T00:00:00Z","end_time":"2026-01-01T00:00:01Z")";

}  // namespace

TEST_CASE("a span with its children is written exactly as Go's encoding/json writes it") {
  Span root = make_span("a", "", "root", SpanKind::http, at(1767225600, 1000), at(1767225601, 500'000'000));
  root = root.with_attr("status", "200").with_attr("method", "GET");
  const Span inner = make_span("d", "b", "", static_cast<SpanKind>(9), at(1767225600, 2000), at(1767225600, 2000));
  root = root.with_child(make_span("b", "a", "select", SpanKind::sql, at(1767225600, 2000), at(1767225600, 3000)).with_child(inner));
  root = root.with_child(make_span("c", "a", "render", SpanKind::function, at(1767225600, 4000), at(1767225600, 5000)));
  const std::string line =
      R"json({"id":"a","trace_id":"t","name":"root","kind":1,"start_time":"2026-01-01T00:00:00.000001Z","end_time":"2026-01-01T00:00:01.5Z","attrs":{"method":"GET","status":"200"},"children":[{"id":"b","trace_id":"t","parent_id":"a","name":"select","kind":2,"start_time":"2026-01-01T00:00:00.000002Z","end_time":"2026-01-01T00:00:00.000003Z","children":[{"id":"d","trace_id":"t","parent_id":"b","name":"","kind":9,"start_time":"2026-01-01T00:00:00.000002Z","end_time":"2026-01-01T00:00:00.000002Z"}]},{"id":"c","trace_id":"t","parent_id":"a","name":"render","kind":0,"start_time":"2026-01-01T00:00:00.000004Z","end_time":"2026-01-01T00:00:00.000005Z"}]})json";
  CHECK(to_json(root) == line);
  REQUIRE(parse_span(line).has_value());
  CHECK(*parse_span(line) == root);

  const Span alone = make_span("a", "", "alone", SpanKind::function, at(0), at(0, 10));
  CHECK(
      to_json(alone) ==
      R"json({"id":"a","trace_id":"t","name":"alone","kind":0,"start_time":"1970-01-01T00:00:00Z","end_time":"1970-01-01T00:00:00.00000001Z"})json");
}

TEST_CASE("random spans survive being written and read") {
  std::mt19937 random(20260101);
  for (int round = 0; round < 2000; ++round) {
    const Span span = random_span(random, 3);
    const std::string json = to_json(span);
    REQUIRE(json.find('\n') == std::string::npos);
    const Result<Span> read = parse_span(json);
    REQUIRE(read.has_value());
    REQUIRE(*read == span);
  }
}

TEST_CASE("a span's fields are checked as an event's are") {
  CHECK(error_of("{" + minimal + "}") == "accepted");
  CHECK(error_of("{}") == "id: missing");
  CHECK(error_of("{" + minimal + ",\"id\":\"\"}") == "id: empty");
  CHECK(error_of("{" + minimal + ",\"trace_id\":null}") == "trace_id: missing");
  CHECK(error_of("{" + minimal + ",\"start_time\":null}") == "start_time: missing");
  CHECK(error_of("{" + minimal + ",\"end_time\":null}") == "end_time: missing");
  CHECK(error_of("{" + minimal + ",\"end_time\":\"12:00\"}") == "end_time: not an RFC 3339 time");
  CHECK(error_of("{" + minimal + ",\"kind\":\"http\"}") == "kind: must be an integer of 32 bits");
  CHECK(error_of("{" + minimal + ",\"type\":[],\"span_id\":1,\"time\":{}}") == "accepted");  // an event's, unknown here
}

TEST_CASE("children are objects in an array, and checked as their parent is") {
  CHECK(error_of("{" + minimal + ",\"children\":null}") == "accepted");
  CHECK(error_of("{" + minimal + ",\"children\":{}}") == "children: must be an array");
  for (const char* wrong : {"1", "null", "\"x\"", "[]", "true", "1.5"}) {
    CHECK(error_of("{" + minimal + ",\"children\":[" + wrong + "]}") == "children: must hold objects");
  }
  CHECK(error_of("{" + minimal + ",\"children\":[{}]}") == "id: missing");
  const Result<Span> span = parse_span("{" + minimal + ",\"children\":[{" + minimal + "}],\"children\":[{" + minimal + "},{" + minimal +
                                       ",\"name\":\"x\"}],\"name\":\"y\"}");
  REQUIRE(span.has_value());
  REQUIRE(span->children.size() == 2);
  CHECK(span->children[1].name == "x");
  CHECK(span->name == "y");
}

TEST_CASE("children may nest to max_span_depth and no deeper, without recursion") {
  CHECK(error_of(chain(max_span_depth)) == "accepted");
  CHECK(error_of(chain(max_span_depth + 1)) == "spans nested deeper than 256");
  CHECK(error_of(chain(100'000)) == "spans nested deeper than 256");
}

TEST_CASE("values of a deep child may nest as deep as those of its parent") {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  const auto line = [&](std::size_t depth) { return "{" + minimal + ",\"children\":[{" + minimal + ",\"x\":" + nested(depth) + "}]}"; };
  CHECK(error_of(line(16)) == "accepted");
  CHECK(error_of(line(17)) == "nested deeper than 16");
}

TEST_CASE("times are written as Go's time.RFC3339Nano") {
  const std::vector<std::pair<std::int64_t, std::string>> golden = {
      {0, "1970-01-01T00:00:00Z"},          {1, "1970-01-01T00:00:01Z"},           {-1, "1969-12-31T23:59:59Z"},
      {951782400, "2000-02-29T00:00:00Z"},  {951868800, "2000-03-01T00:00:00Z"},   {1709164800, "2024-02-29T00:00:00Z"},
      {4107542400, "2100-03-01T00:00:00Z"}, {-2203977600, "1900-02-28T00:00:00Z"}, {68256000, "1972-03-01T00:00:00Z"},
      {-86400, "1969-12-31T00:00:00Z"},     {1798761599, "2026-12-31T23:59:59Z"},
  };
  for (const auto& [seconds, text] : golden) {
    CHECK(format_time(at(seconds)) == text);
    REQUIRE(parse_time(text).has_value());
    CHECK(*parse_time(text) == at(seconds));
  }
  CHECK(format_time(at(0, 1)) == "1970-01-01T00:00:00.000000001Z");
  CHECK(format_time(at(0, 120'000'000)) == "1970-01-01T00:00:00.12Z");
  CHECK(format_time(at(0, -1)) == "1969-12-31T23:59:59.999999999Z");
  CHECK(format_time(Timestamp::min()) == "1677-09-21T00:12:43.145224192Z");
  CHECK(format_time(Timestamp::max()) == "2262-04-11T23:47:16.854775807Z");
}

TEST_CASE("every form of RFC 3339 is read") {
  const auto read = [](std::string_view text) {
    const Result<Timestamp> time = parse_time(text);
    return time ? time->time_since_epoch().count() : -1;
  };
  CHECK(read("2026-01-01T00:00:00+05:30") == 1767205800000000000);
  CHECK(read("2026-01-01T00:00:00.5-08:00") == 1767254400500000000);
  CHECK(read("2024-02-29T23:59:59.999999999Z") == 1709251199999999999);
  CHECK(read("2024-02-29t23:59:59.9999999999999z") == 1709251199999999999);
  CHECK(read("1970-01-01T00:00:00-00:00") == 0);
  CHECK(read("1970-01-01T23:59:00+23:59") == 0);
  CHECK(*parse_time("1677-09-21T00:12:43.145224192Z") == Timestamp::min());
  CHECK(*parse_time("2262-04-11T23:47:16.854775807Z") == Timestamp::max());
}

TEST_CASE("anything else is no time") {
  for (const char* text : {"",
                           "2026",
                           "2026-01-01",
                           "2026-01-01T00:00:00",
                           "2026-01-01 00:00:00Z",
                           "2026-01-01T00:00Z",
                           "2026-01-01T00:00:00.Z",
                           "2026-01-01T00:00:00,5Z",
                           "2026-01-01T00:00:00+0530",
                           "2026-01-01T00:00:00+05",
                           "2026-01-01T00:00:00+24:00",
                           "2026-01-01T00:00:00+00:60",
                           "2026-01-01T00:00:00Zx",
                           "2026-1-01T00:00:00Z",
                           "x026-01-01T00:00:00Z",
                           "02026-01-01T00:00:00Z",
                           "2026-00-01T00:00:00Z",
                           "2026-13-01T00:00:00Z",
                           "2026-01-00T00:00:00Z",
                           "2026-01-32T00:00:00Z",
                           "2026-02-29T00:00:00Z",
                           "2100-02-29T00:00:00Z",
                           "2026-01-01T24:00:00Z",
                           "2026-01-01T00:60:00Z",
                           "2026-01-01T00:00:60Z",
                           "1677-09-21T00:12:43.145224191Z",
                           "2262-04-11T23:47:16.854775808Z",
                           "0000-01-01T00:00:00Z",
                           "9999-12-31T23:59:59Z"}) {
    INFO(text);
    CHECK_FALSE(parse_time(text).has_value());
  }
}

TEST_CASE("random times survive being written and read") {
  std::mt19937_64 random(7);
  for (int round = 0; round < 20'000; ++round) {
    const Timestamp time{std::chrono::nanoseconds{static_cast<std::int64_t>(random())}};
    const Result<Timestamp> read = parse_time(format_time(time));
    REQUIRE(read.has_value());
    REQUIRE(*read == time);
  }
}

TEST_CASE("a span is a value whose changes are copies") {
  const Span span = make_span("a", "", "root", SpanKind::http, at(1), at(3));
  const Span changed = span.with_attr("k", "1").with_attr("k", "2").with_parent_id("p").with_child(span);
  CHECK(span.attrs.empty());
  CHECK(span.children.empty());
  CHECK(changed.attrs == StringAttributes{{"k", "2"}});
  CHECK(changed.parent_id == "p");
  CHECK(changed.children == std::vector<Span>{span});
  CHECK(changed.clone() == changed);
  CHECK(span.duration() == std::chrono::seconds{2});
  CHECK(make_span("a", "", "", SpanKind::sql, at(3), at(1)).duration() == std::chrono::nanoseconds{0});
  CHECK_FALSE(changed.failed());
  CHECK(changed.with_attr("error", "true").failed());
  CHECK_FALSE(changed.with_attr("error", "false").failed());
  CHECK(to_string(SpanKind::sql) == "sql");
  CHECK(to_string(static_cast<SpanKind>(12)) == "unknown(12)");
}
