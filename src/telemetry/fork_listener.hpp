#pragma once
// ForkListener: what must know that the process forks. Emitters and spools are told, so that a child neither waits for a lock of
// the parent's threads nor keeps a descriptor of the parent's.

#include <mutex>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// Told between add_fork_listener() and remove_fork_listener(), on the thread that forks.
class ForkListener {
 public:
  virtual void before_fork() noexcept {}
  virtual void in_parent() noexcept {}
  /// Only this thread is left. Must neither allocate nor free.
  virtual void in_child() noexcept = 0;

 protected:
  virtual ~ForkListener() = default;

 private:
  friend struct ForkListeners;
  ForkListener *previous_ = nullptr, *next_ = nullptr;
};

void add_fork_listener(ForkListener& listener) noexcept;
void remove_fork_listener(ForkListener& listener) noexcept;

/// No other thread forks while this is held, which is for making and closing descriptors. add and remove wait for it.
[[nodiscard]] std::unique_lock<std::mutex> no_forks() noexcept;
void remove_fork_listener(ForkListener& listener, const std::unique_lock<std::mutex>& no_forks) noexcept;

/// How many forks lie between this process and the one that added the first listener.
unsigned fork_generation() noexcept;

}  // namespace weir::inline v0::detail
