// What spans keep of their attributes.
#include <cstdint>
#include <iterator>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "support/catch.hpp"
#include "weir/trace/in_memory_sender.hpp"
#include "weir/trace/tracer.hpp"

using weir::InMemorySender;
using weir::ScopedSpan;
using weir::Span;
using weir::SpanKind;
using weir::Tracer;

TEST_CASE("attributes are typed, and rendered as text") {
  InMemorySender sink;
  Tracer tracer{sink};
  {
    ScopedSpan span = tracer.enter("x");
    span.set("string", std::string("temp") + "orary");
    span.set("literal", "text");
    span.set("empty", "");
    span.set("int", -42);
    span.set("max", std::numeric_limits<std::int64_t>::max());
    span.set("min", std::numeric_limits<std::int64_t>::min());
    span.set("unsigned", 7u);
    span.set("double", 0.1);
    span.set("whole", 3.0);
    span.set("yes", true);
    span.set("no", false);
    span.set(std::string("run") + "time", 1);
  }
  const Span span = sink.spans().at(0);
  const weir::StringAttributes expected{{"string", "temporary"},
                                        {"literal", "text"},
                                        {"empty", ""},
                                        {"int", "-42"},
                                        {"max", "9223372036854775807"},
                                        {"min", "-9223372036854775808"},
                                        {"unsigned", "7"},
                                        {"double", "0.1"},
                                        {"whole", "3"},
                                        {"yes", "true"},
                                        {"no", "false"},
                                        {"runtime", "1"}};
  CHECK(span.attrs == expected);
}

TEST_CASE("strings of every length keep their bytes") {
  InMemorySender sink;
  Tracer tracer{sink, {.max_attribute_bytes = 100'000}};
  std::string text;
  for (int i = 0; i < 600; ++i) text += static_cast<char>('a' + i % 26);
  for (std::size_t size = 0; size <= 600; ++size) {
    ScopedSpan span = tracer.enter("x");
    const std::string exact(text, 0, size);  // its end is the end of its memory, for the sanitizer
    span.set("a", exact);
    span.set("n", static_cast<int>(size));
    span.set("b", std::string_view(exact));
  }
  {
    ScopedSpan span = tracer.enter("large");
    span.set("large", std::string(50'000, 'x'));
    span.set("after", 1);
  }
  const auto spans = sink.spans();
  REQUIRE(spans.size() == 602);
  for (std::size_t size = 0; size <= 600; ++size) {
    CHECK(spans[size].attrs.at("a") == text.substr(0, size));
    CHECK(spans[size].attrs.at("b") == text.substr(0, size));
    CHECK(spans[size].attrs.at("n") == std::to_string(size));
  }
  CHECK(spans[601].attrs.at("large").size() == 50'000);
  CHECK(spans[601].attrs.at("after") == "1");
}

TEST_CASE("limits cut attributes, between characters, and count them") {
  InMemorySender sink;
  Tracer tracer{sink, {.max_attributes = 128, .max_attribute_bytes = 5}};
  {
    ScopedSpan span = tracer.enter("x");
    span.set("cut", "abcd\xc3\xa9");
    for (int i = 0; i < 200; ++i) span.set("key" + std::to_string(i), i);
    span.set("key5", "again");
  }
  const Span span = sink.spans().at(0);
  CHECK(span.attrs.size() == 128);
  CHECK(span.attrs.at("cut") == "abcd");
  CHECK(span.attrs.at("key126") == "126");
  CHECK(span.attrs.count("key127") == 0);
  CHECK(span.attrs.at("key5") == "again");
  CHECK(tracer.stats().truncated_attributes == 1 + 73);
}

TEST_CASE("whatever the limits, the last value of each key is kept, of as many keys as they allow") {
  std::mt19937_64 random(1);
  const auto below = [&](std::size_t limit) { return static_cast<std::size_t>(random() % limit); };
  static constexpr std::size_t counts[] = {0, 1, 3, 40, 55, 56, 57, 128, 255}, lengths[] = {0, 5, 300, 439, 440, 447, 448, 449, 600};
  static const std::vector<std::string> all_keys = [] {
    std::vector<std::string> keys;
    for (int i = 0; i < 300; ++i) keys.push_back("key" + std::to_string(i));
    return keys;
  }();
  for (int round = 0; round < 300; ++round) {
    const std::size_t most = counts[below(std::size(counts))], longest = lengths[below(std::size(lengths))];
    const std::size_t keys = 1 + below(below(2) == 0 ? 8 : all_keys.size()), kinds = 1 + below(4),
                      texts = 1 + below(below(2) == 0 ? 1 : 900);
    INFO(most << " of at most " << longest << " bytes, " << keys << " keys, texts below " << texts);
    InMemorySender sink;
    Tracer tracer{sink, {.max_attributes = most, .max_attribute_bytes = longest}};
    std::uint64_t truncated = 0;
    for (std::size_t spans = 1; spans <= 4; ++spans) {  // after the first, keys are at hand
      std::map<std::string, std::string> expected;
      const auto expect = [&](const std::string& key, const std::string& value) {
        const bool kept = expected.contains(key) || expected.size() < most;
        if (kept) {
          expected[key] = value;
        } else {
          ++truncated;
        }
        return kept;
      };
      {
        ScopedSpan span = tracer.enter("x");
        for (std::size_t i = 0, sets = 1 + below(400); i < sets; ++i) {
          const std::string& key = all_keys[below(keys)];
          const weir::Name name = below(8) == 0 ? weir::Name(key) : weir::Name::from_static(key);
          const std::string text(texts > 1 && below(4) == 0 ? longest + 1 - below(2) : below(texts), static_cast<char>('a' + i % 26));
          if (below(kinds) == 1) {
            span.set(name, i);
            expect(key, std::to_string(i));
          } else {
            span.set(name, text);
            if (expect(key, text.substr(0, longest)) && text.size() > longest) ++truncated;
          }
        }
      }
      const auto found = sink.spans();
      REQUIRE(found.size() == spans);
      REQUIRE(std::map<std::string, std::string>(found.back().attrs.begin(), found.back().attrs.end()) == expected);
      REQUIRE(tracer.stats().truncated_attributes == truncated);
    }
  }
}

TEST_CASE("the last value of a key counts, however often it is set") {
  InMemorySender sink;
  Tracer tracer{sink};
  {
    ScopedSpan span = tracer.enter("x");
    span.set("first", "kept");
    for (int i = 0; i < 10'000; ++i) span.set("progress", i);
    span.set("last", "kept too");
    span.set("progress", "done");
  }
  const Span span = sink.spans().at(0);
  CHECK(span.attrs == weir::StringAttributes{{"first", "kept"}, {"last", "kept too"}, {"progress", "done"}});
  CHECK(tracer.stats().truncated_attributes == 0);
}

TEST_CASE("where all bytes of a span are used, a value may still change, and one that does not fit leaves the old") {
  InMemorySender sink;
  Tracer tracer{sink, {.max_attribute_bytes = 1u << 20}};
  {
    ScopedSpan span = tracer.enter("x");
    for (int i = 0; i < 63; ++i) span.set("key" + std::to_string(i), std::string(4096, 'a'));
    span.set("key0", std::string(4100, 'b'));
    span.set("key1", std::string(8192, 'c'));
    span.set("new", std::string(4096, 'd'));
    span.set("short", "e");
  }
  const weir::StringAttributes attributes = sink.spans().at(0).attrs;
  CHECK(attributes.size() == 64);
  CHECK(attributes.at("key0") == std::string(4100, 'b'));
  CHECK(attributes.at("key1") == std::string(4096, 'a'));
  CHECK(attributes.count("new") == 0);
  CHECK(attributes.at("short") == "e");
  CHECK(tracer.stats().truncated_attributes == 2);
}

TEST_CASE("what gives way to a value that does not fit after all allows no more attributes than the limits") {
  InMemorySender sink;
  Tracer tracer{sink, {.max_attributes = 8, .max_attribute_bytes = 1u << 20}};
  for (int round = 0; round < 2; ++round) {  // in the second all keys are at hand
    ScopedSpan span = tracer.enter("x");
    span.set("body", std::string(240'000, 'a'));
    span.set("size", 1);
    span.set("body", "short");
    span.set("too long", std::string(262'100, 'b'));
    span.set("1", 1), span.set("2", 2), span.set("3", 3), span.set("4", 4), span.set("5", 5), span.set("6", 6), span.set("7", 7);
  }
  const weir::StringAttributes expected{{"body", "short"}, {"size", "1"}, {"1", "1"}, {"2", "2"},
                                        {"3", "3"},        {"4", "4"},    {"5", "5"}, {"6", "6"}};
  CHECK(sink.spans().at(0).attrs == expected);
  CHECK(sink.spans().at(1).attrs == expected);
  CHECK(tracer.stats().truncated_attributes == 4);
}

TEST_CASE("a key may be empty") {
  InMemorySender sink;
  Tracer tracer{sink};
  { tracer.enter("x").set(std::string_view(), "text"); }
  { tracer.enter("y").set("", 1); }
  CHECK(sink.spans().at(0).attrs == weir::StringAttributes{{"", "text"}});
  CHECK(sink.spans().at(1).attrs == weir::StringAttributes{{"", "1"}});
}

TEST_CASE("attributes given at the start are recorded as if set, and what changed in them counts") {
  InMemorySender sink;
  Tracer tracer{sink};
  {
    ScopedSpan span = tracer.enter("x", SpanKind::sql, {{"a", 1}, {"b", "text"}, {"c", true}});
    span.set("a", 2);
    const ScopedSpan child = tracer.enter(span.context(), "y", SpanKind::http, {{"d", 0.5}});
  }
  const auto spans = sink.spans();
  REQUIRE(spans.size() == 2);
  CHECK(spans[0].attrs == weir::StringAttributes{{"d", "0.5"}});
  CHECK(spans[1].kind == SpanKind::sql);
  CHECK(spans[1].attrs == weir::StringAttributes{{"a", "2"}, {"b", "text"}, {"c", "true"}});
}

TEST_CASE("fail marks a span") {
  InMemorySender sink;
  Tracer tracer{sink};
  {
    ScopedSpan span = tracer.enter("x");
    span.fail("timeout");
  }
  const Span span = sink.spans().at(0);
  CHECK(span.failed());
  CHECK(span.attrs.at("error.message") == "timeout");
}
