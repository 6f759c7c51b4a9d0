#pragma once
// RingPool: what all rings of the process share: the bound on their memory, and the rings that nobody owns any more while one
// of their spans is still open somewhere (on another thread, its tracer gone), which wait until that span has ended.

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>

#include "trace/ring_memory.hpp"
#include "weir/trace/detail/attach.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: shared: safe. Never destroyed.
class RingPool final : public ForkListener {
 public:
  static RingPool& instance() noexcept;

  /// A new ring in the given slot; nullptr: no memory. Requires: charged.
  ThreadRing* make(std::shared_ptr<RingMemory> memory, std::size_t slot) noexcept;
  /// The slot of a ring of make()'s, in the memory it was made in. For reading and for give_back().
  static std::size_t slot_of(const ThreadRing& ring) noexcept;

  /// Counts a ring of `slot_bytes` that takes memory. False: that would be more than `max_total_bytes`.
  bool charge(std::size_t slot_bytes, std::size_t max_total_bytes) noexcept;
  void discharge(std::size_t slot_bytes) noexcept;
  std::size_t total_bytes() const noexcept { return total_bytes_.load(std::memory_order_relaxed); }

  void in_child() noexcept override;
  RingPool() noexcept { process().add(*this); }

 private:
  struct PooledRing;

  static void release(ThreadRing* ring) noexcept;
  void destroy(ThreadRing* ring) noexcept;
  void sweep() noexcept;

  std::atomic<std::size_t> total_bytes_{0};
  std::mutex mutex_;
  ThreadRing* haunted_ = nullptr;  // guarded by mutex_; a list through ThreadRing::next
};

}  // namespace weir::inline v0::detail
