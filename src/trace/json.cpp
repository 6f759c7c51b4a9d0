// Events and spans as JSON lines, byte for byte as Go's encoding/json writes the original's structs.
#include <utility>
#include <vector>

#include "text/json.hpp"
#include "text/time.hpp"
#include "weir/trace/event.hpp"

namespace weir::inline v0 {

namespace {

using detail::append_integer;
using detail::append_json_escaped;
using detail::append_time;
using detail::JsonEscapes;

// What stands before a value comes as it is written: `,"name":`, with the quote that begins a text.

void append_attrs(std::string& out, const StringAttributes& attrs) {
  if (attrs.empty()) return;
  std::string_view before = R"(,"attrs":{")";
  for (const auto& [key, value] : attrs) {
    out.append(before);
    append_json_escaped(out, key, JsonEscapes::html);
    out.append(R"(":")");
    append_json_escaped(out, value, JsonEscapes::html);
    before = R"(",")";
  }
  out.append("\"}");
}

void append_text(std::string& out, std::string_view before, std::string_view value) {
  out.append(before);
  append_json_escaped(out, value, JsonEscapes::html);
  out.push_back('"');
}

template <class Enum>
void append_number(std::string& out, std::string_view before, Enum value) {
  out.append(before);
  append_integer(out, static_cast<std::int32_t>(value));
}

void append_timestamp(std::string& out, std::string_view before, Timestamp time) {
  out.append(before);
  append_time(out, time);
  out.push_back('"');
}

/// Everything of a span but its children and the closing brace.
void append_span_fields(std::string& out, const Span& span) {
  append_text(out, R"({"id":")", span.id);
  append_text(out, R"(,"trace_id":")", span.trace_id);
  if (!span.parent_id.empty()) append_text(out, R"(,"parent_id":")", span.parent_id);
  append_text(out, R"(,"name":")", span.name);
  append_number(out, R"(,"kind":)", span.kind);
  append_timestamp(out, R"(,"start_time":")", span.start_time);
  append_timestamp(out, R"(,"end_time":")", span.end_time);
  append_attrs(out, span.attrs);
}

void append_json(std::string& out, const Event& event) {
  append_number(out, R"({"type":)", event.type);
  append_text(out, R"(,"span_id":")", event.span_id);
  append_text(out, R"(,"trace_id":")", event.trace_id);
  if (!event.parent_id.empty()) append_text(out, R"(,"parent_id":")", event.parent_id);
  append_text(out, R"(,"name":")", event.name);
  append_number(out, R"(,"kind":)", event.kind);
  append_timestamp(out, R"(,"time":")", event.time);
  append_attrs(out, event.attrs);
  out.push_back('}');
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
        out.append(R"(,"children":[)");
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
  out.reserve(512);
  append_json(out, event);
  return out;
}

std::string to_json(const Span& span) {
  std::string out;
  out.reserve(512);
  append_json(out, span);
  return out;
}

}  // namespace weir::inline v0
