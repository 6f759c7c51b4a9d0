#include "collect/packed_record.hpp"

#include <algorithm>
#include <bit>

#include "weir/trace/detail/ring_layout.hpp"

namespace weir::inline v0::detail {

namespace {

using Type = AttributeValue::Type;

enum class Parent : std::uint8_t { none, bytes, text, as_before };

constexpr unsigned kind_mask = 3, id_is_text = 1u << 2, parent_shift = 3, name_is_text = 1u << 5;
constexpr unsigned long_text = 31;             // a value's length in its first byte that says: more follows
constexpr std::size_t room_for_size = 8;       // before a record in the buffer
constexpr std::size_t fixed_at_most = 96;      // bytes of a record without texts and attributes
constexpr std::size_t attribute_at_most = 32;  // bytes of an attribute without texts
constexpr std::size_t keep_at_most = 256u << 10;

[[gnu::always_inline]] inline std::byte* put(std::byte* out, unsigned value) noexcept {
  *out = static_cast<std::byte>(value);
  return out + 1;
}
[[gnu::always_inline]] inline std::byte* put_varint(std::byte* out, std::uint64_t value) noexcept {
  for (; value >= 0x80; value >>= 7) out = put(out, static_cast<unsigned>(value & 0x7f) | 0x80);
  return put(out, static_cast<unsigned>(value));
}
/// The lower `bytes` bytes of `value`; may write 8.
[[gnu::always_inline]] inline std::byte* put_low(std::byte* out, std::uint64_t value, unsigned bytes = 8) noexcept {
  std::memcpy(out, &value, sizeof value);
  return out + bytes;
}
[[gnu::always_inline]] inline std::byte* put_bytes(std::byte* out, std::string_view text) noexcept {
  if (!text.empty()) std::memcpy(out, text.data(), text.size());
  return out + text.size();
}
/// `text` has zeros up to a multiple of 8 bytes behind it; may write as many.
[[gnu::always_inline]] inline std::byte* put_padded(std::byte* out, std::string_view text) noexcept {
  for (std::size_t i = 0; i < text.size(); i += 8) std::memcpy(out + i, text.data() + i, 8);
  return out + text.size();
}
std::byte* put_text(std::byte* out, std::string_view text) noexcept { return put_bytes(put_varint(out, text.size()), text); }

[[gnu::always_inline]] inline unsigned bytes_in(std::uint64_t value) noexcept {
  return (static_cast<unsigned>(std::bit_width(value)) + 7) / 8;
}
constexpr std::uint64_t zigzag(std::uint64_t value) noexcept { return value << 1 ^ (0 - (value >> 63)); }
constexpr std::uint64_t zigzag_back(std::uint64_t value) noexcept { return value >> 1 ^ (0 - (value & 1)); }
std::uint64_t count(Timestamp time) noexcept { return static_cast<std::uint64_t>(time.time_since_epoch().count()); }
Timestamp time_of(std::uint64_t count) noexcept { return Timestamp{std::chrono::nanoseconds{static_cast<std::int64_t>(count)}}; }

[[gnu::always_inline]] inline std::byte* put_times(std::byte* out, Timestamp base, Timestamp start, Timestamp end) noexcept {
  const std::uint64_t from = zigzag(count(start) - count(base)), lasted = count(end) - count(start);
  const unsigned from_bytes = bytes_in(from), lasted_bytes = bytes_in(lasted);
  out = put(out, from_bytes | lasted_bytes << 4);
  return put_low(put_low(out, from, from_bytes), lasted, lasted_bytes);
}

/// May write up to a multiple of 8.
[[gnu::always_inline]] inline std::byte* put_string(std::byte* out, std::string_view text) noexcept {
  const auto type = static_cast<unsigned>(Type::string);
  if (text.size() >= long_text) return put_text(put(out, type | long_text << 3), text);
  out = put(out, type | static_cast<unsigned>(text.size()) << 3);
  copy_padded(out, text);
  return out + text.size();
}
[[gnu::always_inline]] inline std::byte* put_number(std::byte* out, Type type, std::uint64_t number) noexcept {
  if (type == Type::boolean) return put(out, static_cast<unsigned>(type) | (number != 0 ? 1u << 3 : 0));
  if (type == Type::integer) number = zigzag(number);
  const unsigned bytes = bytes_in(number);
  return put_low(put(out, static_cast<unsigned>(type) | bytes << 3), number, bytes);
}

[[gnu::always_inline]] inline std::byte* put_key(std::byte* out, const TextRef& key) noexcept {
  if (key.interned) return put_varint(out, std::uint64_t{key.id} << 1);
  return put_bytes(put_varint(out, key.text.size() << 1 | 1), key.text);
}

/// `value` as in a ring.
[[gnu::always_inline]] inline std::byte* put_attribute(std::byte* out, std::uint64_t word, const std::byte* value) noexcept {
  out = put_varint(out, std::uint64_t{attribute_key(word)} << 1);
  if (const auto type = static_cast<Type>(attribute_type(word)); type != Type::string) {
    std::uint64_t number = 0;
    std::memcpy(&number, value, sizeof number);
    return put_number(out, type, number);
  }
  const std::string_view text{reinterpret_cast<const char*>(value), attribute_bytes(word)};
  if (text.size() < long_text)
    return put_padded(put(out, static_cast<unsigned>(Type::string) | static_cast<unsigned>(text.size()) << 3), text);
  return put_text(put(out, static_cast<unsigned>(Type::string) | long_text << 3), text);
}

/// Attributes with their count, of equal keys the last.
std::byte* put_each_once(std::byte* out, const PackedSpan& span) noexcept {
  const std::byte* places[256];
  std::uint32_t keys[256];
  unsigned number = 0;
  const std::byte* at = span.attributes.data();
  for (unsigned left = std::min(span.attribute_count, 256u); left > 0; --left) {
    std::uint64_t word = 0;
    std::memcpy(&word, at, sizeof word);
    unsigned same = 0;
    while (same < number && keys[same] != attribute_key(word)) ++same;
    keys[same] = attribute_key(word);
    places[same] = at;
    if (same == number) ++number;
    at += 8 + (attribute_bytes(word) + 7) / 8 * 8;
  }
  out = put_varint(out, number);
  for (unsigned i = 0; i < number; ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, places[i], sizeof word);
    out = put_attribute(out, word, places[i] + 8);
  }
  return out;
}

unsigned kind_bits(SpanKind kind) noexcept { return std::min(static_cast<std::uint32_t>(kind), kind_mask); }

Parent parent_form(const IdRef& parent, RecordContext& context) noexcept {
  if (parent.form == IdRef::Form::none) return Parent::none;
  if (parent.form == IdRef::Form::text) return Parent::text;
  if (context.parent_known && context.parent == parent.value) return Parent::as_before;
  context.parent = parent.value;
  context.parent_known = true;
  return Parent::bytes;
}

/// Walks over a record's bytes.
class Bytes {
 public:
  explicit Bytes(const std::byte* at) noexcept : at_(at) {}
  unsigned byte() noexcept { return static_cast<unsigned>(*at_++); }
  std::uint64_t varint() noexcept {
    std::uint64_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
      const unsigned next = byte();
      value |= std::uint64_t{next & 0x7f} << shift;
      if (next < 0x80) return value;
    }
  }
  std::uint64_t low(unsigned bytes = 8) noexcept {
    std::uint64_t value = 0;
    std::memcpy(&value, at_, bytes);
    at_ += bytes;
    return value;
  }
  std::string_view text(std::size_t size) noexcept {
    const auto* const begin = reinterpret_cast<const char*>(at_);
    at_ += size;
    return {begin, size};
  }
  std::string_view text() noexcept { return text(varint()); }
  IdRef id(bool is_text) noexcept { return is_text ? IdRef{IdRef::Form::text, 0, text()} : IdRef{IdRef::Form::hex, low(), {}}; }

 private:
  const std::byte* at_;
};

}  // namespace

std::byte* RecordWriter::begin(std::size_t at_most) {
  at_most += room_for_size + 8;  // put_low() writes 8
  if (at_most > capacity_ || (capacity_ > keep_at_most && at_most <= keep_at_most)) {
    const std::size_t capacity = std::max<std::size_t>(1024, at_most + at_most / 2);
    buffer_ = std::make_unique<std::byte[]>(capacity);
    capacity_ = capacity;
  }
  return buffer_.get() + room_for_size;
}

std::span<const std::byte> RecordWriter::finish(std::byte* end) {
  std::byte* const record = buffer_.get() + room_for_size;
  const auto size = static_cast<std::size_t>(end - record);
  std::byte* first = record - (size < 0x80 ? 1 : (std::bit_width(size) + 6) / 7);
  put_varint(first, size);
  return {first, end};
}

/// All before the attributes.
template <class AnySpan>
[[gnu::always_inline]] inline std::byte* RecordWriter::put_head(std::byte* out, const AnySpan& span, const TextRef& name,
                                                                RecordContext& context) {
  const Parent parent = parent_form(span.parent, context);
  const bool text_id = span.id.form == IdRef::Form::text;
  const unsigned kind = kind_bits(span.kind);
  out = put(out, kind | (text_id ? id_is_text : 0) | static_cast<unsigned>(parent) << parent_shift | (name.interned ? 0 : name_is_text));
  out = text_id ? put_text(out, span.id.text) : put_low(out, span.id.value);
  if (parent == Parent::text) out = put_text(out, span.parent.text);
  if (parent == Parent::bytes) out = put_low(out, span.parent.value);
  out = name.interned ? put_varint(out, name.id) : put_text(out, name.text);
  if (kind == kind_mask) out = put_low(out, static_cast<std::uint32_t>(span.kind), 4);
  return put_times(out, context.base, span.start, span.end);
}

std::span<const std::byte> RecordWriter::write(const SpanParts& span, RecordContext& context) {
  std::size_t at_most = fixed_at_most + span.id.text.size() + span.parent.text.size() + span.name.text.size();
  for (const AttributeRef& each : span.attributes) at_most += attribute_at_most + each.key.text.size() + each.text.size();
  std::byte* out = put_head(begin(at_most), span, span.name, context);
  out = put_varint(out, span.attributes.size());
  for (const AttributeRef& each : span.attributes) {
    out = put_key(out, each.key);
    out = each.type == Type::string ? put_string(out, each.text) : put_number(out, each.type, each.number);
  }
  return finish(out);
}

std::span<const std::byte> RecordWriter::write(const LineSpan& span, RecordContext& context, TextTable& texts) {
  std::size_t at_most = fixed_at_most + span.id.text.size() + span.parent.text.size() + span.name.size();
  for (const auto& [key, value] : span.attributes) at_most += attribute_at_most + key.size() + value.size();
  std::byte* out = put_head(begin(at_most), span, common_text(texts, span.name), context);
  out = put_varint(out, span.attributes.size());
  for (const auto& [key, value] : span.attributes) out = put_string(put_key(out, common_text(texts, key)), value);
  return finish(out);
}

std::span<const std::byte> RecordWriter::write(const PackedSpan& span, RecordContext& context) {
  std::byte* out = begin(fixed_at_most + span.attributes.size() + attribute_at_most * span.attribute_count);
  const IdRef up = span.parent_id.valid() ? IdRef::of(span.parent_id) : IdRef{};
  const Parent parent = parent_form(up, context);
  const unsigned kind = kind_bits(span.kind);
  out = put(out, kind | static_cast<unsigned>(parent) << parent_shift);
  out = put_low(out, span.span_id.value);
  if (parent == Parent::bytes) out = put_low(out, up.value);
  out = put_varint(out, span.name);
  if (kind == kind_mask) out = put_low(out, static_cast<std::uint32_t>(span.kind), 4);
  out = put_times(out, context.base, span.start_time, span.end_time);

  std::byte* const attributes = out;
  out = put_varint(out, span.attribute_count);
  std::uint64_t some_keys = 0;  // a bit for each
  const std::byte* at = span.attributes.data();
  for (unsigned left = span.attribute_count; left > 0; --left) {
    std::uint64_t word = 0;
    std::memcpy(&word, at, sizeof word);
    const std::uint64_t bit = std::uint64_t{1} << (attribute_key(word) & 63);
    if ((some_keys & bit) != 0) return finish(put_each_once(attributes, span));
    some_keys |= bit;
    out = put_attribute(out, word, at + 8);
    at += 8 + (attribute_bytes(word) + 7) / 8 * 8;
  }
  return finish(out);
}

const std::byte* ChainReader::view(std::size_t bytes, std::vector<std::byte>& scratch) {
  const std::byte* const from = here();
  if (bytes <= ChunkArena::chunk_bytes - offset_) {
    offset_ += bytes;
    return from;
  }
  scratch.resize(bytes);
  copy(scratch.data(), bytes);
  return scratch.data();
}

void read_record(const std::byte* record, RecordContext& context, SpanParts& out) {
  Bytes in(record);
  const unsigned flags = in.byte();
  out.id = in.id((flags & id_is_text) != 0);
  switch (static_cast<Parent>(flags >> parent_shift & 3)) {
    case Parent::none: out.parent = {}; break;
    case Parent::text: out.parent = in.id(true); break;
    case Parent::bytes:
      out.parent = in.id(false);
      context.parent = out.parent.value;
      break;
    case Parent::as_before: out.parent = {IdRef::Form::hex, context.parent, {}}; break;
  }
  const bool named_by_text = (flags & name_is_text) != 0;
  out.name = named_by_text ? TextRef{0, false, in.text()} : TextRef{static_cast<std::uint32_t>(in.varint()), true, {}};
  const unsigned kind = flags & kind_mask;
  out.kind = kind == kind_mask ? static_cast<SpanKind>(static_cast<std::int32_t>(in.low(4))) : static_cast<SpanKind>(kind);
  const unsigned sizes = in.byte();
  const std::uint64_t start = count(context.base) + zigzag_back(in.low(sizes & 15));
  out.start = time_of(start);
  out.end = time_of(start + in.low(sizes >> 4));
  out.attributes.clear();
  for (std::uint64_t left = in.varint(); left > 0; --left) {
    AttributeRef& each = out.attributes.emplace_back();
    const std::uint64_t key = in.varint();
    each.key = (key & 1) != 0 ? TextRef{0, false, in.text(key >> 1)} : TextRef{static_cast<std::uint32_t>(key >> 1), true, {}};
    const unsigned head = in.byte(), size = head >> 3;
    each.type = static_cast<Type>(head & 7);
    switch (each.type) {
      case Type::string: each.text = size == long_text ? in.text() : in.text(size); break;
      case Type::integer: each.number = zigzag_back(in.low(size)); break;
      case Type::real: each.number = in.low(size); break;
      case Type::boolean: each.number = size; break;
    }
  }
}

bool has_id(ChainReader& at, const IdRef& id) {
  std::byte flags{};
  at.copy(&flags, 1);
  if (((static_cast<unsigned>(flags) & id_is_text) != 0) != (id.form == IdRef::Form::text)) return false;
  if (id.form == IdRef::Form::hex) {
    std::uint64_t value = 0;
    at.copy(&value, sizeof value);
    return value == id.value;
  }
  std::size_t left = at.varint();
  if (left != id.text.size()) return false;
  for (const char* text = id.text.data(); left > 0;) {
    char part[64];
    const std::size_t bytes = std::min(left, sizeof part);
    at.copy(part, bytes);
    if (std::memcmp(part, text, bytes) != 0) return false;
    text += bytes;
    left -= bytes;
  }
  return true;
}

IdRef id_of(const std::byte* record) noexcept {
  Bytes in(record);
  const unsigned flags = in.byte();
  return in.id((flags & id_is_text) != 0);
}

}  // namespace weir::inline v0::detail
