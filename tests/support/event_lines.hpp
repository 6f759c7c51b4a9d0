#pragma once
// Lines that are events, nearly events, or nothing like it: what every path that decodes them has to agree on; and whether they do.

#include <algorithm>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "trace/decode.hpp"
#include "trace/event_decoder.hpp"

namespace weir::testing {

inline Event event_of(const detail::EventView& view) {
  Event event{view.type,
              std::string(view.span_id),
              std::string(view.trace_id),
              std::string(view.parent_id),
              std::string(view.name),
              view.kind,
              view.time,
              {}};
  for (const auto& [key, value] : view.attributes) event.attrs.emplace(key, value);
  return event;
}

/// What is wrong with what `decoder` makes of a line, measured by decode_event(); empty: nothing.
inline std::string disagreement(detail::EventDecoder& decoder, std::string_view line) {
  bool repaired = false;
  const Result<Event> expected = detail::decode_event(line, repaired);
  const auto differs = [&](const detail::EventView& view) {
    return !expected || event_of(view) != *expected || event_of(view).attrs.size() != view.attributes.size() ||
           decoder.repaired() != repaired;
  };
  if (const detail::EventView* const view = decoder.decode_plain(line); view != nullptr && differs(*view)) return "plain";
  if (const detail::EventView* const view = decoder.decode_simdjson(line); view != nullptr && differs(*view)) return "simdjson";
  for (const bool all : {false, true}) {
    const Result<const detail::EventView*> view = all ? decoder.decode(line) : decoder.decode_whole(line);
    const char* const name = all ? "all paths" : "whole";
    if (view.has_value() != expected.has_value()) return std::string(name) + ": accepts or refuses";
    if (view && differs(**view)) return name;
    if (!view && (view.error().code != expected.error().code || view.error().message != expected.error().message)) {
      return std::string(name) + ": " + view.error().message + " for " + expected.error().message;
    }
    if (!view && decoder.repaired() != repaired) return std::string(name) + ": repaired";
  }
  return {};
}

/// The same of the line at the front of a stream, which may be taken at once.
inline std::string disagreement_on_next(detail::EventDecoder& decoder, const std::string& data, std::size_t max_line) {
  const std::size_t newline = data.find('\n');
  const std::string line = data.substr(0, newline);
  const bool whole = newline != std::string::npos && line.size() <= max_line;
  const bool plain = decoder.decode_plain(line) != nullptr;
  std::string_view left = data;
  const detail::EventView* const event = decoder.decode_next(left, max_line);
  if ((event != nullptr) != (whole && plain)) return "takes or leaves the next line";
  if (event != nullptr) {
    if (left.size() != data.size() - newline - 1) return "not one line was taken";
    const Result<Event> expected = parse_event(line);
    return expected && event_of(*event) == *expected && !decoder.repaired() ? "" : "the next event";
  }
  if (left.size() != data.size()) return "something was taken";
  bool repaired = false;
  const std::string_view in_place = std::string_view(data).substr(0, line.size());
  const Result<Event> expected = detail::decode_event(in_place, repaired);
  const Result<const detail::EventView*> later = decoder.decode(in_place);
  if (later.has_value() != expected.has_value() || (later && event_of(**later) != *expected)) return "a line that was left";
  return {};
}

/// The same of a start and what came behind it. `pairs` counts those that were taken at once.
inline std::string disagreement_on_pair(detail::EventDecoder& decoder, std::string_view line, const std::string& behind,
                                        std::size_t max_line, std::size_t& pairs) {
  const Result<const detail::EventView*> start = decoder.decode(line);
  if (!start) return {};
  const Event before = event_of(**start);
  std::string_view left = behind;
  const detail::EventView* const end = decoder.decode_end(left, max_line);
  if (event_of(**start) != before) return "the start changed";
  if (end == nullptr) return left.size() == behind.size() ? "" : "something was taken";
  ++pairs;
  const std::string_view taken = std::string_view(behind).substr(0, behind.size() - left.size());
  if (taken.find('\n') != taken.size() - 1 || taken.size() - 1 > max_line) return "not one line was taken";
  const Result<Event> expected = parse_event(taken.substr(0, taken.size() - 1));
  if (!expected || event_of(*end) != *expected) return "the end";
  if (before.type != EventType::span_start || expected->type != EventType::span_end || expected->span_id != before.span_id ||
      expected->trace_id != before.trace_id)
    return "not a start and its end";
  return {};
}

/// An event's fields, each in forms right and wrong, in an order of its own.
inline std::string random_event_line(std::mt19937_64& random) {
  const auto below = [&](std::size_t end) { return static_cast<std::size_t>(random() % end); };
  const auto one_of = [&](const auto& choices) { return std::string(choices[below(std::size(choices))]); };
  static constexpr std::string_view texts[] = {R"("")",
                                               R"("0123456789abcdef")",
                                               R"("0123456789abcdef0123456789abcdef")",
                                               R"("GET /orders")",
                                               R"("caf)"
                                               "\xc3\xa9"
                                               R"(")",
                                               R"("a\nb\"\\\/\b\f\r\t")",
                                               R"("\u003cb\u003e")",
                                               R"("\ud83d\ude00")",
                                               R"("\ud83d")",
                                               R"("\udc00x")",
                                               R"("\\ud800")",
                                               R"("nul\u0000nul")",
                                               "\"\x01\"",
                                               "\"\x7f\"",
                                               "\"\xff\"",
                                               "\"\xe2\x82\"",
                                               "\"\xed\xa0\x80\"",
                                               "\"\xf4\x90\x80\x80\"",
                                               "\"an\0other\""};
  static constexpr std::string_view others[] = {"0",
                                                "1",
                                                "2",
                                                "-0",
                                                "-1",
                                                "01",
                                                "1.0",
                                                "1e2",
                                                "1E400",
                                                "2147483647",
                                                "2147483648",
                                                "-2147483648",
                                                "-2147483649",
                                                "9223372036854775808",
                                                "18446744073709551615",
                                                "18446744073709551616",
                                                "null",
                                                "true",
                                                "false",
                                                "nul",
                                                "[]",
                                                "{}",
                                                "[1, 2.50 ,\"x\"]",
                                                R"({"a":{"b":[{}]},"a":1})",
                                                "[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]",
                                                "[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]",
                                                "[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]"};
  static constexpr std::string_view times[] = {
      "2026-01-01T00:00:00Z",           "2026-01-01T00:00:00.5Z",    "2026-01-01T00:00:00.123456789Z", "2026-01-01T00:00:00.1234567891Z",
      "2026-01-01T02:00:00.25+02:00",   "2026-01-01T02:00:00-02:30", "2026-01-01T00:00:00.Z",          "2026-01-01T00:00:00",
      "2026-01-01t00:00:00z",           "2026-02-29T00:00:00Z",      "1677-09-21T00:12:43.145224192Z", "2262-04-11T23:47:16.854775807Z",
      "2262-04-11T23:47:16.854775808Z", "1969-12-31T23:59:59.5Z",    "1677-09-21T00:12:43Z",           ""};
  const auto value = [&] { return below(3) == 0 ? one_of(others) : one_of(texts); };
  const auto time = [&] { return below(12) == 0 ? value() : '"' + one_of(times) + '"'; };
  const bool usual = below(2) == 0;  // mostly as tracers write it
  const auto rare = [&] { return !usual || below(8) == 0; };
  std::vector<std::string> fields;
  const auto add = [&](std::string_view key, std::string text) {
    if (rare() && below(12) == 0) return;
    fields.push_back('"' + std::string(key) + "\":" + std::move(text));
  };
  add("type", rare() ? one_of(others) : std::to_string(below(2)));
  add("span_id", rare() ? value() : std::string(texts[1]));
  add("trace_id", rare() ? value() : std::string(texts[2]));
  if (below(2) == 0) add("parent_id", rare() ? value() : std::string(texts[1]));
  add("name", rare() ? value() : one_of(texts));
  add("kind", rare() ? one_of(others) : std::to_string(below(100)));
  add("time", time());
  if (below(2) == 0) {
    std::string attrs = "{";
    for (std::size_t count = below(below(8) == 0 ? 40 : 5); count > 0; --count) {
      if (attrs.size() > 1) attrs += ',';
      attrs += (below(4) == 0 ? one_of(texts) : "\"k" + std::to_string(below(30)) + '"') + ':' + (rare() ? value() : one_of(texts));
    }
    add("attrs", rare() && below(6) == 0 ? value() : attrs + "}");
  }
  if (rare()) {
    if (below(3) == 0) add("unknown", value());
    if (below(3) == 0 && !fields.empty()) fields.push_back(fields[below(fields.size())]);
    if (below(2) == 0) std::shuffle(fields.begin(), fields.end(), random);
  }
  const std::string_view space = rare() && below(4) == 0 ? " " : "";
  std::string line(space);
  line += '{';
  for (const std::string& field : fields) {
    if (&field != &fields.front()) line += ',';
    line.append(space).append(field);
  }
  line += '}';
  if (below(20) == 0) line += one_of(std::vector<std::string>{" ", "\r", "x", "}", std::string("\0", 1), std::string("\0x", 2), "{}", ","});
  return line;
}

}  // namespace weir::testing
