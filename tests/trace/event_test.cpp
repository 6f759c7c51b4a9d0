#include "weir/trace/event.hpp"

#include <chrono>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "text/utf8.hpp"
#include "trace/decode.hpp"

using namespace weir;

namespace {

Timestamp at(std::int64_t seconds, std::int64_t nanoseconds) {
  return Timestamp{std::chrono::nanoseconds{seconds < 0 ? (seconds + 1) * 1'000'000'000 + (nanoseconds - 1'000'000'000)
                                                        : seconds * 1'000'000'000 + nanoseconds}};
}

std::string every_control_character() {
  std::string text;
  for (char c = 0; c < 0x20; ++c) text += c;
  return text;
}

Event start_named(std::string name, Timestamp time) { return Event::span_start("s", "t", "", std::move(name), SpanKind::function, time); }

struct Golden {
  Event event;
  std::string line;  // what Go's encoding/json makes of the same struct
};

std::vector<Golden> golden_events() {
  return {
      {Event::span_start("00f067aa0ba902b7", "4bf92f3577b34da6a3ce929d0e0e4736", "a3ce929d0e0e4736", "GET /orders", SpanKind::http,
                         at(1767225600, 123456789)),
       R"json({"type":0,"span_id":"00f067aa0ba902b7","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","parent_id":"a3ce929d0e0e4736","name":"GET /orders","kind":1,"time":"2026-01-01T00:00:00.123456789Z"})json"},
      {Event::span_start("s", "t", "", "main", SpanKind::function, at(1767225600, 0)),
       R"json({"type":0,"span_id":"s","trace_id":"t","name":"main","kind":0,"time":"2026-01-01T00:00:00Z"})json"},
      {Event::span_end("s", "t", at(1767225600, 120000000),
                       {{"zeta", "1"}, {"alpha", "2"}, {"Beta", ""}, {"\xc3\xa9", "3"}, {"", "empty key"}}),
       R"json({"type":1,"span_id":"s","trace_id":"t","name":"","kind":0,"time":"2026-01-01T00:00:00.12Z","attrs":{"":"empty key","Beta":"","alpha":"2","zeta":"1","é":"3"}})json"},
      {Event{static_cast<EventType>(7), "s", "t", "", "x", static_cast<SpanKind>(-3), at(0, 1), {}},
       R"json({"type":7,"span_id":"s","trace_id":"t","name":"x","kind":-3,"time":"1970-01-01T00:00:00.000000001Z"})json"},
      {start_named(every_control_character(), at(-1, 0)),
       R"json({"type":0,"span_id":"s","trace_id":"t","name":"\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\b\t\n\u000b\f\r\u000e\u000f\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a\u001b\u001c\u001d\u001e\u001f","kind":0,"time":"1969-12-31T23:59:59Z"})json"},
      {start_named("<a href=\"x\">&amp;</a> \\ / ' \x7f", at(951782399, 999999999)),
       R"json({"type":0,"span_id":"s","trace_id":"t","name":"\u003ca href=\"x\"\u003e\u0026amp;\u003c/a\u003e \\ / ' ","kind":0,"time":"2000-02-28T23:59:59.999999999Z"})json"},
      {start_named("\u2028|\u2029|\u2027|\u2030|\u00e9|\u20ac|\U0001f600|\ufffd|\xc2\x80|\ud7ff|\ue000|\U0010ffff", at(951782400, 100)),
       R"json({"type":0,"span_id":"s","trace_id":"t","name":"\u2028|\u2029|‧|‰|é|€|😀|�||퟿||􏿿","kind":0,"time":"2000-02-29T00:00:00.0000001Z"})json"},
      {start_named("a\xff"
                   "b\xc0\x80"
                   "c\xe2\x82"
                   "d\xed\xa0\x80"
                   "e\xf4\x90\x80\x80"
                   "f\xf0\x8f\xbf\xbfg\xe2\x80",
                   at(-9223372037, 145224192)),
       R"json({"type":0,"span_id":"s","trace_id":"t","name":"a\ufffdb\ufffd\ufffdc\ufffd\ufffdd\ufffd\ufffd\ufffde\ufffd\ufffd\ufffd\ufffdf\ufffd\ufffd\ufffd\ufffdg\ufffd\ufffd","kind":0,"time":"1677-09-21T00:12:43.145224192Z"})json"},
      {Event{EventType::span_start, "s\"", "t\n", "<p>", "n", SpanKind::function, at(9223372036, 854775807), {{"k\"<", "v\t>"}}},
       R"json({"type":0,"span_id":"s\"","trace_id":"t\n","parent_id":"\u003cp\u003e","name":"n","kind":0,"time":"2262-04-11T23:47:16.854775807Z","attrs":{"k\"\u003c":"v\t\u003e"}})json"},
  };
}

std::string error_of(std::string_view json) {
  const Result<Event> event = parse_event(json);
  return event ? "accepted" : event.error().message;
}

std::string nested(std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

const std::string ids = R"("span_id":"s","trace_id":"t")";
const std::string when = R"("time":"2026-01-01T00:00:00Z")";
const std::string minimal = R"("type":0,)" + ids + "," + when;

}  // namespace

TEST_CASE("an event is written exactly as Go's encoding/json writes it") {
  for (const Golden& golden : golden_events()) CHECK(to_json(golden.event) == golden.line);
}

TEST_CASE("what Go wrote is read back as the same event") {
  for (const Golden& golden : golden_events()) {
    const Result<Event> event = parse_event(golden.line);
    REQUIRE(event.has_value());
    Event expected = golden.event;
    expected.name = detail::repair_utf8(expected.name);
    CHECK(*event == expected);
  }
}

TEST_CASE("an event type has a name, an unknown one its number") {
  CHECK(to_string(EventType::span_start) == "span_start");
  CHECK(to_string(EventType::span_end) == "span_end");
  CHECK(to_string(static_cast<EventType>(-2)) == "unknown(-2)");
}

TEST_CASE("an event without name, kind, parent and attributes is complete, and so is one where they are null") {
  for (const std::string& json : {"{" + minimal + "}", "{" + minimal + R"(,"name":null,"kind":null,"parent_id":null,"attrs":null})"}) {
    const Result<Event> event = parse_event(json);
    REQUIRE(event.has_value());
    CHECK(*event == start_named("", at(1767225600, 0)));
  }
}

TEST_CASE("unknown fields are ignored, whatever they hold") {
  for (const char* value : {"1", "-1.5e300", "\"x\"", "null", "true", "[]", "{}", "[1,{\"type\":9,\"attrs\":[]},\"x\"]"}) {
    const Result<Event> event = parse_event("{\"extra\":" + std::string(value) + "," + minimal + ",\"id\":" + value + "}");
    REQUIRE(event.has_value());
    CHECK(*event == start_named("", at(1767225600, 0)));
  }
}

TEST_CASE("unknown types and kinds are kept as numbers") {
  const Result<Event> event = parse_event("{\"type\":-2147483648," + ids + "," + when + ",\"kind\":2147483647}");
  REQUIRE(event.has_value());
  CHECK(static_cast<std::int32_t>(event->type) == INT32_MIN);
  CHECK(static_cast<std::int32_t>(event->kind) == INT32_MAX);
}

TEST_CASE("attribute values that are no strings become their JSON text") {
  const Result<Event> event = parse_event(
      "{" + minimal +
      R"(,"attrs":{"s":"x","i":-12,"u":18446744073709551615,"f":1.50e3,"t":true,"n":null,"a":[1, "<b>", [ ], {"k" : null, "l":false}],"o":{ },"z":1}})");
  REQUIRE(event.has_value());
  CHECK(event->attrs == StringAttributes{{"s", "x"},
                                         {"i", "-12"},
                                         {"u", "18446744073709551615"},
                                         {"f", "1.50e3"},
                                         {"t", "true"},
                                         {"n", "null"},
                                         {"a", R"([1,"<b>",[],{"k":null,"l":false}])"},
                                         {"o", "{}"},
                                         {"z", "1"}});
}

TEST_CASE("the last of equal keys wins") {
  const Result<Event> event = parse_event("{\"span_id\":\"first\",\"name\":\"first\",\"attrs\":{\"old\":\"1\"},\"parent_id\":\"p\"," +
                                          minimal + R"(,"name":"last","attrs":{"k":"1","k":"2"},"parent_id":null})");
  REQUIRE(event.has_value());
  CHECK(event->span_id == "s");
  CHECK(event->name == "last");
  CHECK(event->parent_id.empty());
  CHECK(event->attrs == StringAttributes{{"k", "2"}});
}

TEST_CASE("a field of the wrong type is refused by name") {
  for (const char* wrong : {"1", "true", "[]", "{}", "1.5"}) {
    for (const char* field : {"span_id", "trace_id", "parent_id", "name", "time"}) {
      INFO(field << " = " << wrong);
      CHECK(error_of("{" + minimal + ",\"" + field + "\":" + wrong + "}") == std::string(field) + ": must be a string");
    }
  }
  for (const char* wrong :
       {"\"1\"", "true", "[]", "{}", "1.0", "1e0", "2147483648", "-2147483649", "18446744073709551615", "99999999999999999999"}) {
    for (const char* field : {"type", "kind"}) {
      INFO(field << " = " << wrong);
      CHECK(error_of("{" + minimal + ",\"" + field + "\":" + wrong + "}") == std::string(field) + ": must be an integer of 32 bits");
    }
  }
  for (const char* wrong : {"1", "true", "[]", "\"x\"", "1.5"}) {
    CHECK(error_of("{" + minimal + ",\"attrs\":" + wrong + "}") == "attrs: must be an object");
  }
  CHECK(parse_event("{" + minimal + ",\"attrs\":1}").error().code == std::errc::invalid_argument);
}

TEST_CASE("a field that must be there is named when it is missing, null or empty") {
  CHECK(error_of("{}") == "type: missing");
  CHECK(error_of("{\"type\":0,\"trace_id\":\"t\"," + when + "}") == "span_id: missing");
  CHECK(error_of("{\"type\":0,\"span_id\":\"s\"," + when + "}") == "trace_id: missing");
  CHECK(error_of("{\"type\":0," + ids + "}") == "time: missing");
  CHECK(error_of("{" + ids + "," + when + "}") == "type: missing");
  CHECK(error_of("{" + minimal + ",\"span_id\":\"\"}") == "span_id: empty");
  CHECK(error_of("{" + minimal + ",\"trace_id\":\"\"}") == "trace_id: empty");
  for (const char* field : {"type", "span_id", "trace_id", "time"}) {
    CHECK(error_of("{" + minimal + ",\"" + field + "\":null}") == std::string(field) + ": missing");
  }
}

TEST_CASE("text that is no JSON object is refused") {
  const std::vector<std::string> lines = {"",
                                          " ",
                                          "x",
                                          "1",
                                          "\"x\"",
                                          "null",
                                          "true",
                                          "[]",
                                          "[1,2]",
                                          "{",
                                          "{\"type\":0",
                                          "{" + minimal,
                                          "{" + minimal + "}}",
                                          "{" + minimal + "} x",
                                          "{'a':1}",
                                          "{\"a\":01}",
                                          "{\"a\":\"\n\"}",
                                          "{\"a\":\"\\x\"}",
                                          "{" + minimal + ",}",
                                          "{\"a\":1e999," + minimal + "}",
                                          "[\"weir\",1,{}]"};
  for (const std::string& line : lines) {
    INFO(line);
    const Result<Event> event = parse_event(line);
    REQUIRE_FALSE(event.has_value());
    CHECK(event.error().code == std::errc::bad_message);
    CHECK_FALSE(event.error().message.empty());
  }
}

TEST_CASE("values may nest 16 deep and no deeper, without recursion") {
  for (const bool attribute : {false, true}) {
    const auto line = [&](std::size_t depth) {
      return "{" + minimal + (attribute ? ",\"attrs\":{\"x\":" + nested(depth - 1) + "}}" : ",\"x\":" + nested(depth) + "}");
    };
    CHECK(error_of(line(16)) == "accepted");
    CHECK(error_of(line(17)) == "nested deeper than 16");
    CHECK(error_of(line(500'000)) == "nested deeper than 16");
  }
  CHECK(error_of(std::string(1'000'000, '[')) == "not a JSON object");
  CHECK(error_of(std::string(1'000'000, '{')) != "accepted");
}

TEST_CASE("invalid UTF-8 becomes U+FFFD and is reported") {
  bool repaired = false;
  const Result<Event> event = detail::decode_event("{" + minimal +
                                                       ",\"name\":\"a\xff"
                                                       "b\xe2\x82\",\"attrs\":{\"\xc0\":\"\xed\xa0\x80\"}}",
                                                   repaired);
  REQUIRE(event.has_value());
  CHECK(repaired);
  CHECK(event->name ==
        "a\ufffd"
        "b\ufffd\ufffd");
  CHECK(event->attrs == StringAttributes{{"\ufffd", "\ufffd\ufffd\ufffd"}});
  CHECK(detail::decode_event("{" + minimal + "}", repaired).has_value());
  CHECK_FALSE(repaired);
  CHECK_FALSE(detail::decode_event("{\xff" + minimal + "}", repaired).has_value());
  CHECK_FALSE(repaired);
}

TEST_CASE("half a surrogate pair becomes U+FFFD, a whole one its character") {
  const auto name_of = [](const std::string& text) {
    const Result<Event> event = parse_event("{" + minimal + ",\"name\":\"" + text + "\"}");
    return event ? event->name : event.error().message;
  };
  CHECK(name_of("\\ud83d\\ude00") == "\U0001f600");
  CHECK(name_of("a\\ud83dz") == "a\ufffdz");
  CHECK(name_of("\\uDE00") == "\ufffd");
  CHECK(name_of("\\ud83d\\ud83d\\ude00") == "\ufffd\U0001f600");
  CHECK(name_of("\\ud83d\\u0041") == "\ufffdA");
  CHECK(name_of("\\\\ud83d|\\ud83d") == "\\ud83d|\ufffd");
}

TEST_CASE("ids of any form and times with any offset are accepted") {
  const Result<Event> event = parse_event(
      R"({"type":0,"span_id":"0123456789abcdef","trace_id":"FEDCBA9876543210","name":"x","time":"2026-01-01T05:30:00.5+05:30"})");
  REQUIRE(event.has_value());
  CHECK(event->trace_id == "FEDCBA9876543210");
  CHECK(event->time == at(1767225600, 500'000'000));
  CHECK(error_of("{" + minimal + ",\"time\":\"yesterday\"}") == "time: not an RFC 3339 time");
}
