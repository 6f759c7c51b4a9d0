#pragma once
// What the tests of logs share: a sink and a logger that keep what they are given.

#include <condition_variable>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "weir/activity/log_sink.hpp"
#include "weir/core/logger.hpp"

namespace weir::testing {

using Lines = std::vector<std::string>;

/// Splits text into lines without their newlines; all of it must be whole lines.
inline Lines lines_of(std::string_view text) {
  Lines lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    REQUIRE(end != text.npos);
    lines.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

/// Keeps lines, each with its newline. Can be told to hold whoever brings some, until it is opened.
class KeepingSink final : public LogSink {
 public:
  std::size_t write(std::span<const LogLine> lines, std::error_code&) noexcept override {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
    --waiting_;
    for (const LogLine& line : lines) lines_.emplace_back(line.text);
    return lines.size();
  }
  /// And forgets them.
  Lines take() {
    std::lock_guard lock(mutex_);
    return std::exchange(lines_, {});
  }
  std::size_t size() {
    std::lock_guard lock(mutex_);
    return lines_.size();
  }
  void hold() {
    std::lock_guard lock(mutex_);
    open_ = false;
  }
  /// Until a thread is held.
  void wait_for_a_thread() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ != 0; });
  }
  void open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  Lines lines_;  // guarded by mutex_, as what follows
  bool open_ = true;
  int waiting_ = 0;
};

/// Keeps messages: "error: message key=text".
class KeepingLogger final : public Logger {
 public:
  void log(Level level, std::string_view message, std::span<const Attribute> attributes) noexcept override {
    std::string text = std::string(to_string(level)) + ": " + std::string(message);
    for (const Attribute& attribute : attributes) {
      text.append(" ").append(attribute.key.view()).append("=");
      text += attribute.value.type() == AttributeValue::Type::string ? std::string(attribute.value.text())
                                                                     : std::to_string(attribute.value.integer());
    }
    std::lock_guard lock(mutex_);
    messages_.push_back(std::move(text));
  }
  /// And forgets them.
  Lines take() {
    std::lock_guard lock(mutex_);
    return std::exchange(messages_, {});
  }

 private:
  std::mutex mutex_;
  Lines messages_;  // guarded by mutex_
};

/// How many of `lines` contain `part`.
inline std::size_t count_with(const Lines& lines, std::string_view part) {
  std::size_t count = 0;
  for (const std::string& line : lines) count += line.find(part) != line.npos ? 1 : 0;
  return count;
}

/// Of the lines that say how many are missing: the sum, and how many they are.
struct SaidLost {
  explicit SaidLost(const Lines& all) {
    for (const std::string& line : all) {
      if (line.find("Log lines lost") == line.npos) continue;
      ++lines;
      const std::size_t at = line.find("count");
      count += std::stoul(line.substr(line.find_first_of("0123456789", at)));
    }
  }
  std::size_t lines = 0, count = 0;
};

}  // namespace weir::testing
