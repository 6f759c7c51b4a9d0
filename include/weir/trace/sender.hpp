#pragma once
// Sender: the seam between a Tracer, which writes finished spans into per-thread rings, and whatever takes them away.
//
//   ScopedSpan ─writes─▶ ThreadRing (one per thread, memory from the sender) ─read by─▶ the sender ─▶ socket, memory
//
// A Tracer owns one Sender. The sender provides the memory of all rings and empties them; the tracer never calls it while a
// span starts or ends, only when a thread writes its first span or finds its ring half full.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "weir/core/clock.hpp"
#include "weir/core/version.hpp"

namespace weir::inline v0 {

namespace detail {
class ThreadRing;
}

/// What a service tells about itself.
struct Resource {
  std::string service_name;
  std::vector<std::pair<std::string, std::string>> attributes;  ///< other than its name, for exporters; keys differ
};

/// What a Tracer tells its sender. What is pointed to outlives the sender's stop().
struct SenderSetup {
  Resource resource;
  const Clock* clock = nullptr;                           ///< spans carry its ticks; nullptr: the machine's
  const std::atomic<std::uint64_t>* unwritten = nullptr;  ///< spans the tracer dropped for want of a ring
};

/// What became of the spans. emitted == delivered + dropped() + in_flight whenever no span is just ending.
struct TracerStats {
  std::uint64_t emitted = 0;            ///< spans that ended, and those that could not begin for want of a ring
  std::uint64_t delivered = 0;          ///< handed over: to the kernel (socket) or to memory
  std::uint64_t dropped_full = 0;       ///< the thread's ring was full
  std::uint64_t dropped_no_ring = 0;    ///< the bound on rings or on their memory was reached
  std::uint64_t dropped_stopped = 0;    ///< begun or ended after stop(), or not sent in time by it
  std::uint64_t dropped_too_large = 0;  ///< a record larger than a ring takes, or a line longer than a collector takes
  std::uint64_t dropped_reentrant = 0;  ///< in a signal handler that came while its thread began or ended another
  std::uint64_t in_flight = 0;          ///< written and not yet delivered; after stop(): left in memory that a collector still reads
  std::uint64_t unacknowledged = 0;     ///< of those delivered: accepted by the kernel for a collector that then went away
  std::uint64_t truncated_attributes = 0;
  std::uint64_t connects = 0;
  std::uint64_t not_sampled = 0;  ///< traces that began here and are not recorded; no part of `emitted`

  std::uint64_t dropped() const noexcept {
    return dropped_full + dropped_no_ring + dropped_stopped + dropped_too_large + dropped_reentrant;
  }
};

/// What flush() and stop() achieved.
struct FlushResult {
  std::uint64_t sent = 0;     ///< spans delivered during the call
  std::uint64_t dropped = 0;  ///< spans dropped for good, in total
  /// Spans that still wait; 0: everything is out. After stop(): those left in memory that a collector still reads.
  std::uint64_t pending = 0;
};

/// Thread-safety: shared: safe. Nothing throws.
class Sender {
 public:
  using Deadline = std::chrono::steady_clock::time_point;

  virtual ~Sender() = default;

  /// Called once, by the tracer that takes the sender over.
  virtual void start(const SenderSetup& setup) noexcept = 0;
  /// A new ring, for the calling thread; nullptr when the sender's bounds are reached or it has stopped.
  virtual detail::ThreadRing* open_ring() noexcept = 0;
  /// Asks for the rings to be emptied soon (one is half full). Called by the thread of that ring.
  virtual void wake() noexcept = 0;
  /// Delivers what was written before the call, or as much as the deadline allows.
  virtual FlushResult flush(Deadline deadline) noexcept = 0;
  /// Flushes, then refuses everything. Idempotent.
  virtual FlushResult stop(Deadline deadline) noexcept = 0;
  virtual TracerStats stats() const noexcept = 0;
};

}  // namespace weir::inline v0
