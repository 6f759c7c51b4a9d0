#include "collect/span_bounds.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "weir/trace/detail/ring_layout.hpp"

namespace weir::inline v0::detail {

namespace {

/// Cuts `text` to at most `limit` bytes, between characters.
bool cut(std::string_view& text, std::size_t limit) {
  if (text.size() <= limit) return false;
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xc0) == 0x80) --limit;
  text = text.substr(0, limit);
  return true;
}

}  // namespace

void SpanBounds::take_apart(const EventView& event, SpanParts& out) {
  const std::size_t most = options_.max_attribute_bytes;
  const bool starts = event.type == EventType::span_start;
  std::string_view name = event.name;
  if (cut(name, most)) ++stats_.cut_attributes;
  out.id.read(event.span_id, IdRef::Form::text);
  out.parent.read(starts ? event.parent_id : std::string_view(), IdRef::Form::none);
  out.name = starts ? common(name) : TextRef{};  // an end has none
  out.kind = event.kind;
  out.start = starts ? event.time : Timestamp{};
  out.end = starts ? Timestamp{} : event.time;
  take_apart(event.attributes, out.attributes);
}

void SpanBounds::take_apart(std::span<const AttributeView> attributes, std::vector<AttributeRef>& out) {
  const std::size_t most = options_.max_attribute_bytes;
  out.clear();
  if (within(attributes)) [[likely]] {
    for (const auto& [key, value] : attributes) out.push_back({common(key), AttributeValue::Type::string, 0, value});
    return;
  }
  bool long_keys = false;
  for (const auto& [key, value] : attributes) {
    AttributeRef& each = out.emplace_back();
    each.key.text = key;
    each.text = value;
    if (cut(each.text, most)) ++stats_.cut_attributes;
    long_keys |= key.size() > most;
  }
  if (long_keys || out.size() > options_.max_attributes) limit(out);
  for (AttributeRef& each : out) each.key = common(each.key.text);
}

/// Cuts keys, and drops what there are too many of. Requires: each key once, all of them texts.
[[gnu::noinline]] void SpanBounds::limit(std::vector<AttributeRef>& attributes) {
  const auto before = [](const AttributeRef& a, const AttributeRef& b) { return a.key.text < b.key.text; };
  std::sort(attributes.begin(), attributes.end(), before);
  for (AttributeRef& each : attributes) {
    if (cut(each.key.text, options_.max_attribute_bytes)) ++stats_.cut_attributes;
  }
  std::stable_sort(attributes.begin(), attributes.end(), before);
  const auto twice = std::unique(attributes.begin(), attributes.end(),
                                 [](const AttributeRef& a, const AttributeRef& b) { return a.key.text == b.key.text; });
  stats_.dropped_attributes += static_cast<std::uint64_t>(attributes.end() - twice);
  attributes.erase(twice, attributes.end());
  drop_beyond_limit(attributes);
}

void SpanBounds::take_apart(const PackedSpan& span, SpanParts& out) {
  const std::size_t most = options_.max_attribute_bytes;
  out.id = IdRef::of(span.span_id);
  out.parent = span.parent_id.valid() ? IdRef::of(span.parent_id) : IdRef{};
  out.name = limited({span.name, true, {}});
  out.kind = span.kind;
  out.start = span.start_time;
  out.end = span.end_time;
  out.attributes.clear();
  const std::byte* at = span.attributes.data();
  for (unsigned left = span.attribute_count; left > 0; --left) {
    std::uint64_t word = 0;
    std::memcpy(&word, at, sizeof word);
    AttributeRef each{{attribute_key(word), true, {}}, static_cast<AttributeValue::Type>(attribute_type(word)), 0, {}};
    if (each.type == AttributeValue::Type::string) {
      each.text = {reinterpret_cast<const char*>(at) + 8, attribute_bytes(word)};
    } else {
      std::memcpy(&each.number, at + 8, sizeof each.number);
    }
    at += 8 + (attribute_bytes(word) + 7) / 8 * 8;
    const auto same =
        std::find_if(out.attributes.begin(), out.attributes.end(), [&](const AttributeRef& known) { return known.key.id == each.key.id; });
    if (same != out.attributes.end()) {
      *same = each;
    } else {
      out.attributes.push_back(each);
    }
  }
  for (AttributeRef& each : out.attributes) {
    if (cut(each.text, most)) ++stats_.cut_attributes;
    each.key = limited(each.key);
  }
  std::stable_sort(out.attributes.begin(), out.attributes.end(), [this](const AttributeRef& a, const AttributeRef& b) {
    return std::pair(text_of(texts_, a.key), !a.key.interned) < std::pair(text_of(texts_, b.key), !b.key.interned);  // what was cut last
  });
  const auto twice = std::unique(out.attributes.begin(), out.attributes.end(), [this](const AttributeRef& a, const AttributeRef& b) {
    return text_of(texts_, a.key) == text_of(texts_, b.key);
  });
  stats_.dropped_attributes += static_cast<std::uint64_t>(out.attributes.end() - twice);
  out.attributes.erase(twice, out.attributes.end());
  drop_beyond_limit(out.attributes);
}

TextRef SpanBounds::limited(TextRef text) {
  text.text = texts_.text(text.id);
  if (cut(text.text, options_.max_attribute_bytes)) {
    ++stats_.cut_attributes;
    text.interned = false;
  }
  return text;
}

/// Requires: sorted by key.
void SpanBounds::drop_beyond_limit(std::vector<AttributeRef>& attributes) {
  if (attributes.size() <= options_.max_attributes) return;
  stats_.dropped_attributes += attributes.size() - options_.max_attributes;
  attributes.resize(options_.max_attributes);
}

/// Adds `more`; of equal keys the ones that are there stay.
void SpanBounds::merge(std::vector<AttributeRef>& into, const std::vector<AttributeRef>& more) {
  if (more.empty()) return;
  into.insert(into.end(), more.begin(), more.end());
  std::stable_sort(into.begin(), into.end(),
                   [this](const AttributeRef& a, const AttributeRef& b) { return text_of(texts_, a.key) < text_of(texts_, b.key); });
  into.erase(std::unique(into.begin(), into.end(),
                         [this](const AttributeRef& a, const AttributeRef& b) { return text_of(texts_, a.key) == text_of(texts_, b.key); }),
             into.end());
  drop_beyond_limit(into);
}

PackedSpan SpanBounds::corrected(PackedSpan span) {
  if (span.parent_id == span.span_id) {
    span.parent_id = {};
    ++stats_.cycles;
  }
  if (span.end_time < span.start_time) {
    span.end_time = span.start_time;
    ++stats_.negative_durations;
  }
  return span;
}

void SpanBounds::join(SpanParts& start, SpanParts& end) {
  start.end = end.end;
  if (!end.attributes.empty()) {
    merge(end.attributes, start.attributes);
    start.attributes.swap(end.attributes);
  }
  clamp_duration(start);
}

}  // namespace weir::inline v0::detail
