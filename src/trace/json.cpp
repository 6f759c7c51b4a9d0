// Events and spans as JSON lines, byte for byte as Go's encoding/json writes the original's structs.
#include <utility>
#include <vector>

#include "text/json.hpp"
#include "text/time.hpp"
#include "weir/trace/event.hpp"

namespace weir::inline v0 {

namespace {

using detail::append_integer;
using detail::append_json_string;
using detail::append_time;

/// `,"key":` for a key that needs no escapes.
void append_key(std::string& out, std::string_view key, char before = ',') {
  out += before;
  out += '"';
  out += key;
  out += "\":";
}

void append_attrs(std::string& out, const StringAttributes& attrs) {
  if (attrs.empty()) return;
  append_key(out, "attrs");
  char before = '{';
  for (const auto& [key, value] : attrs) {
    out += before;
    append_json_string(out, key);
    out += ':';
    append_json_string(out, value);
    before = ',';
  }
  out += '}';
}

void append_text(std::string& out, std::string_view key, std::string_view value, char before = ',') {
  append_key(out, key, before);
  append_json_string(out, value);
}

void append_timestamp(std::string& out, std::string_view key, Timestamp time) {
  append_key(out, key);
  out += '"';
  append_time(out, time);
  out += '"';
}

/// Everything of a span but its children and the closing brace.
void append_span_fields(std::string& out, const Span& span) {
  append_text(out, "id", span.id, '{');
  append_text(out, "trace_id", span.trace_id);
  if (!span.parent_id.empty()) append_text(out, "parent_id", span.parent_id);
  append_text(out, "name", span.name);
  append_key(out, "kind");
  append_integer(out, static_cast<std::int32_t>(span.kind));
  append_timestamp(out, "start_time", span.start_time);
  append_timestamp(out, "end_time", span.end_time);
  append_attrs(out, span.attrs);
}

void append_json(std::string& out, const Event& event) {
  append_key(out, "type", '{');
  append_integer(out, static_cast<std::int32_t>(event.type));
  append_text(out, "span_id", event.span_id);
  append_text(out, "trace_id", event.trace_id);
  if (!event.parent_id.empty()) append_text(out, "parent_id", event.parent_id);
  append_text(out, "name", event.name);
  append_key(out, "kind");
  append_integer(out, static_cast<std::int32_t>(event.kind));
  append_timestamp(out, "time", event.time);
  append_attrs(out, event.attrs);
  out += '}';
}

void append_json(std::string& out, const Span& root) {
  std::vector<std::pair<const Span*, std::size_t>> open;  // spans begun, with the number of their children begun
  const Span* next = &root;
  while (next != nullptr || !open.empty()) {
    if (next != nullptr) {
      append_span_fields(out, *next);
      open.emplace_back(next, 0);
      next = nullptr;
    }
    auto& [span, begun] = open.back();
    if (begun < span->children.size()) {
      if (begun == 0) {
        append_key(out, "children");
        out += '[';
      } else {
        out += ',';
      }
      next = &span->children[begun++];
    } else {
      out += span->children.empty() ? "}" : "]}";
      open.pop_back();
    }
  }
}

}  // namespace

std::string to_json(const Event& event) {
  std::string out;
  out.reserve(256);
  append_json(out, event);
  return out;
}

std::string to_json(const Span& span) {
  std::string out;
  out.reserve(256);
  append_json(out, span);
  return out;
}

}  // namespace weir::inline v0
