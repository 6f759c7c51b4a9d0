#include "collect/trace_reader.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "collect/span_bounds.hpp"
#include "trace/record.hpp"

namespace weir::inline v0::detail {

using State = Half::State;

std::size_t text_bytes(const Span& span) {
  std::size_t bytes = 100 + span.id.size() + span.trace_id.size() + span.parent_id.size() + span.name.size();
  for (const auto& [key, value] : span.attrs) bytes += key.size() + value.size() + 5;
  return bytes;
}

void mark_unfinished(Span& span, Timestamp end) {
  span.end_time = std::max(span.start_time, end);
  span.attrs.insert_or_assign(std::string(unfinished_attribute), "true");
}

void append_text(std::string& out, const AttributeRef& attribute) {
  if (attribute.type == AttributeValue::Type::string) {
    out += attribute.text;
  } else {
    char number[sizeof attribute.number];
    std::memcpy(number, &attribute.number, sizeof number);
    append_value(out, RecordAttribute{0, attribute.type, number, sizeof number});
  }
}

void append_spans(std::vector<Span> spans, std::vector<Span>& out) {
  const auto first = static_cast<std::ptrdiff_t>(out.size());
  std::vector<Span> stack = build_forest(std::move(spans)).roots;
  while (!stack.empty()) {
    Span span = std::move(stack.back());
    stack.pop_back();
    for (Span& child : std::exchange(span.children, {})) stack.push_back(std::move(child));
    out.push_back(std::move(span));
  }
  std::reverse(out.begin() + first, out.end());
}

Span TraceReader::to_span(const SpanParts& parts, const std::string& trace_id) const {
  Span span;
  span.id = parts.id.string();
  span.trace_id = trace_id;
  span.parent_id = parts.parent.string();
  span.name = text_of(texts_, parts.name);
  span.kind = parts.kind;
  span.start_time = parts.start;
  span.end_time = parts.end;
  for (const AttributeRef& each : parts.attributes) {
    std::string& value = span.attrs[std::string(text_of(texts_, each.key))];
    value.clear();
    append_text(value, each);
  }
  return span;
}

std::vector<Span> TraceReader::complete_spans(const KeptTrace& trace, const std::string& trace_id) const {
  std::vector<Span> spans;
  spans.reserve(trace.stored + TraceMemory::halves_of(trace));
  SpanParts parts;
  RecordContext context{trace.base, 0, false};
  memory_.for_each_record(trace, [&](const std::byte* record, const ChunkArena::Chunk*, std::size_t) {
    read_record(record, context, parts);
    spans.push_back(to_span(parts, trace_id));
  });
  return spans;
}

std::vector<Span> TraceReader::published_spans(const KeptTrace& trace) const {
  const std::string trace_id = memory_.id_of(trace);
  std::vector<Span> spans = complete_spans(trace, trace_id);
  TraceMemory::for_each_half(trace, [&](const Half& half, const SpanParts& parts) {
    if (half.state != State::unfinished) return;
    spans.push_back(to_span(parts, trace_id));
    mark_unfinished(spans.back(), half.given_up);
  });
  return spans;
}

Trace TraceReader::snapshot(const KeptTrace& trace, Forest* forest_out) const {
  Trace result;
  result.trace_id = memory_.id_of(trace);
  result.service = services_.text(trace.service);
  if (trace.extra != nullptr) result.unfinished = trace.extra->unfinished, result.late = trace.extra->late;
  std::vector<Span> spans = complete_spans(trace, result.trace_id);
  TraceMemory::for_each_half(trace, [&](const Half& half, const SpanParts& parts) {
    if (half.state == State::ended || (half.state == State::started && !trace.completed)) return;
    spans.push_back(to_span(parts, result.trace_id));
    mark_unfinished(spans.back(), half.state == State::started ? trace.latest : half.given_up);
    if (half.state == State::started) ++result.unfinished;
  });
  result.spans = static_cast<std::uint32_t>(spans.size());
  Forest forest = build_forest(std::move(spans));
  result.roots = std::move(forest.roots);
  if (forest_out != nullptr) *forest_out = std::move(forest);
  return result;
}

}  // namespace weir::inline v0::detail
