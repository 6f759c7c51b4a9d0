#include "trace/ring_set.hpp"

#include <algorithm>
#include <bit>
#include <new>

#include "trace/ring_pool.hpp"

namespace weir::inline v0::detail {

namespace {

std::size_t valid_capacity(std::size_t bytes) {
  return std::bit_ceil(std::clamp<std::size_t>(bytes, sizeof(RingPage), std::size_t{1} << 30));
}

}  // namespace

RingSet::RingSet(const Bounds& bounds) noexcept : bounds_{valid_capacity(bounds.ring_bytes), bounds.max_rings, bounds.max_total_bytes} {
  (void)RingPool::instance();  // it registers itself with the process, which open() may be called under the mutex of
}

RingSet::~RingSet() {
  for (const auto& ring : rings_) {
    if (!ring->resident) (void)RingPool::instance().charge(memory_->slot_bytes(), SIZE_MAX);  // as all that are let go
    ring->ring->let_go();
  }
}

ThreadRing* RingSet::open() noexcept {
  std::lock_guard lock(mutex_);
  if (closed_) return nullptr;
  if (ThreadRing* ring = reuse()) return ring;
  RingPool& pool = RingPool::instance();
  const std::size_t slot_bytes = sizeof(RingPage) + bounds_.ring_bytes;
  if (rings_.size() >= bounds_.max_rings || !pool.charge(slot_bytes, bounds_.max_total_bytes)) return nullptr;
  ThreadRing* ring = nullptr;
  try {
    rings_.reserve(rings_.size() + 1);
    if (ensure_memory() != nullptr && rings_.size() < memory_->slots()) ring = pool.make(memory_, rings_.size());
    if (ring != nullptr) rings_.push_back(std::make_unique<ReaderRing>(ring));
  } catch (const std::bad_alloc&) {
    if (ring != nullptr) {
      ring->let_go();
      ring->let_go();
      return nullptr;
    }
  }
  if (ring == nullptr) {
    pool.discharge(slot_bytes);
    return nullptr;
  }
  version_.fetch_add(1, std::memory_order_release);
  return ring;
}

const RingMemory* RingSet::ensure_memory() noexcept {
  if (memory_ != nullptr) return memory_.get();
  const std::size_t slot_bytes = sizeof(RingPage) + bounds_.ring_bytes;
  constexpr std::size_t max_file = std::size_t{1} << 40;
  try {
    memory_ = std::make_shared<RingMemory>(bounds_.ring_bytes,
                                           std::min({bounds_.max_rings, bounds_.max_total_bytes / slot_bytes, max_file / slot_bytes}));
  } catch (const std::bad_alloc&) {}
  return memory_.get();
}

/// The ring of a thread that has ended.
ThreadRing* RingSet::reuse() noexcept {
  for (const auto& ring : rings_) {
    if (!ring->ring->orphaned()) continue;
    if (!ring->resident) {
      if (!RingPool::instance().charge(memory_->slot_bytes(), bounds_.max_total_bytes)) continue;
      ring->resident = true;
    }
    ring->ring->reopen();
    return ring->ring;
  }
  return nullptr;
}

void RingSet::close() noexcept {
  std::lock_guard lock(mutex_);
  closed_ = true;
}

RingSet::Totals RingSet::totals(std::size_t shared) const noexcept {
  std::lock_guard lock(mutex_);
  Totals totals;
  std::size_t index = 0;
  for (const auto& ring : rings_) {
    const RingPage& page = ring->ring->page();
    // What was taken first: what was written is never less, whatever a collector says.
    const bool still_read = index++ < shared && page.reader_left.load(std::memory_order_acquire) == 0;
    const std::uint64_t written = page.written.load(std::memory_order_relaxed), taken = std::min(acknowledged(page).taken, written);
    totals.taken += taken;
    totals.written += written;
    if (still_read) totals.left += written - taken;
    totals.dropped_full += page.dropped_full.load(std::memory_order_relaxed);
    totals.dropped_too_large += page.dropped_too_large.load(std::memory_order_relaxed);
    totals.dropped_reentrant += page.dropped_reentrant.load(std::memory_order_relaxed);
    totals.truncated += page.truncated.load(std::memory_order_relaxed);
    totals.not_sampled += page.not_sampled.load(std::memory_order_relaxed);
  }
  return totals;
}

const std::vector<ReaderRing*>& RingSet::refresh() noexcept {
  if (version_.load(std::memory_order_acquire) == snapshot_version_) return snapshot_;
  std::lock_guard lock(mutex_);
  try {
    snapshot_.clear();
    for (const auto& ring : rings_) snapshot_.push_back(ring.get());
    snapshot_version_ = version_.load(std::memory_order_relaxed);
  } catch (const std::bad_alloc&) {  // the rings that fit; the others next time
  }
  return snapshot_;
}

bool RingSet::idle(const ReaderRing& ring) const noexcept {
  return ring.ring->orphaned() && ring.tail() == ring.head();  // its thread's last record is seen with its letting go
}

void RingSet::reap() noexcept {
  if (snapshot_.size() <= max_idle) return;
  const auto count = std::count_if(snapshot_.begin(), snapshot_.end(), [this](const ReaderRing* ring) { return idle(*ring); });
  if (static_cast<std::size_t>(count) <= max_idle) return;
  std::lock_guard lock(mutex_);
  std::size_t kept = 0;
  for (const auto& ring : rings_) {
    if (!ring->resident || !idle(*ring) || ++kept <= max_idle) continue;
    memory_->give_back(RingPool::slot_of(*ring->ring), reinterpret_cast<std::byte*>(&ring->ring->page()));
    RingPool::instance().discharge(memory_->slot_bytes());
    ring->resident = false;
  }
}

}  // namespace weir::inline v0::detail
