#pragma once
// TraceDatabase: completed traces in an SQLite file, so that history outlives the collector. `weir collect --db FILE` uses it; in a
// program of one's own it is wired to a Collector with three calls:
//
//   auto database = weir::TraceDatabase::open("traces.db");                                              // Result
//   database->load([&](const weir::Trace& trace, weir::Timestamp completed) { (void)collector.restore(trace, completed); });
//   collector.on_trace_complete([&](const weir::Trace& trace) { database->store(trace); }, [&] { return database->wanted(); });
//   collector.on_trace_changed([&](const weir::Trace& trace) { database->store(trace); });                // late spans, too
//
//   store ─▶ JSON ─▶ queue (bounded) ─▶ writer thread: one transaction per batch ─▶ stored
//                       │ full               └── fails: said once, tried again after 100 ms, 200 ms, … 5 s
//                       └─▶ dropped, counted
//
// Each trace is a row of the table `traces`, with its spans as JSON (docs/wire_format.md); the sqlite3 shell can read it at any time.
// A collector that is killed loses what was not committed, at most the last batch_delay if the disk keeps up, and never leaves half a
// trace. A power failure may take the last commits, too.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "weir/collect/trace_store.hpp"
#include "weir/core/clock.hpp"
#include "weir/core/logger.hpp"
#include "weir/core/result.hpp"

namespace weir::inline v0 {

struct TraceDatabaseOptions {
  std::size_t max_traces = 10'000;  ///< kept; beyond it those that were completed first leave
  /// Of what is kept: JSON, ids and names. Beyond it the oldest leave. The file is somewhat larger; it uses the room of what has left
  /// again, and does not shrink.
  std::size_t max_bytes = 256u << 20;
  std::chrono::minutes max_age{60};  ///< traces that were completed longer ago leave
  /// Bytes of JSON that wait for the disk. Larger: longer stalls lose nothing, at the cost of memory.
  std::size_t max_queue_bytes = 64u << 20;
  std::size_t max_trace_bytes = 16u << 20;     ///< of JSON; a larger trace is dropped and counted
  std::size_t batch_traces = 1000;             ///< of one transaction. Larger: less work for each trace, more at stake
  std::chrono::milliseconds batch_delay{200};  ///< how long a batch waits for more. Larger: the same
  Logger* logger = nullptr;                    ///< nullptr: stderr_logger(); must outlive the database
  const Clock* clock = nullptr;                ///< of completion times; for tests; nullptr: the machine's
};

/// Counted since the database was opened, but for kept_traces and bytes: traces == stored + dropped() + queued.
struct TraceDatabaseStats {
  std::uint64_t traces = 0;              ///< given to store(), or refused by wanted()
  std::uint64_t stored = 0;              ///< committed
  std::uint64_t updated = 0;             ///< of these, into a row that was there: late spans
  std::uint64_t dropped_full = 0;        ///< the queue was full: the disk did not keep up
  std::uint64_t dropped_unwritable = 0;  ///< the same, while the disk was full or otherwise refused; or still refused at the end
  std::uint64_t dropped_too_large = 0;   ///< over max_trace_bytes, alone or merged; larger than the queue
  std::uint64_t dropped_closed = 0;      ///< after close(), or not written within its timeout
  std::uint64_t failed_batches = 0;      ///< attempts to write
  std::uint64_t evicted = 0;             ///< rows that a bound pushed out
  std::uint64_t loaded = 0;              ///< by load()
  std::uint64_t unreadable = 0;          ///< rows that are no traces, passed over by load()
  std::size_t queued = 0;                ///< now
  std::uint64_t kept_traces = 0, bytes = 0;

  std::uint64_t dropped() const noexcept { return dropped_full + dropped_unwritable + dropped_too_large + dropped_closed; }
  /// One line of JSON: every counter under its name.
  std::string to_json() const;
};

/// Thread-safety: shared: safe, but for moving and destroying it. Movable. Not for the child of a fork.
class TraceDatabase {
 public:
  /// Opens the file, or makes it (0600), locks it (flock) until it is closed, removes what is beyond the bounds, and starts the writer.
  /// Blocks for the disk. The message of an error names the file; it is left as it is. Errors:
  ///   std::errc::invalid_argument          an empty path, a bound that keeps nothing
  ///   std::errc::device_or_resource_busy   another TraceDatabase has it, of this process or another
  ///   std::errc::not_supported             this weir is built without SQLite
  ///   std::errc::io_error                  no SQLite database, another program's, of another version, damaged, in use
  ///   no_such_file_or_directory, permission_denied …   as the system says it
  static Result<TraceDatabase> open(std::string path, TraceDatabaseOptions options = {});
  /// close() with 5 s.
  ~TraceDatabase();
  TraceDatabase(TraceDatabase&&) noexcept;
  TraceDatabase& operator=(TraceDatabase&&) noexcept;

  /// Calls `each` with what is kept, the oldest first, and when it was completed. Before the first store(): the writer waits
  /// meanwhile. What `each` throws comes out. Error: the file cannot be read.
  Result<void> load(const std::function<void(const Trace& trace, Timestamp completed)>& each);

  /// Writes the trace soon. One whose trace id is there is merged into its row: spans are added, and replaced by their ids. Never
  /// blocks for the disk, never throws; what has no room is dropped and counted.
  void store(const Trace& trace) noexcept;
  /// False, and one dropped trace counted, while the queue is full: so that the trace need not be made.
  bool wanted() noexcept;

  /// Writes what was stored before at once, also while the disk refuses. False: it is not on the disk; the disk refused it again, or
  /// the timeout has passed.
  bool flush(std::chrono::milliseconds timeout) noexcept;
  /// Writes what waits, within the timeout and the transaction underway, and closes the file. What the disk refuses is dropped.
  /// Idempotent.
  void close(std::chrono::milliseconds timeout) noexcept;

  TraceDatabaseStats stats() const;
  const std::string& path() const noexcept;

 private:
  struct State;
  explicit TraceDatabase(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

}  // namespace weir::inline v0
