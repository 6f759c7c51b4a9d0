#pragma once
// LogRing: what one thread has to say, on its way to the thread that makes lines of it. One writer, one reader, whole records.
//
//   thread ─ reserve ─ fill ─ commit ─▶ head … tail ─▶ the log's thread
//
// A ring has two owners, its thread and its tracker; the last to let go frees it. A thread finds its ring by the id of the tracker,
// and needs nothing else to write into it: the tracker may be gone meanwhile, and what is written then is read by nobody.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>

#include "weir/core/clock.hpp"

namespace weir::inline v0::detail {

/// The first 8 bytes of a record; its size is a multiple of 8.
struct LogRecordHead {
  static constexpr std::uint32_t padding = 0;  ///< a kind: nothing, up to the end of the data
  std::uint32_t size, kind;
};

/// Thread-safety: as said.
class LogRing {
 public:
  /// `capacity`: a power of two. nullptr without memory.
  static LogRing* create(std::uint64_t tracker, const Ticker& ticker, std::size_t capacity) noexcept;

  // The writing thread.
  /// Room for a record of `size` bytes, or nullptr: lost, and counted. `half_full` becomes true when the reader ought to come.
  std::byte* reserve(std::uint64_t size, bool& half_full) noexcept {
    if (limit_ - position_ < size) [[unlikely]] {
      if (!make_room(size, half_full)) return nullptr;
    }
    return data_ + (position_ & mask_);
  }
  void commit(std::uint64_t size) noexcept {
    position_ += size;
    head_.store(position_, std::memory_order_release);  // the record is complete
  }
  void close() noexcept { closed_.store(true, std::memory_order_release); }
  std::uint64_t tracker() const noexcept { return tracker_; }
  /// What the times of records are read from.
  std::uint64_t now() const noexcept { return ticker_.now(); }
  /// The tracker has let go.
  bool orphaned() const noexcept { return owners_.load(std::memory_order_relaxed) == 1; }
  LogRing* next_of_thread = nullptr;

  // The reading thread.
  std::uint64_t head() const noexcept { return head_.load(std::memory_order_acquire); }
  std::uint64_t tail() const noexcept { return tail_.load(std::memory_order_relaxed); }
  const std::byte* at(std::uint64_t position) const noexcept { return data_ + (position & mask_); }
  void release(std::uint64_t position) noexcept { tail_.store(position, std::memory_order_release); }
  bool closed() const noexcept { return closed_.load(std::memory_order_acquire); }
  /// For the reader's own notes.
  struct Reading {
    LogRing* next = nullptr;  // of the tracker
    // One pass over what there is:
    std::uint64_t at = 0, end = 0, ticks = 0;
    bool closed = false;
    LogRing* next_open = nullptr;  // of those that are not at their end
  };
  Reading& reading() noexcept { return reading_; }

  /// Records that found no room.
  std::uint64_t lost() const noexcept { return lost_.load(std::memory_order_relaxed); }
  /// By each owner, once.
  void let_go() noexcept;

 private:
  LogRing(std::uint64_t tracker, const Ticker& ticker, std::byte* data, std::size_t capacity) noexcept
      : data_(data), mask_(capacity - 1), ticker_(ticker), tracker_(tracker) {}
  bool make_room(std::uint64_t size, bool& half_full) noexcept;

  std::uint64_t position_ = 0, limit_ = 0;  // the writer's; it may write up to the limit without looking
  std::byte* data_;
  std::uint64_t mask_;
  Ticker ticker_;
  std::uint64_t tracker_;
  std::atomic<std::uint64_t> lost_{0};
  alignas(64) std::atomic<std::uint64_t> head_{0};
  std::atomic<bool> closed_{false};
  std::atomic<int> owners_{2};
  alignas(64) std::atomic<std::uint64_t> tail_{0};
  Reading reading_;
};

/// The rings of the calling thread. Trivial, so that it can be used to the thread's very end.
struct ThreadLogRings {
  std::uint64_t tracker = 0;  // of `ring`
  LogRing* ring = nullptr;    // the last used
  LogRing* all = nullptr;

  /// The thread's ring for a tracker, or nullptr.
  LogRing* find(std::uint64_t id) noexcept;
  /// Takes one of the two ownerships. False: the end of this thread could not be noticed.
  bool add(LogRing& new_ring) noexcept;
};
extern constinit thread_local ThreadLogRings thread_log_rings;

}  // namespace weir::inline v0::detail
