#pragma once
// StopSource, StopToken, StopCallback: the part of std::stop_source and its kin that weir uses, under the same names.
// (libc++ of the oldest supported compiler has no <stop_token>.) Blocking calls such as Collector::serve take a token.
//
//   weir::StopSource stop;
//   std::thread server([&] { (void)collector.serve(stop.token()); });
//   stop.request_stop();

#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "weir/core/version.hpp"

namespace weir::inline v0 {

namespace detail {

struct StopState {
  std::mutex mutex;
  std::condition_variable ran;  // signalled after each callback
  bool requested = false;
  std::list<std::function<void()>*> callbacks;
  std::function<void()>* running = nullptr;
  std::thread::id runner;
};

}  // namespace detail

/// Thread-safety: shared: safe.
class StopToken {
 public:
  StopToken() = default;  ///< never stops
  bool stop_requested() const {
    if (!state_) return false;
    std::lock_guard lock(state_->mutex);
    return state_->requested;
  }
  bool stop_possible() const noexcept { return state_ != nullptr; }

 private:
  friend class StopSource;
  friend class StopCallback;
  explicit StopToken(std::shared_ptr<detail::StopState> state) : state_(std::move(state)) {}
  std::shared_ptr<detail::StopState> state_;
};

/// Thread-safety: shared: safe. Not for signal handlers.
class StopSource {
 public:
  StopSource() : state_(std::make_shared<detail::StopState>()) {}
  StopToken token() const { return StopToken(state_); }
  bool stop_requested() const { return token().stop_requested(); }
  /// Runs the registered callbacks on this thread. Returns true for the first request, false for later ones.
  bool request_stop() {
    std::unique_lock lock(state_->mutex);
    if (std::exchange(state_->requested, true)) return false;
    state_->runner = std::this_thread::get_id();
    while (!state_->callbacks.empty()) {
      state_->running = state_->callbacks.front();
      state_->callbacks.pop_front();
      lock.unlock();
      (*state_->running)();
      lock.lock();
      state_->running = nullptr;
      state_->ran.notify_all();
    }
    return true;
  }

 private:
  std::shared_ptr<detail::StopState> state_;
};

/// Calls `callback` once when stop is requested (at once if it already is). Destruction waits for a call in progress on
/// another thread, so the callback never outlives what it refers to.
class StopCallback {
 public:
  StopCallback(const StopToken& token, std::function<void()> callback) : callback_(std::move(callback)), state_(token.state_) {
    if (!state_) return;
    {
      std::lock_guard lock(state_->mutex);
      if (!state_->requested) {
        state_->callbacks.push_back(&callback_);
        return;
      }
    }
    callback_();
  }
  ~StopCallback() {
    if (!state_) return;
    std::unique_lock lock(state_->mutex);
    state_->callbacks.remove(&callback_);
    if (state_->runner != std::this_thread::get_id()) state_->ran.wait(lock, [&] { return state_->running != &callback_; });
  }
  StopCallback(const StopCallback&) = delete;
  StopCallback& operator=(const StopCallback&) = delete;

 private:
  std::function<void()> callback_;
  std::shared_ptr<detail::StopState> state_;
};

}  // namespace weir::inline v0
