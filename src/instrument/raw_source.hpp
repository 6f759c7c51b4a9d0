#pragma once
// RawSource: the seam between what the kernel tells of processes (netlink, eBPF) and the process table that makes sense of it.
// (private to src)

#include <sys/types.h>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "weir/core/result.hpp"

namespace weir::inline v0::instrument {

/// What the kernel told, of a process (never of a thread alone). Details are read from /proc by whoever takes it.
struct RawEvent {
  enum class Type { exec, fork, open };
  Type type = Type::exec;
  pid_t pid = 0;          ///< of the process (thread group), in our pid namespace
  pid_t parent = 0;       ///< of fork: the forking process
  std::string_view file;  ///< of open: the path as given; good for the call
};

/// Thread-safety: shared: unsafe, but for watch() and unwatch().
class RawSource {
 public:
  virtual ~RawSource() = default;
  virtual std::string_view name() const noexcept = 0;
  virtual bool file_open() const noexcept { return false; }
  /// From here on nothing is missed that is not counted in lost(). Error: says why not, and what to do.
  virtual Result<void> attach() = 0;
  /// Readable when there is something to read.
  virtual int fd() const noexcept = 0;
  /// Takes everything that is there. Error: the source is of no use any more.
  virtual Result<void> read(const std::function<void(const RawEvent&)>& take) = 0;
  /// Events that the kernel could not tell since attach(); exact.
  virtual std::uint64_t lost() const noexcept = 0;
  /// File openings of these processes are wanted. Thread-safety: safe.
  virtual void watch(pid_t) {}
  virtual void unwatch(pid_t) {}
  /// The kernel tells nothing more. Idempotent; also done by the destructor.
  virtual void detach() noexcept = 0;
};

}  // namespace weir::inline v0::instrument
