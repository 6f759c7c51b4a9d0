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
  for (const auto& ring : rings_) ring->ring->let_go();
}

ThreadRing* RingSet::open() noexcept {
  std::lock_guard lock(mutex_);
  if (closed_ || rings_.size() >= bounds_.max_rings) return nullptr;
  ThreadRing* ring = RingPool::instance().acquire(bounds_.ring_bytes, bounds_.max_total_bytes);
  if (ring == nullptr) return nullptr;
  try {
    rings_.push_back(std::make_unique<ReaderRing>(ring));
  } catch (const std::bad_alloc&) {
    ring->let_go();
    ring->let_go();
    return nullptr;
  }
  version_.fetch_add(1, std::memory_order_release);
  return ring;
}

void RingSet::close() noexcept {
  std::lock_guard lock(mutex_);
  closed_ = true;
}

void RingSet::add(Totals& totals, const ReaderRing& ring) noexcept {
  // What was taken first: what was written is never less.
  totals.taken += ring.taken.load(std::memory_order_acquire);
  const RingPage& page = ring.ring->page();
  totals.written += page.written.load(std::memory_order_relaxed);
  totals.dropped_full += page.dropped_full.load(std::memory_order_relaxed);
  totals.dropped_too_large += page.dropped_too_large.load(std::memory_order_relaxed);
  totals.truncated += page.truncated.load(std::memory_order_relaxed);
}

RingSet::Totals RingSet::totals() const noexcept {
  std::lock_guard lock(mutex_);
  Totals totals = gone_;
  for (const auto& ring : rings_) add(totals, *ring);
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

void RingSet::reap() noexcept {
  const auto ended = [](const ReaderRing& ring) {
    // `closed` before the last look at the head: nothing is written after it.
    return ring.ring->page().closed.load(std::memory_order_acquire) != 0 && ring.tail() == ring.head() && !ring.ring->has_open_spans();
  };
  if (std::none_of(snapshot_.begin(), snapshot_.end(), [&](const ReaderRing* ring) { return ended(*ring); })) return;
  std::lock_guard lock(mutex_);
  std::erase_if(rings_, [&](const std::unique_ptr<ReaderRing>& ring) {
    if (!ended(*ring)) return false;
    add(gone_, *ring);
    ring->ring->let_go();
    return true;
  });
  version_.fetch_add(1, std::memory_order_release);
  snapshot_.clear();
}

}  // namespace weir::inline v0::detail
