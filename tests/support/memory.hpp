#pragma once
// Counts what each thread allocates, and lets its memory end. Replaces operator new: for one source file of a test program.

#include <cstddef>
#include <cstdlib>
#include <new>

namespace weir::testing {

inline thread_local long allocations = 0;
/// How many more this thread gets; below zero: any number.
inline thread_local long allocations_left = -1;
/// Whether only one fails then, and how many have.
inline thread_local bool one_fails = false;
inline thread_local long failed_allocations = 0;

inline void* allocate(std::size_t size, std::size_t alignment = alignof(std::max_align_t)) noexcept {
  ++allocations;
  if (allocations_left == 0) {
    ++failed_allocations;
    if (one_fails) allocations_left = -1;
    return nullptr;
  }
  if (allocations_left > 0) --allocations_left;
  return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment + (size == 0 ? alignment : 0));
}

/// Within its scope the calling thread gets `number` allocations.
class LittleMemory {
 public:
  explicit LittleMemory(long number) { allocations_left = number; }
  ~LittleMemory() { allocations_left = -1; }
  LittleMemory(const LittleMemory&) = delete;
  LittleMemory& operator=(const LittleMemory&) = delete;
};

}  // namespace weir::testing

// Not inlined: GCC would see malloc on one side and operator delete on the other.
[[gnu::noinline]] void* operator new(std::size_t size) {
  void* const memory = weir::testing::allocate(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  void* const memory = weir::testing::allocate(size, static_cast<std::size_t>(alignment));
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return weir::testing::allocate(size); }
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return weir::testing::allocate(size, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t, const std::nothrow_t&) noexcept { std::free(memory); }
