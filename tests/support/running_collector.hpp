#pragma once
// A collector on a thread of its own, that keeps the spans it was told of; and a logger that says nothing.

#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "weir/collect/collector.hpp"

namespace weir::testing {

class SilentLogger final : public Logger {
 public:
  void log(Level, std::string_view, std::span<const Attribute>) noexcept override {}
};
inline SilentLogger silent;

class RunningCollector {
 public:
  explicit RunningCollector(const std::string& path, CollectorOptions options = {}) : collector_(path, quiet(std::move(options))) {
    collector_.on_span_complete([this](std::string_view, const Span& span) {
      std::lock_guard lock(mutex_);
      spans_.push_back(span);
    });
    const Result<void> bound = collector_.listen();
    if (!bound) throw std::runtime_error(bound.error().message);
    thread_ = std::thread([this] { served_ = collector_.serve(stop_.token()); });
  }
  ~RunningCollector() { (void)stop(); }
  /// Whether it had served well.
  bool stop() {
    stop_.request_stop();
    if (thread_.joinable()) thread_.join();
    return served_.has_value();
  }
  std::string path() const { return collector_.socket_path(); }
  CollectorStats stats() const { return collector_.stats(); }
  std::vector<Span> spans() const {
    std::lock_guard lock(mutex_);
    return spans_;
  }
  std::size_t count() const {
    std::lock_guard lock(mutex_);
    return spans_.size();
  }

 private:
  static CollectorOptions quiet(CollectorOptions options) {
    options.logger = &silent;
    return options;
  }

  Collector collector_;
  StopSource stop_;
  Result<void> served_;
  mutable std::mutex mutex_;
  std::vector<Span> spans_;
  std::thread thread_;
};

}  // namespace weir::testing
