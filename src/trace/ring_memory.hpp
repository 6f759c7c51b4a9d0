#pragma once
// RingMemory: where the rings of one sender lie. All in one memfd, sealed against shrinking and growing, so that one descriptor
// lets the collector map them; where there is no memfd to be had, in private memory, which only this process reads.
//
//   memfd  ┌ slot 0: page, data │ slot 1: page, data │ … ┐      a slot costs nothing until it is written to
//
// A forked child does not inherit the mappings, and closes the descriptors.

#include <sys/types.h>
#include <cstddef>
#include <memory>

#include "weir/trace/detail/ring_layout.hpp"

namespace weir::inline v0::detail {

/// Memory that another process can map: a memfd of `bytes`, sealed. -1 where it cannot be had.
int make_shared_memory(const char* name, std::size_t bytes) noexcept;

/// Descriptors that the child of a fork has to close.
class ForkDescriptors {
 public:
  /// False: too many.
  static bool add(int fd) noexcept;
  /// Closes it.
  static void close(int fd) noexcept;
  static void in_child() noexcept;
};

/// Thread-safety: shared: safe.
class RingMemory {
 public:
  /// `slots` rings of `capacity` bytes.
  RingMemory(std::size_t capacity, std::size_t slots) noexcept;
  ~RingMemory();
  RingMemory(const RingMemory&) = delete;
  RingMemory& operator=(const RingMemory&) = delete;

  /// A slot's page, followed by its data; nullptr: no memory. Zeros, when mapped for the first time.
  std::byte* map(std::size_t slot) const noexcept;
  void unmap(std::byte* page) const noexcept;
  /// The data, not the page, goes back to the system, and is zeros from then on.
  void give_back(std::size_t slot, std::byte* page) const noexcept;

  /// -1: private.
  int fd() const noexcept { return fd_; }
  std::size_t slots() const noexcept { return slots_; }
  std::size_t slot_bytes() const noexcept { return sizeof(RingPage) + capacity_; }

 private:
  const std::size_t capacity_, slots_;
  int fd_ = -1;
};

}  // namespace weir::inline v0::detail
