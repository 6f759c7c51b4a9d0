#pragma once
// What a line says, as values (LogFields, LogExtra), and packed into bytes, which is how it waits for the thread that writes lines.
//
//   packed fields: [PackedHead | operation | subject | request id | attribute…]      each text padded to 8 bytes
//   attribute:     [type, form and key size | value or text size | key | text]

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <string_view>
#include <vector>

#include "activity/log_ring.hpp"
#include "weir/activity/activity.hpp"
#include "weir/core/detail/copy_padded.hpp"

namespace weir::inline v0::detail {

/// What all lines of one activity say. A view. (Numbers are not set to zero first: that takes as long as packing them.)
struct LogFields {
  std::uint64_t id;
  TraceId trace;
  SpanId span;
  std::uint8_t flags;
  std::string_view operation, subject, request_id;
  Attributes attributes;
};

/// What one line says beyond that.
struct LogExtra {
  enum class Form : std::uint8_t {
    value = 0,
    json,        ///< text of the program's that ought to be JSON
    ready_json,  ///< JSON that is redacted and cut
    failure,     ///< text: why there is no value
  };
  std::string_view key;
  AttributeValue value = false;
  Form form = Form::value;
};

/// One line in a ring; the packed fields and `extra_count` packed extras follow.
struct LogRecord {
  enum Kind : std::uint32_t { started = 1, failed, changed, completed };
  LogRecordHead head;
  std::uint64_t ticks, started_at;
  std::uint32_t fields_size, extra_count;
};
static_assert(sizeof(LogRecord) == 32);

/// Whole words, each written by one store: who copies them a moment later would wait for the pieces of one.
struct PackedHead {
  std::uint64_t id;
  std::uint64_t trace_high, trace_low, span;
  std::uint64_t operation_and_subject;  // sizes, 32 bits each
  std::uint64_t request_id_and_rest;    // its size, 32 bits; the number of attributes, 24; flags, 8
};

inline std::byte* put_text(std::byte* out, std::string_view text) noexcept {
  copy_padded(out, text);
  return out + padded(text.size());
}

inline std::size_t packed_size(std::string_view key, const AttributeValue& value) noexcept {
  return 16 + padded(key.size()) + (value.type() == AttributeValue::Type::string ? padded(value.text().size()) : 0);
}

inline std::byte* pack(std::byte* out, std::string_view key, const AttributeValue& value,
                       LogExtra::Form form = LogExtra::Form::value) noexcept {
  const std::uint64_t head =
      static_cast<std::uint64_t>(value.type()) | static_cast<std::uint64_t>(form) << 8 | static_cast<std::uint64_t>(key.size()) << 32;
  std::memcpy(out, &head, 8);
  std::uint64_t word = 0;
  std::string_view text;
  switch (value.type()) {
    case AttributeValue::Type::string:
      text = value.text();
      word = text.size();
      break;
    case AttributeValue::Type::integer: word = static_cast<std::uint64_t>(value.integer()); break;
    case AttributeValue::Type::real: {
      const double real = value.real();
      std::memcpy(&word, &real, 8);
      break;
    }
    case AttributeValue::Type::boolean: word = value.boolean() ? 1 : 0; break;
  }
  std::memcpy(out + 8, &word, 8);
  out = put_text(out + 16, key);
  return text.empty() ? out : put_text(out, text);
}

inline const std::byte* unpack(const std::byte* in, LogExtra& out) noexcept {
  std::uint64_t head, word;
  std::memcpy(&head, in, 8);
  std::memcpy(&word, in + 8, 8);
  in += 16;
  const auto key_size = static_cast<std::size_t>(head >> 32);
  out.key = {reinterpret_cast<const char*>(in), key_size};
  in += padded(key_size);
  out.form = static_cast<LogExtra::Form>(head >> 8 & 0xff);
  switch (static_cast<AttributeValue::Type>(head & 0xff)) {
    case AttributeValue::Type::string: out.value = std::string_view(reinterpret_cast<const char*>(in), word); return in + padded(word);
    case AttributeValue::Type::integer: out.value = static_cast<std::int64_t>(word); break;
    case AttributeValue::Type::real: {
      double real = 0;
      std::memcpy(&real, &word, 8);
      out.value = real;
      break;
    }
    case AttributeValue::Type::boolean: out.value = word != 0; break;
  }
  return in;
}

inline std::size_t packed_size(const LogFields& fields) noexcept {
  std::size_t size =
      sizeof(PackedHead) + padded(fields.operation.size()) + padded(fields.subject.size()) + padded(fields.request_id.size());
  for (const Attribute& attribute : fields.attributes) size += packed_size(attribute.key.view(), attribute.value);
  return size;
}

/// Requires: packed_size(fields) bytes at `out`, aligned to 8.
inline void pack(std::byte* out, const LogFields& fields) noexcept {
  const auto word = [&out](std::uint64_t value) {
    asm("" : "+r"(value));  // keeps the compiler from joining two
    std::memcpy(out, &value, sizeof value);
    out += sizeof value;
  };
  const auto size = [](std::string_view text) { return static_cast<std::uint64_t>(static_cast<std::uint32_t>(text.size())); };
  word(fields.id);
  word(fields.trace.high);
  word(fields.trace.low);
  word(fields.span.value);
  word(size(fields.operation) | size(fields.subject) << 32);
  word(size(fields.request_id) | static_cast<std::uint64_t>(fields.attributes.size() & 0xffffff) << 32 | std::uint64_t{fields.flags} << 56);
  out = put_text(out, fields.operation);
  out = put_text(out, fields.subject);
  out = put_text(out, fields.request_id);
  for (const Attribute& attribute : fields.attributes) out = pack(out, attribute.key.view(), attribute.value);
}

/// `attributes` holds what the result views.
inline LogFields unpack(const std::byte* in, std::vector<Attribute>& attributes) {
  PackedHead head;
  std::memcpy(&head, in, sizeof head);
  in += sizeof head;
  const auto text = [&in](std::size_t size) {
    const std::string_view view(reinterpret_cast<const char*>(in), size);
    in += padded(size);
    return view;
  };
  LogFields fields;
  fields.id = head.id;
  fields.trace = {head.trace_high, head.trace_low};
  fields.span = {head.span};
  fields.flags = static_cast<std::uint8_t>(head.request_id_and_rest >> 56);
  fields.operation = text(head.operation_and_subject & 0xffffffff);
  fields.subject = text(head.operation_and_subject >> 32);
  fields.request_id = text(head.request_id_and_rest & 0xffffffff);
  const std::uint64_t count = head.request_id_and_rest >> 32 & 0xffffff;
  attributes.clear();
  for (std::uint64_t i = 0; i < count; ++i) {
    LogExtra attribute;
    in = unpack(in, attribute);
    attributes.push_back({Name(attribute.key), attribute.value});
  }
  fields.attributes = std::span<const Attribute>(attributes);
  return fields;
}

}  // namespace weir::inline v0::detail
