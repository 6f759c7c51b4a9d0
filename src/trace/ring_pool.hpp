#pragma once
// RingPool: the memory of all rings of the process, bounded, and used again when threads come and go. A ring that comes back
// while one of its spans is still open somewhere (on another thread, its tracer gone) waits until that span has ended.

#include <cstddef>
#include <mutex>

#include "weir/trace/detail/attach.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: shared: safe. Never destroyed.
class RingPool final : public ForkListener {
 public:
  static RingPool& instance() noexcept;

  /// A new or used ring of `capacity` data bytes (a power of two, at least a page); nullptr: over `max_total_bytes`, or no memory.
  ThreadRing* acquire(std::size_t capacity, std::size_t max_total_bytes) noexcept;
  std::size_t total_bytes() const noexcept;

  void in_child() noexcept override;
  RingPool() noexcept { process().add(*this); }

 private:
  static constexpr std::size_t max_idle = 16;  // rings kept for the next thread

  static void release(ThreadRing* ring) noexcept;
  void give_back(ThreadRing* ring) noexcept;
  void destroy(ThreadRing* ring) noexcept;
  void sweep() noexcept;
  ThreadRing* take_idle(std::size_t capacity) noexcept;

  mutable std::mutex mutex_;
  // Guarded by mutex_; lists through ThreadRing::next.
  ThreadRing* idle_ = nullptr;
  ThreadRing* haunted_ = nullptr;  // released, but with open spans
  std::size_t idle_count_ = 0, total_bytes_ = 0;
};

}  // namespace weir::inline v0::detail
