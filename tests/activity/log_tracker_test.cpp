// Lines of activities: what they say, in both formats, written at once or by a thread.
#include "weir/activity/log_tracker.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "support/catch.hpp"
#include "support/log_lines.hpp"
#include "support/operations.hpp"
#include "weir/activity/tracker.hpp"
#include "weir/core/text.hpp"

using namespace weir;
using namespace weir::testing;
using namespace std::chrono_literals;
using namespace std::string_literals;
using nlohmann::json;

namespace {

const Context nowhere;

/// A tracker on a clock of its own, and its lines.
class TestLog {
 public:
  explicit TestLog(LogOptions options = {}) : tracker_(sink_, with_clock(options)) {}

  ManualClock clock{Timestamp{1'795'259'636'123'456'789ns}};  // 2026-11-21T11:13:56.123456789Z
  LogTracker* operator->() { return &tracker_; }
  LogTracker& tracker() { return tracker_; }

  /// Since the last call, each with its newline; ids are one letter each, in the order of their activities.
  Lines lines() {
    REQUIRE(tracker_.flush(60s));
    Lines lines = sink_->take();
    for (std::string& line : lines) {
      const std::size_t at = line.find("op_id") + 5;
      if (at < 5 || at >= line.size()) continue;
      const std::size_t begin = line.find_first_of("0123456789", at), end = line.find_first_not_of("0123456789", begin);
      const std::string id = line.substr(begin, end - begin);
      auto known = std::find(ids_.begin(), ids_.end(), id);
      if (known == ids_.end()) known = ids_.insert(ids_.end(), id);
      line.replace(begin, end - begin, 1, static_cast<char>('A' + (known - ids_.begin())));
    }
    return lines;
  }
  /// As JSON; the ids stay.
  std::vector<json> parsed() {
    REQUIRE(tracker_.flush(60s));
    std::vector<json> lines;
    for (const std::string& line : sink_->take()) lines.push_back(json::parse(line));
    return lines;
  }
  std::shared_ptr<KeepingSink> sink() { return sink_; }

 private:
  LogOptions with_clock(LogOptions options) const {
    options.clock = &clock;
    return options;
  }
  std::shared_ptr<KeepingSink> sink_ = std::make_shared<KeepingSink>();
  LogTracker tracker_;
  Lines ids_;
};

/// Whichever way lines are written: the same comes out.
LogOptions each_way(LogFormat format = LogFormat::text) {
  LogOptions options;
  options.format = format;
  options.asynchronous = GENERATE(false, true);
  CAPTURE(options.asynchronous);
  return options;
}

const std::string_view text_head = " operation=update subject=user op_id=A user_id=42 name=\"Ada L\" ratio=1.5 admin=true";
const std::string_view json_head =
    R"(,"operation":"update","subject":"user","op_id":A,"user_id":42,"name":"Ada L","ratio":1.5,"admin":true)";

/// One of everything.
void report_all(TestLog& log) {
  Activity activity = log->start(nowhere, "update", "user", {{"user_id", 42}, {"name", "Ada L"}, {"ratio", 1.5}, {"admin", true}});
  log.clock.advance(1ms);
  activity.report_error("no such user");
  activity.report_change(42);
  activity.report_change("u 42", "active");
  activity.report_change(42, -7);
  activity.report_change(42, 0.25);
  activity.report_change(42, false);
  log.clock.advance(1'234'567ns);
  activity.report_change(42, [] { return R"({ "name": "Ada", "tags": [1, 2.50] })"s; });
}

}  // namespace

TEST_CASE("the lines of an activity, as text") {
  TestLog log(each_way());
  report_all(log);
  const std::string head(text_head), at_first = "time=2026-11-21T11:13:56.123Z level=", then = "time=2026-11-21T11:13:56.124Z level=",
                                     last = "time=2026-11-21T11:13:56.125Z level=";
  CHECK(log.lines() ==
        Lines{
            at_first + "INFO msg=\"Operation started\"" + head + "\n",
            then + "ERROR msg=\"Operation failed\"" + head + " error=\"no such user\"\n",
            then + "INFO msg=\"State changed\"" + head + " change_id=42\n",
            then + "INFO msg=\"State changed\"" + head + " change_id=\"u 42\" change_data=active\n",
            then + "INFO msg=\"State changed\"" + head + " change_id=42 change_data=-7\n",
            then + "INFO msg=\"State changed\"" + head + " change_id=42 change_data=0.25\n",
            then + "INFO msg=\"State changed\"" + head + " change_id=42 change_data=false\n",
            last + "INFO msg=\"State changed\"" + head + R"( change_id=42 change_data="{\"name\":\"Ada\",\"tags\":[1,2.50]}")" + "\n",
            last + "INFO msg=\"Operation completed\"" + head + " duration=2.234567ms\n",
        });
}

TEST_CASE("the lines of an activity, as JSON") {
  TestLog log(each_way(LogFormat::json));
  report_all(log);
  const std::string head(json_head), at_first = R"({"time":"2026-11-21T11:13:56.123456789Z","level":)",
                                     then = R"({"time":"2026-11-21T11:13:56.124456789Z","level":)",
                                     last = R"({"time":"2026-11-21T11:13:56.125691356Z","level":)";
  CHECK(log.lines() ==
        Lines{
            at_first + R"("INFO","msg":"Operation started")" + head + "}\n",
            then + R"("ERROR","msg":"Operation failed")" + head + R"(,"error":"no such user"})" + "\n",
            then + R"("INFO","msg":"State changed")" + head + R"(,"change_id":42})" + "\n",
            then + R"("INFO","msg":"State changed")" + head + R"(,"change_id":"u 42","change_data":"active"})" + "\n",
            then + R"("INFO","msg":"State changed")" + head + R"(,"change_id":42,"change_data":-7})" + "\n",
            then + R"("INFO","msg":"State changed")" + head + R"(,"change_id":42,"change_data":0.25})" + "\n",
            then + R"("INFO","msg":"State changed")" + head + R"(,"change_id":42,"change_data":false})" + "\n",
            last + R"("INFO","msg":"State changed")" + head + R"(,"change_id":42,"change_data":{"name":"Ada","tags":[1,2.50]}})" + "\n",
            last + R"("INFO","msg":"Operation completed")" + head + R"(,"duration":2234567})" + "\n",
        });
}

TEST_CASE("a sink gets each line with its level, and its body for loggers that have times and levels of their own") {
  const LogFormat format = GENERATE(LogFormat::text, LogFormat::json);
  struct Seen {
    Logger::Level level;
    std::string text, body;
  };
  std::vector<Seen> seen;
  LogTracker tracker(
      [&](const LogLine& line) {
        seen.push_back({line.level, std::string(line.text), std::string(line.body)});
      },
      {.format = format, .asynchronous = GENERATE(false, true)});
  {
    Activity activity = tracker.start(nowhere, "delete", "order");
    activity.report_error("locked");
  }
  REQUIRE(tracker.flush(60s));
  REQUIRE(seen.size() == 3);
  CHECK(seen[0].level == Logger::Level::info);
  CHECK(seen[1].level == Logger::Level::error);
  CHECK(seen[2].level == Logger::Level::info);
  const std::string levels[] = {"INFO", "ERROR", "INFO"};
  for (std::size_t i = 0; i < seen.size(); ++i) {
    if (format == LogFormat::json) {
      CHECK(seen[i].text == seen[i].body + "\n");
    } else {
      CHECK(seen[i].body.starts_with("msg=\"Operation "));
      CHECK(seen[i].text.ends_with("Z level=" + levels[i] + " " + seen[i].body + "\n"));
    }
  }
}

TEST_CASE("lines have the ids of the context, where it has some") {
  TestLog log(each_way());
  const auto started_under = [&](const Context& context) {
    { Activity activity = log->start(context, "get", "user", {{"k", 1}}); }
    const Lines lines = log.lines();
    REQUIRE(lines.size() == 2);
    const std::size_t begin = lines[0].find("op_id=") + 7, end = lines[0].find(" k=1\n");
    return lines[0].substr(begin, end - begin);
  };
  const TraceId trace{0x0123456789abcdef, 0xfedcba9876543210};
  const SpanId span{0xab};
  const std::string trace_id = " trace_id=0123456789abcdeffedcba9876543210", span_id = " span_id=00000000000000ab";
  CHECK(started_under(nowhere) == "");
  CHECK(started_under(nowhere.with_request_id("r-1")) == " request_id=r-1");
  CHECK(started_under(Context(trace, span)) == trace_id + span_id + " trace_flags=01");
  CHECK(started_under(Context(trace, span, false)) == trace_id + span_id + " trace_flags=00");
  CHECK(started_under(Context(trace, SpanId{})) == trace_id + " trace_flags=01");
  CHECK(started_under(Context::from_traceparent("00-0123456789abcdeffedcba9876543210-00000000000000ab-03").with_request_id("r 2")) ==
        " request_id=r_2" + trace_id + span_id + " trace_flags=03");
}

TEST_CASE("an activity without a context has the ambient one") {
  TestLog log(each_way());
  const ContextScope scope(nowhere.with_request_id("ambient"));
  { Activity activity = log->start("get", "user"); }
  CHECK(count_with(log.lines(), " request_id=ambient") == 2);
}

TEST_CASE("whatever an error is, the line has its text") {
  TestLog log(each_way());
  const auto error_of = [&](auto report) {
    Activity activity = log->start(nowhere, "try", "it");
    report(activity);
    activity.end();
    const Lines lines = log.lines();
    if (lines.size() != 3) return "there were " + std::to_string(lines.size()) + " lines";
    return lines[1].substr(lines[1].find(" error=") + 7);
  };
  CHECK(error_of([](Activity& a) { a.report_error("text"); }) == "text\n");
  CHECK(error_of([](Activity& a) { a.report_error(std::runtime_error("thrown")); }) == "thrown\n");
  CHECK(error_of([](Activity& a) { a.report_error(std::make_exception_ptr(std::runtime_error("held"))); }) == "held\n");
  CHECK(error_of([](Activity& a) { a.report_error(std::make_error_code(std::errc::no_such_file_or_directory)); }) ==
        "\"No such file or directory\"\n");
  CHECK(error_of([](Activity& a) { a.report_error(Error{{}, "of a result"}); }) == "\"of a result\"\n");
  CHECK(error_of([](Activity& a) { a.report_error(""); }) == "there were 2 lines");
}

TEST_CASE("an activity may fail and change something; both are said, and that it is over once") {
  TestLog log(each_way());
  Activity activity = log->start(nowhere, "move", "file");
  activity.report_change(1);
  activity.report_error("half of it");
  activity.report_change(2);
  Activity moved = std::move(activity);
  moved.end();
  moved.end();
  moved.report_error("late");
  moved.report_change(3);
  activity.report_error("moved from");
  const Lines lines = log.lines();
  REQUIRE(lines.size() == 5);
  CHECK(lines[1].find("change_id=1\n") != std::string::npos);
  CHECK(lines[2].find("level=ERROR msg=\"Operation failed\"") != std::string::npos);
  CHECK(lines[3].find("change_id=2\n") != std::string::npos);
  CHECK(lines[4].find("level=INFO msg=\"Operation completed\"") != std::string::npos);
}

TEST_CASE("attributes may be temporaries") {
  TestLog log(each_way());
  Activity activity = log->start(nowhere, "a"s + "dd", "us"s + "er", {{Name("k"s + "ey"), "val"s + "ue"}});
  activity.report_error("err"s + "or");
  activity.report_change("i"s + "d", "da"s + "ta");
  activity.end();
  const Lines lines = log.lines();
  REQUIRE(lines.size() == 4);
  CHECK(count_with(lines, " operation=add subject=user op_id=A key=value") == 4);
  CHECK(lines[1].ends_with(" error=error\n"));
  CHECK(lines[2].ends_with(" change_id=id change_data=data\n"));
}

TEST_CASE("values without a key, and without anything, have a name") {
  TestLog log(each_way(LogFormat::json));
  { Activity activity = log->start(nowhere, "", "", {{Name(std::string_view()), 1}, {"empty", ""}}); }
  for (const json& line : log.parsed()) {
    CHECK(line["!BADKEY"] == 1);
    CHECK(line["empty"] == "");
    CHECK(line["operation"] == "");
    CHECK(line["subject"] == "");
  }
}

// ---- secrets

TEST_CASE("what looks like a secret is not in the log") {
  LogOptions options = each_way();
  RedactorOptions names;
  names.sensitive_names.push_back("ssn");
  options.redactor = Redactor(names);
  TestLog log(options);
  {
    Activity activity = log->start(nowhere, "log in", "user",
                                   {{"password", "hunter2"},
                                    {"API-Key", 4711},
                                    {"token", 0.4711},
                                    {"max_tokens", 100},
                                    {"user ssn", true},
                                    {"note", "Bearer hunter2hunter2"},
                                    {"url", "https://bob:hunter2@host/"}});
    activity.report_error("refused: password=hunter2, Authorization: hunter2");
    activity.report_change("id of secret=hunter2", "token=hunter2");
    activity.report_change(
        1, [] { return R"({"user":{"password":{"old":"hunter2"},"ssn":4711},"note":"Bearer hunter2hunter2","max_tokens":3})"s; });
  }
  const Lines lines = log.lines();
  REQUIRE(lines.size() == 5);
  CHECK(count_with(lines, "hunter2") == 0);
  CHECK(count_with(lines, "4711") == 0);
  CHECK(count_with(lines,
                   "password=[REDACTED] API-Key=[REDACTED] token=[REDACTED] max_tokens=100 \"user ssn\"=[REDACTED] "
                   "note=\"Bearer [REDACTED]\" url=https://bob:[REDACTED]@host/") == 5);
  CHECK(lines[1].ends_with(" error=\"refused: password=[REDACTED], Authorization: [REDACTED]\"\n"));
  CHECK(lines[2].ends_with(" change_id=\"id of secret=[REDACTED]\" change_data=\"token=[REDACTED]\"\n"));
  CHECK(lines[3].ends_with(R"( change_data="{\"user\":{\"password\":\"[REDACTED]\",\"ssn\":\"[REDACTED]\"},\"note\":\"Bearer [REDACTED]\",)"
                           R"(\"max_tokens\":3}")"
                           "\n"));
}

TEST_CASE("data that is nested more than 64 levels deep is redacted there") {
  TestLog log(each_way(LogFormat::json));
  const auto nested = [](int levels) {
    return std::string(static_cast<std::size_t>(levels), '[') + "7" + std::string(static_cast<std::size_t>(levels), ']');
  };
  Activity activity = log->start(nowhere, "change", "it");
  activity.report_change(1, [&] { return nested(64); });
  activity.report_change(1, [&] { return nested(65); });
  const std::vector<json> lines = log.parsed();
  REQUIRE(lines.size() == 3);
  CHECK(lines[1]["change_data"].dump() == nested(64));
  CHECK(lines[2]["change_data"].dump().find('7') == std::string::npos);
  CHECK(lines[2]["change_data"].dump().find("[REDACTED]") != std::string::npos);
}

TEST_CASE("secrets are looked for before values are cut") {
  LogOptions options = each_way(LogFormat::json);
  options.max_value_bytes = 32;
  TestLog log(options);
  for (std::size_t before = 0; before < 40; ++before) {
    const std::string text = std::string(before, 'x') + " password=hunter2hunter2 Bearer hunter2hunter2";
    Activity activity = log->start(nowhere, "log in", "user", {{"note", text}});
    activity.report_error(text);
    activity.report_change(text, text);
    activity.end();
    const std::vector<json> lines = log.parsed();
    REQUIRE(lines.size() == 4);
    CAPTURE(before, lines[2].dump());
    for (const json& line : lines) CHECK(line.dump().find("hun") == std::string::npos);
    const std::string redacted = (std::string(before, 'x') + " password=[REDACTED] Bearer [REDACTED]").substr(0, 32) + "…";
    CHECK(lines[0]["note"] == redacted);
    CHECK(lines[1]["error"] == redacted);
    CHECK(lines[2]["change_id"] == redacted);
    CHECK(lines[2]["change_data"] == redacted);
  }
}

// ---- long values

TEST_CASE("values are cut behind max_value_bytes, between two characters") {
  LogOptions options = each_way(LogFormat::json);
  options.max_value_bytes = 16;
  TestLog log(options);
  const auto as_written = [&](const std::string& text) {
    Activity activity = log->start(nowhere, "change", "it", {{"value", text}});
    activity.report_error(text);
    activity.report_change(text);
    activity.report_change(text, text);
    activity.end();
    const std::vector<json> lines = log.parsed();
    REQUIRE(lines.size() == 5);
    for (const json& line : lines) CHECK(line["value"] == lines[0]["value"]);
    CHECK(lines[1]["error"] == lines[0]["value"]);
    CHECK(lines[2]["change_id"] == lines[0]["value"]);
    CHECK(lines[3]["change_id"] == lines[0]["value"]);
    CHECK(lines[3]["change_data"] == lines[0]["value"]);
    return lines[0]["value"].get<std::string>();
  };
  CHECK(as_written("123456789abcdef") == "123456789abcdef");
  CHECK(as_written("123456789abcdefg") == "123456789abcdefg");
  CHECK(as_written("123456789abcdefgh") == "123456789abcdefg…");
  CHECK(as_written("123456789abcdefé") == "123456789abcdef…");
  CHECK(as_written("123456789abcdeé") == "123456789abcdeé");
  CHECK(as_written("123456789abcd\U0001f600") == "123456789abcd…");
  CHECK(as_written("123456789abcde\U0001f600") == "123456789abcde…");
  CHECK(as_written("123456789abcdef\U0001f600") == "123456789abcdef…");
  CHECK(as_written("123456789abcdefg\U0001f600") == "123456789abcdefg…");
  std::string no_characters;
  for (int i = 0; i < 16; ++i) no_characters += "\xef\xbf\xbd";
  CHECK(as_written(std::string(20, '\x80')) == no_characters + "…");
}

TEST_CASE("a bound of zero leaves nothing of texts, and numbers alone") {
  LogOptions options = each_way();
  options.max_value_bytes = 0;
  TestLog log(options);
  { Activity activity = log->start(nowhere, "change", "it", {{"text", "x"}, {"number", 123}}); }
  CHECK(count_with(log.lines(), " text=… number=123") == 2);
}

TEST_CASE("long values, one and many") {
  const std::string text(40'000, 'x');
  LogOptions options;
  options.max_value_bytes = 1u << 20;
  options.ring_bytes = 128u << 10;
  SECTION("are whole if there is no ring") {
    TestLog log(options);
    { Activity activity = log->start(nowhere, "change", "it", {{"a", text}, {"b", text}, {"c", text}}); }
    CHECK(count_with(log.lines(), " a=" + text + " b=" + text + " c=" + text) == 2);
  }
  SECTION("are cut at a quarter of the ring, else") {
    options.asynchronous = true;
    TestLog log(options);
    { Activity activity = log->start(nowhere, "change", "it", {{"a", text}}); }
    CHECK(count_with(log.lines(), " a=" + text.substr(0, 32'768) + "…") == 2);
  }
  SECTION("are lost when they do not fit a ring together") {
    options.asynchronous = true;
    TestLog log(options);
    { Activity activity = log->start(nowhere, "change", "it", {{"a", text}, {"b", text}}); }
    CHECK(log->stats().lost_full == 2);
    CHECK(count_with(log.lines(), text) == 0);
  }
}

TEST_CASE("both an id and data may be long") {
  LogOptions options = each_way();
  options.max_value_bytes = 100;
  TestLog log(options);
  Activity activity = log->start(nowhere, "change", "it");
  activity.report_change(std::string(1000, 'i'), std::string(1000, 'd'));
  activity.report_change(std::string(1000, 'i'), [] { return '"' + std::string(40'000, 'd') + '"'; });
  const Lines lines = log.lines();
  REQUIRE(lines.size() == 3);
  CHECK(lines[1].ends_with(" change_id=" + std::string(100, 'i') + "… change_data=" + std::string(100, 'd') + "…\n"));
  CHECK(lines[2].find(" change_id=" + std::string(100, 'i') + "… change_data=\"{\\\"truncated\\\":true,") != std::string::npos);
}

TEST_CASE("data of more than 32 KiB is summed up") {
  TestLog log(each_way(LogFormat::json));
  const auto data_of = [&](const std::string& data) {
    Activity activity = log->start(nowhere, "change", "it");
    activity.report_change(1, [&] { return data; });
    activity.end();
    const std::vector<json> lines = log.parsed();
    REQUIRE(lines.size() == 3);
    return lines[1]["change_data"];
  };
  const auto list = [](std::size_t size) { return "[\"" + std::string(size - 4, 'x') + "\"]"; };
  CHECK(data_of(list(32'768)).dump() == list(32'768));
  CHECK(data_of(" " + list(32'768) + " ").dump() == list(32'768));  // white space does not count
  for (const std::string& data : {list(32'769), list(200'000), "{\"password\":\"hunter2\",\"x\":" + list(100'000) + "}"}) {
    const json summary = data_of(data);
    const std::string redacted = *Redactor().redact_json(data);
    CHECK(summary["truncated"] == true);
    CHECK(summary["original_size"] == redacted.size());
    CHECK(summary["sha256"].get<std::string>().size() == 64);
    const std::string preview = summary["preview"];
    CHECK(preview.size() <= 4096);
    CHECK(preview.size() > 4000);
    CHECK(redacted.starts_with(preview));
  }
  CHECK(data_of("\"" + std::string(40'000, ' ')) == "!ERROR:not JSON: unexpected text or end at byte 40002");
}

// ---- what cannot be shown

TEST_CASE("data that cannot be had becomes a note, which has nothing of what was thrown") {
  TestLog log(each_way());
  Activity activity = log->start(nowhere, "change", "it");
  activity.report_change(1, []() -> std::string { throw std::runtime_error("hunter2"); });
  activity.report_change(1, []() -> std::string { throw 7; });
  activity.report_change(1, [] { return "{\"name\":"s; });
  activity.report_change(1, [] { return ""s; });
  const Lines lines = log.lines();
  REQUIRE(lines.size() == 5);
  CHECK(lines[1].ends_with(" change_id=1 change_data=\"!ERROR:the callable threw std::runtime_error\"\n"));
  CHECK(lines[2].ends_with(" change_id=1 change_data=\"!ERROR:the callable threw int\"\n"));
  CHECK(lines[3].ends_with(" change_id=1 change_data=\"!ERROR:not JSON: unexpected text or end at byte 9\"\n"));
  CHECK(lines[4].ends_with(" change_id=1 change_data=\"!ERROR:not JSON: unexpected text or end at byte 1\"\n"));
}

TEST_CASE("numbers that JSON has no words for are said as slog says them") {
  TestLog log(each_way(LogFormat::json));
  constexpr double inf = std::numeric_limits<double>::infinity();
  { Activity activity = log->start(nowhere, "do", "it", {{"nan", inf - inf}, {"inf", -inf}, {"large", UINT64_MAX}}); }
  const std::vector<json> lines = log.parsed();
  REQUIRE(lines.size() == 2);
  CHECK(lines[0]["nan"] == "!ERROR:json: unsupported value: NaN");
  CHECK(lines[0]["inf"] == "!ERROR:json: unsupported value: -Inf");
  CHECK(lines[0]["large"] == 18446744073709551615.0);
}

namespace {

/// Text that nobody would write.
class RandomText {
 public:
  explicit RandomText(unsigned seed) : random_(seed) {}
  std::string operator()(std::size_t max_size) {
    std::string text;
    const std::size_t size = number(max_size + 1);
    while (text.size() < size) {
      switch (number(8)) {
        case 0: text += static_cast<char>(number(256)); break;
        case 1: text += "\r\n\t\0\x1b\x7f "[number(7)]; break;
        case 2: text += "\"\\=,:{}[]"[number(9)]; break;
        case 3: text += "é"; break;
        case 4: text += "\xe2\x80\xa8"; break;  // a line separator
        case 5: text += "\U0001f600"; break;
        default: text += static_cast<char>('a' + number(26));
      }
    }
    return text.substr(0, size);
  }
  std::size_t number(std::size_t below) { return std::uniform_int_distribution<std::size_t>(0, below - 1)(random_); }

 private:
  std::mt19937 random_;
};

/// Each byte that is not part of valid UTF-8 as U+FFFD.
std::string repaired(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t length = detail::utf8_length(text.substr(0, 4));
    out += length == 0 ? "\xef\xbf\xbd" : text.substr(0, length);
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return out;
}

}  // namespace

TEST_CASE("whatever is in keys and values, an event is one line, and JSON gives it all back") {
  const LogFormat format = GENERATE(LogFormat::text, LogFormat::json);
  LogOptions options = each_way(format);
  TestLog log(options);
  RandomText text(GENERATE(range(1u, 4u)));
  const Redactor redactor;
  const auto shown = [&](const std::string& value) { return repaired(redactor.redact_text(value)); };
  for (int round = 0; round < 300; ++round) {
    const std::string operation = text(20), subject = text(20), request = text(30), error = "e" + text(60), id = text(20), data = text(40);
    std::vector<std::string> keys, values;
    std::vector<Attribute> attributes;
    for (std::size_t i = 0, n = text.number(6); i < n; ++i) {
      keys.push_back(std::to_string(i) + text(10));
      values.push_back(text(100));
    }
    for (std::size_t i = 0; i < keys.size(); ++i) attributes.push_back({Name(std::string_view(keys[i])), values[i]});
    const Context context = nowhere.with_request_id(request);
    {
      Activity activity = log->start(context, operation, subject, std::span<const Attribute>(attributes));
      activity.report_error(error);
      activity.report_change(id, data);
      activity.report_change(id, [&] { return data; });
    }
    REQUIRE(log->flush(60s));
    const Lines lines = log.sink()->take();
    REQUIRE(lines.size() == 5);
    for (const std::string& line : lines) {
      CAPTURE(line);
      REQUIRE(line.find('\n') == line.size() - 1);
      REQUIRE(std::none_of(line.begin(), line.end() - 1, [](char c) { return static_cast<unsigned char>(c) < 0x20; }));
      if (format == LogFormat::text) continue;
      const json parsed = json::parse(line);
      REQUIRE(parsed["operation"] == repaired(operation));
      REQUIRE(parsed["subject"] == repaired(subject));
      if (!context.request_id().empty()) REQUIRE(parsed["request_id"] == shown(std::string(context.request_id())));
      for (std::size_t i = 0; i < keys.size(); ++i)
        REQUIRE(parsed[repaired(keys[i])] == (redactor.is_sensitive(keys[i]) ? "[REDACTED]" : shown(values[i])));
    }
    if (format == LogFormat::text) continue;
    REQUIRE(json::parse(lines[1])["error"] == shown(error));
    REQUIRE(json::parse(lines[2])["change_id"] == shown(id));
    REQUIRE(json::parse(lines[2])["change_data"] == shown(data));
  }
}

// ---- threads

TEST_CASE("ids of activities are unique, whichever threads start them") {
  constexpr std::size_t threads = 8, activities = sanitized ? 10'000 : 100'000;
  static thread_local std::vector<std::uint64_t>* mine = nullptr;
  LogTracker tracker([](const LogLine& line) {
    if (line.text.find("started") == line.text.npos) return;
    mine->push_back(std::stoull(std::string(line.text.substr(line.text.find("op_id=") + 6, 20))));
  });
  std::vector<std::vector<std::uint64_t>> ids(threads);
  std::vector<std::thread> running;
  for (std::size_t i = 0; i < threads; ++i) {
    running.emplace_back([&, i] {
      mine = &ids[i];
      for (std::size_t n = 0; n < activities; ++n) Activity activity = tracker.start(nowhere, "count", "it");
    });
  }
  for (std::thread& thread : running) thread.join();
  std::vector<std::uint64_t> all;
  for (const auto& some : ids) all.insert(all.end(), some.begin(), some.end());
  std::sort(all.begin(), all.end());
  CHECK(all.size() == threads * activities);
  CHECK(std::adjacent_find(all.begin(), all.end()) == all.end());
  CHECK(tracker.stats().written == 2 * threads * activities);
}

TEST_CASE("an activity may begin on one thread, and go on and end on others") {
  TestLog log(each_way());
  Activity activity = log->start(nowhere, "hand", "over");
  std::thread([&] { activity.report_error("elsewhere"); }).join();
  std::thread([moved = std::move(activity)]() mutable { moved.end(); }).join();
  const Lines lines = log.lines();
  CHECK(lines.size() == 3);
  CHECK(count_with(lines, "op_id=A") == 3);
}

TEST_CASE("one thread may use several trackers in turn") {
  TestLog first({.asynchronous = true}), second({.asynchronous = GENERATE(false, true)});
  for (int i = 0; i < 10; ++i) {
    Activity a = first->start(nowhere, "one", "it"), b = second->start(nowhere, "other", "it");
  }
  const Lines of_first = first.lines(), of_second = second.lines();
  CHECK(of_first.size() == 20);
  CHECK(count_with(of_first, "operation=one") == 20);
  CHECK(of_second.size() == 20);
  CHECK(count_with(of_second, "operation=other") == 20);
}

// ---- activities that outlive their tracker

TEST_CASE("activities say no more when their tracker is gone, and nobody counts them") {
  const bool asynchronous = GENERATE(false, true), again_asynchronous = GENERATE(false, true);
  const auto sink = std::make_shared<KeepingSink>(), other_sink = std::make_shared<KeepingSink>();
  std::vector<Activity> late;
  {
    auto clock = std::make_unique<ManualClock>();
    LogTracker tracker(sink, {.asynchronous = asynchronous, .clock = clock.get()});
    for (int i = 0; i < 10; ++i) late.push_back(tracker.start(nowhere, "stay", "open"));
  }
  CHECK(sink->take().size() == 10);
  const std::uint64_t counted = activity_stats().exceptions;
  LogTracker other(other_sink, {.asynchronous = again_asynchronous, .max_value_bytes = 10});
  bool asked = false;
  const auto report = [&](Activity& activity) {
    activity.report_error("late");
    activity.report_change(1);
    activity.report_change(std::string(100'000, 'x'), [&] {
      asked = true;
      return "1"s;
    });
    activity.report_error(std::string(100'000, 'x'));
    activity.end();
  };
  report(late.back());
  std::thread([&] { report(late.front()); }).join();
  { Activity activity = other.start(nowhere, "do", "it"); }
  late.clear();
  CHECK(other.flush(60s));
  CHECK_FALSE(asked);
  CHECK(sink->take().empty());
  CHECK(other_sink->take().size() == 2);
  CHECK(other.stats().written == 2);
  CHECK(other.stats().lost_full == 0);
  CHECK(activity_stats().exceptions == counted);
}

TEST_CASE("a tracker may end, and others begin, while threads report on its activities") {
  struct Checked final : LogSink {
    std::size_t write(std::span<const LogLine> lines, std::error_code&) noexcept override {
      if (over) wrong = true;
      for (const LogLine& line : lines)
        if (!line.text.starts_with("time=") || !line.text.ends_with("\n")) wrong = true;
      written += lines.size();
      return lines.size();
    }
    std::atomic<bool> over{false}, wrong{false};
    std::atomic<std::uint64_t> written{0};
  };
  constexpr std::size_t threads = 3;
  const int rounds = sanitized ? 100 : 400;
  std::vector<std::vector<Activity>> open(threads);
  std::atomic<int> round{0}, done{0};
  std::vector<std::thread> running;
  for (std::size_t i = 0; i < threads; ++i) {
    running.emplace_back([&, i] {
      for (int n = 1; n <= rounds; ++n) {
        while (round < n) std::this_thread::yield();
        for (Activity& activity : open[i]) {
          activity.report_error("some error");
          activity.report_change(std::string(300, 'i'), "some data");
          activity.end();
        }
        ++done;
      }
    });
  }
  for (int n = 1; n <= rounds; ++n) {
    const auto sink = std::make_shared<Checked>();
    {
      LogTracker tracker(sink, {.asynchronous = n % 3 != 0, .max_value_bytes = 200, .stop_timeout = 60s});
      for (auto& some : open)
        for (int i = 0; i < 10; ++i) some.push_back(tracker.start(nowhere, "stay", "open"));
      round = n;
      if (n % 2 == 0) std::this_thread::yield();
    }
    sink->over = true;
    {
      LogTracker next([](const LogLine&) {}, {.format = LogFormat::json, .asynchronous = n % 4 == 0});
    }
    while (done < n * static_cast<int>(threads)) std::this_thread::yield();
    REQUIRE_FALSE(sink->wrong);
    REQUIRE(sink->written >= threads * 10);
    for (auto& some : open) some.clear();
  }
  for (std::thread& thread : running) thread.join();
}

// ---- sinks that fail or do not return

TEST_CASE("a sink that fails is counted by the line, told once, and told when it works again") {
  struct Failing final : LogSink {
    std::size_t write(std::span<const LogLine> lines, std::error_code& error) noexcept override {
      if (!fails) return lines.size();
      error = std::make_error_code(std::errc::no_space_on_device);
      return 0;
    }
    std::atomic<bool> fails{false};
  };
  const auto sink = std::make_shared<Failing>();
  KeepingLogger logger;
  LogTracker tracker(sink, {.asynchronous = GENERATE(false, true), .logger = &logger});
  const auto say = [&](int activities) {
    for (int i = 0; i < activities; ++i) Activity activity = tracker.start(nowhere, "do", "it");
    REQUIRE(tracker.flush(60s));
  };
  say(10);
  CHECK(logger.take().empty());
  sink->fails = true;
  say(10);
  say(10);
  CHECK(logger.take() ==
        Lines{"error: log lines cannot be written; they are lost, and counted, until they can what=No space left on device"});
  sink->fails = false;
  say(10);
  CHECK(logger.take() == Lines{"info: log lines are written again lost_so_far=40"});
  CHECK(tracker.stats().written == 40);
  CHECK(tracker.stats().lost_by_sink == 40);
  CHECK(tracker.stats().lost_full == 0);
  for (int i = 0; i < 10; ++i) {  // nor does one that comes and goes fill the log of others
    sink->fails = !sink->fails;
    say(1);
  }
  CHECK(logger.take().empty());
  CHECK(tracker.stats().lost_by_sink == 50);
}

TEST_CASE("a sink that claims more than it got is not believed") {
  struct Boasting final : LogSink {
    std::size_t write(std::span<const LogLine> lines, std::error_code&) noexcept override { return lines.size() + 100; }
  };
  LogTracker tracker(std::make_shared<Boasting>(), {.asynchronous = GENERATE(false, true)});
  { Activity activity = tracker.start(nowhere, "do", "it"); }
  CHECK(tracker.flush(60s));
  CHECK(tracker.stats().written == 2);
  CHECK(tracker.stats().lost_by_sink == 0);
}

TEST_CASE("a sink that does not return does not keep the destructor") {
  const auto sink = std::make_shared<KeepingSink>();
  KeepingLogger logger;
  const bool asynchronous = GENERATE(false, true);
  Activity activity;
  std::thread reporting;
  {
    LogTracker tracker(sink, {.asynchronous = asynchronous, .stop_timeout = 20ms, .logger = &logger});
    activity = tracker.start(nowhere, "wait", "long");
    REQUIRE(tracker.flush(60s));
    sink->hold();
    reporting = std::thread([&] { activity.report_error("no"); });
    sink->wait_for_a_thread();
    CHECK(tracker.flush(1ms) == !asynchronous);
  }
  CHECK(logger.take() == Lines{"warning: the log's sink has not taken all lines in time; they may be lost"});
  CHECK(sink->size() == 1);
  sink->open();
  reporting.join();
  CHECK(eventually([&] { return sink->size() == 2; }));  // the thread that was held has gone on
  activity.end();
  CHECK(sink->size() == 2);
  CHECK(logger.take().empty());
}

TEST_CASE("all waits may be as long as one likes") {
  KeepingLogger logger;
  {
    LogTracker tracker([](const LogLine&) {},
                       {.asynchronous = GENERATE(false, true), .stop_timeout = std::chrono::milliseconds::max(), .logger = &logger});
    { Activity activity = tracker.start(nowhere, "do", "it"); }
    CHECK(tracker.flush(std::chrono::milliseconds::max()));
    CHECK(tracker.stats().written == 2);
    tracker.flush(std::chrono::milliseconds::min());
  }
  CHECK(logger.take().empty());
}

TEST_CASE("lines go through chains and interfaces like those of any tracker") {
  TestLog log({.asynchronous = true}), other({.asynchronous = GENERATE(false, true)});
  ChainedTracker chain(log.tracker(), other.tracker(), noop_tracker());
  ActivityTracker& tracker = chain;
  { Activity activity = tracker.start(nowhere, "do", "it"); }
  const Lines lines = log.lines();
  CHECK(lines.size() == 2);
  CHECK(lines == other.lines());
}
