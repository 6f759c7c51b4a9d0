// A payload as JSON: whatever is in it, it parses, and says what went in.
#include "weir/telemetry/payload.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "support/catch.hpp"
#include "support/telemetry.hpp"

using namespace weir;
using namespace weir::testing;
using nlohmann::json;

namespace {

/// Text as a reader of JSON must find it: what is no UTF-8 replaced, byte by byte.
std::string repaired(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    std::size_t length = 1;
    while (length <= 4 && i + length <= text.size() && !json::accept("\"" + std::string(text.substr(i, length)) + "\"") &&
           static_cast<unsigned char>(text[i]) >= 0x80)
      ++length;
    const bool plain = static_cast<unsigned char>(text[i]) < 0x80;
    if (plain || (length <= 4 && i + length <= text.size())) {
      length = plain ? 1 : length;
      out += text.substr(i, length);
    } else {
      length = 1;
      out += "\xef\xbf\xbd";
    }
    i += length;
  }
  return out;
}

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  std::uint64_t below(std::uint64_t end) { return engine_() % end; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }
  std::uint64_t bits() { return engine_(); }

  std::string text() {
    static const std::vector<std::string> pieces = {"a",
                                                    "plain text",
                                                    "\"",
                                                    "\\",
                                                    "/",
                                                    "\n",
                                                    "\r\t\b\f",
                                                    std::string(1, '\0'),
                                                    "\x1f",
                                                    "\x7f",
                                                    "ä",
                                                    "€",
                                                    "\U0001F600",
                                                    "\xff",
                                                    "\xc3",
                                                    "\xe2\x82",
                                                    "\xf0\x9f",
                                                    "\xed\xa0\x80",
                                                    "\xc0\x80",
                                                    "\xe2\x80\xa8",
                                                    "\xe2\x80\xa9",
                                                    "<&>",
                                                    "\xef\xbb\xbf",
                                                    "\x80"};
    std::string made;
    for (std::uint64_t i = below(6); i > 0; --i) made += pieces[below(pieces.size())];
    if (one_in(5))
      for (std::uint64_t i = below(20); i > 0; --i) made += static_cast<char>(bits());
    return made;
  }
  std::int64_t integer() {
    switch (below(4)) {
      case 0: return INT64_MAX - static_cast<std::int64_t>(below(2));
      case 1: return INT64_MIN + static_cast<std::int64_t>(below(2));
      case 2: return static_cast<std::int64_t>(below(7)) - 3;
      default: return static_cast<std::int64_t>(bits());
    }
  }
  double real() {
    switch (below(6)) {
      case 0: return std::numeric_limits<double>::quiet_NaN();
      case 1: return one_in(2) ? std::numeric_limits<double>::infinity() : -std::numeric_limits<double>::infinity();
      case 2: return static_cast<double>(below(100)) / 8;
      case 3: return one_in(2) ? std::numeric_limits<double>::max() : std::numeric_limits<double>::denorm_min();
      default: return std::bit_cast<double>(bits());
    }
  }
  /// A document, and what it says: itself, or the text that it is if it is none.
  std::string document() {
    static const std::vector<std::string> documents = {
        "{}", "[]", "null", "true", "-0.5e3", "\"text\"", "{\"a\":[1,{\"b\":null}]}", "[1,\n 2,\r\n 3]", " \t\n{\"a\" : 1}\n",
        "{\"a\":1,\"a\":2}", "\"\\ud83d\\ude00\"", "18446744073709551615", "\xef\xbb\xbf{\"mark\":1}",
        // None of these is one.
        "", "{", "]", "{]", "[1,]", "{\"a\":}", "nul", "NaN", "Infinity", "01", "1e999", "'a'", "\"\n\"", "\"\\x\"", "\"\\ud800\"",
        "[1] [2]", "\"\xff\"", "\xff", "// c\n1", "{a:1}", "\xef\xbb\xbf", "\xef\xbb", "[\"a\nb\"]", "1}", "\",\"x\":1,\"y\":\""};
    return documents[below(documents.size())];
  }

 private:
  std::mt19937_64 engine_;
};

json expected_document(const std::string& text) { return json::accept(text) ? json::parse(text) : json(repaired(text)); }
json expected_real(double number) { return std::isfinite(number) ? json(number) : json(nullptr); }

struct Made {
  TelemetryValue value;
  json expected;
};
Made random_value(Random& random) {
  switch (random.below(5)) {
    case 0: {
      const std::string text = random.text();
      return {TelemetryValue(AttributeValue(text)), repaired(text)};
    }
    case 1: {
      const std::string text = random.document();
      return {TelemetryValue(Json{text}), expected_document(text)};
    }
    case 2: {
      const std::int64_t number = random.integer();
      return {TelemetryValue(AttributeValue(number)), number};
    }
    case 3: {
      const double number = random.real();
      return {TelemetryValue(AttributeValue(number)), expected_real(number)};
    }
    default: {
      const bool truth = random.one_in(2);
      return {TelemetryValue(AttributeValue(truth)), truth};
    }
  }
}

/// The same; a number may be written as an integer that is one.
bool same(const json& a, const json& b) {
  if (a.is_array() && b.is_array()) {
    if (a.size() != b.size()) return false;
    for (std::size_t i = 0; i < a.size(); ++i)
      if (!same(a[i], b[i])) return false;
    return true;
  }
  return a == b && (a.type() == b.type() || (a.is_number() && b.is_number()));
}

}  // namespace

TEST_CASE("an empty payload is one, too") {
  const Payload payload;
  CHECK(payload.empty());
  CHECK(payload.find("") == nullptr);
  CHECK(payload.as_int("") == 0);
  CHECK(json::parse(payload.to_json()) == json{{"instance_id", "00000000-0000-0000-0000-000000000000"},
                                               {"timestamp", "1970-01-01T00:00:00Z"},
                                               {"update_id", ""},
                                               {"data", json::object()}});
}

TEST_CASE("a payload is one line") {
  Payload payload;
  payload.items.push_back({"a\nb", TelemetryValue(Json{"{\n\"a\":\r\n1}\n"})});
  payload.items.push_back({"c", TelemetryValue(AttributeValue("x\r\ny"))});
  const std::string text = payload.to_json();
  CHECK(text.find_first_of("\r\n") == std::string::npos);
  CHECK(data(payload) == json{{"a\nb", {{"a", 1}}}, {"c", "x\r\ny"}});
}

TEST_CASE("containers that are empty are written as what they are") {
  Payload payload;
  payload.items.push_back({"set", TelemetrySet()});
  payload.items.push_back({"list", TelemetryList()});
  payload.items.push_back({"nested", TelemetryNested()});
  CHECK(data(payload) == json{{"set", json::array()}, {"list", json::array()}, {"nested", json::object()}});
}

TEST_CASE("an integer is found by its key, whoever counted it") {
  Payload payload;
  payload.items.push_back({"counter", TelemetryData(std::in_place_type<TelemetryCounter>, -7)});
  payload.items.push_back({"value", TelemetryValue(AttributeValue(INT64_MAX))});
  payload.items.push_back({"text", TelemetryValue(AttributeValue("7"))});
  payload.items.push_back({"document", TelemetryValue(Json{"7"})});
  payload.items.push_back({"real", TelemetryValue(AttributeValue(7.0))});
  payload.items.push_back({"truth", TelemetryValue(AttributeValue(true))});
  payload.items.push_back({"gauge", TelemetryData(std::in_place_type<TelemetryGauge>, 7)});
  payload.items.push_back({"list", TelemetryList(1, TelemetryValue(AttributeValue(7)))});
  payload.items.push_back({"histogram", TelemetryHistogram()});
  CHECK(payload.as_int("counter") == -7);
  CHECK(payload.as_int("value") == INT64_MAX);
  for (const char* key : {"text", "document", "real", "truth", "gauge", "list", "histogram", "missing", ""})
    CHECK(payload.as_int(key) == 0);
  CHECK(payload.find("counter") != nullptr);
  CHECK(payload.find("missing") == nullptr);
}

TEST_CASE("an unsigned integer beyond 63 bits is a number still") {
  Payload payload;
  payload.items.push_back({"large", TelemetryValue(AttributeValue(UINT64_MAX))});
  CHECK(data(payload).at("large") == static_cast<double>(UINT64_MAX));
}

TEST_CASE("a document that is none is a string, and nothing breaks out of it") {
  const std::string_view no_documents[] = {"", "{", "1}", "\",\"x\":1,\"y\":\"", "\"\xff\"", "[1,]", "1e999", "nul", "\xef\xbb\xbf"};
  for (const std::string_view text : no_documents) {
    Payload payload;
    payload.items.push_back({"document", TelemetryValue(Json{text})});
    const json taken = data(payload);
    CHECK(taken.size() == 1);
    CHECK(taken.at("document") == repaired(text));
  }
}

TEST_CASE("a document may begin with a byte order mark, which is not sent") {
  Payload payload;
  payload.items.push_back({"document", TelemetryValue(Json{"\xef\xbb\xbf{\"a\":1}"})});
  CHECK(data(payload) == json{{"document", {{"a", 1}}}});
}

TEST_CASE("a document may be as deep as it likes") {
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  Payload payload;
  payload.items.push_back({"deep", TelemetryValue(Json{deep})});
  CHECK(payload.to_json().find(deep) != std::string::npos);
}

TEST_CASE("whatever is in a payload, JSON says it") {
  for (std::uint64_t seed = 0; seed < 2'000; ++seed) {
    Random random(seed);
    Payload payload;
    payload.update_id = random.text();
    json expected = json::object();
    std::map<std::string, std::map<std::string, std::uint64_t>> sets;
    for (std::uint64_t items = random.below(12); items > 0; --items) {
      const std::string key = random.text() + std::to_string(items);
      if (expected.contains(repaired(key))) continue;
      json& wanted = expected[repaired(key)];
      Payload::Item item{key, TelemetryData(std::in_place_type<TelemetryCounter>, 0)};
      switch (random.below(6)) {
        case 0: {
          const std::int64_t number = random.integer();
          item.data.emplace<TelemetryCounter>(number);
          wanted = number;
          break;
        }
        case 1: {
          const double number = random.real();
          item.data.emplace<TelemetryGauge>(number);
          wanted = expected_real(number);
          break;
        }
        case 2: {
          Made made = random_value(random);
          item.data.emplace<TelemetryValue>(std::move(made.value));
          wanted = made.expected;
          break;
        }
        case 3: {
          TelemetryNested nested;
          wanted = json::object();
          for (std::uint64_t i = random.below(5); i > 0; --i) {
            const std::string subkey = random.text() + std::to_string(i);
            Made made = random_value(random);
            wanted[repaired(subkey)] = made.expected;
            nested.insert_or_assign(subkey, std::move(made.value));
          }
          item.data.emplace<TelemetryNested>(std::move(nested));
          break;
        }
        case 4: {
          TelemetryList list;
          wanted = json::array();
          for (std::uint64_t i = random.below(5); i > 0; --i) {
            Made made = random_value(random);
            wanted.push_back(made.expected);
            list.push_back(std::move(made.value));
          }
          item.data.emplace<TelemetryList>(std::move(list));
          break;
        }
        default: {
          TelemetrySet set;
          for (std::uint64_t i = random.below(5); i > 0; --i) {
            const std::int64_t number = random.integer();
            const std::uint64_t times = random.one_in(3) ? UINT64_MAX : random.below(5);
            if (set.emplace(TelemetryValue(AttributeValue(number)), times).second) sets[repaired(key)][json(number).dump()] = times;
          }
          wanted = "a set";
          if (set.empty()) sets[repaired(key)] = {};
          item.data.emplace<TelemetrySet>(std::move(set));
          break;
        }
      }
      payload.items.push_back(std::move(item));
    }
    const std::string text = payload.to_json();
    INFO("seed " << seed << ": " << text);
    REQUIRE(json::accept(text));
    REQUIRE(text.find('\n') == std::string::npos);
    const json parsed = json::parse(text);
    REQUIRE(parsed.at("update_id") == repaired(payload.update_id));
    const json& taken = parsed.at("data");
    REQUIRE(taken.size() == expected.size());
    for (const auto& [key, wanted] : expected.items()) {
      REQUIRE(taken.contains(key));
      if (sets.contains(key)) {
        REQUIRE(counts(taken.at(key)) == sets.at(key));
      } else if (wanted.is_object() && taken.at(key).is_object()) {
        REQUIRE(taken.at(key).size() == wanted.size());
        for (const auto& [subkey, value] : wanted.items()) REQUIRE(same(taken.at(key).at(subkey), value));
      } else {
        REQUIRE(same(taken.at(key), wanted));
      }
    }
  }
}
