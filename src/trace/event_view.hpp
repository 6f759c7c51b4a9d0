#pragma once
// EventView: an Event that owns nothing. EventDecoder makes one of each line of JSON, and the collector's store takes it: nothing
// is copied on the way that need not be.

#include <span>
#include <string_view>
#include <vector>

#include "weir/trace/event.hpp"

namespace weir::inline v0::detail {

struct AttributeView {
  std::string_view key, value;
};

/// The fields of Event. Good as long as what it was made from.
struct EventView {
  EventType type = EventType::span_start;
  std::string_view span_id, trace_id, parent_id;  // no parent: empty
  std::string_view name;
  SpanKind kind = SpanKind::function;
  Timestamp time{};
  std::span<const AttributeView> attributes;  // each key once, in any order
};

/// `attributes` is where the view's own go.
inline EventView view_of(const Event& event, std::vector<AttributeView>& attributes) {
  attributes.clear();
  for (const auto& [key, value] : event.attrs) attributes.push_back({key, value});
  return {event.type, event.span_id, event.trace_id, event.parent_id, event.name, event.kind, event.time, attributes};
}

}  // namespace weir::inline v0::detail
