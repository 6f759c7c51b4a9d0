#pragma once
// Span: one finished unit of work, as a value. What the collector hands on and the view socket carries; the tree in
// `children` is filled where trees are handed on. The handle that service code holds is ScopedSpan (tracer.hpp).
//
// JSON (docs/wire_format.md): id, trace_id, parent_id, name, kind, start_time, end_time, attrs, children; parent_id,
// attrs and children are absent when empty.

#include <chrono>
#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "weir/core/clock.hpp"
#include "weir/core/kind.hpp"
#include "weir/core/result.hpp"

namespace weir::inline v0 {

/// Attribute values on the wire are strings.
using StringAttributes = std::map<std::string, std::string, std::less<>>;

/// The attribute, with the value "true", of a span that is shown although its end never came (or has not come yet). Its end
/// time is then the latest time known in its trace. A span whose start never came is not shown at all.
inline constexpr std::string_view unfinished_attribute = "weir.unfinished";

/// Thread-safety: a value. Distinct objects: safe. Shared: safe to read.
struct Span {
  std::string id;         ///< 16 hex digits from our tracers; any text is kept
  std::string trace_id;   ///< 32 hex digits from our tracers; any text is kept
  std::string parent_id;  ///< empty: a root
  std::string name;
  SpanKind kind = SpanKind::function;
  Timestamp start_time{};
  Timestamp end_time{};
  StringAttributes attrs;
  std::vector<Span> children;  ///< ordered by start time

  /// A copy with the attribute added or replaced.
  Span with_attr(std::string key, std::string value) const;
  /// A copy with `child` appended.
  Span with_child(Span child) const;
  /// A copy with another parent.
  Span with_parent_id(std::string parent) const;
  /// A deep copy.
  Span clone() const { return *this; }
  /// end_time - start_time, never negative.
  std::chrono::nanoseconds duration() const;
  /// True when the attribute `error` is "true" (what ScopedSpan::fail sets).
  bool failed() const;
  /// True when it has the unfinished_attribute.
  bool unfinished() const;

  friend bool operator==(const Span&, const Span&) = default;
};

/// One line of JSON without the newline, field order and escapes as the original writes them. Control characters are
/// escaped; invalid UTF-8 becomes U+FFFD. Children are included.
std::string to_json(const Span& span);

/// How many levels trees have at most: the collector puts spans further down on the lowest level, beside their parent, and
/// parse_span refuses deeper nesting, so that destroying, copying and comparing trees stays within any thread's stack.
inline constexpr std::size_t max_span_depth = 256;

/// Reads one JSON object. Unknown fields are ignored, unknown kinds kept, attribute values that are no strings become
/// their JSON text, optional fields may be null, the last of equal keys wins, invalid UTF-8 becomes U+FFFD. Errors with
/// std::errc::bad_message: not a JSON object, values nested deeper than 16 below a span, spans deeper than max_span_depth.
/// Errors with std::errc::invalid_argument, the message naming the field: one of the wrong type (kind: an integer of 32
/// bits), a missing or empty id or trace_id, a missing time, a time that is not RFC 3339.
Result<Span> parse_span(std::string_view json);

/// RFC 3339 in UTC with up to nine fractional digits, trailing zeros cut, as Go's time.RFC3339Nano.
std::string format_time(Timestamp time);

/// RFC 3339 with any offset and up to nanoseconds (further digits are cut). Error: anything else, an impossible date, a
/// time that int64 nanoseconds cannot hold (before 1677 or after 2262).
Result<Timestamp> parse_time(std::string_view text);

}  // namespace weir::inline v0
