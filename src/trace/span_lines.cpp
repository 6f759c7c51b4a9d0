#include "trace/span_lines.hpp"

#include <charconv>
#include <cstring>

#include "text/hex.hpp"
#include "text/json.hpp"
#include "text/plain.hpp"
#include "weir/trace/detail/name_table.hpp"

namespace weir::inline v0::detail {

namespace {

/// More than all of a line takes that is not text of the record's.
constexpr std::size_t line_room = 256;

/// Writes `text` where there is room for it as it is, or takes what was written into `out` and appends it. Returns where to go on: there
/// is room for line_room more.
char* put_text(TextBuffer& out, char* to, std::string_view text) {
  if (char* const end = copy_if<JsonHtmlText>(to, text)) [[likely]]
    return end;
  out.finish(to);
  append_json_escaped(out, text, JsonEscapes::html);
  return out.room(line_room);
}

}  // namespace

std::string_view JsonNames::add(std::uint32_t id) {
  const std::string_view name = name_table().text(id);
  if (name.data() == nullptr) return name;  // nobody has that id yet
  if (id >= texts_.size()) texts_.resize(id + 1);
  std::string made;
  append_json_escaped(made, name, JsonEscapes::html);
  if (made == name) return texts_[id] = name;
  if (made_bytes_ + made.size() > max_made_bytes) {
    texts_.assign(texts_.size(), {});
    made_.clear();
    made_bytes_ = 0;
  }
  made_bytes_ += made.size();
  return texts_[id] = made_.emplace_front(std::move(made));
}

/// The digits that both lines have.
struct SpanLines::Ids {
  explicit Ids(const SpanRecord& record) noexcept {
    write_hex(span, record.span);
    write_hex(write_hex(trace, record.trace_high), record.trace_low);
  }
  char* put(char* to) const noexcept {
    to = detail::put(to, std::string_view(span, sizeof span));
    return detail::put(detail::put(to, R"(","trace_id":")"), std::string_view(trace, sizeof trace));
  }

  char span[16], trace[32];
};

char* SpanLines::put_start(char* to, const SpanRecord& span, const Ids& ids, std::string_view name, Timestamp time) {
  to = ids.put(put(to, R"({"type":0,"span_id":")"));
  if (span.parent != 0) to = write_hex(put(to, R"(","parent_id":")"), span.parent);
  to = put(put(put(to, R"(","name":")"), name), R"(","kind":)");
  to = std::to_chars(to, to + max_number_size, span.kind).ptr;
  return put(times_.write(put(to, R"(,"time":")"), time), "\"}\n");
}

void SpanLines::append_start(TextBuffer& out, const SpanRecord& span, const TickScale& scale) {
  const std::string_view name = names_.text(span.name);
  out.finish(put_start(out.room(name.size() + line_room), span, Ids(span), name, scale.to_time(span.start)));
}

std::size_t SpanLines::append(TextBuffer& out, const RecordView& record, const TickScale& scale, bool start_is_out) {
  const SpanRecord& span = record.fields();
  const std::string_view name = start_is_out ? std::string_view{} : names_.text(span.name);
  const Ids ids(span);
  char* to = out.room(name.size() + 2 * line_room);
  if (!start_is_out) to = put_start(to, span, ids, name, scale.to_time(span.start));
  out.finish(to);
  const std::size_t begin = out.size();
  to = ids.put(put(to, R"({"type":1,"span_id":")"));
  to = put(to, R"(","name":"","kind":0,"time":")");
  to = put(times_.write(to, scale.to_time(span.end)), "\"");
  RecordView::Attributes attributes;
  record.attributes(attributes);
  if (attributes.count != 0) {
    to = put(to, R"(,"attrs":{)");
    for (const RecordAttribute& attribute : attributes) {
      const std::string_view key = names_.text(attribute.key);
      out.finish(to);
      to = out.room(key.size() + attribute.size + line_room);
      to = put(put(put(to, "\""), key), R"(":")");
      to = attribute.type == AttributeValue::Type::string ? put_text(out, to, attribute.bytes()) : put_number(to, attribute);
      to = put(to, R"(",)");
    }
    to[-1] = '}';
  }
  out.finish(put(to, "}\n"));
  return out.size() - begin;
}

}  // namespace weir::inline v0::detail
