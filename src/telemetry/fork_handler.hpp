#pragma once
// ForkHandler: what must know that the process forks. Emitters and spools are told, so that a child neither waits for a lock of
// the parent's threads nor keeps a descriptor of the parent's.

#include <mutex>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// Told between add_fork_handler() and remove_fork_handler(), on the thread that forks.
class ForkHandler {
 public:
  virtual void before_fork() noexcept {}
  virtual void in_parent() noexcept {}
  /// Only this thread is left. Must neither allocate nor free.
  virtual void in_child() noexcept = 0;

 protected:
  virtual ~ForkHandler() = default;

 private:
  friend struct ForkHandlers;
  ForkHandler *previous_ = nullptr, *next_ = nullptr;
};

void add_fork_handler(ForkHandler& handler) noexcept;
void remove_fork_handler(ForkHandler& handler) noexcept;

/// No other thread forks while this is held, which is for making and closing descriptors. add and remove wait for it.
[[nodiscard]] std::unique_lock<std::mutex> no_forks() noexcept;
void remove_fork_handler(ForkHandler& handler, const std::unique_lock<std::mutex>& no_forks) noexcept;

/// How many forks lie between this process and the one that added the first handler.
unsigned fork_generation() noexcept;

}  // namespace weir::inline v0::detail
