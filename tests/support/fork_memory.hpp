#pragma once
// Memory in children: GCC 12's AddressSanitizer does not take its allocator's locks around fork, as malloc does. Here operator new does.
// Replaces operator new where that sanitizer runs: for one source file of a test program whose children allocate, or make threads.

#include <pthread.h>
#include <cstddef>
#include <cstdlib>
#include <new>

#include "support/sanitizers.hpp"

#if defined(WEIR_TESTS_SANITIZED) && !defined(WEIR_TESTS_TSAN)
namespace weir::testing {

inline pthread_mutex_t allocation = PTHREAD_MUTEX_INITIALIZER;
inline bool is_child = false;

/// The constructor makes sure that these handlers are the first to be registered, and so the last to be called before a fork.
[[gnu::constructor(101), gnu::used]] inline void hold_allocation_during_fork() {
  pthread_atfork([] { pthread_mutex_lock(&allocation); }, [] { pthread_mutex_unlock(&allocation); },
                 [] {
                   is_child = true;
                   pthread_mutex_unlock(&allocation);
                 });
}
inline void* allocate(std::size_t size, std::size_t alignment = alignof(std::max_align_t)) noexcept {
  pthread_mutex_lock(&allocation);
  void* memory = alignment <= alignof(std::max_align_t) ? std::malloc(size)
                                                        : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  pthread_mutex_unlock(&allocation);
  return memory;
}
inline void release(void* memory) noexcept {
  pthread_mutex_lock(&allocation);
  std::free(memory);
  pthread_mutex_unlock(&allocation);
}
inline void* allocate_or_throw(std::size_t size, std::size_t alignment = alignof(std::max_align_t)) {
  if (void* memory = allocate(size, alignment)) return memory;
  throw std::bad_alloc();
}

}  // namespace weir::testing

/// What only the stacks of the parent's threads referred to is not a leak of the child.
extern "C" int __lsan_is_turned_off() { return weir::testing::is_child; }
[[gnu::noinline]] void* operator new(std::size_t size) { return weir::testing::allocate_or_throw(size); }
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  return weir::testing::allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return weir::testing::allocate(size); }
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return weir::testing::allocate(size, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { weir::testing::release(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { weir::testing::release(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept { weir::testing::release(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { weir::testing::release(memory); }
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept { weir::testing::release(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t, const std::nothrow_t&) noexcept { weir::testing::release(memory); }
#endif
