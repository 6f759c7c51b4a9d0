#pragma once
// VirtualPacer: time that jumps when an emitter's thread waits, as far as the test lets it.

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "support/catch.hpp"
#include "weir/telemetry/emitter.hpp"

namespace weir::testing {

/// Every wait is written down. The first `free_waits` pass at once, the others when let_pass() allows it. Thread-safe.
class VirtualPacer final : public Pacer {
 public:
  explicit VirtualPacer(std::size_t free_waits = 0) : allowed_(free_waits) {}

  Timestamp now() noexcept override {
    const std::lock_guard lock(mutex_);
    return now_;
  }
  bool wait(std::chrono::nanoseconds time, const StopToken& stop) noexcept override {
    bool stopped = false;
    const StopCallback callback(stop, [&] {
      const std::lock_guard lock(mutex_);
      stopped = true;
      changed_.notify_all();
    });
    std::unique_lock lock(mutex_);
    waits_.push_back(time);
    const std::size_t mine = waits_.size();
    changed_.notify_all();
    changed_.wait(lock, [&] { return stopped || mine <= allowed_; });
    if (mine > allowed_) return false;
    now_ += time;
    return !stopped;
  }
  double random() noexcept override { return 0.5; }

  void let_pass(std::size_t number) {
    const std::lock_guard lock(mutex_);
    allowed_ += number;
    changed_.notify_all();
  }
  /// All waits, when there are `number` of them.
  std::vector<std::chrono::nanoseconds> waits(std::size_t number) {
    std::unique_lock lock(mutex_);
    const bool there = changed_.wait_for(lock, std::chrono::seconds{60}, [&] { return waits_.size() >= number; });
    REQUIRE(there);
    return waits_;
  }
  std::size_t count() {
    const std::lock_guard lock(mutex_);
    return waits_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  Timestamp now_{std::chrono::seconds{1'700'000'000}};
  std::vector<std::chrono::nanoseconds> waits_;
  std::size_t allowed_;
};

}  // namespace weir::testing
