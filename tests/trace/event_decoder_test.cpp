// Every path that decodes an event line gives what decode_event() gives, or leaves the line to the next.
#include "trace/event_decoder.hpp"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/event_lines.hpp"

using namespace weir;
using namespace weir::detail;
using weir::testing::disagreement;
using weir::testing::disagreement_on_next;
using weir::testing::disagreement_on_pair;
using weir::testing::event_of;
using weir::testing::random_event_line;

namespace {

const std::string ids = R"("span_id":"0123456789abcdef","trace_id":"0123456789abcdef0123456789abcdef")";
const std::string when = R"("time":"2026-01-01T00:00:00.5Z")";
const std::string start =
    R"({"type":0,)" + ids + R"(,"parent_id":"fedcba9876543210","name":"GET /","kind":1,)" + when + R"(,"attrs":{"a":"1","b":"2"}})";
const std::string end = R"({"type":1,)" + ids + R"(,"name":"","kind":0,)" + when + "}";

std::string with(const std::string& fields) { return "{\"type\":0," + ids + "," + when + "," + fields + "}"; }
std::string in_order(const std::string& name, const std::string& kind, const std::string& time, const std::string& rest) {
  return "{\"type\":0," + ids + ",\"name\":" + name + ",\"kind\":" + kind + ",\"time\":" + time + rest;
}
std::string nested(std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

std::vector<std::string> cases() {
  std::vector<std::string> lines = {
      start, end, "", " ", "x", "{}", "{", "[]", "null", "1", start + " ", start + "\r", start + "\n", " " + start, start + "}",
      start + "x", start + std::string("\0", 1), start + std::string("\0x", 2), "\xef\xbb\xbf" + start, "\xef\xbb" + start, start + start,
      // plain, but for one thing
      in_order("\"n\"", "0", "\"2026-01-01T00:00:00Z\"", "}"), in_order("\"n\"", "00", "\"2026-01-01T00:00:00Z\"", "}"),
      in_order("\"n\"", "-0", "\"2026-01-01T00:00:00Z\"", "}"), in_order("\"n\"", "-1", "\"2026-01-01T00:00:00Z\"", "}"),
      in_order("\"n\"", "999999999", "\"2026-01-01T00:00:00Z\"", "}"), in_order("\"n\"", "2147483647", "\"2026-01-01T00:00:00Z\"", "}"),
      in_order("\"n\"", "2147483648", "\"2026-01-01T00:00:00Z\"", "}"), in_order("\"n\"", "", "\"2026-01-01T00:00:00Z\"", "}"),
      in_order("\"n\"", "1.0", "\"2026-01-01T00:00:00Z\"", "}"), in_order("\"n\"", "1e0", "\"2026-01-01T00:00:00Z\"", "}"),
      in_order("\"n\"", "\"1\"", "\"2026-01-01T00:00:00Z\"", "}"), in_order("null", "null", "\"2026-01-01T00:00:00Z\"", "}"),
      in_order("1", "0", "\"2026-01-01T00:00:00Z\"", "}"), in_order("\"n\"", "0", "0", "}"), in_order("\"n\"", "0", "null", "}"),
      in_order("\"n\"", "0", "\"2026-01-01T00:00:00Z\"", ""), in_order("\"n\"", "0", "\"2026-01-01T00:00:00Z\"", ",}"),
      in_order("\"n\"", "0", "\"2026-01-01T00:00:00Z\"", ",\"attrs\":{}}"),
      in_order("\"n\"", "0", "\"2026-01-01T00:00:00Z\"", ",\"attrs\":{"),
      in_order("\"n\"", "0", "\"2026-01-01T00:00:00Z\"", ",\"attrs\":{\"a\":\"b\",}}"),
      in_order("\"n\"", "0", "\"2026-01-01T00:00:00Z\"", ",\"attrs\":{\"a\":\"b\"}"),
      in_order("\"n\"", "0", "\"2026-01-01T00:00:00Z\"", ",\"attrs\":{\"a\":\"b\"}}}"),
      in_order("\"n\"", "0", "\"2026-01-01T00:00:00Z\"", ",\"attrs\":{\"a\":\"b\"},\"type\":1}"),
      in_order("\"n\"", "0", "\"2026-01-01T00:00:00Z\"", ",\"attrs\":{\"a\":\"b\"},\"attrs\":{\"c\":\"d\"}}"),
      in_order("\"n\"", "0", "\"2026-01-01T00:00:00Z\"", ",\"attrs\":{\"a\":\"1\",\"b\":\"2\",\"a\":\"3\"}}"),
      in_order("\"n\"", "0", "\"2026-01-01T00:00:00Z\"", ",\"attrs\":{\"\":\"\",\"\":\"x\"}}"),
      R"({"type":2,)" + ids + R"(,"name":"","kind":0,)" + when + "}", R"({"type":-1,)" + ids + R"(,"name":"","kind":0,)" + when + "}",
      R"({"type":1,"span_id":"","trace_id":"t","name":"","kind":0,)" + when + "}",
      R"({"type":1,"span_id":"s","trace_id":"","name":"","kind":0,)" + when + "}",
      R"({"type":1,"span_id":"s","trace_id":"t","parent_id":"","name":"","kind":0,)" + when + "}",
      // fields that come twice, are null, unknown or of another type
      with(R"("name":"a","name":"b")"), with(R"("name":"a","name":null)"), with(R"("attrs":{"a":"1"},"attrs":null)"),
      with(R"("attrs":{"a":"1"},"attrs":{"b":"2"})"), with(R"("type":null)"), with(R"("type":null,"type":1)"), with(R"("time":null)"),
      with(R"("span_id":null)"), with(R"("span_id":"")"), with(R"("kind":7,"kind":null)"), with(R"("x":1e999)"), with(R"("x":1e-999)"),
      with(R"("x":-)"), with(R"("x":18446744073709551616)"), with(R"("x":0.1e)"), with(R"("x":tru)"), with(R"("type":"1")"),
      with(R"("attrs":[])"), with(R"("attrs":"")"), with(R"("name":{})"), with(R"("time":"yesterday")"),
      with(R"("time":"\u0032026-01-01T00:00:00Z")"), with(R"("\u006eame":"escaped key")"), with(R"("na\me":"x")"), with(R"("Name":"x")"),
      // attribute values that are no strings
      with(R"("attrs":{"i":-12,"u":18446744073709551615,"f":1.50e3,"t":true,"b":false,"n":null,"a":[1, "<b>"],"o":{ },"z":-0,"y":-0.0})"),
      with(R"("attrs":{"i":-12,"u":18446744073709551615,"m":-9223372036854775808,"t":true,"b":false,"n":null,"z":-0})"),
      with(R"("attrs":{"m":-9223372036854775809})"), with(R"("attrs":{"m":18446744073709551616})"),
      with(R"("attrs":{"k":1,"k":"2","k":null})"), with(R"("attrs":{"a":"\u003c\"\\\/\b\f\n\r\t","\u0000":"\u0000"})"),
      with(R"("attrs":{"a":")"
           "\n"
           R"("})"),
      // text
      with(R"("name":"\ud83d\ude00")"), with(R"("name":"\uD83D\uDE00")"), with(R"("name":"\ud83d")"), with(R"("name":"\ude00")"),
      with(R"("name":"\ud83d\u0041")"), with(R"("name":"\ud83d\ud83d\ude00")"), with(R"("name":"\\ud83d")"),
      with(R"("name":"\u00e9\u20ac")"), with(R"("name":"\u12")"), with(R"("name":"\x")"), with("\"name\":\"\x7f\""),
      with("\"name\":\"\x1f\""), with("\"name\":\"\xc3\xa9\""), with("\"name\":\"\xff\""), with("\"name\":\"\xc0\x80\""),
      with("\"name\":\"\xed\xa0\x80\""), with("\"name\":\"\xf4\x8f\xbf\xbf\""), with("\"name\":\"\xf4\x90\x80\x80\""),
      with("\"name\":\"\xe2\x82\""), with(std::string("\"name\":\"\0\"", 10)), with("\"\xff\":1"), with("\"\xff\":1,\"name\":\"\\ud800\""),
      with("\"x\":\"\xff\""), "{\xff" + start};
  for (const std::string text : {"caf\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xff", "\xc3", "\xc0\xaf", "\xed\xbf\xbf", "\x7f",
                                 "\x1f", "\t", "\\n", "\\u0041", "\\", "\\\"", "/", "a&b<c>"}) {
    for (std::size_t before = 0; before < 18; ++before) {  // at every place of a word
      const std::string name = '"' + std::string(before, 'x') + text + "\"";
      lines.push_back(in_order(name, "0", "\"2026-01-01T00:00:00Z\"", "}"));
      lines.push_back(in_order("\"n\"", "0", "\"2026-01-01T00:00:00Z\"", ",\"attrs\":{" + name + ":" + name + "}}"));
    }
  }
  for (const char* time : {"2026-01-01T00:00:00Z",
                           "2026-01-01T00:00:00.5Z",
                           "2026-01-01T00:00:00.123456789Z",
                           "2026-01-01T00:00:00.1234567899Z",
                           "2026-01-01T00:00:00.000000000000000000001Z",
                           "2026-01-01T00:00:00.123456789123Z",
                           "2026-01-01T00:00:00.Z",
                           "2026-01-01T00:00:00.",
                           "2026-01-01T00:00:00.5",
                           "2026-01-01T00:00:00",
                           "2026-01-01T00:00:00.5+02:00",
                           "2026-01-01T00:00:00.5-02:00",
                           "2026-01-01T00:00:00+02:00",
                           "2026-01-01T00:00:00.25+02:00",
                           "2026-01-01T00:00:00+02:0",
                           "2026-01-01T00:00:00+24:00",
                           "2026-01-01T00:00:00.5Zx",
                           "2026-01-01t00:00:00.5z",
                           "2026-01-01T00:00:00,5Z",
                           "2026-01-01T23:59:60Z",
                           "2026-02-29T00:00:00Z",
                           "2028-02-29T00:00:00Z",
                           "1969-12-31T23:59:59.999999999Z",
                           "1969-12-31T23:59:59.1Z",
                           "1677-09-21T00:12:43.145224192Z",
                           "1677-09-21T00:12:43.145224191Z",
                           "1677-09-21T00:12:44Z",
                           "1677-09-21T00:12:43Z",
                           "1677-09-21T00:12:43.9Z",
                           "2262-04-11T23:47:16.854775807Z",
                           "2262-04-11T23:47:16.854775808Z",
                           "2262-04-11T23:47:16Z",
                           "2262-04-11T23:47:15.999999999Z",
                           "2262-04-11T23:47:17Z",
                           "0000-01-01T00:00:00Z",
                           "9999-12-31T23:59:59Z",
                           "1970-01-01T00:00:00.000000001Z",
                           "\\u0000",
                           "",
                           "2026-01-01T00:00:00123Z",
                           "2026-01-01T00:00:00.5\\u005a"}) {
    for (const char* again : {time, "2026-01-01T00:00:00.75Z", time})
      lines.push_back(in_order("\"n\"", "0", '"' + std::string(again) + '"', "}"));
  }
  for (std::size_t depth = 13; depth < 20; ++depth) {
    for (const std::string& deep : {nested(depth), std::string(depth, '[') + "1" + std::string(depth, ']')}) {
      lines.push_back(with("\"x\":" + deep));
      lines.push_back(with("\"attrs\":{\"x\":" + deep + "}"));
      lines.push_back("{\"x\":" + deep + "," + start.substr(1));
    }
  }
  for (const std::size_t count : {15u, 16u, 17u, 18u, 300u, 5000u}) {
    std::string attributes, equal;
    for (std::size_t i = 0; i < count; ++i) {
      attributes += (i == 0 ? "\"" : ",\"") + std::to_string(i * 7919 % count) + "\":\"" + std::to_string(i) + '"';
      equal += (i == 0 ? "\"" : ",\"") + std::to_string(i * 7919 % (count / 3)) + "\":\"" + std::to_string(i) + '"';
    }
    for (const std::string& each : {attributes, equal}) {
      lines.push_back(in_order("\"n\"", "0", "\"2026-01-01T00:00:00Z\"", ",\"attrs\":{" + each + "}}"));
      lines.push_back(with("\"attrs\":{" + each + "}"));
    }
  }
  for (const std::size_t size : {4000u, 5000u, 65536u, 200000u}) lines.push_back(with("\"name\":\"" + std::string(size, 'n') + '"'));
  for (std::size_t size = 0; size < start.size(); ++size) lines.push_back(start.substr(0, size));
  return lines;
}

}  // namespace

TEST_CASE("all paths agree on lines made by hand") {
  EventDecoder decoder;
  for (const std::string& line : cases()) {
    for (const std::size_t max_line : {line.size(), line.size() + 1, line.size() - std::min<std::size_t>(line.size(), 1)}) {
      const std::string problem = disagreement_on_next(decoder, line + "\n" + start + "\n", max_line);
      INFO(line);
      if (!problem.empty()) FAIL_CHECK(problem);
    }
    const std::string problem = disagreement(decoder, line);
    if (problem.empty()) continue;
    INFO(line);
    FAIL_CHECK(problem);
  }
}

TEST_CASE("all paths agree on a time of the second before, whichever byte of it is wrong") {
  const std::string time = "2026-01-01T00:00:00.123456789Z";
  EventDecoder decoder;
  for (std::size_t at = 0; at <= time.size(); ++at) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string changed = time + '"';
      changed[at] = static_cast<char>(byte);
      for (const std::string& rest : {std::string("}"), std::string(",\"attrs\":{\"a\":\"1\"}}")}) {
        const std::string line = in_order("\"n\"", "0", '"' + changed, rest);
        if (const std::string problem = disagreement(decoder, line); !problem.empty()) {
          INFO(line);
          FAIL_CHECK(problem);
        }
      }
    }
    REQUIRE(decoder.decode(start).has_value());  // the second that is known
  }
}

TEST_CASE("all paths agree on lines made of fields right and wrong, and on what is left of them when bytes change") {
  std::mt19937_64 random{7};
  EventDecoder decoder;
  std::size_t accepted = 0;
  for (int i = 0; i < 60'000; ++i) {
    std::string line = random_event_line(random);
    for (std::size_t changes = random() % 3; i % 2 == 0 && changes > 0 && !line.empty(); --changes) {
      const std::size_t at = random() % line.size();
      switch (random() % 4) {
        case 0: line[at] = static_cast<char>(random()); break;
        case 1: line.erase(at, 1 + random() % 8); break;
        case 2: line.insert(at, 1, "\"\\{}[],:0\x80 "[random() % 12]); break;
        case 3: line.insert(at, line.substr(random() % line.size(), random() % 16)); break;
      }
    }
    if (const std::string problem = disagreement(decoder, line); !problem.empty()) {
      INFO(line);
      FAIL_CHECK(problem);
    }
    accepted += decoder.decode(line).has_value();
    const std::string stream = line + (random() % 8 == 0 ? "" : "\n") + random_event_line(random) + '\n';
    const std::size_t max_line = random() % 4 == 0 ? random() % 256 : 4096;
    if (const std::string problem = disagreement_on_next(decoder, stream, max_line); !problem.empty()) {
      INFO(stream);
      FAIL_CHECK(problem);
    }
  }
  CHECK(accepted > 6'000);  // enough of them are right
}

TEST_CASE("a start takes the line behind it only if that is its end, and right") {
  std::mt19937_64 random{11};
  EventDecoder decoder;
  std::size_t pairs = 0;
  for (int i = 0; i < 60'000; ++i) {
    const std::string id = random() % 8 == 0 ? "a\"b" : "0123456789abcde" + std::to_string(random() % 3);
    Event first = Event::span_start(id, "t", "", "n", SpanKind::sql, Timestamp{}), second = Event::span_end(id, "t", Timestamp{});
    if (random() % 4 == 0) second.span_id.back() ^= 1;
    if (random() % 8 == 0) second.trace_id = random() % 2 == 0 ? "t2" : "s";
    if (random() % 8 == 0) second.name = "n";
    if (random() % 8 == 0) second.type = EventType::span_start;
    for (std::uint64_t count = random() % 4; count > 0; --count) second.attrs["k" + std::to_string(random() % 9)] = "v\xc3\xa9";
    std::string line = to_json(first), behind = to_json(second) + (random() % 8 == 0 ? "\r\n" : random() % 8 == 0 ? "" : "\n");
    if (random() % 8 == 0) behind.insert(random() % (behind.size() + 1), 1, "\"\\{}[],:0\x80 \n"[random() % 13]);
    if (random() % 8 == 0 && id[1] == '"')
      behind = R"({"type":1,"span_id":"a"b","trace_id":"t","name":"","kind":0,"time":"2026-01-01T00:00:00Z"})"
               "\n";
    behind += line + '\n';
    const std::size_t max_line = random() % 4 == 0 ? random() % 256 : 4096;
    if (const std::string problem = disagreement_on_pair(decoder, line, behind, max_line, pairs); !problem.empty()) {
      INFO(line << '\n' << behind);
      FAIL_CHECK(problem);
    }
  }
  CHECK(pairs > 10'000);
  std::string_view behind = "{}\n";
  CHECK(decoder.decode("{}").has_value() == false);
  CHECK(decoder.decode_end(behind, 4096) == nullptr);  // after an error
}

TEST_CASE("what the original and our tracers write goes the plain way") {
  EventDecoder decoder;
  for (const std::string& line : {start, end}) {
    const EventView* const event = decoder.decode_plain(line);
    REQUIRE(event != nullptr);
    CHECK(event_of(*event) == *parse_event(line));
  }
  Event event = Event::span_start("0123456789abcdef", "fedcba9876543210", "", "caf\xc3\xa9", SpanKind::sql, Timestamp{});
  CHECK(decoder.decode_plain(to_json(event)) != nullptr);
  event = Event::span_end("any id", "of any form", Timestamp{std::chrono::nanoseconds{-1}}, {{"key", "value"}});
  CHECK(decoder.decode_plain(to_json(event)) != nullptr);
}

TEST_CASE("with simdjson, lines in another order, with spaces, escapes and numbers need no more than it") {
  if (!SimdReader::available) return;
  EventDecoder decoder;
  for (const std::string& line :
       {with(R"("name":"\u003ca\u003e","unknown":[1.5,{}])"), with(R"( "attrs" : { "n": 12, "t": true, "none": null } )"),
        with(R"("attrs":{"k":"1","k":"2"},"name":null)")}) {
    INFO(line);
    CHECK(decoder.decode_plain(line) == nullptr);
    const EventView* const event = decoder.decode_simdjson(line);
    REQUIRE(event != nullptr);
    CHECK(event_of(*event) == *parse_event(line));
  }
}

TEST_CASE("simdjson is not asked what half a surrogate pair is") {
  EventDecoder decoder;
  for (const char* name : {R"("\ud83d")", R"("\uDE00")", R"("\ud83d\ude00")"})
    CHECK(decoder.decode_simdjson(with("\"name\":" + std::string(name))) == nullptr);
}
