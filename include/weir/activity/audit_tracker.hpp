#pragma once
// AuditTracker: the audit trail. What activities change is written to a file, one JSON line each, and acknowledged once the
// disk has it: an acknowledged entry is there after kill -9 and after a power failure, whole and once.
//
//   auto audit = weir::AuditTracker::open("/var/log/shop/audit.jsonl", {.on_acknowledged = tell});   // Result
//   weir::ChainedTracker tracker(log, **audit);
//
//   report_change ─▶ queue (bounded) ─▶ writer thread: write ─▶ fdatasync ─▶ acknowledged: on_acknowledged, flush, stats
//                      │ full                    └── fails: cut off what was written, wait, write all of it again
//                      └─▶ dropped, counted, and told in the file
//
// The lines, with their keys in this order (those marked ? only where there is something):
//
//   {"time":"2024-05-01T12:00:00.000000001Z","seq":17,"operation":"update","subject":"user","op_id":4711,"request_id"?:"…",
//    "trace_id"?:"…","span_id"?:"…","attributes"?:{…},"change_id":…,"change_data"?:…}
//   {… the same to attributes …,"error":"…"}                        a failure (AuditTrackerOptions::failures)
//   {"time":"…","seq":18,"dropped":3}                               here 3 entries are missing
//
// seq counts the lines: each has that of the line before plus one, also when a later process goes on with the file, or when
// reopen() goes on in a new one. A gap is a line that somebody took out. A missing file begins at 1.
// Secrets are redacted; text of more than 32 KiB is cut to 4 KiB, change data as Redactor::truncate_json does it. Change data
// that is no JSON, or whose callable threw, becomes {"error":"…"}. An entry of more than 1 MiB goes without its attributes and data.
//
// fork(): the child has no writer. What it reports is dropped and counted, and the parent's file is as if it were not there.

#include <sys/types.h>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "weir/activity/activity.hpp"
#include "weir/activity/redaction.hpp"
#include "weir/core/clock.hpp"
#include "weir/core/logger.hpp"
#include "weir/core/result.hpp"

namespace weir::inline v0 {

/// Lines that have become durable together. Borrowed for the call.
struct AuditAck {
  std::uint64_t last_seq = 0;  ///< everything up to this line is on the disk
  std::size_t count = 0;       ///< of the lines that are new, last_seq's the last
  std::string_view lines;      ///< as they are in the file, each with its newline
};

/// Of all entries reported to a tracker so far, each is in one of the three. All are safe if the last two are 0.
struct AuditFlush {
  std::uint64_t acknowledged = 0;  ///< on the disk, and on_acknowledged has returned
  std::uint64_t pending = 0;       ///< not yet
  std::uint64_t dropped = 0;       ///< never: AuditStats says why
};

/// Counts since a tracker was opened: accepted == acknowledged + pending + dropped_closed.
struct AuditStats {
  std::uint64_t accepted = 0;           ///< entries that went into the queue
  std::uint64_t acknowledged = 0;       ///< entries on the disk
  std::uint64_t pending = 0;            ///< entries that wait for the disk
  std::uint64_t dropped_full = 0;       ///< the queue was full
  std::uint64_t dropped_too_large = 0;  ///< the entry alone, without its attributes and data, was larger than the queue
  std::uint64_t dropped_no_memory = 0;
  std::uint64_t dropped_closed = 0;  ///< still waiting when the tracker was closed: in the file maybe, acknowledged never
  std::uint64_t dropped_late = 0;    ///< reported after close()
  std::uint64_t dropped_child = 0;   ///< reported in the child of a fork, where all other counts are 0
  std::uint64_t batches = 0;         ///< acknowledgements
  std::uint64_t bytes = 0;           ///< of the acknowledged lines
  std::uint64_t failures = 0;        ///< attempts to write or sync that failed

  std::uint64_t dropped() const noexcept {
    return dropped_full + dropped_too_large + dropped_no_memory + dropped_closed + dropped_late + dropped_child;
  }
};

struct AuditTrackerOptions {
  /// For entries that wait for the disk. Larger: longer stalls and fuller disks lose nothing, and more is lost by a crash.
  /// At least 64 KiB.
  std::size_t queue_bytes = 4u << 20;
  bool failures = false;                          ///< errors are entries, too
  mode_t mode = 0600;                             ///< of a file that open() or reopen() makes, less the umask
  std::chrono::milliseconds close_timeout{5000};  ///< what the destructor gives close()
  /// Called on the writer's thread, which waits for it, as close() does: be short. May not end that thread, return in the
  /// child of a fork, or destroy the tracker. What it throws is dropped, counted under failures and logged once.
  std::function<void(const AuditAck&)> on_acknowledged{};
  Redactor redactor{};
  Logger* logger = nullptr;      ///< nullptr: stderr_logger()
  const Clock* clock = nullptr;  ///< of "time"; for tests; nullptr: the machine's
};

/// Outlives the activities that it follows. Nothing here is a cancellation point.
/// Thread-safety: shared: safe, but for destroying it.
class AuditTracker final : public ActivityTracker {
 public:
  using Options = AuditTrackerOptions;

  /// Opens or makes the file, locks it (flock) until it is closed, and starts the writer. A torn last line, or what a power
  /// failure left behind the last acknowledged one, is cut off, and its size logged. Blocks for the disk. Errors:
  ///   std::errc::invalid_argument               an empty path, a queue below 64 KiB
  ///   std::errc::device_or_resource_busy        another tracker writes it, of this process or another
  ///   std::errc::not_supported                  no regular file
  ///   std::errc::bad_message                    a file with other contents, which is left alone
  ///   no_such_file_or_directory, permission_denied …   as the system says it
  static Result<std::unique_ptr<AuditTracker>> open(const std::string& path, AuditTrackerOptions options = {});
  ~AuditTracker() override;

  /// Waits until all that was reported before is acknowledged, at most so long; a disk that has failed is tried at once. On
  /// the writer's thread it does not wait.
  AuditFlush flush(std::chrono::nanoseconds timeout) noexcept;
  /// For log rotation: after the file was moved away, makes a new one at the path and goes on there. When it returns without
  /// an error, the old file is complete and closed. Nothing happens if the file at the path is still the same. Errors: those
  /// of open(), upon which the old file stays in use; std::errc::timed_out: the disk has not answered within the time, and it
  /// is done when it does; std::errc::operation_not_permitted: closed, on the writer's thread, or in the child of a fork.
  /// (A file that is removed is noticed: what was not acknowledged goes to a new one at the path.)
  Result<void> reopen(std::chrono::nanoseconds timeout = std::chrono::seconds{5});
  /// flush, and the end: a disk that does not answer is left within 50 ms after the timeout, and what it has not
  /// acknowledged is dropped. Later reports are counted. Idempotent.
  AuditFlush close(std::chrono::nanoseconds timeout) noexcept;
  AuditStats stats() const noexcept;

 private:
  struct Impl;
  class Following;
  explicit AuditTracker(std::unique_ptr<Impl> impl) noexcept;
  void started(ActivityStart& start) override;

  std::unique_ptr<Impl> impl_;
};

}  // namespace weir::inline v0
