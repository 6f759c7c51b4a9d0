#include "trace/ring_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include <atomic>

namespace weir::inline v0::detail {

namespace {

constexpr std::size_t max_descriptors = 256;                // two for each sender
constinit std::atomic<int> descriptors[max_descriptors]{};  // fd + 1

/// A larger file than this kills the program with SIGXFSZ.
bool within_file_limit(std::size_t bytes) noexcept {
  rlimit limit{};
  return ::getrlimit(RLIMIT_FSIZE, &limit) == 0 && (limit.rlim_cur == RLIM_INFINITY || bytes <= limit.rlim_cur);
}

}  // namespace

bool ForkDescriptors::add(int fd) noexcept {
  for (std::atomic<int>& place : descriptors) {
    int none = 0;
    if (place.compare_exchange_strong(none, fd + 1)) return true;
  }
  return false;
}

void ForkDescriptors::close(int fd) noexcept {
  for (std::atomic<int>& place : descriptors) {
    int here = fd + 1;
    if (place.compare_exchange_strong(here, 0)) break;
  }
  ::close(fd);
}

void ForkDescriptors::in_child() noexcept {
  for (std::atomic<int>& place : descriptors) {
    if (const int fd = place.exchange(0, std::memory_order_relaxed) - 1; fd >= 0) ::close(fd);
  }
}

int make_shared_memory(const char* name, std::size_t bytes) noexcept {
  if (!within_file_limit(bytes)) return -1;
  const int fd = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -1;
  if (::ftruncate(fd, static_cast<off_t>(bytes)) == 0 && ::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0 &&
      ForkDescriptors::add(fd)) {
    return fd;
  }
  ::close(fd);
  return -1;
}

RingMemory::RingMemory(std::size_t capacity, std::size_t slots) noexcept
    : capacity_(capacity), slots_(slots), fd_(make_shared_memory("weir-rings", slots * (sizeof(RingPage) + capacity))) {}

RingMemory::~RingMemory() {
  if (fd_ >= 0) ForkDescriptors::close(fd_);
}

std::byte* RingMemory::map(std::size_t slot) const noexcept {
  const auto offset = static_cast<off_t>(slot * slot_bytes());
  void* memory = ::mmap(nullptr, slot_bytes(), PROT_READ | PROT_WRITE, fd_ >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd_,
                        fd_ >= 0 ? offset : 0);
  if (memory == MAP_FAILED) return nullptr;
  if (::madvise(memory, slot_bytes(), MADV_DONTFORK) == 0) return static_cast<std::byte*>(memory);
  ::munmap(memory, slot_bytes());
  return nullptr;
}

void RingMemory::unmap(std::byte* page) const noexcept { ::munmap(page, slot_bytes()); }

void RingMemory::give_back(std::size_t slot, std::byte* page) const noexcept {
  if (fd_ < 0) {
    ::madvise(page + sizeof(RingPage), capacity_, MADV_DONTNEED);
    return;
  }
  const auto data = static_cast<off_t>(slot * slot_bytes() + sizeof(RingPage));
  ::fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, data, static_cast<off_t>(capacity_));
}

}  // namespace weir::inline v0::detail
