#pragma once
// How a ring looks in memory: one header page, then a power of two of data. Fixed layout, no pointers, no implicit padding:
// the same bytes lie in a sealed memfd and are read by the collector (docs/wire_format.md).
//
//   page  ┌ identity │ head, counts (owner) │ acknowledged (reader) │ open spans: 64 × 48 bytes ┐  4096 bytes
//   data  ┌ record │ record │ … │ pad ┐                                                       capacity bytes
//
// A record is contiguous, a multiple of 16 bytes, and begins with a header word:
//   bits 0..15 length / 8   16..23 type   24..31 attribute count   32..63 name id
// A span record is a SpanRecord and its attributes. An attribute is a word (bits 0..31 key id, 32..59 length of the value
// in bytes, 60..63 type) and the value, padded with zeros to 8 bytes. A pad record fills the data up to its end.
//
// An open span is one whose slot has a span id. The owner writes the other fields first and the id last (release); whoever
// ends the span stores 0. A reader copies a slot and looks at the id again: the same id before and after, a valid copy.
//
// Names are in a memory of their own, one for the process: a header page, then entries, each a word (bits 0..31 id, 32..63
// length in bytes) and the text, padded with zeros to 8 bytes. Ids are given from 1 on, in order. A name is there before the
// first record that uses it.

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "weir/core/detail/copy_padded.hpp"
#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

static_assert(std::endian::native == std::endian::little, "rings are little-endian");

inline constexpr std::uint64_t ring_magic = 0x31474e4952524557;  // "WERRING1"
inline constexpr std::uint32_t ring_version = 1;
inline constexpr std::size_t open_slots = 64;
inline constexpr std::size_t record_alignment = 16;          // bytes
inline constexpr std::size_t max_record_bytes = 256 * 1024;  // the longest record, whatever the ring's size

struct OpenSpan {
  std::atomic<std::uint64_t> span;  // 0: free
  std::atomic<std::uint64_t> start, trace_high, trace_low, parent, name_and_kind;
};
static_assert(sizeof(OpenSpan) == 48);

struct RingPage {
  std::uint64_t magic = ring_magic;
  std::uint32_t version = ring_version, pid = 0;
  std::uint64_t capacity = 0, reserved0 = 0;

  // Written by the owner only.
  alignas(128) std::atomic<std::uint64_t> head{0};  // bytes written, monotonic
  std::atomic<std::uint64_t> written{0};            // span records written
  std::atomic<std::uint64_t> dropped_full{0};       // spans
  std::atomic<std::uint64_t> dropped_too_large{0};  // spans
  std::atomic<std::uint64_t> truncated{0};          // attributes cut or left out
  std::atomic<std::uint64_t> not_sampled{0};        // traces
  std::atomic<std::uint64_t> dropped_reentrant{0};  // spans

  // Written by the reader only: the bytes that the owner may use again, and the span records that were in them. Of the two
  // `current & 1` counts, so that both numbers change at once, whenever the reader is killed.
  alignas(128) std::atomic<std::uint64_t> current{0};
  struct Acknowledged {
    std::atomic<std::uint64_t> tail{0}, taken{0};
  } acknowledged[2];
  std::atomic<std::uint32_t> reader_left{0};  // 1: the last reader from another process will read no more

  alignas(512) OpenSpan open[open_slots] = {};
  std::byte reserved[512] = {};
};
static_assert(offsetof(RingPage, head) == 128 && offsetof(RingPage, current) == 256 && offsetof(RingPage, open) == 512 &&
              sizeof(RingPage) == 4096);

/// What the reader of a ring has acknowledged.
struct Acknowledgement {
  std::uint64_t tail = 0, taken = 0;
};
/// The tail alone. Whoever writes over what is before it has seen that the reader is done.
inline std::uint64_t acknowledged_tail(const RingPage& page) noexcept {
  return page.acknowledged[page.current.load(std::memory_order_acquire) & 1].tail.load(std::memory_order_acquire);
}
inline Acknowledgement acknowledged(const RingPage& page) noexcept {
  Acknowledgement result;
  for (int i = 0; i < 64; ++i) {  // a reader that writes without an end is none of ours
    const std::uint64_t current = page.current.load(std::memory_order_acquire);
    const RingPage::Acknowledged& slot = page.acknowledged[current & 1];
    result = {slot.tail.load(std::memory_order_acquire), slot.taken.load(std::memory_order_acquire)};
    if (page.current.load(std::memory_order_relaxed) == current) break;
  }
  return result;
}
/// By the reader, when it is done with what is before `tail`.
inline void acknowledge(RingPage& page, Acknowledgement to) noexcept {
  const std::uint64_t next = page.current.load(std::memory_order_relaxed) + 1;
  RingPage::Acknowledged& slot = page.acknowledged[next & 1];
  slot.tail.store(to.tail, std::memory_order_release);
  slot.taken.store(to.taken, std::memory_order_release);
  page.current.store(next, std::memory_order_release);
}

inline constexpr std::uint64_t names_magic = 0x31454d414e524557;  // "WERNAME1"

/// In front of the names.
struct NamesPage {
  std::uint64_t magic = names_magic;
  std::uint32_t version = ring_version, pid = 0;
  alignas(64) std::atomic<std::uint64_t> head{0};  // bytes of entries
  std::byte reserved[4024] = {};
};
static_assert(offsetof(NamesPage, head) == 64 && sizeof(NamesPage) == 4096);

constexpr std::uint64_t name_word(std::uint32_t id, std::uint64_t bytes) noexcept { return id | bytes << 32; }

enum class RecordType : std::uint8_t { span = 1, pad = 2 };

struct SpanRecord {
  std::uint64_t header, end, start, span, trace_high, trace_low, parent;
  std::uint32_t name;
  std::int32_t kind;
};
static_assert(sizeof(SpanRecord) == 64);

constexpr std::uint64_t record_header(std::uint64_t bytes, RecordType type, std::uint64_t attributes, std::uint64_t name) noexcept {
  return bytes / 8 | static_cast<std::uint64_t>(type) << 16 | attributes << 24 | name << 32;
}
constexpr std::uint64_t record_bytes(std::uint64_t header) noexcept { return (header & 0xffff) * 8; }
constexpr RecordType record_type(std::uint64_t header) noexcept { return static_cast<RecordType>(header >> 16 & 0xff); }
constexpr unsigned record_attributes(std::uint64_t header) noexcept { return header >> 24 & 0xff; }

constexpr std::uint64_t attribute_word(std::uint32_t key, std::uint64_t type, std::uint64_t bytes) noexcept {
  return key | bytes << 32 | type << 60;
}
constexpr std::uint32_t attribute_key(std::uint64_t word) noexcept { return static_cast<std::uint32_t>(word); }
constexpr std::size_t attribute_bytes(std::uint64_t word) noexcept { return word >> 32 & 0xfffffff; }
constexpr unsigned attribute_type(std::uint64_t word) noexcept { return static_cast<unsigned>(word >> 60); }

}  // namespace weir::inline v0::detail
