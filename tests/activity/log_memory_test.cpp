// What logging takes from the heap: in the long run nothing; and what it does when there is nothing left.
#include "support/memory.hpp"

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "support/catch.hpp"
#include "support/log_lines.hpp"
#include "weir/activity/log_tracker.hpp"

using namespace weir;
using namespace weir::testing;
using namespace std::chrono_literals;
using nlohmann::json;

namespace {

const Context nowhere;

const std::string long_text(500, 'x');
const std::string text = std::string(3'000, 'x') + " password=hunter2 " + std::string(3'000, 'x');
const std::string data = "{\"password\":\"hunter2\",\"text\":\"" + text + "\",\"more\":\"" + std::string(40'000, 'x') + "\"}";

/// What needs no memory of its own: lines of all kinds, if they are not too long.
void say_all(LogTracker& tracker, const Context& context) {
  Activity activity = tracker.start(context, "update", "user", {{"user_id", 42}, {"name", "Ada L"}, {"ratio", 1.5}, {"admin", true}});
  activity.report_error("no such user");
  activity.report_change(42);
  activity.report_change("id", "value");
  activity.end();
  Activity other = tracker.start(context, "update", "user", {{"text", long_text}});
  other.report_change(long_text, 1);
}
constexpr std::size_t lines_of_all = 8;

/// What needs some: secrets, long values, data.
void say_more(LogTracker& tracker) {
  Activity activity = tracker.start(nowhere, "update", "user", {{"text", text}, {"more", text}, {"password", 1}});
  activity.report_error(text);
  activity.report_change(text, text);
  activity.report_change(1, [] { return data; });
  activity.report_change(1, [] { return std::string("{\"list\":[1,2,3]}"); });
  activity.report_change(1, [] { return std::string("{"); });
  activity.report_change(1, []() -> std::string { throw std::runtime_error(text); });
}
constexpr std::size_t lines_of_more = 8;

/// Keeps lines, for which there is always memory.
class PlentySink final : public LogSink {
 public:
  std::size_t write(std::span<const LogLine> lines, std::error_code& error) noexcept override {
    const long left = std::exchange(allocations_left, -1), before = allocations;
    const std::size_t taken = sink_.write(lines, error);
    allocations_left = left;
    allocations = before;
    return taken;
  }
  Lines take() { return sink_.take(); }

 private:
  KeepingSink sink_;
};

/// Each line is whole, and has nothing that is to be hidden.
bool whole(const Lines& lines) {
  for (const std::string& line : lines)
    if (!json::accept(line) || line.find("hunter2") != line.npos) return false;
  return true;
}

}  // namespace

TEST_CASE("in the long run logging allocates nothing on the thread that logs") {
  const LogFormat format = GENERATE(LogFormat::text, LogFormat::json);
  const bool asynchronous = GENERATE(false, true);
  std::atomic<std::size_t> written{0};
  struct Counting final : LogSink {
    explicit Counting(std::atomic<std::size_t>& n) : count(n) {}
    std::size_t write(std::span<const LogLine> lines, std::error_code&) noexcept override {
      count += lines.size();
      return lines.size();
    }
    std::atomic<std::size_t>& count;
  };
  LogTracker tracker(std::make_shared<Counting>(written), {.format = format, .asynchronous = asynchronous, .ring_bytes = 1u << 22});
  const Context context = Context(TraceId{1, 2}, SpanId{3}).with_request_id("a request id that is too long for a small string");
  for (int i = 0; i < 10; ++i) say_all(tracker, context);
  const long before = allocations;
  for (int i = 0; i < 500; ++i) say_all(tracker, context);
  CHECK(allocations == before);
  REQUIRE(tracker.flush(60s));
  CHECK(written == 510 * lines_of_all);
}

TEST_CASE("in the long run the thread that writes allocates nothing") {
  std::atomic<long> before{-1}, now{-1};
  LogTracker tracker(
      [&](const LogLine& line) {
        if (line.text.find("operation=first") != line.text.npos) before = allocations;
        if (line.text.find("operation=last") != line.text.npos && now == -1) now = allocations;
      },
      {.asynchronous = true, .ring_bytes = 1u << 22});
  for (int i = 0; i < 500; ++i) say_all(tracker, nowhere);
  REQUIRE(tracker.flush(60s));
  { Activity activity = tracker.start(nowhere, "first", "it"); }
  REQUIRE(tracker.flush(60s));
  for (int i = 0; i < 500; ++i) {
    say_all(tracker, nowhere);
    if (i % 100 == 99) REQUIRE(tracker.flush(60s));
  }
  { Activity activity = tracker.start(nowhere, "last", "it"); }
  REQUIRE(tracker.flush(60s));
  CHECK(now == before);
}

TEST_CASE("the n-th allocation of a thread that logs fails, for every n: nothing is thrown, and lines are whole or not there") {
  const bool asynchronous = GENERATE(false, true), alone = GENERATE(false, true);
  const auto sink = std::make_shared<PlentySink>();
  LogTracker tracker(sink, {.format = LogFormat::json, .asynchronous = asynchronous, .max_value_bytes = 4'000, .ring_bytes = 1u << 20});
  long n = 0;
  for (bool enough = false; !enough; ++n) {
    CAPTURE(n);
    REQUIRE(n < 1000);
    bool thrown = false;
    Lines lines;
    std::thread([&] {  // a new one has nothing yet
      one_fails = alone;
      const LittleMemory memory(n);
      try {
        say_more(tracker);
      } catch (...) {
        thrown = true;
      }
      enough = failed_allocations == 0;
    })
        .join();
    REQUIRE_FALSE(thrown);
    REQUIRE(tracker.flush(60s));
    lines = sink->take();
    REQUIRE(whole(lines));
    if (enough) CHECK(lines.size() - SaidLost(lines).lines == lines_of_more);
    say_more(tracker);
    REQUIRE(tracker.flush(60s));
    lines = sink->take();
    REQUIRE(whole(lines));
    REQUIRE(lines.size() - SaidLost(lines).lines == lines_of_more);
  }
  CHECK(n > 5);
  CHECK(tracker.stats().lost_full > 0);
}

TEST_CASE("the n-th allocation of the thread that writes fails, for every n: each line is whole, or counted") {
  const bool alone = GENERATE(false, true);
  int n = 0;
  for (bool enough = false; !enough; ++n) {
    CAPTURE(n);
    REQUIRE(n < 1000);
    Lines lines;
    std::size_t lost = 0;
    {
      LogTracker tracker(
          [&](const LogLine& line) {
            const long left = std::exchange(allocations_left, -1);
            lines.emplace_back(line.text);
            if (line.text.find("\"reset\"") != line.text.npos) {
              enough = failed_allocations == 0;
            } else {
              one_fails = alone;
              allocations_left = line.text.find("\"set\"") != line.text.npos ? n : left;
            }
          },
          {.format = LogFormat::json, .asynchronous = true, .max_value_bytes = 4'000, .ring_bytes = 1u << 20});
      { Activity activity = tracker.start(nowhere, "do", "set"); }
      REQUIRE(tracker.flush(60s));
      say_more(tracker);
      { Activity activity = tracker.start(nowhere, "do", "reset"); }
      REQUIRE(tracker.flush(60s));
      lost = tracker.stats().lost_full;
      CHECK(tracker.stats().lost_by_sink == 0);
    }
    REQUIRE(whole(lines));
    const SaidLost told(lines);
    REQUIRE(lines.size() - told.lines + lost == 4 + lines_of_more);
    REQUIRE(told.count <= lost);
  }
  CHECK(n > 5);
}
