#pragma once
// The file of an audit trail: opened, locked, cleared of what a crash left at its end, and appended to in batches of which
// each is durable or not there.
//
//   [ lines that are durable | the batch that is being written, up to max_batch_bytes ]
//
// A batch is written only when the one before is durable: a crash can spoil nothing that lies further from the end. A kill
// leaves a torn line; a power failure may leave pages that were never written, which read as NUL and so are no line of ours.

#include <sys/types.h>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "weir/core/result.hpp"

namespace weir::inline v0::detail {

/// How often this process is the child of a fork that had open files.
unsigned audit_forks() noexcept;

/// In the child of a fork the descriptor is closed, and the lock stays the parent's.
/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class AuditFile {
 public:
  static constexpr std::size_t max_batch_bytes = 1u << 20;

  /// The errors are those of AuditTracker::open. nullptr if the file at the path is `current`.
  static Result<std::unique_ptr<AuditFile>> open(const std::string& path, mode_t mode, const AuditFile* current = nullptr);
  ~AuditFile();
  AuditFile(const AuditFile&) = delete;
  AuditFile& operator=(const AuditFile&) = delete;

  /// Of the last line that was there when it was opened; 0: none.
  std::uint64_t last_seq() const noexcept { return last_seq_; }
  /// What was taken off the end when it was opened.
  std::uint64_t cut_bytes() const noexcept { return cut_bytes_; }

  struct Appended {
    std::size_t durable = 0;       ///< bytes from the front, whole lines: they are on the disk. The rest is not in the file
    const char* failed = nullptr;  ///< if that is not all: what failed …
    int error = 0;                 ///< … and its errno
    bool removed = false;          ///< nobody will find this file any more: nothing is durable
  };
  /// `lines`: whole lines, at most max_batch_bytes. What is left of a batch that failed is taken off at the latest before the
  /// next is written.
  Appended append(std::string_view lines) noexcept;

 private:
  friend struct AuditFiles;

  AuditFile() = default;
  Result<void> open_descriptor(const std::string& path, mode_t mode);
  Result<void> recover(const std::string& path, std::uint64_t size);
  /// Takes off what is behind keep_. False: errno says why.
  bool restore() noexcept;

  int fd_ = -1;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  bool counts_links_ = false;  // there are file systems that do not
  off_t keep_ = -1;            // what is behind it is no batch; -1: nothing is
  std::uint64_t last_seq_ = 0, cut_bytes_ = 0;
  AuditFile *next_ = nullptr, **link_ = nullptr;  // of all open ones
};

}  // namespace weir::inline v0::detail
