#pragma once
// TraceMemory: where the span store has its traces. It finds them by id, and in them spans by theirs; it knows no order, no time and
// no rule. A trace, what few traces have beside it, and each half span are a chunk and what is chained to it; the records of a
// trace's complete spans are another chain.
//
// That an id is new, the usual answer, is told by two bits of its hash in the trace. Where they are set already, a trace of few and
// short spans is looked through, and any other has an index: so neither a span of its own nor a million together cost much.

#include <cstdint>
#include <cstring>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "collect/chunk_arena.hpp"
#include "collect/hash_slots.hpp"
#include "collect/kept_trace.hpp"
#include "collect/packed_record.hpp"
#include "collect/text_table.hpp"
#include "weir/core/ids.hpp"

namespace weir::inline v0::detail {

/// The id of a trace. A view of its text, if it is one.
struct TraceRef {
  std::uint64_t high = 0, low = 0;
  TraceIdForm form = TraceIdForm::hex32;
  std::string_view text;  // of TraceIdForm::text
};

/// Thread-safety: Distinct objects: safe. Shared: unsafe. Whoever uses it frees its traces, or at least their indices.
class TraceMemory {
 public:
  using Chunk = ChunkArena::Chunk;

  TraceMemory() = default;
  TraceMemory(const TraceMemory&) = delete;
  TraceMemory& operator=(const TraceMemory&) = delete;

  /// What traces and spans take: their chunks and tables.
  std::size_t bytes() const noexcept { return arena_.used() * ChunkArena::cost + traces_.bytes() + halves_.bytes() + index_bytes_; }

  std::uint64_t hash_of(const IdRef& id) const noexcept {
    if (id.form == IdRef::Form::text) return seeded_hash(id.text, seed_);
    std::uint64_t state = id.value ^ seed_;
    return split_mix(state);
  }
  std::uint64_t hash_of(const TraceRef& id) const noexcept { return hash_of_trace(id.high, id.low); }
  std::uint64_t hash_of_trace(std::uint64_t high, std::uint64_t low) const noexcept {
    std::uint64_t state = high ^ seed_;
    state = split_mix(state) ^ low;
    return split_mix(state);
  }
  TraceRef ref(std::string_view id) noexcept;
  std::string id_of(const KeptTrace& trace) const;

  // Traces

  bool is_last(const TraceRef& id) const { return last_ != nullptr && is(*last_, id); }
  /// The trace that was found or made last. Requires: is_last() of some id.
  KeptTrace& last() const noexcept { return *last_; }
  /// nullptr: there is none.
  KeptTrace* find_trace(const TraceRef& id);
  /// Requires: it is not there.
  KeptTrace& make(const TraceRef& id);
  /// Requires: no halves, no order has it.
  void free(KeptTrace& trace) noexcept;
  void free_index(KeptTrace& trace) noexcept;
  /// Frees the records of its complete spans; no id is known from then on but those of halves.
  void free_records(KeptTrace& trace) noexcept;
  /// Soon it is freed.
  [[gnu::always_inline]] void prefetch_free(const KeptTrace& trace) const noexcept {
    traces_.prefetch(hash_of_trace(trace.id_high, trace.id_low));
    if (trace.head != nullptr) ChunkArena::prefetch_link(trace.head);
  }
  /// Made, if the trace has none.
  Extra& extra_of(KeptTrace& trace) {
    if (trace.extra == nullptr) {
      trace.extra = ::new (arena_.take()->bytes) Extra;
      ++trace.chunks;
    }
    return *trace.extra;
  }
  static std::uint32_t halves_of(const KeptTrace& trace) noexcept { return trace.extra != nullptr ? trace.extra->halves : 0; }
  static std::size_t index_bytes(const KeptTrace& trace) noexcept {
    return trace.extra != nullptr && trace.extra->index != nullptr ? (trace.extra->index_mask + std::size_t{1}) * sizeof(std::uint64_t) : 0;
  }
  static std::size_t bytes_of(const KeptTrace& trace) noexcept {
    return trace.chunks * ChunkArena::cost + index_bytes(trace) + (1 + halves_of(trace)) * HashSlots<KeptTrace>::cost;
  }

  // Half spans

  Half* find_half(const KeptTrace& trace, const IdRef& id, std::uint64_t hash) const {
    return halves_of(trace) == 0 ? nullptr : find_half_of_some(trace, id, hash);
  }
  /// A half whose record this is, the last of its trace. Whoever calls says what it is.
  Half& add_half(KeptTrace& trace, std::uint64_t hash, std::span<const std::byte> record);
  /// Takes it out of its trace.
  void unlink(Half& half) noexcept;
  /// Requires: it was unlinked.
  void give(Half* half) noexcept { arena_.give_chain(chunk_at(half)); }
  /// `scratch` has what `parts` are views of, if they are not where they lie.
  static void read_half(const Half& half, SpanParts& parts, std::vector<std::byte>& scratch);
  template <class F>
  static void for_each_half(const KeptTrace& trace, F each) {
    if (trace.extra == nullptr) return;
    SpanParts parts;
    std::vector<std::byte> scratch;
    for (const Half* half = trace.extra->first; half != nullptr; half = half->next) {
      read_half(*half, parts, scratch);
      each(*half, std::as_const(parts));
    }
  }

  // Complete spans

  /// What a span sets in KeptTrace::seen.
  static std::uint64_t bits_of(std::uint64_t hash) noexcept {
    return std::uint64_t{1} << (hash >> 58) | std::uint64_t{1} << (hash >> 52 & 63);
  }

  /// Whether a complete span with this id is there.
  bool contains(const KeptTrace& trace, const IdRef& id, std::uint64_t hash) const {
    return (~trace.seen & bits_of(hash)) == 0 && has(trace, id, hash);
  }
  /// How many chunks the trace gets with another record.
  static std::size_t chunks_to_add(const KeptTrace& trace, std::size_t bytes) noexcept {
    const std::size_t room = trace.head == nullptr ? 0 : ChunkArena::chunk_bytes - trace.tail_used;
    return bytes <= room ? 0 : chunks_for(bytes - room);
  }
  /// Requires: the trace does not contain it.
  void add_record(KeptTrace& trace, std::uint64_t hash, std::span<const std::byte> record) {
    make_room(trace, record.size());
    const Chunk* const chunk = trace.tail;
    const std::size_t offset = trace.tail_used;
    for (std::size_t room = ChunkArena::chunk_bytes - trace.tail_used; record.size() > room; room = ChunkArena::chunk_bytes) {
      copy_short(trace.tail->bytes + trace.tail_used, record.data(), room);
      record = record.subspan(room);
      trace.tail = ChunkArena::next(trace.tail);
      trace.tail_used = 0;
    }
    copy_short(trace.tail->bytes + trace.tail_used, record.data(), record.size());
    trace.tail_used = static_cast<std::uint8_t>(trace.tail_used + record.size());
    trace.seen |= bits_of(hash);
    ++trace.stored;
    if (wants_index(trace)) add_to_index(trace, hash, chunk, offset);
  }
  /// Calls each(record after its size, its chunk, its offset there), in the order in which they came.
  template <class F>
  static void for_each_record(const KeptTrace& trace, F each) {
    ChainReader at(trace.head, 0);
    std::vector<std::byte> scratch;
    for (std::uint32_t left = trace.stored; left > 0; --left) {
      at.settle();
      const Chunk* const chunk = at.chunk();
      const std::size_t offset = at.offset(), size = at.varint();
      each(at.view(size, scratch), chunk, offset);
    }
  }

 private:
  // A trace of fewer records and chunks is looked through.
  static constexpr std::uint32_t indexed_from = 32, indexed_from_chunks = 128;

  /// Where GCC knows that it is not much, it makes `rep movs` of a memcpy, which takes long to begin.
  [[gnu::always_inline]] static void copy_short(std::byte* to, const std::byte* from, std::size_t size) noexcept {
    if (size < 16) {
      for (std::size_t i = 0; i < size; ++i) to[i] = from[i];
      return;
    }
    for (std::size_t i = 0; i < size - 16; i += 16) std::memcpy(to + i, from + i, 16);
    std::memcpy(to + size - 16, from + size - 16, 16);
  }
  static Chunk* chunk_at(void* object) noexcept { return static_cast<Chunk*>(object); }
  static const Chunk* chunk_at(const void* object) noexcept { return static_cast<const Chunk*>(object); }
  static std::size_t chunks_for(std::size_t bytes) noexcept { return (bytes + ChunkArena::chunk_bytes - 1) / ChunkArena::chunk_bytes; }
  static bool wants_index(const KeptTrace& trace) noexcept {
    return trace.stored >= indexed_from || trace.chunks >= indexed_from_chunks || index_bytes(trace) > 0;
  }
  static std::uint64_t in_trace(const KeptTrace& trace, std::uint64_t hash) noexcept {
    std::uint64_t state = reinterpret_cast<std::uintptr_t>(&trace) ^ hash;
    return split_mix(state);
  }
  bool is(const KeptTrace& trace, const TraceRef& id) const {
    return trace.id_low == id.low && trace.id_high == id.high && trace.form == id.form &&
           (id.form != TraceIdForm::text || id_of(trace) == id.text);
  }
  /// All chunks at once, so that a record is there whole or not at all.
  void make_room(KeptTrace& trace, std::size_t bytes) {
    if (const std::size_t count = chunks_to_add(trace, bytes); count > 0) add_chunks(trace, count);
  }
  void add_chunks(KeptTrace& trace, std::size_t count);
  void keep_text(KeptTrace& trace, std::string_view text);
  Half* find_half_of_some(const KeptTrace& trace, const IdRef& id, std::uint64_t hash) const;
  /// Writes bytes behind an object that is alone in its chunk; returns how many chunks that took.
  std::uint32_t write_behind(void* object, std::size_t size, std::span<const std::byte> bytes);

  bool has(const KeptTrace& trace, const IdRef& id, std::uint64_t hash) const;
  static bool index_has(const Extra& extra, const IdRef& id, std::uint64_t hash);
  void add_to_index(KeptTrace& trace, std::uint64_t hash, const Chunk* chunk, std::size_t offset);
  void build_index(KeptTrace& trace);

  const std::uint64_t seed_ = random_seed();
  ChunkArena arena_;
  HashSlots<KeptTrace> traces_;
  HashSlots<Half> halves_;
  std::size_t index_bytes_ = 0;
  KeptTrace* last_ = nullptr;  // the trace that was found or made last
  // The last id that was read, which is mostly that of the next event, too.
  char id_text_[33] = "00000000000000000000000000000000";
  TraceRef id_{};
};

}  // namespace weir::inline v0::detail
