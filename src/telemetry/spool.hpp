#pragma once
// Spool: a directory of payloads that are not delivered yet, one file each, so that they survive the process. The emitter's thread
// writes a payload here before its first try, and removes it when the endpoint has taken it.
//
//   DIRECTORY/000000000012-0123456789abcdef0123456789abcdef.json        sequence and update_id; the body as it is sent
//   DIRECTORY/000000000013-….json.tmp                                   being written; removed by the next who opens
//   DIRECTORY/000000000011-….json.bad                                   was no payload, and is left for people to look at
//   DIRECTORY/lock                                                      held by who has it open
//
// A file appears whole or not at all: written, synced, renamed, and the directory synced. What has another name is left alone.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "telemetry/fork_handler.hpp"
#include "weir/core/result.hpp"

namespace weir::inline v0::detail {

/// In the child of a fork its descriptors are closed, and the directory stays the parent's: nothing else may be called there.
/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class Spool final : ForkHandler {
 public:
  struct Stored {
    std::uint64_t sequence = 0;
    std::string instance_id, update_id, body;
  };

  /// Makes the directory (0700) if its last component is missing. Errors: operation_not_permitted, it is somebody else's, or
  /// others may enter it; device_or_resource_busy, another spool has it open; or as the system says it.
  static Result<std::unique_ptr<Spool>> open(const std::string& directory, std::size_t max_bytes);
  ~Spool();
  Spool(const Spool&) = delete;
  Spool& operator=(const Spool&) = delete;

  std::size_t size() const noexcept { return files_.size(); }
  /// Whether a payload of so many bytes is within the bound.
  bool has_room(std::size_t bytes) const noexcept { return bytes <= max_bytes_ && bytes_ <= max_bytes_ - bytes; }

  /// Keeps a payload behind all others, and returns its sequence. Requires: `update_id` has 32 lower-case hex digits. An error
  /// leaves nothing behind; no_space_on_device also if there is no room.
  Result<std::uint64_t> add(std::string_view update_id, std::string_view body);
  /// The one that was added first; nothing if there is none. Error: what should have been there is no payload, and is not there
  /// any more; ask again.
  Result<std::optional<Stored>> oldest();
  /// It is not there any more, whatever happens; but after an error it may be again for the next who opens.
  Result<void> remove(std::uint64_t sequence);

 private:
  struct File {
    std::uint64_t sequence = 0;
    std::string update_id;
    std::uint64_t bytes = 0;
    std::string name() const;
  };

  Spool(std::string directory, std::size_t max_bytes) : directory_(std::move(directory)), max_bytes_(max_bytes) {}
  Result<void> open_directory();
  Result<void> take_lock();
  Result<void> scan();
  Result<void> write(const std::string& name, std::string_view body);
  Result<std::string> read(const File& file) const;
  Error set_aside(const File& file, std::string_view why);
  Error cannot(const char* what, std::string_view name) const;
  void in_child() noexcept override;

  std::string directory_;
  std::size_t max_bytes_;
  int directory_fd_ = -1, lock_fd_ = -1;
  bool listening_ = false;  // to forks
  std::deque<File> files_;  // the oldest first
  std::uint64_t bytes_ = 0, last_sequence_ = 0;
};

}  // namespace weir::inline v0::detail
