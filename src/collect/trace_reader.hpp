#pragma once
// TraceReader: what the span store has of a trace, as Span values.

#include <string>
#include <string_view>
#include <vector>

#include "collect/forest.hpp"
#include "collect/kept_trace.hpp"
#include "collect/packed_record.hpp"
#include "collect/text_table.hpp"
#include "collect/trace_memory.hpp"
#include "weir/collect/trace_store.hpp"

namespace weir::inline v0::detail {

/// Appends the value as text.
void append_text(std::string& out, const AttributeRef& attribute);
/// Makes it a span that never ended.
void mark_unfinished(Span& span, Timestamp end);
/// Not more than its JSON line takes.
std::size_t text_bytes(const Span& span);
/// Appends the spans of a trace, children before their parents.
void append_spans(std::vector<Span> spans, std::vector<Span>& out);

/// Thread-safety: Distinct objects: safe. What it is made from outlives it, and does not change meanwhile.
class TraceReader {
 public:
  TraceReader(const TraceMemory& memory, const TextTable& texts, const TextTable& services)
      : memory_(memory), texts_(texts), services_(services) {}

  Span to_span(const SpanParts& parts, const std::string& trace_id) const;
  /// With its trees, and of spans that have not ended those that a completed trace shows.
  Trace snapshot(const KeptTrace& trace, Forest* forest_out = nullptr) const;
  /// Those that were handed on.
  std::vector<Span> published_spans(const KeptTrace& trace) const;

 private:
  std::vector<Span> complete_spans(const KeptTrace& trace, const std::string& trace_id) const;

  const TraceMemory& memory_;
  const TextTable &texts_, &services_;
};

}  // namespace weir::inline v0::detail
