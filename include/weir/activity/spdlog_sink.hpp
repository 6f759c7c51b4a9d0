#pragma once
// SpdlogSink: the lines of a LogTracker into a spdlog logger, with its pattern, level filter and sinks. A header of its own, for
// programs that have spdlog: weir does not need it.
//
//   weir::LogTracker tracker{std::make_shared<weir::SpdlogSink>(spdlog::default_logger()), {}};
//
//   [2026-11-21 11:13:56.123] [info] msg="Operation started" operation=update subject=user op_id=1

#include <spdlog/spdlog.h>

#include <memory>
#include <utility>

#include "weir/activity/log_sink.hpp"

namespace weir::inline v0 {

/// Time and level are spdlog's; the line is what the text format says after them, or the JSON object. What spdlog's sinks throw goes to
/// the logger's error handler; what its filter or its queue drops counts as written. Thread-safety: that of the logger: use one whose sinks
/// are `_mt`, for LogTracker's threads share it.
class SpdlogSink final : public LogSink {
 public:
  /// Requires: not null.
  explicit SpdlogSink(std::shared_ptr<spdlog::logger> logger) : logger_(std::move(logger)) {}

  std::size_t write(std::span<const LogLine> lines, std::error_code& error) noexcept override {
    std::size_t taken = 0;
    for (const LogLine& line : lines) {
      try {
        logger_->log(level(line.level), spdlog::string_view_t(line.body.data(), line.body.size()));
        ++taken;
      } catch (...) {  // an error handler of the program's own
        error = std::make_error_code(std::errc::io_error);
      }
    }
    return taken;
  }

 private:
  static spdlog::level::level_enum level(Logger::Level level) noexcept {
    switch (level) {
      case Logger::Level::debug: return spdlog::level::debug;
      case Logger::Level::info: return spdlog::level::info;
      case Logger::Level::warning: return spdlog::level::warn;
      case Logger::Level::error: return spdlog::level::err;
    }
    return spdlog::level::info;
  }

  std::shared_ptr<spdlog::logger> logger_;
};

}  // namespace weir::inline v0
