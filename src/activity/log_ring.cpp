#include "activity/log_ring.hpp"

#include <pthread.h>

#include <cstring>
#include <mutex>

namespace weir::inline v0::detail {

constinit thread_local ThreadLogRings thread_log_rings{};

LogRing* LogRing::create(std::uint64_t tracker, const Ticker& ticker, std::size_t capacity) noexcept {
  constexpr auto alignment = std::align_val_t{64};
  auto* const data = static_cast<std::byte*>(::operator new(capacity, alignment, std::nothrow));
  if (data == nullptr) return nullptr;
  auto* const ring = new (std::nothrow) LogRing(tracker, ticker, data, capacity);
  if (ring == nullptr) ::operator delete(data, alignment);
  return ring;
}

void LogRing::let_go() noexcept {
  if (owners_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  ::operator delete (data_, std::align_val_t{64});
  delete this;
}

[[gnu::noinline, gnu::cold]] bool LogRing::make_room(std::uint64_t size, bool& half_full) noexcept {
  const std::uint64_t capacity = mask_ + 1;
  const std::uint64_t tail = tail_.load(std::memory_order_acquire);  // the reader is done with what is before it
  const std::uint64_t free_end = tail + capacity;
  std::uint64_t lap_end = (position_ | mask_) + 1;
  const std::uint64_t padding = lap_end - position_ < size ? lap_end - position_ : 0;
  if (size > capacity / 2 || free_end - position_ < padding + size) {
    half_full = true;
    lost_.store(lost_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);  // one writer
    return false;
  }
  if (padding != 0) {
    const LogRecordHead head{static_cast<std::uint32_t>(padding), LogRecordHead::padding};
    std::memcpy(data_ + (position_ & mask_), &head, sizeof head);
    position_ = lap_end;
    lap_end += capacity;
  }
  limit_ = free_end < lap_end ? free_end : lap_end;
  const std::uint64_t half = tail + capacity / 2;
  if (position_ + size > half)
    half_full = true;
  else if (half < limit_)
    limit_ = half;
  return true;
}

namespace {

void end_thread(void*) noexcept {
  ThreadLogRings& thread = thread_log_rings;
  thread.tracker = 0;
  thread.ring = nullptr;
  while (thread.all != nullptr) {
    LogRing* const ring = thread.all;
    thread.all = ring->next_of_thread;
    ring->close();
    ring->let_go();
  }
}

/// Its destructor runs at the end of each thread that has rings, after those of thread_local objects.
struct ThreadEnd {
  pthread_key_t key{};
  bool made = ::pthread_key_create(&key, &end_thread) == 0;
};

}  // namespace

LogRing* ThreadLogRings::find(std::uint64_t id) noexcept {
  for (LogRing** link = &all; *link != nullptr;) {
    LogRing* const candidate = *link;
    if (candidate->tracker() == id) {
      tracker = id;
      return ring = candidate;
    }
    if (!candidate->orphaned()) {
      link = &candidate->next_of_thread;
      continue;
    }
    if (ring == candidate) ring = nullptr, tracker = 0;  // its tracker is gone
    *link = candidate->next_of_thread;
    candidate->let_go();
  }
  return nullptr;
}

bool ThreadLogRings::add(LogRing& new_ring) noexcept {
  static const ThreadEnd thread_end;
  if (!thread_end.made || ::pthread_setspecific(thread_end.key, this) != 0) return false;
  new_ring.next_of_thread = all;
  all = ring = &new_ring;
  tracker = new_ring.tracker();
  return true;
}

}  // namespace weir::inline v0::detail
