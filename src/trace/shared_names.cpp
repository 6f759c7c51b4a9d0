#include "trace/shared_names.hpp"

#include <sys/mman.h>
#include <unistd.h>
#include <mutex>
#include <new>

#include "trace/ring_memory.hpp"
#include "weir/trace/detail/attach.hpp"

namespace weir::inline v0::detail {

namespace {

class SharedNames final : public ForkListener {
 public:
  SharedNames() noexcept { process().add(*this); }

  int descriptor() noexcept {
    std::lock_guard lock(mutex_);
    if (fd_ >= 0) return fd_;
    const int fd = make_shared_memory("weir-names", NameTable::shared_bytes);
    if (fd < 0) return -1;
    void* memory = ::mmap(nullptr, NameTable::shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED || ::madvise(memory, NameTable::shared_bytes, MADV_DONTFORK) != 0) {
      if (memory != MAP_FAILED) ::munmap(memory, NameTable::shared_bytes);
      ForkDescriptors::close(fd);
      return -1;
    }
    auto* page = ::new (memory) NamesPage;
    page->pid = static_cast<std::uint32_t>(::getpid());
    name_table().share(page);
    return fd_ = fd;
  }
  void in_child() noexcept override {  // the descriptor is closed by whoever closes them all
    ::new (&mutex_) std::mutex;
    fd_ = -1;
  }

 private:
  std::mutex mutex_;
  int fd_ = -1;  // guarded by mutex_
};

}  // namespace

int shared_names() noexcept {
  static Immortal<SharedNames> names;
  return names.value.descriptor();
}

}  // namespace weir::inline v0::detail
