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
  bool within(std::span<const AttributeView> attributes) const noexcept {
    const std::size_t most = options_.max_attribute_bytes;
    bool is = attributes.size() <= options_.max_attributes;
    for (const auto& [key, value] : attributes) is &= key.size() <= most && value.size() <= most;
    return is;
  }
  bool within(const EventView& start, const EventView& end) const noexcept {
    return start.attributes.empty() && start.name.size() <= options_.max_attribute_bytes && within(end.attributes);
  }
  /// Adds to a start what its end says, which knows better. Leaves nothing of use in `end`.
  void join(SpanParts& start, SpanParts& end);
  /// A span is not its own parent, and ends after it starts.
  template <class AnySpan>
  void untie(AnySpan& span) {
    if (!(span.parent == span.id)) return;
    span.parent = {};
    ++stats_.cycles;
  }
  template <class AnySpan>
  void clamp_duration(AnySpan& span) {
    if (span.end >= span.start) return;
    span.end = span.start;
    ++stats_.negative_durations;
  }
  PackedSpan corrected(PackedSpan span);

 private:
  TextRef common(std::string_view text) { return common_text(texts_, text); }
  TextRef limited(TextRef text);
  void limit(std::vector<AttributeRef>& attributes);
  void drop_beyond_limit(std::vector<AttributeRef>& attributes);
  void merge(std::vector<AttributeRef>& into, const std::vector<AttributeRef>& more);

  const TraceStoreOptions& options_;
  TraceStoreStats& stats_;
  TextTable& texts_;
};

}  // namespace weir::inline v0::detail
