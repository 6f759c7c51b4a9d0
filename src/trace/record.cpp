#include "trace/record.hpp"

#include <bit>
#include <charconv>
#include <cstring>

#include "text/plain.hpp"
#include "weir/core/ids.hpp"
#include "weir/trace/detail/name_table.hpp"

namespace weir::inline v0::detail {

RecordView::RecordView(const std::byte* record) noexcept : attributes_(record + sizeof(SpanRecord)) {
  std::memcpy(&fields_, record, sizeof fields_);
}

void RecordView::attributes(Attributes& out) const noexcept {
  RecordAttribute* end = out.items;
  const char* at = reinterpret_cast<const char*>(attributes_);
  for (unsigned left = record_attributes(fields_.header); left > 0; --left) {
    const auto word = load<std::uint64_t>(at);
    const std::uint32_t key = attribute_key(word);
    const std::size_t bytes = attribute_bytes(word);
    RecordAttribute* same = out.items;
    while (same != end && same->key != key) ++same;
    *same = {key, static_cast<AttributeValue::Type>(attribute_type(word)), at + 8, bytes};
    if (same == end) ++end;
    at += 8 + padded(bytes);
  }
  out.count = static_cast<unsigned>(end - out.items);
}

char* put_number(char* to, const RecordAttribute& attribute) noexcept {
  const auto word = load<std::uint64_t>(attribute.value);
  switch (attribute.type) {
    case AttributeValue::Type::string: break;
    case AttributeValue::Type::integer: return std::to_chars(to, to + max_number_size, static_cast<std::int64_t>(word)).ptr;
    case AttributeValue::Type::real: return std::to_chars(to, to + max_number_size, std::bit_cast<double>(word)).ptr;
    case AttributeValue::Type::boolean: return word != 0 ? put(to, "true") : put(to, "false");
  }
  return to;
}

void append_value(std::string& out, const RecordAttribute& attribute) {
  if (attribute.type == AttributeValue::Type::string) {
    out += attribute.bytes();
    return;
  }
  char text[max_number_size];
  out.append(text, put_number(text, attribute));
}

Span to_span(const RecordView& record, const TickCalibration& calibration) {
  const SpanRecord& fields = record.fields();
  Span span;
  span.id = SpanId{fields.span}.hex();
  span.trace_id = TraceId{fields.trace_high, fields.trace_low}.hex();
  if (fields.parent != 0) span.parent_id = SpanId{fields.parent}.hex();
  span.name = name_table().text(fields.name);
  span.kind = static_cast<SpanKind>(fields.kind);
  span.start_time = calibration.to_time(fields.start);
  span.end_time = calibration.to_time(fields.end);
  RecordView::Attributes attributes;
  record.attributes(attributes);
  for (const RecordAttribute& attribute : attributes) {
    std::string& value = span.attrs[std::string(name_table().text(attribute.key))];
    value.clear();
    append_value(value, attribute);
  }
  return span;
}

bool copy_open_span(const OpenSpan& open, SpanRecord& out) noexcept {
  constexpr auto acquire = std::memory_order_acquire;  // a field of a later span makes the change of the id visible
  const std::uint64_t id = open.span.load(acquire);
  if (id == 0) return false;
  const std::uint64_t start = open.start.load(acquire);
  const std::uint64_t trace_high = open.trace_high.load(acquire), trace_low = open.trace_low.load(acquire);
  const std::uint64_t parent = open.parent.load(acquire), name_and_kind = open.name_and_kind.load(acquire);
  if (open.span.load(std::memory_order_relaxed) != id) return false;
  const auto name = static_cast<std::uint32_t>(name_and_kind);
  out = {0, 0, start, id, trace_high, trace_low, parent, name, static_cast<std::int32_t>(name_and_kind >> 32)};
  return true;
}

}  // namespace weir::inline v0::detail
