#pragma once
// How the span store keeps a span: a record of bytes in a chain of chunks (chunk_arena.hpp), about 20 bytes and its attributes.
//
//   size     varint: bytes that follow
//   flags    bits 0..1 kind (3: in 4 bytes after the name)   2 id is text   3..4 parent (none, 8 bytes, text, that of the record
//            before)   5 name is text
//   id       8 bytes; texts here and below: varint length, bytes
//   parent   8 bytes or text, if there is one
//   name     varint id in the table of texts, or text
//   times    a byte with two counts of bytes, start - base (zigzag), end - start
//   count    varint, attributes: key (varint: id << 1, or length << 1 | 1 and text), type | size << 3, value
//
// Ids that are 16 lower-case hex digits are 8 bytes, all others text. Numbers have as many bytes as they need.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "collect/chunk_arena.hpp"
#include "collect/packed_span.hpp"
#include "collect/text_table.hpp"
#include "text/hex.hpp"
#include "trace/event_view.hpp"
#include "weir/core/attribute.hpp"

namespace weir::inline v0::detail {

/// The id of a span. A view of its text, if it is one.
struct IdRef {
  enum class Form : std::uint8_t { none, hex, text };
  Form form = Form::none;
  std::uint64_t value = 0;
  std::string_view text;

  static IdRef of(SpanId id) noexcept { return {Form::hex, id.value, {}}; }
  /// Reads `id`; of an empty one the form is `empty`. In place, as what follows reads it in other pieces than a copy would leave.
  [[gnu::always_inline]] void read(std::string_view id, Form empty) noexcept {
    if (id.size() == 16 && read_hex(id.data(), value)) {
      form = Form::hex;
      text = {};
    } else {
      form = id.empty() ? empty : Form::text;
      value = 0;
      text = id;
    }
  }
  std::string string() const { return form == Form::hex ? SpanId{value}.hex() : std::string(text); }
  friend bool operator==(const IdRef& a, const IdRef& b) noexcept { return a.form == b.form && a.value == b.value && a.text == b.text; }
};

/// A name or a key: an id in the store's table of texts, or a view of its text.
struct TextRef {
  std::uint32_t id = 0;
  bool interned = false;
  std::string_view text;
};

/// As an id, if it is one of those that come again and again.
[[gnu::always_inline]] inline TextRef common_text(TextTable& texts, std::string_view text) {
  const std::uint32_t id = texts.intern_if_common(text);
  return {id, id != 0, text};
}

struct AttributeRef {
  TextRef key;
  AttributeValue::Type type = AttributeValue::Type::string;
  std::uint64_t number = 0;  // the bits of any other type
  std::string_view text;
};

/// A span taken apart. Views, of whatever it was made from.
struct SpanParts {
  IdRef id, parent;
  TextRef name;
  SpanKind kind{};
  Timestamp start{}, end{};
  std::vector<AttributeRef> attributes;  // each key once
};

/// A span of two lines that has nothing to be cut or dropped. Views.
struct LineSpan {
  IdRef id, parent;
  std::string_view name;
  SpanKind kind{};
  Timestamp start{}, end{};
  std::span<const AttributeView> attributes{};  // each key once
};

/// What of the record before goes into the next one of a chain.
struct RecordContext {
  Timestamp base{};
  std::uint64_t parent = 0;  // the last one of 8 bytes
  bool parent_known = false;
};

/// Makes records. Thread-safety: Distinct objects: safe. Shared: unsafe.
class RecordWriter {
 public:
  RecordWriter() : buffer_(std::make_unique<std::byte[]>(capacity_)) {}
  /// A record, good until the next call. Updates the context.
  std::span<const std::byte> write(const SpanParts& span, RecordContext& context);
  /// The same. Names and keys that are common are ids of `texts`.
  std::span<const std::byte> write(const LineSpan& span, RecordContext& context, TextTable& texts);
  /// The same. Of equal keys the last wins. Requires: `span` is not its own parent.
  std::span<const std::byte> write(const PackedSpan& span, RecordContext& context);

 private:
  std::byte* begin(std::size_t at_most);
  template <class AnySpan>
  static std::byte* put_head(std::byte* out, const AnySpan& span, const TextRef& name, RecordContext& context);
  std::span<const std::byte> finish(std::byte* end);

  std::size_t capacity_ = 1024;
  std::unique_ptr<std::byte[]> buffer_;
};

/// Reads what a chain has. A view.
class ChainReader {
 public:
  using Chunk = ChunkArena::Chunk;

  ChainReader(const Chunk* chunk, std::size_t offset) noexcept : chunk_(chunk), offset_(offset) {}
  const Chunk* chunk() const noexcept { return chunk_; }
  std::size_t offset() const noexcept { return offset_; }
  /// To the next chunk, if this one is read to its end. Requires: there is more.
  void settle() noexcept { (void)here(); }

  std::size_t varint() noexcept {
    std::size_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
      const auto byte = static_cast<std::uint8_t>(*here());
      ++offset_;
      value |= std::size_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
  }
  void copy(void* to, std::size_t bytes) noexcept {
    for (auto* out = static_cast<std::byte*>(to); bytes > 0;) {
      const std::byte* const from = here();
      const std::size_t part = std::min(bytes, ChunkArena::chunk_bytes - offset_);
      std::memcpy(out, from, part);
      out += part;
      offset_ += part;
      bytes -= part;
    }
  }
  void skip(std::size_t bytes) noexcept {
    for (offset_ += bytes; offset_ > ChunkArena::chunk_bytes; offset_ -= ChunkArena::chunk_bytes) chunk_ = ChunkArena::next(chunk_);
  }
  /// The next bytes where they lie, or else copied into `scratch`; good until either changes.
  const std::byte* view(std::size_t bytes, std::vector<std::byte>& scratch);

 private:
  const std::byte* here() noexcept {
    if (offset_ == ChunkArena::chunk_bytes) {
      chunk_ = ChunkArena::next(chunk_);
      offset_ = 0;
    }
    return chunk_->bytes + offset_;
  }

  const Chunk* chunk_;
  std::size_t offset_;
};

/// The record after its size. Updates the context as writing it did.
void read_record(const std::byte* record, RecordContext& context, SpanParts& out);
/// Whether the record that comes next has this id. Leaves the reader anywhere within it.
bool has_id(ChainReader& at, const IdRef& id);
/// The id of the record (after its size).
IdRef id_of(const std::byte* record) noexcept;

}  // namespace weir::inline v0::detail
