#include <cstdint>
#include <string>
#include <string_view>

#include "text/json.hpp"
#include "weir/collect/collector.hpp"

namespace weir::inline v0 {

namespace {

class JsonObject {
 public:
  void add(std::string_view name, std::uint64_t value) {
    begin(name);
    text_ += std::to_string(value);
  }
  void add(std::string_view name, const JsonObject& object) {
    begin(name);
    text_ += object.finished();
  }
  std::string finished() const { return text_ + '}'; }

 private:
  void begin(std::string_view name) {
    if (text_.size() > 1) text_ += ',';
    detail::append_json_string(text_, name);
    text_ += ':';
  }
  std::string text_ = "{";
};

}  // namespace

std::string CollectorStats::to_json() const {
  JsonObject spans;
  spans.add("events", store.events);
  spans.add("spans", store.spans);
  spans.add("traces", store.traces);
  spans.add("restored_traces", store.restored_traces);
  spans.add("kept_by_rule", store.kept_by_rule);
  spans.add("dropped_by_rule", store.dropped_by_rule);
  spans.add("dropped_by_ratio", store.dropped_by_ratio);
  spans.add("unkept_spans", store.unkept_spans);
  spans.add("duplicates", store.duplicates);
  spans.add("late", store.late);
  spans.add("unfinished", store.unfinished);
  spans.add("ends_without_start", store.ends_without_start);
  spans.add("given_up_early", store.given_up_early);
  spans.add("negative_durations", store.negative_durations);
  spans.add("orphans", store.orphans);
  spans.add("cycles", store.cycles);
  spans.add("flattened", store.flattened);
  spans.add("dropped_spans", store.dropped_spans);
  spans.add("completed_early", store.completed_early);
  spans.add("evicted_traces", store.evicted_traces);
  spans.add("dropped_attributes", store.dropped_attributes);
  spans.add("cut_attributes", store.cut_attributes);
  spans.add("overflowed_texts", store.overflowed_texts);
  spans.add("failed_callbacks", store.failed_callbacks);
  spans.add("pending", store.pending);
  spans.add("open_traces", store.open_traces);
  spans.add("kept_traces", store.kept_traces);
  spans.add("bytes", store.bytes);
  JsonObject all;
  all.add("store", spans);
  all.add("bytes", bytes);
  all.add("lines", lines);
  all.add("rejected_malformed", rejected_malformed);
  all.add("rejected_field", rejected_field);
  all.add("rejected_too_long", rejected_too_long);
  all.add("rejected_no_room", rejected_no_room);
  all.add("repaired_utf8", repaired_utf8);
  all.add("connections", connections);
  all.add("refused_peers", refused_peers);
  all.add("dropped_idle", dropped_idle);
  all.add("native_spans", native_spans);
  all.add("rejected_records", rejected_records);
  all.add("broken_rings", broken_rings);
  all.add("refused_descriptors", refused_descriptors);
  all.add("listener_pauses", listener_pauses);
  all.add("reported_drops", reported_drops);
  all.add("reported_full", reported_full);
  all.add("reported_too_large", reported_too_large);
  all.add("reported_no_ring", reported_no_ring);
  all.add("reported_reentrant", reported_reentrant);
  all.add("lost_spans", lost_spans);
  all.add("open_connections", open_connections);
  return all.finished();
}

}  // namespace weir::inline v0
