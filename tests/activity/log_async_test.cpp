// Lines that a thread of the tracker writes: the same as at once, in order, and each of them written or counted.
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "support/catch.hpp"
#include "support/log_lines.hpp"
#include "support/operations.hpp"
#include "weir/activity/log_tracker.hpp"
#include "weir/activity/tracker.hpp"

using namespace weir;
using namespace weir::testing;
using namespace std::chrono_literals;
using namespace std::string_literals;
using nlohmann::json;

namespace {

const Context nowhere;

/// A random life of activities: several open at once, with whatever can be said of them.
class Script {
 public:
  explicit Script(unsigned seed) : random_(seed) {}

  void step(ActivityTracker& tracker, ManualClock& clock) {
    clock.advance(std::chrono::nanoseconds(number(2'000'000'000)));
    if (open_.empty() || (open_.size() < 20 && number(3) == 0)) return start(tracker);
    Activity& activity = open_[number(open_.size())];
    switch (number(6)) {
      case 0: return activity.report_error(text());
      case 1: return activity.report_change(text());
      case 2: return activity.report_change(static_cast<std::int64_t>(number(1000)), text());
      case 3: return activity.report_change(text(), 0.1 * static_cast<double>(number(1000)));
      case 4: return activity.report_change(1, [&] { return data(); });
      default: activity.end();
    }
    if (&activity != &open_.back()) activity = std::move(open_.back());
    open_.pop_back();
  }
  std::size_t number(std::size_t below) { return std::uniform_int_distribution<std::size_t>(0, below - 1)(random_); }

 private:
  void start(ActivityTracker& tracker) {
    const std::string values[] = {text(), text()}, password = text();
    const Attribute all[] = {{Name(std::string_view(keys_[number(4)])), values[0]},
                             {Name(std::string_view(keys_[number(4)])), values[1]},
                             {"number", static_cast<std::int64_t>(number(1000))},
                             {"truth", number(2) == 0},
                             {"password", password},
                             {"real", 0.25 * static_cast<double>(number(1000))}};
    Context context;
    if (number(2) == 0) context = Context(TraceId{number(1000), 1}, SpanId{number(2)}, number(2) == 0);
    if (number(2) == 0) context = context.with_request_id(text().substr(0, 100));
    open_.push_back(tracker.start(context, "do", "something", std::span(all, number(7))));
  }
  std::string text() {
    constexpr std::size_t sizes[] = {0, 1, 7, 8, 9, 15, 16, 17, 40, 200, 999, 1000, 1001, 3000};
    std::string text;
    const std::size_t size = sizes[number(std::size(sizes))];
    while (text.size() < size) text += pieces_[number(std::size(pieces_))];
    return text.substr(0, size);
  }
  std::string data() {
    constexpr std::size_t sizes[] = {1, 10, 100, 32'000, 32'768, 32'769, 40'000};
    const std::string pad(sizes[number(std::size(sizes))], 'x');
    switch (number(4)) {
      case 0: return "{\"token\":\"hunter2\",\"list\":[1,2.50,null],\"pad\":\"" + pad + "\"}";
      case 1: return "[\"" + std::string(number(100) + 4000, 'y') + "\",{\"password\":\"hunter2\"},\"" + pad + "\"]";
      case 2: return "{" + pad;
      default: throw std::runtime_error("no data");
    }
  }

  const std::string keys_[4] = {"k", "a longer key", "", "key=\"é\n"};
  const std::string pieces_[12] = {"word ",
                                   "x",
                                   "é",
                                   "\U0001f600",
                                   "\n",
                                   "\"",
                                   "password=hunter2 ",
                                   "Bearer hunter2hunter2 ",
                                   "\xff",
                                   "=",
                                   "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl ",
                                   "https://u:p@h/ "};
  std::mt19937 random_;
  std::vector<Activity> open_;
};

/// How many lines are not about lines that are lost.
std::size_t said_in(const Lines& lines) { return lines.size() - SaidLost(lines).lines; }

std::uint64_t number_in(const std::string& line, const std::string& key) {
  return std::stoull(line.substr(line.find(key + "=") + key.size() + 1));
}

}  // namespace

TEST_CASE("what a thread writes later is what would have been written at once") {
  const LogFormat format = GENERATE(LogFormat::text, LogFormat::json);
  const unsigned seed = GENERATE(range(1u, 9u));
  CAPTURE(seed);
  ManualClock clock{Timestamp{1'795'259'636s}};
  const auto now = std::make_shared<KeepingSink>(), later = std::make_shared<KeepingSink>();
  LogTracker at_once(now, {.format = format, .max_value_bytes = 1000, .clock = &clock});
  LogTracker by_thread(later, {.format = format, .asynchronous = true, .max_value_bytes = 1000, .clock = &clock});
  ChainedTracker both(at_once, by_thread);
  {
    Script script(seed);
    for (int i = 0; i < 1000; ++i) {
      script.step(both, clock);
      if (i % 5 == 0) REQUIRE(by_thread.flush(60s));  // that nothing is lost
    }
  }
  REQUIRE(by_thread.flush(60s));
  const Lines expected = now->take(), written = later->take();
  REQUIRE(written.size() == expected.size());
  REQUIRE(expected.size() > 800);
  for (std::size_t i = 0; i < expected.size(); ++i) REQUIRE(written[i] == expected[i]);
  CHECK(by_thread.stats().written == written.size());
  CHECK(by_thread.stats().lost_full == 0);
}

TEST_CASE("what several threads have said comes in the order in which they said it") {
  constexpr int threads = 4, turns = 2000;
  const auto sink = std::make_shared<KeepingSink>();
  ManualClock clock;
  LogTracker tracker(sink, {.asynchronous = true, .clock = &clock});
  sink->hold();
  { Activity first = tracker.start(nowhere, "come", "first"); }
  sink->wait_for_a_thread();  // what is said now waits until all of it is said
  std::atomic<int> turn{0};
  std::mt19937 random(1);
  std::vector<int> who(turns);
  for (int& each : who) each = static_cast<int>(random() % threads);
  std::vector<std::thread> running;
  for (int self = 0; self < threads; ++self) {
    running.emplace_back([&, self] {
      for (int i = 0; i < turns; ++i) {
        if (who[static_cast<std::size_t>(i)] != self) continue;
        while (turn != i) std::this_thread::yield();
        clock.advance(1ms);
        { Activity activity = tracker.start(nowhere, "take", "turns", {{"turn", i}}); }
        turn = i + 1;
      }
    });
  }
  for (std::thread& thread : running) thread.join();
  sink->open();
  REQUIRE(tracker.flush(60s));
  const Lines lines = sink->take();
  REQUIRE(lines.size() == 2 + 2 * turns);
  for (int i = 0; i < turns; ++i) {
    REQUIRE(number_in(lines[static_cast<std::size_t>(2 + 2 * i)], "turn") == static_cast<std::uint64_t>(i));
    REQUIRE(number_in(lines[static_cast<std::size_t>(3 + 2 * i)], "turn") == static_cast<std::uint64_t>(i));
  }
}

TEST_CASE("flush returns when all that was said before is written, and says when it is not") {
  const auto sink = std::make_shared<KeepingSink>();
  LogTracker tracker(sink, {.asynchronous = true});
  CHECK(tracker.flush(60s));  // nothing
  for (std::size_t i = 1; i <= 200; ++i) {
    { Activity activity = tracker.start(nowhere, "do", "it"); }
    REQUIRE(tracker.flush(60s));
    REQUIRE(sink->size() == 2 * i);
  }
  std::atomic<bool> failed{false};
  std::vector<std::thread> threads;
  for (int n = 0; n < 4; ++n) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        Activity activity = tracker.start(nowhere, "do", "it");
        if (!tracker.flush(60s)) failed = true;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_FALSE(failed);
  REQUIRE(tracker.flush(60s));
  sink->take();
  sink->hold();
  { Activity activity = tracker.start(nowhere, "do", "it"); }
  CHECK_FALSE(tracker.flush(1ms));
  CHECK_FALSE(tracker.flush(0ms));
  sink->open();
  CHECK(tracker.flush(60s));
  CHECK(sink->size() == 2);
}

TEST_CASE("the destructor writes what is there") {
  for (int round = 0; round < 100; ++round) {
    const auto sink = std::make_shared<KeepingSink>();
    {
      LogTracker tracker(sink, {.asynchronous = true, .stop_timeout = 60s});
      std::thread([&] { Activity activity = tracker.start(nowhere, "end", "soon"); }).join();
      for (int i = 0; i < round; ++i) Activity activity = tracker.start(nowhere, "do", "it");
    }
    REQUIRE(sink->size() == 2 + 2 * static_cast<std::size_t>(round));
  }
}

TEST_CASE("what finds no room is counted, and a line says how much that was") {
  const auto sink = std::make_shared<KeepingSink>();
  const LogFormat format = GENERATE(LogFormat::text, LogFormat::json);
  constexpr std::size_t said = 10'000;
  std::size_t lost = 0;
  {
    LogTracker tracker(sink, {.format = format, .asynchronous = true, .ring_bytes = 1, .stop_timeout = 60s});
    sink->hold();
    for (std::size_t i = 0; i < said; ++i) Activity activity = tracker.start(nowhere, "do", "it", {{"text", std::string(100, 'x')}});
    lost = tracker.stats().lost_full;
    CHECK(lost > 0);
    CHECK(lost < 2 * said);
    sink->open();
    REQUIRE(tracker.flush(60s));
    CHECK(tracker.stats().lost_full == lost);
    CHECK(tracker.stats().written == sink->size());
    CHECK(tracker.stats().lost_by_sink == 0);
  }
  const Lines lines = sink->take();
  CHECK(said_in(lines) + lost == 2 * said);
  const SaidLost told(lines);
  CHECK(told.count == lost);
  const auto line =
      std::find_if(lines.begin(), lines.end(), [](const std::string& text) { return text.find("Log lines lost") != text.npos; });
  REQUIRE(line != lines.end());
  if (format == LogFormat::json) {
    const json parsed = json::parse(*line);
    CHECK(parsed["level"] == "WARN");
    CHECK(parsed["msg"] == "Log lines lost");
  } else {
    CHECK(line->find(" level=WARN msg=\"Log lines lost\" count=") != std::string::npos);
  }
}

TEST_CASE("an activity whose line is lost goes on") {
  const auto sink = std::make_shared<KeepingSink>();
  LogTracker tracker(sink, {.asynchronous = true, .ring_bytes = 1});
  Activity lost = tracker.start(nowhere, "begin", "unheard",
                                {{"a", std::string(30'000, 'x')}, {"b", std::string(30'000, 'x')}, {"c", std::string(30'000, 'x')}});
  CHECK(tracker.stats().lost_full == 1);
  lost.report_error("lost too");
  lost.end();
  CHECK(tracker.stats().lost_full == 3);
  { Activity activity = tracker.start(nowhere, "do", "it"); }
  Lines lines;
  CHECK(eventually([&] {  // said at most once a second
    REQUIRE(tracker.flush(60s));
    for (std::string& line : sink->take()) lines.push_back(std::move(line));
    return SaidLost(lines).count == 3;
  }));
  CHECK(count_with(lines, "operation=do") == 2);
}

TEST_CASE("there are max_rings rings at a time; what other threads say is counted") {
  const auto sink = std::make_shared<KeepingSink>();
  SECTION("one") {
    LogTracker tracker(sink, {.asynchronous = true, .max_rings = 1, .stop_timeout = 60s});
    std::thread([&] {
      { Activity activity = tracker.start(nowhere, "have", "the ring"); }
      std::thread([&] { Activity activity = tracker.start(nowhere, "have", "none"); }).join();
    }).join();
    REQUIRE(tracker.flush(60s));
    CHECK(tracker.stats().lost_full == 2);
    std::thread([&] { Activity activity = tracker.start(nowhere, "have", "the next"); }).join();  // the first has ended
    REQUIRE(tracker.flush(60s));
    CHECK(tracker.stats().lost_full == 2);
    const Lines lines = sink->take();
    CHECK(count_with(lines, "subject=\"the ring\"") == 2);
    CHECK(count_with(lines, "subject=none") == 0);
    CHECK(count_with(lines, "subject=\"the next\"") == 2);
    CHECK(SaidLost(lines).count == 2);
  }
  SECTION("none") {
    LogTracker tracker(sink, {.asynchronous = true, .max_rings = 0});
    { Activity activity = tracker.start(nowhere, "have", "none"); }
    CHECK(tracker.stats().lost_full == 2);
    CHECK(tracker.flush(60s));
    CHECK(SaidLost(sink->take()).count == 2);
  }
}

TEST_CASE("threads may end right after they have said something") {
  constexpr int threads = sanitized ? 1000 : 3000;
  const auto sink = std::make_shared<KeepingSink>();
  LogTracker tracker(sink, {.asynchronous = true});
  for (int i = 0; i < threads; i += 10) {
    std::vector<std::thread> some;
    for (int n = 0; n < 10; ++n)
      some.emplace_back([&tracker, number = i + n] { Activity activity = tracker.start(nowhere, "end", "soon", {{"number", number}}); });
    for (std::thread& thread : some) thread.join();
    if (i % 1000 == 0) REQUIRE(tracker.flush(60s));
  }
  REQUIRE(tracker.flush(60s));
  const LogStats stats = tracker.stats();
  const Lines lines = sink->take();
  CHECK(said_in(lines) + stats.lost_full == 2 * threads);
  std::vector<int> seen(threads);
  for (const std::string& line : lines)
    if (line.find("subject=soon") != line.npos) ++seen[number_in(line, "number")];
  CHECK(std::all_of(seen.begin(), seen.end(), [](int times) { return times <= 2; }));
}

TEST_CASE("each line is written or counted, however much is said") {
  constexpr std::size_t threads = 4, activities = sanitized ? 2'000 : 20'000;
  const auto sink = std::make_shared<KeepingSink>();
  std::size_t lost = 0, written = 0, by_sink = 0;
  {
    LogTracker tracker(sink, {.asynchronous = true, .ring_bytes = 1, .stop_timeout = 60s});
    std::vector<std::thread> running;
    for (std::size_t i = 0; i < threads; ++i) {
      running.emplace_back([&] {
        std::mt19937 random(7);
        for (std::size_t n = 0; n < activities; ++n) {
          Activity activity = tracker.start(nowhere, "say", "much", {{"text", std::string(random() % 300, 'x')}, {"end", "z"}});
        }
      });
    }
    for (std::thread& thread : running) thread.join();
    REQUIRE(tracker.flush(60s));
    lost = tracker.stats().lost_full;
    written = tracker.stats().written;
    by_sink = tracker.stats().lost_by_sink;
  }
  const Lines lines = sink->take();
  CHECK(by_sink == 0);
  CHECK(written <= lines.size());
  CHECK(written + 2 >= lines.size());  // what is said of lost lines may come later
  CHECK(said_in(lines) + lost == threads * activities * 2);
  CHECK(SaidLost(lines).count == lost);
  for (const std::string& line : lines) {
    const bool whole =
        line.starts_with("time=") && line.back() == '\n' &&
        (line.find("x end=z") != line.npos || line.find("text=\"\" end=z") != line.npos || line.find("Log lines lost") != line.npos);
    if (!whole) FAIL(line);
  }
}

TEST_CASE("rings are used round and round") {
  const auto sink = std::make_shared<KeepingSink>();
  LogTracker tracker(sink, {.asynchronous = true, .ring_bytes = 1});
  std::mt19937 random(3);
  Lines expected;
  for (int i = 0; i < 2'000; ++i) {
    std::string text(random() % 5'000, static_cast<char>('a' + i % 26));
    text += '.';
    { Activity activity = tracker.start(nowhere, "fill", "rings", {{"text", text}}); }
    expected.push_back(text);
    if (i % 4 == 0) REQUIRE(tracker.flush(60s));
  }
  REQUIRE(tracker.flush(60s));
  const Lines lines = sink->take();
  REQUIRE(lines.size() == 2 * expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    REQUIRE(lines[2 * i].find(" text=" + expected[i] + "\n") != std::string::npos);
    REQUIRE(lines[2 * i + 1].find(" text=" + expected[i] + " duration=") != std::string::npos);
  }
}

TEST_CASE("a ring may be full wherever it begins") {
  const auto sink = std::make_shared<KeepingSink>();
  LogTracker tracker(sink, {.asynchronous = true, .ring_bytes = 1});
  std::mt19937 random(5);
  std::size_t said = 0, received = 0;
  for (int round = 0; round < 50; ++round) {
    sink->hold();
    { Activity activity = tracker.start(nowhere, "hold", "it"); }
    sink->wait_for_a_thread();
    const std::uint64_t before = tracker.stats().lost_full;
    std::vector<std::size_t> sizes;
    while (tracker.stats().lost_full < before + 10) {
      sizes.push_back(random() % 20'000);
      const std::string text(sizes.back(), static_cast<char>('a' + sizes.size() % 26));
      Activity activity = tracker.start(nowhere, "fill", "it", {{"number", sizes.size()}, {"text", text}, {"end", "z"}});
    }
    said += 2 + 2 * sizes.size();
    sink->open();
    REQUIRE(tracker.flush(60s));
    const Lines lines = sink->take();
    received += said_in(lines);
    std::size_t last = 0;
    for (const std::string& line : lines) {
      if (line.find("subject=it") == line.npos || line.find("operation=hold") != line.npos) continue;
      const std::size_t number = number_in(line, "number");
      REQUIRE(number >= last);
      REQUIRE(number <= sizes.size());
      last = number;
      std::string text(sizes[number - 1], static_cast<char>('a' + number % 26));
      if (text.empty()) text = "\"\"";
      REQUIRE(line.find(" text=" + text + " end=z") != line.npos);
    }
  }
  CHECK(received + tracker.stats().lost_full == said);
}

TEST_CASE("times and durations are those of the machine's clocks") {
  const LogFormat format = LogFormat::json;
  const auto sink = std::make_shared<KeepingSink>();
  LogTracker tracker(sink, {.format = format, .asynchronous = GENERATE(false, true)});
  const auto before = std::chrono::system_clock::now() - 1s;  // what a clock may be off when it is set meanwhile
  const auto begin = std::chrono::steady_clock::now();
  Activity activity = tracker.start(nowhere, "take", "time");
  const auto started = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - started < 2ms) {}
  activity.end();
  const auto most = std::chrono::steady_clock::now() - begin;
  REQUIRE(tracker.flush(60s));
  const auto after = std::chrono::system_clock::now() + 1s;
  const Lines lines = sink->take();
  REQUIRE(lines.size() == 2);
  const auto in_seconds = [](std::chrono::system_clock::time_point time) {
    const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
    char text[32];
    std::strftime(text, sizeof text, "%FT%T", std::gmtime(&seconds));
    return std::string(text);
  };
  for (const std::string& line : lines) {
    const std::string time = json::parse(line)["time"];
    CHECK(time.back() == 'Z');
    CHECK(time >= in_seconds(before));
    CHECK(time <= in_seconds(after + 1s));
  }
  const std::int64_t duration = json::parse(lines[1])["duration"];
  CHECK(duration >= 1'990'000);
  CHECK(duration <= std::chrono::nanoseconds(most).count() + 10'000'000);
}

TEST_CASE("the thread takes no signals, and the program's mask stays") {
  sigset_t before, after;
  REQUIRE(pthread_sigmask(SIG_SETMASK, nullptr, &before) == 0);
  std::atomic<bool> takes{true};
  {
    LogTracker tracker(
        [&](const LogLine&) {
          sigset_t blocked;
          pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
          takes = false;
          for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGCHLD, SIGPROF, SIGPIPE})
            if (sigismember(&blocked, signal) != 1) takes = true;
        },
        {.asynchronous = true});
    { Activity activity = tracker.start(nowhere, "do", "it"); }
    REQUIRE(tracker.flush(60s));
  }
  CHECK_FALSE(takes);
  REQUIRE(pthread_sigmask(SIG_SETMASK, nullptr, &after) == 0);
  for (int signal = 1; signal < 32; ++signal) CHECK(sigismember(&before, signal) == sigismember(&after, signal));
}

TEST_CASE("threads that end by cancellation leave whole lines") {
  const bool asynchronous = GENERATE(false, true);
  const auto sink = std::make_shared<KeepingSink>();
  {
    LogTracker tracker(sink, {.asynchronous = asynchronous, .stop_timeout = 60s});
    for (int round = 0; round < 100; ++round) {
      std::atomic<bool> running{false};
      PosixThread thread([&] {
        for (;;) {
          Activity activity = tracker.start(nowhere, "go", "on");
          activity.report_error("none");
          activity.report_change(1, [] { return "[1]"s; });
          tracker.flush(0ms);
          running = true;
          pthread_testcancel();
        }
      });
      while (!running) std::this_thread::yield();
      thread.cancel();
      thread.join();
      REQUIRE_FALSE(thread.returned());
    }
  }
  const Lines lines = sink->take();
  std::size_t started = 0, completed = 0;
  for (const std::string& line : lines) {
    REQUIRE(line.find('\n') == line.size() - 1);
    if (line.find("Operation started") != line.npos) ++started;
    if (line.find("Operation completed") != line.npos) ++completed;
  }
  if (SaidLost(lines).count == 0) CHECK(started == completed);
  CHECK(started >= 100);
}
