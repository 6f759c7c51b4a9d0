#include "activity/fork_mutex.hpp"

#include <pthread.h>

#include <new>

namespace weir::inline v0::detail {

namespace {

// Constant-initialized and trivially destroyed: mutexes may be made before main and destroyed after it.
constinit std::mutex list_mutex;
constinit ForkMutex* first = nullptr;  // guarded by list_mutex
constinit std::atomic<std::uint64_t> forks{0};

}  // namespace

std::uint64_t fork_count() noexcept { return forks.load(std::memory_order_relaxed); }

ForkMutex::ForkMutex() {
  static const int registered = ::pthread_atfork(&prepare, &in_parent, &in_child);
  (void)registered;
  std::lock_guard lock(list_mutex);
  next_ = first;
  if (first != nullptr) first->previous_ = this;
  first = this;
}

ForkMutex::~ForkMutex() {
  std::lock_guard lock(list_mutex);
  (previous_ != nullptr ? previous_->next_ : first) = next_;
  if (next_ != nullptr) next_->previous_ = previous_;
}

void ForkMutex::prepare() { list_mutex.lock(); }
void ForkMutex::in_parent() { list_mutex.unlock(); }
void ForkMutex::in_child() {
  forks.fetch_add(1, std::memory_order_relaxed);
  for (ForkMutex* mutex = first; mutex != nullptr; mutex = mutex->next_) {
    if (mutex->is_mine()) continue;
    new (&mutex->mutex_) std::mutex;
    mutex->owner_.store(std::thread::id(), std::memory_order_relaxed);
  }
  list_mutex.unlock();
}

}  // namespace weir::inline v0::detail
