#pragma once
// RingSet: the rings of one sender, from the reader's side. Any thread opens rings and asks for totals; one thread at a time
// reads: the one that holds the sender's reader role, or the collector, in the same memory (src/collect/ring_reader.hpp).
//
//   head ───────────▶ written by the ring's owner
//   read ──────▶      what the reader has looked at (its own)
//   tail ──▶          what was delivered: the owner may write there again
//
// A ring stays for the life of the set. When its thread has ended it goes to the next one; what is more than a few of those
// gives its memory back when it is empty.

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "trace/ring_memory.hpp"
#include "weir/trace/detail/thread_ring.hpp"

namespace weir::inline v0::detail {

/// One ring, as its reader sees it. Thread-safety: the reader; acknowledgement() any thread.
struct ReaderRing {
  explicit ReaderRing(ThreadRing* its_ring) noexcept : ring(its_ring) {}

  std::uint64_t head() const noexcept { return ring->page().head.load(std::memory_order_acquire); }  // records before it are complete
  std::uint64_t tail() const noexcept { return acknowledged_tail(ring->page()); }
  /// The records before `position`, `spans` more of them, are out of the ring.
  void take(std::uint64_t position, std::uint64_t spans) noexcept {
    acknowledge(ring->page(), {position, acknowledged(ring->page()).taken + spans});
  }
  /// Calls visit(record, position behind it) for what was not looked at yet, until it returns false: that one is offered again.
  template <class Visit>
  void read_records(Visit&& visit) {
    const std::uint64_t end = head();
    const std::uint64_t mask = ring->capacity() - 1;
    while (read != end) {
      const std::byte* at = ring->data() + (read & mask);
      std::uint64_t header = 0;
      std::memcpy(&header, at, sizeof header);
      const std::uint64_t next = read + record_bytes(header);
      if (record_type(header) == RecordType::span && !visit(at, next)) return;
      read = next;
    }
  }

  ThreadRing* const ring;
  std::uint64_t read = 0;
  std::uint64_t flush_target = 0;  // flush() is done when the tail is here
  std::uint64_t seen_tail = 0;     // when the tail was looked at last, while another process reads
  bool resident = true;            // guarded by the set's mutex; else its memory was given back
};

/// Thread-safety: open(), close() and totals(): shared: safe. The others: the reader.
class RingSet {
 public:
  struct Bounds {
    std::size_t ring_bytes, max_rings, max_total_bytes;
  };
  struct Totals {
    std::uint64_t written = 0, taken = 0, dropped_full = 0, dropped_too_large = 0, dropped_reentrant = 0;  // spans
    std::uint64_t truncated = 0, not_sampled = 0;                                                          // attributes; traces
    std::uint64_t left = 0;  // of those written and not taken, what another process may still read
  };
  static constexpr std::size_t max_idle = 16;  // rings without a thread that keep their memory

  explicit RingSet(const Bounds& bounds) noexcept;
  ~RingSet();  ///< lets all rings go
  RingSet(const RingSet&) = delete;
  RingSet& operator=(const RingSet&) = delete;

  /// A ring for the calling thread, or nullptr.
  ThreadRing* open() noexcept;
  /// open() gives out no more.
  void close() noexcept;
  /// `shared`: so many rings are read by another process.
  Totals totals(std::size_t shared = 0) const noexcept;

  /// The rings there are.
  const std::vector<ReaderRing*>& refresh() noexcept;
  /// Gives the memory of rings back whose threads have ended and that are empty.
  void reap() noexcept;
  /// Where they are; made by the first call of this or of open(). nullptr: no memory.
  const RingMemory* memory() noexcept {
    std::lock_guard lock(mutex_);
    return ensure_memory();
  }

 private:
  ThreadRing* reuse() noexcept;
  const RingMemory* ensure_memory() noexcept;
  bool idle(const ReaderRing& ring) const noexcept;

  const Bounds bounds_;
  mutable std::mutex mutex_;
  bool closed_ = false;                             // guarded by mutex_
  std::vector<std::unique_ptr<ReaderRing>> rings_;  // guarded by mutex_; by slot
  std::shared_ptr<RingMemory> memory_;              // guarded by mutex_; set once
  std::atomic<std::uint64_t> version_{0};           // changes with rings_
  std::vector<ReaderRing*> snapshot_;               // the reader's
  std::uint64_t snapshot_version_ = UINT64_MAX;
};

}  // namespace weir::inline v0::detail
