#pragma once
// TraceRow: a trace as a row of the database has it (docs/wire_format.md). Free functions; thread-safe.

#include <chrono>
#include <cstdint>
#include <string>

#include "weir/collect/trace_store.hpp"
#include "weir/core/clock.hpp"
#include "weir/core/result.hpp"

namespace weir::inline v0::detail {

struct TraceRow {
  std::string trace_id, service;
  std::string name;  // of the first root
  Timestamp completed{}, start{};
  std::chrono::nanoseconds duration{};  // from the first start to the last end
  std::uint32_t spans = 0, unfinished = 0, late = 0;
  bool failed = false;  // one of the spans has
  std::string roots;    // JSON: an array of the root spans, each on a line of its own

  /// Against the bounds.
  std::uint64_t bytes() const noexcept { return 100 + trace_id.size() + service.size() + name.size() + roots.size(); }
};

TraceRow row_of(const Trace& trace, Timestamp completed);
/// Of trace_id, service, late and roots. Error: the JSON is not what row_of() writes.
Result<Trace> trace_of(const TraceRow& row);
/// A row with the spans of both; of those in both, what `more` says. Just `more`, if `known` cannot be read.
TraceRow merged(const TraceRow& known, const TraceRow& more);

}  // namespace weir::inline v0::detail
