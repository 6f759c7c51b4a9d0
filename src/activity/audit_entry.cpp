#include "activity/audit_entry.hpp"

#include <charconv>
#include <cmath>

#include "text/json.hpp"

namespace weir::inline v0::detail {

namespace {

void append_text(std::string& out, const Redactor& redactor, std::string_view text) {
  std::string redacted;
  if (redactor.redact_text(text, redacted)) text = redacted;
  if (text.size() <= AuditEntry::max_text_bytes) return append_json_string(out, text, JsonEscapes::no_html);
  std::size_t size = Redactor::max_preview_bytes;
  while ((static_cast<unsigned char>(text[size]) & 0xc0) == 0x80 && size > Redactor::max_preview_bytes - 4) --size;
  std::string cut(text.substr(0, size));
  cut += " [cut: " + std::to_string(text.size()) + " bytes]";
  append_json_string(out, cut, JsonEscapes::no_html);
}

void append_real(std::string& out, double number) {
  if (std::isfinite(number)) {
    char digits[32];
    out.append(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
  } else {
    out += std::isnan(number) ? R"("NaN")" : number > 0 ? R"("+Inf")" : R"("-Inf")";
  }
}

void append_value(std::string& out, const Redactor& redactor, const AttributeValue& value) {
  switch (value.type()) {
    case AttributeValue::Type::string: return append_text(out, redactor, value.text());
    case AttributeValue::Type::integer: return append_integer(out, value.integer());
    case AttributeValue::Type::real: return append_real(out, value.real());
    case AttributeValue::Type::boolean: out += value.boolean() ? "true" : "false"; return;
  }
}

/// In place of what cannot be there.
void append_note(std::string& out, std::string_view note) {
  out += R"({"error":)";
  append_json_string(out, note, JsonEscapes::no_html);
  out += '}';
}

void append_attributes(std::string& out, const Redactor& redactor, Attributes attributes) {
  if (attributes.empty()) return;
  const char* separator = R"(,"attributes":{)";
  for (const Attribute& attribute : attributes) {
    out += separator;
    separator = ",";
    append_json_string(out, attribute.key.view(), JsonEscapes::no_html);
    out += ':';
    if (redactor.is_sensitive(attribute.key.view())) {
      append_json_string(out, Redactor::mark);
    } else {
      append_value(out, redactor, attribute.value);
    }
  }
  out += '}';
}

void append_data(std::string& out, const Redactor& redactor, ActivityChange& change) {
  if (const AttributeValue* const value = change.value()) return append_value(out, redactor, *value);
  const Result<std::string>& made = change.json();
  if (!made) return append_note(out, made.error().message);
  const Result<std::string> json = redactor.truncate_json(*made);
  if (!json) return append_note(out, json.error().message);
  out += *json;
}

/// `whole`, or in its place the one without attributes and data.
std::string bounded(std::string whole, std::size_t limit, std::string_view short_head, std::string_view short_tail) {
  whole += "}\n";
  if (whole.size() <= limit) return whole;
  std::string rest(short_head);
  rest += R"(,"attributes":)";
  append_note(rest, "left out: the entry was of " + std::to_string(whole.size()) + " bytes");
  rest.append(short_tail).append("}\n");
  return rest;
}

}  // namespace

AuditEntry::AuditEntry(const Redactor& redactor, ActivityStart& start) {
  const Context& context = start.context();
  head_ = R"(,"operation":)";
  append_text(head_, redactor, start.operation());
  head_ += R"(,"subject":)";
  append_text(head_, redactor, start.subject());
  head_ += R"(,"op_id":)";
  append_integer(head_, static_cast<std::int64_t>(start.id()));
  if (!context.request_id().empty()) {
    head_ += R"(,"request_id":)";
    append_text(head_, redactor, context.request_id());
  }
  if (context.trace_id().valid()) head_.append(R"(,"trace_id":")").append(context.trace_id().hex()) += '"';
  if (context.span_id().valid()) head_.append(R"(,"span_id":")").append(context.span_id().hex()) += '"';
  without_ = head_.size();
  append_attributes(head_, redactor, start.attributes());
}

std::string AuditEntry::change(const Redactor& redactor, ActivityChange& change, std::size_t limit) const {
  std::string whole = head_;
  std::string id = R"(,"change_id":)";
  append_value(id, redactor, change.id());
  whole += id;
  if (change.has_data()) {
    whole += R"(,"change_data":)";
    append_data(whole, redactor, change);
  }
  return bounded(std::move(whole), limit, std::string_view(head_).substr(0, without_), id);
}

std::string AuditEntry::failure(const Redactor& redactor, const ActivityError& error, std::size_t limit) const {
  std::string text = R"(,"error":)";
  append_text(text, redactor, error.text);
  return bounded(head_ + text, limit, std::string_view(head_).substr(0, without_), text);
}

}  // namespace weir::inline v0::detail
