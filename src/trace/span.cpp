#include "weir/trace/span.hpp"

#include <algorithm>

#include "weir/trace/event.hpp"

namespace weir::inline v0 {

Span Span::with_attr(std::string key, std::string value) const {
  Span copy = *this;
  copy.attrs.insert_or_assign(std::move(key), std::move(value));
  return copy;
}

Span Span::with_child(Span child) const {
  Span copy = *this;
  copy.children.push_back(std::move(child));
  return copy;
}

Span Span::with_parent_id(std::string parent) const {
  Span copy = *this;
  copy.parent_id = std::move(parent);
  return copy;
}

std::chrono::nanoseconds Span::duration() const { return std::max(end_time - start_time, std::chrono::nanoseconds{0}); }

namespace {

bool is_true(const StringAttributes& attrs, std::string_view key) {
  const auto found = attrs.find(key);
  return found != attrs.end() && found->second == "true";
}

}  // namespace

bool Span::failed() const { return is_true(attrs, "error"); }

bool Span::unfinished() const { return is_true(attrs, unfinished_attribute); }

std::string to_string(EventType type) {
  switch (type) {
    case EventType::span_start: return "span_start";
    case EventType::span_end: return "span_end";
  }
  return "unknown(" + std::to_string(static_cast<std::int32_t>(type)) + ")";
}

Event Event::span_start(std::string span_id, std::string trace_id, std::string parent_id, std::string name, SpanKind kind, Timestamp time) {
  return {EventType::span_start, std::move(span_id), std::move(trace_id), std::move(parent_id), std::move(name), kind, time, {}};
}

Event Event::span_end(std::string span_id, std::string trace_id, Timestamp time, StringAttributes attrs) {
  return {EventType::span_end, std::move(span_id), std::move(trace_id), {}, {}, SpanKind::function, time, std::move(attrs)};
}

}  // namespace weir::inline v0
