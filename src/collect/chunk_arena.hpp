#pragma once
// ChunkArena: memory in pieces of 128 bytes, for the span store. Whatever the store keeps of traces and spans lies in chains of
// chunks, so that no piece is too large for what was freed before, and what the store counts is what it has.
//
//   block (256 KiB, aligned)  ┌ header │ a link per chunk │ chunk │ chunk │ … ┐
//
// The links lie apart from the chunks: a chain is freed without touching memory that nobody has read for minutes. Blocks
// without a chunk in use go back to the system, but for a few. Free chunks in other blocks are used again first; so there is never
// more memory than at the peak of use.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class ChunkArena {
 public:
  static constexpr std::size_t chunk_bytes = 128;
  struct alignas(chunk_bytes) Chunk {
    std::byte bytes[chunk_bytes];
  };
  static constexpr std::size_t cost = sizeof(Chunk) + sizeof(Chunk*);  // bytes that a chunk takes

  ChunkArena() = default;
  ~ChunkArena();
  ChunkArena(const ChunkArena&) = delete;
  ChunkArena& operator=(const ChunkArena&) = delete;

  /// A chunk without a next one; its bytes are anything. Throws std::bad_alloc.
  Chunk* take() {
    Block* block = current_;
    if (block == nullptr || (block->free == nullptr && block->fresh == chunks_per_block)) block = next_block();
    Chunk* chunk = block->free;
    if (chunk != nullptr) {
      block->free = next(chunk);
      prefetch(block->free);
    } else {
      chunk = chunks_of(block) + block->fresh++;
    }
    ++block->used;
    ++used_;
    set_next(chunk, nullptr);
    return chunk;
  }
  /// Gives back `first` and all that come after it.
  void give_chain(Chunk* first) noexcept;

  static Chunk* next(const Chunk* chunk) noexcept { return link_of(chunk); }
  static void set_next(Chunk* chunk, Chunk* next) noexcept { link_of(chunk) = next; }
  /// Soon `chunk` is written. (Always inlined, as all that prefetches: GCC takes a call that does nothing else for one without effect.)
  [[gnu::always_inline]] static void prefetch(const void* chunk) noexcept {
    __builtin_prefetch(chunk, 1);
    __builtin_prefetch(static_cast<const std::byte*>(chunk) + chunk_bytes / 2, 1);
  }
  /// Soon the chain from `chunk` on is given back.
  [[gnu::always_inline]] static void prefetch_link(const Chunk* chunk) noexcept { __builtin_prefetch(&link_of(chunk), 1); }

  /// Chunks in use.
  std::size_t used() const noexcept { return used_; }
  /// Bytes taken from the system.
  std::size_t mapped() const noexcept { return blocks_.size() * block_bytes; }

 private:
  static constexpr std::size_t block_bytes = 256u << 10;
  static constexpr std::size_t header_bytes = 64;
  static constexpr std::size_t chunks_per_block = (block_bytes - header_bytes - chunk_bytes) / cost;
  static constexpr std::size_t data_offset =
      (header_bytes + chunks_per_block * sizeof(Chunk*) + chunk_bytes - 1) / chunk_bytes * chunk_bytes;
  static_assert(data_offset + chunks_per_block * chunk_bytes <= block_bytes);

  struct Block {
    Block *previous, *next;  // in partial_
    Chunk* free;
    std::uint32_t used, fresh;  // chunks; those from the fresh one on were never used
    std::uint32_t place;        // in blocks_
    bool listed;                // in partial_
  };
  static_assert(sizeof(Block) <= header_bytes);

  static Block* block_of(const Chunk* chunk) noexcept {
    return reinterpret_cast<Block*>(reinterpret_cast<std::uintptr_t>(chunk) & ~(std::uintptr_t{block_bytes} - 1));
  }
  static Chunk* chunks_of(Block* block) noexcept { return reinterpret_cast<Chunk*>(reinterpret_cast<std::byte*>(block) + data_offset); }
  static Chunk*& link_of(const Chunk* chunk) noexcept {
    Block* const block = block_of(chunk);
    auto* const links = reinterpret_cast<Chunk**>(reinterpret_cast<std::byte*>(block) + header_bytes);
    return links[chunk - chunks_of(block)];
  }

  Block* next_block();
  void freed_in(Block* block) noexcept;
  void list(Block* block) noexcept;
  void unlist(Block* block) noexcept;
  Block* map();
  void unmap(Block* block) noexcept;

  Block* current_ = nullptr;
  Block* partial_ = nullptr;  // blocks, beside the current one, with room; first in, first used
  Block* partial_last_ = nullptr;
  std::vector<Block*> blocks_;  // all
  std::vector<Block*> spare_;   // those without a chunk in use
  std::size_t used_ = 0;
};

}  // namespace weir::inline v0::detail
