// Lines as expected, and as Go's own log/slog (slog/main.go) writes them.
#include "activity/slog.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/process.hpp"
#include "support/scratch_dir.hpp"

using namespace weir;
using namespace std::string_literals;
using detail::LineBuffer;
using detail::SecondCache;
using detail::SlogFormat;
using detail::SlogLine;

namespace {

struct Field {
  enum Kind : char { string = 's', integer = 'i', real = 'f', boolean = 'b', duration = 'd', json = 'j' };

  Kind kind;
  std::string key, text{};
  std::int64_t number = 0;
  double value = 0;
};
Field string(std::string key, std::string text) { return {Field::string, std::move(key), std::move(text)}; }
Field integer(std::string key, std::int64_t number) { return {Field::integer, std::move(key), {}, number}; }
Field real(std::string key, double value) { return {Field::real, std::move(key), {}, 0, value}; }
Field boolean(std::string key, bool truth) { return {Field::boolean, std::move(key), {}, truth}; }
Field duration(std::string key, std::int64_t nanos) { return {Field::duration, std::move(key), {}, nanos}; }
Field json(std::string key, std::string text) { return {Field::json, std::move(key), std::move(text)}; }

struct Record {
  std::int64_t time = 0;
  Logger::Level level = Logger::Level::info;
  std::string message = "m";
  std::vector<Field> fields{};
};

void write(SlogLine& line, const Field& field) {
  switch (field.kind) {
    case Field::string: return line.string(field.key, field.text);
    case Field::integer: return line.integer(field.key, field.number);
    case Field::real: return line.real(field.key, field.value);
    case Field::boolean: return line.boolean(field.key, field.number != 0);
    case Field::duration: return line.duration(field.key, std::chrono::nanoseconds{field.number});
    case Field::json: return line.json(field.key, field.text);
  }
}

/// Without the newline, which is checked.
std::string written(const Record& record, SlogFormat format) {
  static SecondCache cache;
  LineBuffer buffer;
  SlogLine line(buffer, format);
  line.begin(cache, Timestamp{std::chrono::nanoseconds{record.time}}, record.level, record.message);
  for (const Field& field : record.fields) write(line, field);
  line.end();
  REQUIRE_FALSE(buffer.failed());
  REQUIRE(buffer.view().find('\n') == buffer.size() - 1);
  return std::string(buffer.view().substr(0, buffer.size() - 1));
}

std::string hex(const std::string& text) {
  std::string out = "x";
  for (const char c : text) {
    out += "0123456789abcdef"[static_cast<unsigned char>(c) >> 4];
    out += "0123456789abcdef"[c & 15];
  }
  return out;
}

/// As slog/main.go reads it.
std::string described(const Record& record) {
  const int levels[] = {-4, 0, 4, 8};
  std::string out =
      std::to_string(record.time) + ' ' + std::to_string(levels[static_cast<std::size_t>(record.level)]) + ' ' + hex(record.message);
  for (const Field& field : record.fields) {
    out.append(" ").append(1, field.kind).append(" ").append(hex(field.key)).append(" ");
    switch (field.kind) {
      case Field::string:
      case Field::json: out += hex(field.text); break;
      case Field::real: out += std::to_string(std::bit_cast<std::uint64_t>(field.value)); break;
      default: out += std::to_string(field.number);
    }
  }
  return out + '\n';
}

struct Golden {
  Field field;
  std::string text, json;  // key and value
};

const std::vector<Golden>& golden() {
  constexpr double inf = std::numeric_limits<double>::infinity();
  constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min(), most = std::numeric_limits<std::int64_t>::max();
  static const std::vector<Golden> all{
      {string("k", "plain"), "k=plain", R"("k":"plain")"},
      {string("k", ""), R"(k="")", R"("k":"")"},
      {string("k", "two words"), R"(k="two words")", R"("k":"two words")"},
      {string("k", "a=b"), R"(k="a=b")", R"("k":"a=b")"},
      {string("k", R"(say "hi")"), R"(k="say \"hi\"")", R"("k":"say \"hi\"")"},
      {string("k", R"(C:\dir)"), R"(k=C:\dir)", R"("k":"C:\\dir")"},
      {string("k", R"(C:\a dir)"), R"(k="C:\\a dir")", R"("k":"C:\\a dir")"},
      {string("k", "<a&b>"), "k=<a&b>", R"("k":"<a&b>")"},
      {string("k", "one\ntwo level=ERROR"), R"(k="one\ntwo level=ERROR")", R"("k":"one\ntwo level=ERROR")"},
      {string("k", "\a\b\f\n\r\t\v\x1b\x1f"), R"(k="\a\b\f\n\r\t\v\x1b\x1f")", R"("k":"\u0007\u0008\u000c\n\r\t\u000b\u001b\u001f")"},
      {string("k", "a\0b"s), R"(k="a\x00b")", R"("k":"a\u0000b")"},
      {string("k", "\x7f"), "k=\x7f", "\"k\":\"\x7f\""},
      {string("k", "\x7f "), R"(k="\x7f ")", "\"k\":\"\x7f \""},
      {string("k", "größe\U0001f600日本"), "k=größe\U0001f600日本", "\"k\":\"größe\U0001f600日本\""},
      {string("k", "größe größe"), R"(k="größe größe")", R"("k":"größe größe")"},
      {string("k", "\xff|\xe2\x82|\xed\xa0\x80"), R"(k="\xff|\xe2\x82|\xed\xa0\x80")", R"("k":"\ufffd|\ufffd\ufffd|\ufffd\ufffd\ufffd")"},
      {string("k", "\ufffd"), "k=\"\ufffd\"", "\"k\":\"\ufffd\""},
      {string("k", "\u2028\u2029"), R"(k="\u2028\u2029")", R"("k":"\u2028\u2029")"},
      {string("k", "\xc2\x85\xc2\xa0\u202e\ufeff"), R"(k="\u0085\u00a0\u202e\ufeff")", "\"k\":\"\xc2\x85\xc2\xa0\u202e\ufeff\""},
      {string("k", "\U000e0001"), R"(k="\U000e0001")", "\"k\":\"\U000e0001\""},
      {string("", "v"), R"(""=v)", R"("":"v")"},
      {string("a key", "v"), R"("a key"=v)", R"("a key":"v")"},
      {string("a\n\"=k", "v"), R"("a\n\"=k"=v)", R"("a\n\"=k":"v")"},
      {string("größe", "v"), "größe=v", R"("größe":"v")"},
      {integer("k", 0), "k=0", R"("k":0)"},
      {integer("k", least), "k=-9223372036854775808", R"("k":-9223372036854775808)"},
      {integer("k", most), "k=9223372036854775807", R"("k":9223372036854775807)"},
      {boolean("k", true), "k=true", R"("k":true)"},
      {boolean("k", false), "k=false", R"("k":false)"},
      {real("k", 0.0), "k=0", R"("k":0)"},
      {real("k", -0.0), "k=-0", R"("k":-0)"},
      {real("k", 1.5), "k=1.5", R"("k":1.5)"},
      {real("k", -100), "k=-100", R"("k":-100)"},
      {real("k", 999'999.5), "k=999999.5", R"("k":999999.5)"},
      {real("k", 1e6), "k=1e+06", R"("k":1000000)"},
      {real("k", -1'234'567), "k=-1.234567e+06", R"("k":-1234567)"},
      {real("k", 1e20), "k=1e+20", R"("k":100000000000000000000)"},
      {real("k", 1e21), "k=1e+21", R"("k":1e+21)"},
      {real("k", 0.0001), "k=0.0001", R"("k":0.0001)"},
      {real("k", 0.00001), "k=1e-05", R"("k":0.00001)"},
      {real("k", 0.000001), "k=1e-06", R"("k":0.000001)"},
      {real("k", 0.0000001), "k=1e-07", R"("k":1e-7)"},
      {real("k", -1.25e-10), "k=-1.25e-10", R"("k":-1.25e-10)"},
      {real("k", 5e-324), "k=5e-324", R"("k":5e-324)"},
      {real("k", 1.7976931348623157e308), "k=1.7976931348623157e+308", R"("k":1.7976931348623157e+308)"},
      {real("k", std::nan("")), "k=NaN", R"("k":"!ERROR:json: unsupported value: NaN")"},
      {real("k", inf), "k=+Inf", R"("k":"!ERROR:json: unsupported value: +Inf")"},
      {real("k", -inf), "k=-Inf", R"("k":"!ERROR:json: unsupported value: -Inf")"},
      {duration("k", 0), "k=0s", R"("k":0)"},
      {duration("k", 999), "k=999ns", R"("k":999)"},
      {duration("k", -1'500), "k=-1.5\u00b5s", R"("k":-1500)"},
      {duration("k", 1'234'567), "k=1.234567ms", R"("k":1234567)"},
      {duration("k", 1'000'000'000), "k=1s", R"("k":1000000000)"},
      {duration("k", 59'999'999'999), "k=59.999999999s", R"("k":59999999999)"},
      {duration("k", 60'000'000'000), "k=1m0s", R"("k":60000000000)"},
      {duration("k", 3'723'500'000'000), "k=1h2m3.5s", R"("k":3723500000000)"},
      {duration("k", most), "k=2562047h47m16.854775807s", R"("k":9223372036854775807)"},
      {duration("k", least), "k=-2562047h47m16.854775808s", R"("k":-9223372036854775808)"},
      {json("k", R"({"a":[1,"é\n"]})"), R"(k="{\"a\":[1,\"é\\n\"]}")", R"("k":{"a":[1,"é\n"]})"},
      {json("k", "12"), R"(k="12")", R"("k":12)"},
  };
  return all;
}

/// Whether `go` can build slog/main.go, into `program`. If not, a warning says why.
bool built(const std::string& program) {
#ifdef WEIR_GO
  const testing::Process::Environment offline{{"GOFLAGS", "-mod=mod"}, {"GOTOOLCHAIN", "local"}, {"GOPROXY", "off"}, {"GOWORK", "off"}};
  testing::Process has_slog({WEIR_GO, "list", "log/slog"}, offline);
  if (has_slog.wait() != 0) {
    WARN("skipped: " WEIR_GO " has no log/slog: " << has_slog.err());
    return false;
  }
  testing::Process build({WEIR_GO, "build", "-C", WEIR_SLOG_PROGRAM, "-o", program, "."}, offline);
  const int code = build.wait();
  INFO(build.err());
  REQUIRE(code == 0);
  return true;
#else
  (void)program;
  WARN("skipped: no go was found when this was configured");
  return false;
#endif
}

/// Random records of what is likely to be written wrong.
class RandomRecords {
 public:
  explicit RandomRecords(bool any_code_point) : any_code_point_(any_code_point) {}

  Record next() {
    Record record{time(), static_cast<Logger::Level>(below(4)), text(), {}};
    for (std::size_t n = below(8); n > 0; --n) record.fields.push_back(field());
    return record;
  }

 private:
  std::uint64_t below(std::uint64_t limit) { return random_() % limit; }
  std::int64_t number() { return static_cast<std::int64_t>(random_()) >> below(64); }
  std::int64_t time() {
    constexpr std::int64_t second = 1'000'000'000;
    switch (below(4)) {
      case 0: return static_cast<std::int64_t>(random_());
      case 1: return static_cast<std::int64_t>(random_()) / second * second;
      case 2: return static_cast<std::int64_t>(random_()) / 1'000'000 * 1'000'000 - static_cast<std::int64_t>(below(2));
      default: return 1'795'259'636 * second + static_cast<std::int64_t>(below(3 * second));
    }
  }
  Field field() {
    const std::string key = below(3) == 0 ? text() : "key";
    switch (below(8)) {
      case 0: return integer(key, number());
      case 1:
      case 2: return real(key, value());
      case 3: return below(4) == 0 ? boolean(key, below(2) == 0) : duration(key, number());
      case 4: {
        const char* const documents[] = {"null", "{}", R"({"a":{"b":[1,2.50,true,"\u0041\n <&>"]}})", "\"\u2028é\"", "[[],[],-0.0e1]"};
        return json(key, documents[below(std::size(documents))]);
      }
      default: return string(key, text());
    }
  }
  double value() {
    switch (below(5)) {
      case 0: return std::bit_cast<double>(random_());
      case 1: return static_cast<double>(number()) / std::pow(10.0, static_cast<double>(below(30)));
      case 2: return std::ldexp(1.0, static_cast<int>(below(2098)) - 1074);
      case 3: return static_cast<double>(number());
      default: {  // around a power of ten
        const double power = std::pow(10.0, static_cast<double>(below(40)) - 15);
        return below(3) == 0 ? power : std::nextafter(power, below(2) == 0 ? 0.0 : 1e300);
      }
    }
  }
  void append_code_point(std::string& out, std::uint32_t c) {  // surrogates, too
    const auto byte = [&](std::uint32_t bits) { out += static_cast<char>(bits); };
    if (c < 0x80) return byte(c);
    if (c < 0x800) return byte(0xc0 | c >> 6), byte(0x80 | (c & 63));
    if (c < 0x10000) return byte(0xe0 | c >> 12), byte(0x80 | (c >> 6 & 63)), byte(0x80 | (c & 63));
    byte(0xf0 | c >> 18), byte(0x80 | (c >> 12 & 63)), byte(0x80 | (c >> 6 & 63)), byte(0x80 | (c & 63));
  }
  void append_some(std::string& out) {
    const char* const special[] = {"\u2028",       "\u2029",       "\ufffd",   "\ufeff",
                                   "\u200b",       "\u202e",       "\xc2\x85", "\xc2\xa0",
                                   "\xc2\xad",     "\u3000",       "\x7f",     "\x1b[2J",
                                   "\\",           "\"",           "=",        "\n",
                                   "\t",           "<&>",          "e\u0301",  "\U0001f468\u200d\U0001f469",
                                   "\xed\xa0\x80", "\xed\xbf\xbf", "\xc0\x80", "\xf4\x90\x80\x80",
                                   "\xe2\x82",     "\xf0\x9f",     "\x80",     "\xff"};
    switch (below(12)) {
      case 0: out += special[below(std::size(special))]; break;
      case 1: out += static_cast<char>(below(256)); break;
      case 2: append_code_point(out, static_cast<std::uint32_t>(below(any_code_point_ ? 0x110000 : 0x370))); break;
      case 3: append_code_point(out, static_cast<std::uint32_t>(below(any_code_point_ ? 0x3000 : 0x250))); break;
      case 4: out += static_cast<char>(' ' + below(95)); break;
      default: out += static_cast<char>('a' + below(26));
    }
  }
  std::string text() {
    std::string out;
    const bool plain = below(3) == 0;  // up to its end, if it has another one
    const std::size_t size = below(200) == 0 ? 1'000 + below(3'000) : below(4) == 0 ? below(60) : below(12);
    while (out.size() < size) plain ? void(out += static_cast<char>('a' + below(26))) : append_some(out);
    if (plain && below(3) == 0) append_some(out);
    return out;
  }

  bool any_code_point_;
  std::mt19937_64 random_{20'261'121};
};

/// Compares what we write with what Go writes. Requires: `program` is slog/main.go.
class Comparison {
 public:
  Comparison(std::string program, const testing::ScratchDir& dir)
      : program_(std::move(program)), records_file_(dir / "records"), lines_file_(dir / "lines") {}

  /// Of Go's tables.
  std::string unicode_version() { return run({}).at(0); }

  void compare(const std::vector<Record>& records) {
    const std::vector<std::string> lines = run(records);
    REQUIRE(lines.size() == 1 + 2 * records.size());
    for (std::size_t i = 0; i < records.size(); ++i) {
      const std::string text = written(records[i], SlogFormat::text), json = written(records[i], SlogFormat::json);
      if (text == lines[1 + 2 * i] && json == lines[2 + 2 * i]) continue;
      CAPTURE(described(records[i]));
      REQUIRE(text == lines[1 + 2 * i]);
      REQUIRE(json == lines[2 + 2 * i]);
    }
  }

 private:
  std::vector<std::string> run(const std::vector<Record>& records) {
    std::ofstream out(records_file_);
    for (const Record& record : records) out << described(record);
    out.close();
    testing::Process go({program_, records_file_, lines_file_});
    const int code = go.wait();
    INFO(go.err());
    REQUIRE(code == 0);
    std::ifstream in(lines_file_);
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }

  std::string program_, records_file_, lines_file_;
};

}  // namespace

TEST_CASE("fields are written as slog's handlers write them") {
  for (const Golden& each : golden()) {
    const Record record{0, Logger::Level::info, "m", {each.field}};
    CHECK(written(record, SlogFormat::text) == "time=1970-01-01T00:00:00.000Z level=INFO msg=m " + each.text);
    CHECK(written(record, SlogFormat::json) == R"({"time":"1970-01-01T00:00:00Z","level":"INFO","msg":"m",)" + each.json + "}");
  }
}

TEST_CASE("a line begins with time, level and message") {
  constexpr std::int64_t time = 1'795'259'636'123'456'780;
  const auto text = [](Logger::Level level, const char* message) { return written({time, level, message}, SlogFormat::text); };
  const auto json = [](Logger::Level level, const char* message) { return written({time, level, message}, SlogFormat::json); };
  CHECK(text(Logger::Level::debug, "started") == "time=2026-11-21T11:13:56.123Z level=DEBUG msg=started");
  CHECK(text(Logger::Level::info, "a \"b\"\n") == R"(time=2026-11-21T11:13:56.123Z level=INFO msg="a \"b\"\n")");
  CHECK(text(Logger::Level::warning, "") == R"(time=2026-11-21T11:13:56.123Z level=WARN msg="")");
  CHECK(text(Logger::Level::error, "x") == "time=2026-11-21T11:13:56.123Z level=ERROR msg=x");
  CHECK(json(Logger::Level::debug, "a b") == R"({"time":"2026-11-21T11:13:56.12345678Z","level":"DEBUG","msg":"a b"})");
  CHECK(json(Logger::Level::warning, "\"") == R"({"time":"2026-11-21T11:13:56.12345678Z","level":"WARN","msg":"\""})");
  CHECK(written({-1, Logger::Level::error, "x"}, SlogFormat::text) == "time=1969-12-31T23:59:59.999Z level=ERROR msg=x");
}

TEST_CASE("fields of any number and type follow each other, and are what attributes say") {
  const Attribute attributes[] = {{"s", "a b"}, {"i", -7}, {"r", 0.5}, {"b", true}};
  SecondCache cache;
  for (const SlogFormat format : {SlogFormat::text, SlogFormat::json}) {
    LineBuffer buffer;
    SlogLine line(buffer, format);
    line.begin(cache, Timestamp{}, Logger::Level::info, "m");
    for (const Attribute& attribute : attributes) line.attribute(attribute);
    line.end();
    CHECK(std::string(buffer.view()) ==
          (format == SlogFormat::text
               ? "time=1970-01-01T00:00:00.000Z level=INFO msg=m s=\"a b\" i=-7 r=0.5 b=true\n"
               : "{\"time\":\"1970-01-01T00:00:00Z\",\"level\":\"INFO\",\"msg\":\"m\",\"s\":\"a b\",\"i\":-7,\"r\":0.5,\"b\":true}\n"));
  }
}

TEST_CASE("a buffer holds more lines, and longer ones, than it has room of its own") {
  SecondCache cache;
  LineBuffer buffer;
  std::string expected;
  for (std::size_t size = 1; size < 100'000; size *= 3) {
    const std::string value(size, 'x'), escaped = value + '"';
    SlogLine line(buffer, SlogFormat::text);
    line.begin(cache, Timestamp{}, Logger::Level::info, "m");
    line.string(value, value);
    line.string("k", escaped);
    line.end();
    expected += "time=1970-01-01T00:00:00.000Z level=INFO msg=m " + value + '=' + value + " k=\"" + value + "\\\"\"\n";
  }
  CHECK(buffer.size() == expected.size());
  CHECK((buffer.view() == expected));  // too long to be shown
  buffer.clear();
  CHECK(buffer.view().empty());
  buffer.append("a");
  buffer.append('b');
  CHECK(buffer.view() == "ab");
}

TEST_CASE("Go's slog writes the same lines") {
  const testing::ScratchDir dir;
  const std::string program = dir / "slog";
  if (!built(program)) return;
  Comparison comparison(program, dir);

  std::vector<Record> records;
  for (const Golden& each : golden()) records.push_back({0, Logger::Level::info, "m", {each.field}});
  comparison.compare(records);

  const bool same_unicode = comparison.unicode_version() == "15.0.0";
  if (!same_unicode) WARN("another Unicode than 15.0: characters above U+036F are not compared");
  if (same_unicode) {
    records.clear();
    for (char32_t first = 0x80; first < 0x110000; first += 64) {  // every character there is, and halves of some
      std::string text = "=";
      for (char32_t c = first; c < first + 64; ++c) {
        if (c >= 0x10000) text.append({static_cast<char>(0xf0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63))});
        if (c >= 0x800 && c < 0x10000) text += static_cast<char>(0xe0 | c >> 12);
        if (c >= 0x800) text += static_cast<char>(0x80 | (c >> 6 & 63));
        if (c < 0x800) text += static_cast<char>(0xc0 | c >> 6);
        text += static_cast<char>(0x80 | (c & 63));
      }
      records.push_back({0, Logger::Level::info, std::move(text)});
    }
    comparison.compare(records);
  }

  RandomRecords random(same_unicode);
  for (int round = 0; round < 4; ++round) {
    records.clear();
    for (int i = 0; i < 5'000; ++i) records.push_back(random.next());
    comparison.compare(records);
  }
}
