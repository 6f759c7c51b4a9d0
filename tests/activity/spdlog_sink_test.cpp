// Lines of activities in a spdlog logger.
#include "weir/activity/spdlog_sink.hpp"

#include <spdlog/async.h>
#include <spdlog/sinks/ostream_sink.h>

#include <chrono>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>

#include "support/catch.hpp"
#include "support/log_lines.hpp"
#include "weir/activity/log_tracker.hpp"

using namespace weir;
using namespace weir::testing;
using namespace std::chrono_literals;

namespace {

const Context nowhere;

/// A spdlog logger into a string.
struct Target {
  std::ostringstream out;
  std::shared_ptr<spdlog::sinks::ostream_sink_mt> sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(out);
  std::shared_ptr<spdlog::logger> logger = std::make_shared<spdlog::logger>("weir", sink);
};

void say(LogTracker& tracker) {
  {
    Activity activity = tracker.start(nowhere, "update", "user", {{"text", "{} %v"}});
    activity.report_error("no such user");
  }
  REQUIRE(tracker.flush(60s));
}

/// Without what differs.
std::string without_numbers(std::string text) {
  for (const std::string key : {"op_id=", "duration=", "\"op_id\":", "\"duration\":"}) {
    for (std::size_t at = 0; (at = text.find(key, at)) != text.npos;) {
      at += key.size();
      text.erase(at, text.find_first_of(" ,}\n", at) - at);
    }
  }
  return text;
}

const std::string head = "operation=update subject=user op_id= text=\"{} %v\"";

}  // namespace

TEST_CASE("a spdlog logger gets the lines with its own pattern and levels") {
  Target target;
  target.logger->set_pattern("%n|%l|%v");
  LogTracker tracker(std::make_shared<SpdlogSink>(target.logger), {.asynchronous = GENERATE(false, true)});
  say(tracker);
  CHECK(without_numbers(target.out.str()) == "weir|info|msg=\"Operation started\" " + head +
                                                 "\n"
                                                 "weir|error|msg=\"Operation failed\" " +
                                                 head +
                                                 " error=\"no such user\"\n"
                                                 "weir|info|msg=\"Operation completed\" " +
                                                 head + " duration=\n");
  CHECK(tracker.stats().written == 3);
}

TEST_CASE("a spdlog logger gets JSON as one object") {
  Target target;
  target.logger->set_pattern("%v");
  LogTracker tracker(std::make_shared<SpdlogSink>(target.logger), {.format = LogFormat::json});
  say(tracker);
  const Lines lines = lines_of(target.out.str());
  REQUIRE(lines.size() == 3);
  for (const std::string& line : lines) CHECK((line.front() == '{' && line.back() == '}'));
  CHECK(count_with(lines, "\"text\":\"{} %v\"") == 3);
}

TEST_CASE("what a spdlog logger's filter drops is no loss") {
  Target target;
  target.logger->set_level(spdlog::level::err);
  target.logger->set_pattern("%l");
  LogTracker tracker(std::make_shared<SpdlogSink>(target.logger), {});
  say(tracker);
  CHECK(target.out.str() == "error\n");
  CHECK(tracker.stats().written == 3);
  CHECK(tracker.stats().lost_by_sink == 0);
}

TEST_CASE("warnings are warnings in spdlog") {
  Target target;
  target.logger->set_pattern("%l %v");
  LogTracker tracker(std::make_shared<SpdlogSink>(target.logger), {.asynchronous = true, .max_rings = 0});
  say(tracker);
  CHECK(target.out.str() == "warning msg=\"Log lines lost\" count=3\n");
}

TEST_CASE("a spdlog logger may have a thread of its own") {
  Target target;
  auto pool = std::make_shared<spdlog::details::thread_pool>(1024, 1);
  const auto logger = std::make_shared<spdlog::async_logger>("weir", target.sink, pool, spdlog::async_overflow_policy::block);
  logger->set_pattern("%v");
  LogTracker tracker(std::make_shared<SpdlogSink>(logger), {.asynchronous = GENERATE(false, true)});
  for (int i = 0; i < 100; ++i) say(tracker);
  pool.reset();  // writes what it has
  CHECK(lines_of(target.out.str()).size() == 300);
}

TEST_CASE("what spdlog's sinks throw is its error handler's, and what that throws costs the line") {
  struct Broken final : spdlog::sinks::sink {
    void log(const spdlog::details::log_msg&) override { throw std::runtime_error("broken"); }
    void flush() override {}
    void set_pattern(const std::string&) override {}
    void set_formatter(std::unique_ptr<spdlog::formatter>) override {}
  };
  const auto logger = std::make_shared<spdlog::logger>("weir", std::make_shared<Broken>());
  KeepingLogger messages;
  LogTracker tracker(std::make_shared<SpdlogSink>(logger), {.logger = &messages});
  std::string heard;
  logger->set_error_handler([&](const std::string& what) { heard = what; });
  say(tracker);
  CHECK(heard.find("broken") != std::string::npos);
  CHECK(tracker.stats().written == 3);
  CHECK(messages.take().empty());
  logger->set_error_handler([](const std::string&) { throw std::runtime_error("worse"); });
  say(tracker);
  CHECK(tracker.stats().written == 3);
  CHECK(tracker.stats().lost_by_sink == 3);
  CHECK(messages.take().size() == 1);
}
