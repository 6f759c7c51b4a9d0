#pragma once
// SmallDisk: a file system of a few bytes that only the calling thread and those that it starts see.

#include <sched.h>
#include <sys/mount.h>
#include <cerrno>
#include <cstring>
#include <string>

#include "support/scratch_dir.hpp"

namespace weir::testing {

class SmallDisk {
 public:
  explicit SmallDisk(std::size_t bytes) {
    if (::unshare(CLONE_NEWNS) != 0) {
      why_not_ = std::string("no mounts of one's own: ") + std::strerror(errno);
    } else if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
               ::mount("tmpfs", dir_.path().c_str(), "tmpfs", 0, ("mode=0700,size=" + std::to_string(bytes)).c_str()) != 0) {
      why_not_ = std::string("cannot mount a tmpfs: ") + std::strerror(errno);
    }
  }
  ~SmallDisk() {
    if (why_not_.empty()) ::umount2(dir_.path().c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  /// Why there is none; empty: there is one.
  const std::string& why_not() const { return why_not_; }
  const std::string& path() const { return dir_.path(); }
  bool make_read_only() const { return ::mount(nullptr, dir_.path().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0; }

 private:
  ScratchDir dir_;
  std::string why_not_;
};

}  // namespace weir::testing
