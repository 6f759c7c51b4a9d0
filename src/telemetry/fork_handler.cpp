#include "telemetry/fork_handler.hpp"

#include <pthread.h>

#include <atomic>

namespace weir::inline v0::detail {

/// Constant-initialized and trivially destroyed: handlers may be made before main and destroyed after it.
struct ForkHandlers {
  std::mutex mutex;  // held across fork
  ForkHandler* first = nullptr;
  std::atomic<unsigned> generation{0};

  static void before();
  static void in_parent();
  static void in_child();
  void add(ForkHandler& handler) noexcept {
    handler.previous_ = nullptr;
    handler.next_ = first;
    if (first != nullptr) first->previous_ = &handler;
    first = &handler;
  }
  void remove(ForkHandler& handler) noexcept {
    (handler.previous_ != nullptr ? handler.previous_->next_ : first) = handler.next_;
    if (handler.next_ != nullptr) handler.next_->previous_ = handler.previous_;
  }
};

namespace {

constinit ForkHandlers handlers;

}  // namespace

void ForkHandlers::before() {
  handlers.mutex.lock();
  for (ForkHandler* handler = handlers.first; handler != nullptr; handler = handler->next_) handler->before_fork();
}

void ForkHandlers::in_parent() {
  for (ForkHandler* handler = handlers.first; handler != nullptr; handler = handler->next_) handler->in_parent();
  handlers.mutex.unlock();
}

void ForkHandlers::in_child() {
  handlers.generation.fetch_add(1, std::memory_order_relaxed);
  for (ForkHandler* handler = handlers.first; handler != nullptr; handler = handler->next_) handler->in_child();
  handlers.mutex.unlock();
}

void add_fork_handler(ForkHandler& handler) noexcept {
  static const int registered = ::pthread_atfork(&ForkHandlers::before, &ForkHandlers::in_parent, &ForkHandlers::in_child);
  (void)registered;  // fails without memory only: then children are not told
  const std::lock_guard lock(handlers.mutex);
  handlers.add(handler);
}

void remove_fork_handler(ForkHandler& handler) noexcept { remove_fork_handler(handler, no_forks()); }

void remove_fork_handler(ForkHandler& handler, const std::unique_lock<std::mutex>&) noexcept { handlers.remove(handler); }

std::unique_lock<std::mutex> no_forks() noexcept { return std::unique_lock(handlers.mutex); }

unsigned fork_generation() noexcept { return handlers.generation.load(std::memory_order_relaxed); }

}  // namespace weir::inline v0::detail
