#pragma once
// Native spans for a store: what the reader of a ring would make.

#include <bit>
#include <charconv>
#include <cstring>
#include <string_view>
#include <system_error>
#include <vector>

#include "collect/span_store.hpp"
#include "weir/core/attribute.hpp"
#include "weir/core/ids.hpp"
#include "weir/trace/detail/ring_layout.hpp"

namespace weir::testing {

class PackedSpanMaker {
 public:
  explicit PackedSpanMaker(detail::SpanStore& store) : store_(store) {}

  /// Ids as 32 and 16 hex digits; no parent: empty.
  PackedSpanMaker& ids(std::string_view trace, std::string_view span, std::string_view parent = {}) {
    span_.trace_id = TraceId::from_hex(trace);
    span_.span_id = SpanId::from_hex(span);
    span_.parent_id = SpanId::from_hex(parent);
    return *this;
  }
  PackedSpanMaker& ids(TraceId trace, SpanId span, SpanId parent = {}) {
    span_.trace_id = trace, span_.span_id = span, span_.parent_id = parent;
    return *this;
  }
  PackedSpanMaker& named(std::string_view name, SpanKind kind = SpanKind::function) {
    span_.name = store_.intern(name);
    span_.kind = kind;
    return *this;
  }
  PackedSpanMaker& times(Timestamp start, Timestamp end) {
    span_.start_time = start, span_.end_time = end;
    return *this;
  }
  PackedSpanMaker& set(std::string_view key, AttributeValue value) {
    const auto type = static_cast<std::uint64_t>(value.type());
    switch (value.type()) {
      case AttributeValue::Type::string: {
        add(detail::attribute_word(store_.intern(key), type, value.text().size()));
        const auto* const bytes = reinterpret_cast<const std::byte*>(value.text().data());
        attributes_.insert(attributes_.end(), bytes, bytes + value.text().size());
        attributes_.resize((attributes_.size() + 7) / 8 * 8);
        break;
      }
      case AttributeValue::Type::integer: number(key, type, static_cast<std::uint64_t>(value.integer())); break;
      case AttributeValue::Type::real: number(key, type, std::bit_cast<std::uint64_t>(value.real())); break;
      case AttributeValue::Type::boolean: number(key, type, value.boolean() ? 1 : 0); break;
    }
    ++span_.attribute_count;
    return *this;
  }
  /// A value that reads `text`, as a bool or a number where that is possible.
  PackedSpanMaker& set_text(std::string_view key, std::string_view text) {
    std::int64_t integer = 0;
    double real = 0;
    const auto whole = [&](std::from_chars_result result) { return result.ec == std::errc{} && result.ptr == text.data() + text.size(); };
    if (text == "true") return set(key, true);
    if (whole(std::from_chars(text.data(), text.data() + text.size(), integer))) return set(key, integer);
    if (whole(std::from_chars(text.data(), text.data() + text.size(), real))) return set(key, real);
    return set(key, text);
  }
  /// Good until this object changes.
  const detail::PackedSpan& span() {
    span_.attributes = attributes_;
    return span_;
  }

 private:
  void add(std::uint64_t word) {
    const auto* const bytes = reinterpret_cast<const std::byte*>(&word);
    attributes_.insert(attributes_.end(), bytes, bytes + sizeof word);
  }
  void number(std::string_view key, std::uint64_t type, std::uint64_t bits) {
    add(detail::attribute_word(store_.intern(key), type, 8));
    add(bits);
  }

  detail::SpanStore& store_;
  detail::PackedSpan span_;
  std::vector<std::byte> attributes_;
};

}  // namespace weir::testing
