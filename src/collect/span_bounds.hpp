#pragma once
// SpanBounds: takes spans apart for the span store, and cuts and drops what is beyond the bounds of a span, counting it.

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "collect/packed_record.hpp"
#include "collect/packed_span.hpp"
#include "collect/text_table.hpp"
#include "trace/event_view.hpp"
#include "weir/collect/trace_store.hpp"

namespace weir::inline v0::detail {

inline std::string_view text_of(const TextTable& texts, const TextRef& text) noexcept {
  return text.interned ? texts.text(text.id) : text.text;
}

/// Thread-safety: Distinct objects: safe. Shared: unsafe. What it is made from outlives it.
class SpanBounds {
 public:
  SpanBounds(const TraceStoreOptions& options, TraceStoreStats& stats, TextTable& texts)
      : options_(options), stats_(stats), texts_(texts) {}

  void take_apart(const EventView& event, SpanParts& out);
  void take_apart(std::span<const AttributeView> attributes, std::vector<AttributeRef>& out);
  void take_apart(const PackedSpan& span, SpanParts& out);
  /// Whether nothing of it has to be cut or dropped.
  bool within(const PackedSpan& span) const noexcept {
    return span.attribute_count <= options_.max_attributes && texts_.longest() <= options_.max_attribute_bytes &&
           span.attributes.size() <= options_.max_attribute_bytes;  // so each value is
  }
  /// Adds to a start what its end says, which knows better. Leaves nothing of use in `end`.
  void join(SpanParts& start, SpanParts& end);
  /// A span is not its own parent, and ends after it starts.
  void untie(SpanParts& span) {
    if (!(span.parent == span.id)) return;
    span.parent = {};
    ++stats_.cycles;
  }
  void clamp_duration(SpanParts& span) {
    if (span.end >= span.start) return;
    span.end = span.start;
    ++stats_.negative_durations;
  }
  PackedSpan corrected(PackedSpan span);

 private:
  /// As an id, if it is one of those that come again and again.
  [[gnu::always_inline]] TextRef common(std::string_view text) {
    const std::uint32_t id = texts_.intern_if_common(text);
    return {id, id != 0, text};
  }
  TextRef limited(TextRef text);
  void limit(std::vector<AttributeRef>& attributes);
  void drop_beyond_limit(std::vector<AttributeRef>& attributes);
  void merge(std::vector<AttributeRef>& into, const std::vector<AttributeRef>& more);

  const TraceStoreOptions& options_;
  TraceStoreStats& stats_;
  TextTable& texts_;
};

}  // namespace weir::inline v0::detail
