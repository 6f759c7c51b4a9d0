#include "collect/trace_memory.hpp"

#include <algorithm>
#include <cstring>

namespace weir::inline v0::detail {

namespace {

using Chunk = ChunkArena::Chunk;

// The place of a record: its chunk, the offset in the seven bits that are zero in a chunk's address, and 16 bits of the hash.
constexpr std::uint64_t place_mask = (std::uint64_t{1} << 48) - 1;
std::uint64_t place_of(std::uint64_t hash, const Chunk* chunk, std::size_t offset) noexcept {
  return reinterpret_cast<std::uintptr_t>(chunk) | offset % ChunkArena::chunk_bytes | (hash & ~place_mask);
}
bool same_32(const char* a, const char* b) noexcept {
  std::uint64_t x[4], y[4];
  std::memcpy(x, a, sizeof x);
  std::memcpy(y, b, sizeof y);
  return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3])) == 0;
}
void put_place(Extra& extra, std::uint64_t place, std::uint64_t hash) noexcept {
  std::size_t i = hash & extra.index_mask;
  while (extra.index[i] != 0) i = (i + 1) & extra.index_mask;
  extra.index[i] = place;
}

}  // namespace

TraceRef TraceMemory::ref(std::string_view id) noexcept {
  if (id.size() == 32 && same_32(id.data(), id_text_)) return id_;
  TraceRef result;
  if (id.size() == 32 && read_hex(id.data(), result.high) && read_hex(id.data() + 16, result.low)) {
    std::memcpy(id_text_, id.data(), 32);
    return id_ = result;
  }
  result.form = TraceIdForm::hex16;
  result.high = 0;
  if (id.size() == 16 && read_hex(id.data(), result.low)) return result;
  return {seeded_hash(id, seed_), seeded_hash(id, ~seed_), TraceIdForm::text, id};
}

std::string TraceMemory::id_of(const KeptTrace& trace) const {
  if (trace.form == TraceIdForm::hex32) return TraceId{trace.id_high, trace.id_low}.hex();
  if (trace.form == TraceIdForm::hex16) return SpanId{trace.id_low}.hex();
  std::string text(trace.extra->id_bytes, '\0');
  ChainReader(chunk_at(trace.extra), sizeof(Extra)).copy(text.data(), text.size());
  return text;
}

KeptTrace* TraceMemory::find_trace(const TraceRef& id) {
  if (is_last(id)) return last_;
  KeptTrace* const found = traces_.find(hash_of(id), [&](const KeptTrace& trace) { return is(trace, id); });
  if (found != nullptr) last_ = found;
  return found;
}

KeptTrace& TraceMemory::make(const TraceRef& id) {
  traces_.reserve_one();
  Chunk* const chunk = arena_.take();
  auto& trace = *::new (chunk->bytes) KeptTrace;
  trace.id_high = id.high;
  trace.id_low = id.low;
  trace.form = id.form;
  if (id.form == TraceIdForm::text) {
    try {
      keep_text(trace, id.text);
    } catch (const std::bad_alloc&) {
      if (trace.extra != nullptr) arena_.give_chain(chunk_at(trace.extra));
      arena_.give_chain(chunk);
      throw;
    }
  }
  traces_.insert(hash_of(id), &trace);
  return *(last_ = &trace);
}

void TraceMemory::free(KeptTrace& trace) noexcept {
  traces_.erase(hash_of_trace(trace.id_high, trace.id_low), &trace);
  if (last_ == &trace) last_ = nullptr;
  free_index(trace);
  if (trace.extra != nullptr) arena_.give_chain(chunk_at(trace.extra));
  arena_.give_chain(trace.head);
  arena_.give_chain(chunk_at(&trace));
}

void TraceMemory::free_records(KeptTrace& trace) noexcept {
  free_index(trace);
  for (const Chunk* chunk = trace.head; chunk != nullptr; chunk = ChunkArena::next(chunk)) --trace.chunks;
  arena_.give_chain(std::exchange(trace.head, nullptr));
  trace.tail = nullptr;
  trace.tail_used = 0;
  trace.stored = 0;
  trace.seen = 0;
}

void TraceMemory::keep_text(KeptTrace& trace, std::string_view text) {
  Extra& extra = extra_of(trace);
  extra.id_bytes = static_cast<std::uint32_t>(text.size());
  trace.chunks += write_behind(&extra, sizeof(Extra), {reinterpret_cast<const std::byte*>(text.data()), text.size()});
}

Half* TraceMemory::find_half_of_some(const KeptTrace& trace, const IdRef& id, std::uint64_t hash) const {
  return halves_.find(in_trace(trace, hash), [&](const Half& half) {
    if (half.trace != &trace || half.hash != hash) return false;
    ChainReader at(chunk_at(&half), sizeof(Half));
    at.varint();
    return has_id(at, id);
  });
}

std::uint32_t TraceMemory::write_behind(void* object, std::size_t size, std::span<const std::byte> bytes) {
  Chunk* chunk = chunk_at(object);
  std::uint32_t taken = 0;
  for (std::size_t used = size; !bytes.empty();) {
    if (used == ChunkArena::chunk_bytes) {
      Chunk* const more = arena_.take();
      ChunkArena::set_next(chunk, more);
      chunk = more;
      used = 0;
      ++taken;
    }
    const std::size_t part = std::min(bytes.size(), ChunkArena::chunk_bytes - used);
    std::memcpy(chunk->bytes + used, bytes.data(), part);
    bytes = bytes.subspan(part);
    used += part;
  }
  return taken;
}

Half& TraceMemory::add_half(KeptTrace& trace, std::uint64_t hash, std::span<const std::byte> record) {
  Extra& extra = extra_of(trace);
  halves_.reserve_one();
  Chunk* const chunk = arena_.take();
  auto& half = *::new (chunk->bytes) Half;
  try {
    half.chunks = 1 + write_behind(&half, sizeof(Half), record);
  } catch (const std::bad_alloc&) {
    arena_.give_chain(chunk);
    throw;
  }
  half.trace = &trace;
  half.hash = hash;
  half.previous = extra.last;
  (extra.last != nullptr ? extra.last->next : extra.first) = &half;
  extra.last = &half;
  ++extra.halves;
  trace.chunks += half.chunks;
  halves_.insert(in_trace(trace, hash), &half);
  return half;
}

void TraceMemory::unlink(Half& half) noexcept {
  KeptTrace& trace = *half.trace;
  Extra& extra = *trace.extra;
  (half.previous != nullptr ? half.previous->next : extra.first) = half.next;
  (half.next != nullptr ? half.next->previous : extra.last) = half.previous;
  --extra.halves;
  trace.chunks -= half.chunks;
  halves_.erase(in_trace(trace, half.hash), &half);
}

void TraceMemory::read_half(const Half& half, SpanParts& parts, std::vector<std::byte>& scratch) {
  ChainReader at(chunk_at(&half), sizeof(Half));
  const std::size_t size = at.varint();
  RecordContext context;
  read_record(at.view(size, scratch), context, parts);
}

void TraceMemory::add_chunks(KeptTrace& trace, std::size_t count) {
  Chunk* const first = arena_.take();
  try {
    Chunk* last = first;
    for (std::size_t i = 1; i < count; ++i) {
      Chunk* const next = arena_.take();
      ChunkArena::set_next(last, next);
      last = next;
    }
  } catch (const std::bad_alloc&) {
    arena_.give_chain(first);
    throw;
  }
  if (trace.head == nullptr) {
    trace.head = trace.tail = first;
  } else {
    ChunkArena::set_next(trace.tail, first);
  }
  trace.chunks += static_cast<std::uint32_t>(count);
}

bool TraceMemory::has(const KeptTrace& trace, const IdRef& id, std::uint64_t hash) const {
  if (trace.extra != nullptr && trace.extra->index != nullptr) return index_has(*trace.extra, id, hash);
  ChainReader at(trace.head, 0);
  for (std::uint32_t left = trace.stored; left > 0; --left) {
    const std::size_t size = at.varint();
    ChainReader record = at;
    if (has_id(record, id)) return true;
    at.skip(size);
  }
  return false;
}

bool TraceMemory::index_has(const Extra& extra, const IdRef& id, std::uint64_t hash) {
  for (std::size_t i = hash & extra.index_mask; extra.index[i] != 0; i = (i + 1) & extra.index_mask) {
    if (((extra.index[i] ^ hash) & ~place_mask) != 0) continue;
    const std::uint64_t place = extra.index[i] & place_mask;
    ChainReader at(reinterpret_cast<const Chunk*>(place & ~std::uint64_t{ChunkArena::chunk_bytes - 1}), place % ChunkArena::chunk_bytes);
    at.varint();
    if (has_id(at, id)) return true;
  }
  return false;
}

void TraceMemory::add_to_index(KeptTrace& trace, std::uint64_t hash, const Chunk* chunk, std::size_t offset) {
  Extra& extra = extra_of(trace);
  if (extra.index == nullptr || trace.stored * std::uint64_t{4} > (extra.index_mask + std::uint64_t{1}) * 3) {
    build_index(trace);
    return;
  }
  if (offset == ChunkArena::chunk_bytes) chunk = ChunkArena::next(chunk), offset = 0;
  put_place(extra, place_of(hash, chunk, offset), hash);
}

/// Of all that is stored.
void TraceMemory::build_index(KeptTrace& trace) {
  Extra& extra = *trace.extra;
  std::size_t capacity = 2 * indexed_from;
  while (capacity * 3 < trace.stored * std::size_t{4} * 2) capacity *= 2;
  free_index(trace);
  extra.index = new std::uint64_t[capacity]();
  extra.index_mask = static_cast<std::uint32_t>(capacity - 1);
  index_bytes_ += index_bytes(trace);
  for_each_record(trace, [&](const std::byte* record, const Chunk* chunk, std::size_t offset) {
    const std::uint64_t hash = hash_of(detail::id_of(record));
    put_place(extra, place_of(hash, chunk, offset), hash);
  });
}

void TraceMemory::free_index(KeptTrace& trace) noexcept {
  if (trace.extra == nullptr || trace.extra->index == nullptr) return;
  index_bytes_ -= index_bytes(trace);
  delete[] std::exchange(trace.extra->index, nullptr);
}

}  // namespace weir::inline v0::detail
