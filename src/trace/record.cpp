#include "trace/record.hpp"

#include <charconv>
#include <cstring>

#include "text/json.hpp"
#include "text/time.hpp"
#include "weir/core/ids.hpp"
#include "weir/trace/detail/name_table.hpp"

namespace weir::inline v0::detail {

namespace {

template <class T>
T value_of(const RecordAttribute& attribute) {
  T value;
  std::memcpy(&value, attribute.bytes().data(), sizeof value);
  return value;
}

/// Text of known length, gathered on the stack.
class Fixed {
 public:
  Fixed& operator<<(std::string_view text) {
    std::memcpy(end_, text.data(), text.size());
    end_ += text.size();
    return *this;
  }
  Fixed& hex(std::uint64_t value) {
    put_hex(end_, value);
    end_ += 16;
    return *this;
  }
  std::string_view view() const { return {bytes_, static_cast<std::size_t>(end_ - bytes_)}; }

 private:
  char bytes_[192];
  char* end_ = bytes_;
};

}  // namespace

RecordView::RecordView(const std::byte* record) noexcept : attributes_(record + sizeof(SpanRecord)) {
  std::memcpy(&fields_, record, sizeof fields_);
}

void RecordView::attributes(Attributes& out) const noexcept {
  out.count = 0;
  const std::byte* at = attributes_;
  for (unsigned left = record_attributes(fields_.header); left > 0; --left) {
    std::uint64_t word = 0;
    std::memcpy(&word, at, sizeof word);
    const std::size_t bytes = attribute_bytes(word);
    const RecordAttribute attribute{attribute_key(word), static_cast<AttributeValue::Type>(attribute_type(word)),
                                    reinterpret_cast<const char*>(at) + 8, bytes};
    at += 8 + padded(bytes);
    unsigned same = 0;
    while (same < out.count && out.items[same].key != attribute.key) ++same;
    out.items[same] = attribute;
    if (same == out.count) ++out.count;
  }
}

void append_value(std::string& out, const RecordAttribute& attribute) {
  switch (attribute.type) {
    case AttributeValue::Type::string: out += attribute.bytes(); return;
    case AttributeValue::Type::integer: append_integer(out, value_of<std::int64_t>(attribute)); return;
    case AttributeValue::Type::real: {
      char text[32];
      out.append(text, std::to_chars(text, text + sizeof text, value_of<double>(attribute)).ptr);
      return;
    }
    case AttributeValue::Type::boolean: out += value_of<std::uint64_t>(attribute) != 0 ? "true" : "false"; return;
  }
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

void append_start_line(std::string& out, const SpanRecord& span, const TickCalibration& calibration) {
  Fixed fixed;
  fixed << R"({"type":0,"span_id":")";
  fixed.hex(span.span) << R"(","trace_id":")";
  fixed.hex(span.trace_high).hex(span.trace_low);
  if (span.parent != 0) (fixed << R"(","parent_id":")").hex(span.parent);
  fixed << R"(","name":)";
  out += fixed.view();
  append_json_string(out, name_table().text(span.name));
  out += R"(,"kind":)";
  append_integer(out, span.kind);
  out += R"(,"time":")";
  append_time(out, calibration.to_time(span.start));
  out += "\"}\n";
}

void append_end_line(std::string& out, const RecordView& record, const TickCalibration& calibration) {
  const SpanRecord& span = record.fields();
  Fixed fixed;
  fixed << R"({"type":1,"span_id":")";
  fixed.hex(span.span) << R"(","trace_id":")";
  fixed.hex(span.trace_high).hex(span.trace_low) << R"(","name":"","kind":0,"time":")";
  out += fixed.view();
  append_time(out, calibration.to_time(span.end));
  out += '"';
  RecordView::Attributes attributes;
  record.attributes(attributes);
  std::string_view before = R"(,"attrs":{)";
  for (const RecordAttribute& attribute : attributes) {
    out += before;
    append_json_string(out, name_table().text(attribute.key));
    out += ':';
    if (attribute.type == AttributeValue::Type::string) {
      append_json_string(out, attribute.bytes());
    } else {
      out += '"';
      append_value(out, attribute);
      out += '"';
    }
    before = ",";
  }
  out += attributes.count != 0 ? "}}\n" : "}\n";
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
