#include "cli/summary.hpp"

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>

#include "cli/output.hpp"

namespace weir::cli {

namespace {

std::string count(std::uint64_t number, const char* what) { return std::to_string(number) + " " + what + (number == 1 ? "" : "s"); }

/// ": 5 ring full, 2 too large", without what is zero.
std::string reasons(std::initializer_list<std::pair<std::uint64_t, const char*>> counts) {
  std::string text;
  for (const auto& [number, reason] : counts) {
    if (number != 0) text += (text.empty() ? ": " : ", ") + std::to_string(number) + " " + reason;
  }
  return text;
}

}  // namespace

void say_summary(const CollectorStats& stats, std::uint64_t traces_not_stored) {
  const TraceStoreStats& store = stats.store;
  const std::uint64_t not_kept = std::min(store.unkept_spans, store.spans);
  say(count(store.spans - not_kept, "span") + " in " + count(store.traces, "trace") +
      (store.unfinished != 0 ? ", " + std::to_string(store.unfinished) + " unfinished" : ""));
  if (const std::uint64_t traces = store.dropped_by_rule + store.dropped_by_ratio; traces != 0)
    say("not kept by rule: " + count(not_kept, "span") + " in " + count(traces, "trace"));
  if (const std::uint64_t lost = store.dropped_spans + stats.reported_drops + stats.lost_spans; lost != 0) {
    const std::uint64_t explained = stats.reported_full + stats.reported_too_large + stats.reported_no_ring + stats.reported_reentrant;
    say("lost " + count(lost, "span") +
        reasons({{stats.reported_full, "in a full ring"},
                 {stats.reported_too_large, "too large"},
                 {stats.reported_no_ring, "without a ring"},
                 {stats.reported_reentrant, "in a signal handler"},
                 {stats.reported_drops - std::min(explained, stats.reported_drops), "for other reasons"},
                 {stats.lost_spans, "on the way"},
                 {store.dropped_spans, "in a full trace"}}));
  }
  if (store.evicted_traces != 0) say(count(store.evicted_traces, "trace") + " left for newer ones");
  const std::uint64_t lines = stats.rejected_malformed + stats.rejected_field + stats.rejected_too_long + stats.rejected_no_room;
  if (lines != 0) {
    say("rejected " + count(lines, "line") +
        reasons({{stats.rejected_malformed, "malformed"},
                 {stats.rejected_field, "with a wrong field"},
                 {stats.rejected_too_long, "too long"},
                 {stats.rejected_no_room, "without room"}}));
  }
  if (stats.rejected_records != 0) say("rejected " + count(stats.rejected_records, "record"));
  if (traces_not_stored != 0) say(count(traces_not_stored, "trace") + " not in the database");
}

}  // namespace weir::cli
