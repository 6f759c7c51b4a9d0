#include "telemetry/fork_listener.hpp"

#include <pthread.h>

#include <atomic>

namespace weir::inline v0::detail {

/// Constant-initialized and trivially destroyed: listeners may be made before main and destroyed after it.
struct ForkListeners {
  std::mutex mutex;  // held across fork
  ForkListener* first = nullptr;
  std::atomic<unsigned> generation{0};

  static void before();
  static void in_parent();
  static void in_child();
  void add(ForkListener& listener) noexcept {
    listener.previous_ = nullptr;
    listener.next_ = first;
    if (first != nullptr) first->previous_ = &listener;
    first = &listener;
  }
  void remove(ForkListener& listener) noexcept {
    (listener.previous_ != nullptr ? listener.previous_->next_ : first) = listener.next_;
    if (listener.next_ != nullptr) listener.next_->previous_ = listener.previous_;
  }
};

namespace {

constinit ForkListeners listeners;

}  // namespace

void ForkListeners::before() {
  listeners.mutex.lock();
  for (ForkListener* listener = listeners.first; listener != nullptr; listener = listener->next_) listener->before_fork();
}

void ForkListeners::in_parent() {
  for (ForkListener* listener = listeners.first; listener != nullptr; listener = listener->next_) listener->in_parent();
  listeners.mutex.unlock();
}

void ForkListeners::in_child() {
  listeners.generation.fetch_add(1, std::memory_order_relaxed);
  for (ForkListener* listener = listeners.first; listener != nullptr; listener = listener->next_) listener->in_child();
  listeners.mutex.unlock();
}

void add_fork_listener(ForkListener& listener) noexcept {
  static const int registered = ::pthread_atfork(&ForkListeners::before, &ForkListeners::in_parent, &ForkListeners::in_child);
  (void)registered;  // fails without memory only: then children are not told
  const std::lock_guard lock(listeners.mutex);
  listeners.add(listener);
}

void remove_fork_listener(ForkListener& listener) noexcept { remove_fork_listener(listener, no_forks()); }

void remove_fork_listener(ForkListener& listener, const std::unique_lock<std::mutex>&) noexcept { listeners.remove(listener); }

std::unique_lock<std::mutex> no_forks() noexcept { return std::unique_lock(listeners.mutex); }

unsigned fork_generation() noexcept { return listeners.generation.load(std::memory_order_relaxed); }

}  // namespace weir::inline v0::detail
