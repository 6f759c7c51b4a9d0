#pragma once
// ForkMutex: a mutex that is unlocked in the child of a fork, unless the forking thread holds it itself. What it guards may be in
// the middle of a change there: whoever uses one says what becomes of that. (Holding it across fork() instead would deadlock
// with callbacks that run under it.)

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// How many forks lie between this process and the one that made the first ForkMutex. Thread-safe.
std::uint64_t fork_count() noexcept;

/// Satisfies BasicLockable. Thread-safety: shared: safe, as a mutex.
class ForkMutex {
 public:
  ForkMutex();
  ~ForkMutex();
  ForkMutex(const ForkMutex&) = delete;
  ForkMutex& operator=(const ForkMutex&) = delete;

  void lock() {
    mutex_.lock();
    owner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  }
  /// Whether the calling thread holds it.
  bool is_mine() const noexcept { return owner_.load(std::memory_order_relaxed) == std::this_thread::get_id(); }
  void unlock() {
    owner_.store(std::thread::id(), std::memory_order_relaxed);
    mutex_.unlock();
  }

 private:
  static void prepare();
  static void in_parent();
  static void in_child();

  std::mutex mutex_;
  std::atomic<std::thread::id> owner_{};
  ForkMutex *previous_ = nullptr, *next_ = nullptr;
};

}  // namespace weir::inline v0::detail
