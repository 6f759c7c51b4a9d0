#include "trace/ring_pool.hpp"

#include <sys/mman.h>
#include <unistd.h>
#include <new>

namespace weir::inline v0::detail {

namespace {

std::size_t bytes_of(std::size_t capacity) { return sizeof(RingPage) + capacity + sizeof(ThreadRing); }

/// A ring in the given memory: the page, then the data.
ThreadRing* make_ring(void* at, std::byte* memory, std::size_t capacity, ThreadRing::Release release) {
  auto* page = ::new (memory) RingPage;
  page->pid = static_cast<std::uint32_t>(::getpid());
  page->tid = static_cast<std::uint64_t>(::gettid());
  return ::new (at) ThreadRing(page, memory + sizeof(RingPage), capacity, release);
}

}  // namespace

RingPool& RingPool::instance() noexcept {
  static Immortal<RingPool> pool;
  return pool.value;
}

std::size_t RingPool::total_bytes() const noexcept {
  std::lock_guard lock(mutex_);
  return total_bytes_;
}

ThreadRing* RingPool::acquire(std::size_t capacity, std::size_t max_total_bytes) noexcept {
  std::lock_guard lock(mutex_);
  sweep();
  if (ThreadRing* used = take_idle(capacity)) {
    auto* memory = reinterpret_cast<std::byte*>(&used->page());
    used->~ThreadRing();
    return make_ring(used, memory, capacity, &RingPool::release);
  }
  while (idle_ != nullptr && total_bytes_ + bytes_of(capacity) > max_total_bytes) {  // idle rings of other sizes
    ThreadRing* ring = idle_;
    idle_ = ring->next;
    --idle_count_;
    destroy(ring);
  }
  if (total_bytes_ + bytes_of(capacity) > max_total_bytes) return nullptr;
  void* memory = ::mmap(nullptr, sizeof(RingPage) + capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  void* at = ::operator new (sizeof(ThreadRing), std::align_val_t{alignof(ThreadRing)}, std::nothrow);
  if (at == nullptr) {
    ::munmap(memory, sizeof(RingPage) + capacity);
    return nullptr;
  }
  total_bytes_ += bytes_of(capacity);
  return make_ring(at, static_cast<std::byte*>(memory), capacity, &RingPool::release);
}

ThreadRing* RingPool::take_idle(std::size_t capacity) noexcept {
  for (ThreadRing** link = &idle_; *link != nullptr; link = &(*link)->next) {
    ThreadRing* ring = *link;
    if (ring->capacity() != capacity) continue;
    *link = ring->next;
    --idle_count_;
    return ring;
  }
  return nullptr;
}

void RingPool::release(ThreadRing* ring) noexcept {
  RingPool& pool = instance();
  if (ring->generation() != process().generation()) return;  // a parent process's: abandoned with it
  std::lock_guard lock(pool.mutex_);
  pool.give_back(ring);
  pool.sweep();
}

void RingPool::give_back(ThreadRing* ring) noexcept {
  if (ring->has_open_spans()) {
    ring->next = haunted_;
    haunted_ = ring;
  } else if (idle_count_ < max_idle) {
    ring->next = idle_;
    idle_ = ring;
    ++idle_count_;
  } else {
    destroy(ring);
  }
}

void RingPool::sweep() noexcept {
  ThreadRing* list = haunted_;
  haunted_ = nullptr;
  while (list != nullptr) {
    ThreadRing* ring = list;
    list = ring->next;
    give_back(ring);
  }
}

void RingPool::destroy(ThreadRing* ring) noexcept {
  total_bytes_ -= bytes_of(ring->capacity());
  ::munmap(&ring->page(), sizeof(RingPage) + ring->capacity());
  ring->~ThreadRing();
  ::operator delete (ring, std::align_val_t{alignof(ThreadRing)});
}

void RingPool::in_child() noexcept {
  ::new (&mutex_) std::mutex;  // its holder may be a thread that the child does not have
  idle_ = haunted_ = nullptr;
  idle_count_ = total_bytes_ = 0;
}

}  // namespace weir::inline v0::detail
