#include "trace/span_lines.hpp"

#include <charconv>
#include <cstring>
#include <random>
#include <vector>

#include "support/catch.hpp"
#include "weir/core/ids.hpp"
#include "weir/core/text.hpp"
#include "weir/trace/detail/name_table.hpp"
#include "weir/trace/event.hpp"

using namespace weir::detail;
using weir::AttributeValue;

namespace {

std::uint32_t id_of(std::string_view name) { return name_table().intern(name); }

/// What is written into a ring when a span ends.
class Record {
 public:
  explicit Record(SpanRecord fields) : fields_(fields) {}

  Record& add(std::uint32_t key, AttributeValue::Type type, std::string_view value) {
    const std::uint64_t word = attribute_word(key, static_cast<std::uint64_t>(type), value.size());
    attributes_.append(reinterpret_cast<const char*>(&word), sizeof word);
    attributes_ += value;
    attributes_.append(padded(value.size()) - value.size(), '\0');
    ++count_;
    return *this;
  }
  Record& add(std::uint32_t key, AttributeValue::Type type, std::uint64_t value) {
    return add(key, type, std::string_view(reinterpret_cast<const char*>(&value), sizeof value));
  }
  /// Valid until the next call.
  RecordView view() {
    fields_.header = record_header(0, RecordType::span, count_, fields_.name);
    const auto fields = std::as_bytes(std::span(&fields_, 1)), attributes = std::as_bytes(std::span(attributes_));
    bytes_.assign(fields.begin(), fields.end());
    bytes_.insert(bytes_.end(), attributes.begin(), attributes.end());
    bytes_.shrink_to_fit();  // exactly as long, for AddressSanitizer
    return RecordView(bytes_.data());
  }

 private:
  SpanRecord fields_;
  std::string attributes_;
  unsigned count_ = 0;
  std::vector<std::byte> bytes_;
};

// The model: what the lines are, one character after the other.

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length(text.substr(i));
    const std::string_view character = text.substr(i, length == 0 ? 1 : length);
    const auto byte = static_cast<unsigned char>(character[0]);
    i += character.size();
    constexpr std::string_view named = "\"\\\n\r\t\b\f", names = "\"\\nrtbf";
    if (length == 0) {
      out += "\\ufffd";
    } else if (const std::size_t name = named.find(character[0]); name != named.npos) {
      out += std::string("\\") + names[name];
    } else if (byte < 0x20 || character == "<" || character == ">" || character == "&") {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", byte);
      out += escape;
    } else if (character == "\u2028" || character == "\u2029") {
      out += character == "\u2028" ? "\\u2028" : "\\u2029";
    } else {
      out += character;
    }
  }
  return out + '"';
}

std::string time_of(const TickScale& scale, std::uint64_t ticks) {
  SecondCache cache;
  char text[max_time_size];
  return {text, write_time(text, scale.to_time(ticks), cache)};
}

std::string start_line(const SpanRecord& span, const TickScale& scale) {
  std::string line = R"({"type":0,"span_id":")" + weir::SpanId{span.span}.hex() + R"(","trace_id":")" +
                     weir::TraceId{span.trace_high, span.trace_low}.hex() + '"';
  if (span.parent != 0) line += R"(,"parent_id":")" + weir::SpanId{span.parent}.hex() + '"';
  return line + R"(,"name":)" + quoted(name_table().text(span.name)) + R"(,"kind":)" + std::to_string(span.kind) + R"(,"time":")" +
         time_of(scale, span.start) + "\"}\n";
}

std::string end_line(const RecordView& record, const TickScale& scale) {
  const SpanRecord& span = record.fields();
  std::string line = R"({"type":1,"span_id":")" + weir::SpanId{span.span}.hex() + R"(","trace_id":")" +
                     weir::TraceId{span.trace_high, span.trace_low}.hex() + R"(","name":"","kind":0,"time":")" + time_of(scale, span.end) +
                     '"';
  RecordView::Attributes attributes;
  record.attributes(attributes);
  for (const RecordAttribute& attribute : attributes) {
    std::string value;
    append_value(value, attribute);
    line += (&attribute == attributes.begin() ? R"(,"attrs":{)" : ",") + quoted(name_table().text(attribute.key)) + ':' + quoted(value);
  }
  return line + (attributes.count != 0 ? "}}\n" : "}\n");
}

std::string random_text(std::mt19937_64& random, std::size_t size) {
  constexpr std::string_view pieces[] = {
      "\"",     "\\",     "<",          ">",    "&",        "\n",       "\x01", "\x1f",   "\x7f",         "\u00e9",   "\u2028",
      "\u2029", "\u2027", "\U0001f600", "\xff", "\xe2\x80", "\xc0\xaf", "\x80", "\ufffd", "\xed\xa0\x80", "\xf0\x9f", {"\0", 1}};
  const std::uint64_t kind = random() % 4;  // plain, one piece, a few, many
  std::string text;
  while (text.size() < size) {
    if ((kind == 2 && random() % 16 == 0) || (kind == 3 && random() % 2 == 0)) {
      text += pieces[random() % std::size(pieces)];
    } else if (kind == 3 && random() % 8 == 0) {
      text += static_cast<char>(random());
    } else {
      text += static_cast<char>(' ' + random() % 95);
    }
  }
  text.resize(size);
  if (kind == 1 && size != 0) text.insert(random() % (size + 1), pieces[random() % std::size(pieces)]);
  return text;
}

std::size_t random_size(std::mt19937_64& random) {
  const std::uint64_t kind = random() % 100;
  return kind < 90 ? random() % 65 : kind < 99 ? random() % 600 : random() % 20'000;
}

constexpr TickScale nanos{};  // ticks are nanoseconds since 1970

}  // namespace

TEST_CASE("the lines of a span are what they are one character after the other, whatever it is made of") {
  std::mt19937_64 random(1);
  std::vector<std::uint32_t> names;
  for (int i = 0; i < 500; ++i) names.push_back(id_of(random_text(random, random_size(random) % 1000)));
  names.push_back(NameTable::overflow);
  const auto name = [&] { return names[random() % names.size()]; };
  const TickScale scales[] = {nanos, {1'000'000'000, 1'800'000'000'000'000'000, 0.37}};
  SpanLines lines;
  TextBuffer out;
  for (int round = 0; round < 6'000; ++round) {
    const TickScale& scale = scales[random() % 2];
    const auto ticks = [&] { return random() % 4 == 0 ? random() : 1'800'000'000'000'000'000 + random() % 3'000'000'000; };
    const std::uint64_t parent = random() % 2 == 0 ? 0 : random();
    const auto kind = static_cast<std::int32_t>(random() % 2 == 0 ? random() % 6 : random());
    const SpanRecord fields{0, ticks(), ticks(), random() >> random() % 64, random() >> random() % 64, random(), parent, name(), kind};
    Record record(fields);
    for (std::uint64_t count = random() % 8 == 0 ? random() % 255 : random() % 6; count > 0; --count) {
      switch (random() % 6) {
        case 0: record.add(name(), AttributeValue::Type::integer, random() >> random() % 64); break;
        case 1: record.add(name(), AttributeValue::Type::real, random()); break;
        case 2: record.add(name(), AttributeValue::Type::boolean, random() % 2); break;
        default: record.add(name(), AttributeValue::Type::string, random_text(random, random_size(random)));
      }
    }
    const RecordView view = record.view();
    const bool start_is_out = random() % 4 == 0;
    const std::string before(out.view()), end = end_line(view, scale);
    const std::string expected = before + (start_is_out ? "" : start_line(view.fields(), scale)) + end;
    REQUIRE(lines.append(out, view, scale, start_is_out) == end.size());
    if (out.view() != expected) REQUIRE(out.view() == expected);  // Catch would make a text of each
    if (out.size() > 20'000) out.clear();
    if (random() % 1000 == 0) out.release();
  }
}

TEST_CASE("the line of a start is the same alone and before the end") {
  const SpanRecord fields{0, 20, 10, 1, 2, 3, 4, id_of("GET /<id>"), 2};
  SpanLines lines;
  TextBuffer alone, both;
  lines.append_start(alone, fields, nanos);
  lines.append(both, Record(fields).view(), nanos, false);
  CHECK(alone.view() ==
        R"({"type":0,"span_id":"0000000000000001","trace_id":"00000000000000020000000000000003","parent_id":"0000000000000004",)"
        R"("name":"GET /\u003cid\u003e","kind":2,"time":"1970-01-01T00:00:00.00000001Z"})"
        "\n");
  CHECK(both.view() == std::string(alone.view()) +
                           R"({"type":1,"span_id":"0000000000000001","trace_id":"00000000000000020000000000000003","name":"","kind":0,)"
                           R"("time":"1970-01-01T00:00:00.00000002Z"})"
                           "\n");
}

TEST_CASE("an event's JSON is the line of a span with its attributes in their order") {
  Record record({0, 1'500'000'000, 0, 0xfedcba9876543210, 0x0123456789abcdef, 7, 0, id_of("name"), 0});
  record.add(id_of("a"), AttributeValue::Type::string, std::string_view("\"\xff")).add(id_of("b"), AttributeValue::Type::boolean, 1);
  record.add(id_of("c"), AttributeValue::Type::real, 0x3fb999999999999a)
      .add(id_of("a"), AttributeValue::Type::string, std::string_view("<"));
  SpanLines lines;
  TextBuffer out;
  lines.append(out, record.view(), nanos, true);
  const weir::Timestamp end{std::chrono::nanoseconds{1'500'000'000}};
  CHECK(out.view() == to_json(weir::Event::span_end("fedcba9876543210", "0123456789abcdef0000000000000007", end,
                                                    {{"a", "<"}, {"b", "true"}, {"c", "0.1"}})) +
                          "\n");
}

TEST_CASE("names that need escapes stay right when there are more than are kept") {
  constexpr std::size_t count = JsonNames::max_made_bytes / (6 * NameTable::max_name_bytes) + 50;
  std::vector<std::uint32_t> ids;
  for (std::size_t i = 0; i < count; ++i) ids.push_back(id_of(std::to_string(i) + std::string(NameTable::max_name_bytes, '\x01')));
  JsonNames names;
  CHECK(names.text(0xffffffff).empty());
  for (int round = 0; round < 3; ++round) {
    bool good = true;
    for (const std::uint32_t id : ids) good = good && '"' + std::string(names.text(id)) + '"' == quoted(name_table().text(id));
    CHECK(good);
  }
}
