#pragma once
// Event: the start or the end of a span, as it travels from a service to the collector as one JSON line.
//
// JSON (docs/wire_format.md): type, span_id, trace_id, parent_id, name, kind, time, attrs; parent_id and attrs are absent
// when empty, everything else is always there (an end event carries "name":"","kind":0).

#include <string>
#include <string_view>

#include "weir/trace/span.hpp"

namespace weir::inline v0 {

/// Values outside the named ones are kept by parse_event and refused by the collector.
enum class EventType : std::int32_t { span_start = 0, span_end = 1 };

/// "span_start", "span_end"; for any other value "unknown(N)".
std::string to_string(EventType type);

/// Thread-safety: a value. Distinct objects: safe. Shared: safe to read.
struct Event {
  EventType type = EventType::span_start;
  std::string span_id;
  std::string trace_id;
  std::string parent_id;  ///< empty: none
  std::string name;
  SpanKind kind = SpanKind::function;
  Timestamp time{};
  StringAttributes attrs;

  static Event span_start(std::string span_id, std::string trace_id, std::string parent_id, std::string name, SpanKind kind,
                          Timestamp time);
  static Event span_end(std::string span_id, std::string trace_id, Timestamp time, StringAttributes attrs = {});

  friend bool operator==(const Event&, const Event&) = default;
};

/// One line of JSON without the newline, exactly as the original encodes it.
std::string to_json(const Event& event);

/// Reads one JSON object; tolerant and strict as parse_span is.
Result<Event> parse_event(std::string_view json);

}  // namespace weir::inline v0
