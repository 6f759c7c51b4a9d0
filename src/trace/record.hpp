#pragma once
// Span records, and what they say as Span values. The records are this process's own and are trusted; only their texts are not.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "weir/core/attribute.hpp"
#include "weir/core/clock.hpp"
#include "weir/trace/detail/ring_layout.hpp"
#include "weir/trace/span.hpp"

namespace weir::inline v0::detail {

/// An attribute inside a record. Without initial values, so that an array of them costs nothing.
struct RecordAttribute {
  std::uint32_t key;  // name id
  AttributeValue::Type type;
  const char* value;
  std::size_t size;

  std::string_view bytes() const noexcept { return {value, size}; }
};

/// A record where it lies. Thread-safety: a view.
class RecordView {
 public:
  /// `record`: a complete span record.
  explicit RecordView(const std::byte* record) noexcept;

  const SpanRecord& fields() const noexcept { return fields_; }
  /// Each key once, with its last value.
  struct Attributes {
    RecordAttribute items[256];
    unsigned count = 0;
    const RecordAttribute* begin() const noexcept { return items; }
    const RecordAttribute* end() const noexcept { return items + count; }
  };
  void attributes(Attributes& out) const noexcept;

 private:
  SpanRecord fields_;
  const std::byte* attributes_;
};

/// Room for any number.
inline constexpr std::size_t max_number_size = 32;

/// Writes a number or boolean as the text it has on the wire: integers decimal, doubles in the shortest form that reads back the
/// same. Returns the end: max_number_size bytes at most.
char* put_number(char* to, const RecordAttribute& attribute) noexcept;

/// The same, and strings as they are.
void append_value(std::string& out, const RecordAttribute& attribute);

Span to_span(const RecordView& record, const TickCalibration& calibration);

/// A copy of an open span, made while its owner may be ending it. False: the slot is free, or changed on the way.
bool copy_open_span(const OpenSpan& open, SpanRecord& out) noexcept;

}  // namespace weir::inline v0::detail
