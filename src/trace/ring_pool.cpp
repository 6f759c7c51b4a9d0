#include "trace/ring_pool.hpp"

#include <unistd.h>
#include <new>
#include <utility>

namespace weir::inline v0::detail {

namespace {

std::size_t cost_of(std::size_t slot_bytes) noexcept { return slot_bytes + sizeof(ThreadRing); }

}  // namespace

struct RingPool::PooledRing : ThreadRing {
  PooledRing(RingPage* page, std::byte* data, std::uint64_t capacity, std::shared_ptr<RingMemory> its_memory, std::size_t its_slot) noexcept
      : ThreadRing(page, data, capacity, &RingPool::release), memory(std::move(its_memory)), slot(its_slot) {}
  std::shared_ptr<RingMemory> memory;
  std::size_t slot;
};

RingPool& RingPool::instance() noexcept {
  static Immortal<RingPool> pool;
  return pool.value;
}

ThreadRing* RingPool::make(std::shared_ptr<RingMemory> memory, std::size_t slot) noexcept {
  std::byte* at = memory->map(slot);
  if (at == nullptr) return nullptr;
  auto* page = ::new (at) RingPage;
  page->pid = static_cast<std::uint32_t>(::getpid());
  const std::size_t capacity = memory->slot_bytes() - sizeof(RingPage);
  ThreadRing* ring = new (std::nothrow) PooledRing(page, at + sizeof(RingPage), capacity, memory, slot);
  if (ring == nullptr) memory->unmap(at);
  return ring;
}

std::size_t RingPool::slot_of(const ThreadRing& ring) noexcept { return static_cast<const PooledRing&>(ring).slot; }

bool RingPool::charge(std::size_t slot_bytes, std::size_t max_total_bytes) noexcept {
  const std::size_t bytes = cost_of(slot_bytes);
  if (total_bytes_.fetch_add(bytes, std::memory_order_relaxed) + bytes <= max_total_bytes) return true;
  total_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
  return false;
}

void RingPool::discharge(std::size_t slot_bytes) noexcept { total_bytes_.fetch_sub(cost_of(slot_bytes), std::memory_order_relaxed); }

void RingPool::release(ThreadRing* ring) noexcept {
  RingPool& pool = instance();
  if (ring->generation() != process().generation()) return;  // a parent process's: abandoned with it
  std::lock_guard lock(pool.mutex_);
  ring->next = pool.haunted_;
  pool.haunted_ = ring;
  pool.sweep();
}

void RingPool::sweep() noexcept {
  for (ThreadRing** link = &haunted_; *link != nullptr;) {
    ThreadRing* ring = *link;
    if (ring->has_open_spans()) {
      link = &ring->next;
    } else {
      *link = ring->next;
      destroy(ring);
    }
  }
}

void RingPool::destroy(ThreadRing* ring) noexcept {
  auto* pooled = static_cast<PooledRing*>(ring);
  discharge(pooled->memory->slot_bytes());
  pooled->memory->unmap(reinterpret_cast<std::byte*>(&ring->page()));
  delete pooled;
}

void RingPool::in_child() noexcept {
  ::new (&mutex_) std::mutex;  // its holder may be a thread that the child does not have
  haunted_ = nullptr;
  total_bytes_.store(0, std::memory_order_relaxed);
  ForkDescriptors::in_child();
}

}  // namespace weir::inline v0::detail
