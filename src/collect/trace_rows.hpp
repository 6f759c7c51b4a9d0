#pragma once
// TraceRows: where a TraceDatabase keeps its rows (private to src). It keeps the bounds; the queue before it, and when to try again, are
// the database's. Thread-safety: Distinct objects: safe. Shared: unsafe.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "collect/trace_row.hpp"
#include "weir/collect/trace_database.hpp"

namespace weir::inline v0::detail {

/// What a write did, and what there is now.
struct TraceRowsWritten {
  std::uint64_t updated = 0;    // of the rows, those that were merged
  std::uint64_t too_large = 0;  // those that were not, because of max_trace_bytes
  std::uint64_t evicted = 0;
  std::uint64_t kept = 0, bytes = 0;
};

class TraceRows {
 public:
  virtual ~TraceRows() = default;
  /// All of it, and what leaves because of the bounds, or nothing.
  virtual Result<TraceRowsWritten> write(std::span<const TraceRow> rows, Timestamp now) = 0;
  /// The oldest first.
  virtual Result<void> load(const std::function<void(const TraceRow&)>& each) = 0;
};

/// Errors: as TraceDatabase::open.
Result<std::unique_ptr<TraceRows>> open_trace_rows(const std::string& path, const TraceDatabaseOptions& options);

}  // namespace weir::inline v0::detail
