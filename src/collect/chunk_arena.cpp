#include "collect/chunk_arena.hpp"

#include <sys/mman.h>
#include <algorithm>
#include <new>

namespace weir::inline v0::detail {

namespace {

constexpr std::size_t spare_at_least = 4;  // empty blocks kept
constexpr std::size_t spare_one_in = 16;   // or one in so many
constexpr std::size_t free_one_in = 4;     // chunks of a block that are free before it is used again

}  // namespace

ChunkArena::~ChunkArena() {
  for (Block* const block : blocks_) ::munmap(block, block_bytes);
}

void ChunkArena::give_chain(Chunk* first) noexcept {
  while (first != nullptr) {  // one run of chunks of one block at a time, which keeps its order
    Block* const block = block_of(first);
    Chunk* last = first;
    std::uint32_t count = 1;
    for (Chunk* after = next(last); after != nullptr && block_of(after) == block; after = next(last)) {
      last = after;
      ++count;
    }
    Chunk* const rest = next(last);
    set_next(last, block->free);
    block->free = first;
    block->used -= count;
    used_ -= count;
    if (block != current_) freed_in(block);
    first = rest;
  }
}

void ChunkArena::freed_in(Block* block) noexcept {
  if (block->used > 0) {
    if (!block->listed && block->used <= chunks_per_block - chunks_per_block / free_one_in) list(block);
    return;
  }
  if (block->listed) unlist(block);
  if (spare_.size() < std::max(spare_at_least, blocks_.size() / spare_one_in)) {
    spare_.push_back(block);  // has room: see map()
  } else {
    unmap(block);
  }
}

ChunkArena::Block* ChunkArena::next_block() {
  Block* block = partial_;
  if (block != nullptr) {
    unlist(block);
  } else if (!spare_.empty()) {
    block = spare_.back();
    spare_.pop_back();
  } else {
    block = map();
  }
  return current_ = block;
}

void ChunkArena::list(Block* block) noexcept {
  block->listed = true;
  block->previous = partial_last_;
  block->next = nullptr;
  (partial_last_ != nullptr ? partial_last_->next : partial_) = block;
  partial_last_ = block;
}

void ChunkArena::unlist(Block* block) noexcept {
  block->listed = false;
  (block->previous != nullptr ? block->previous->next : partial_) = block->next;
  (block->next != nullptr ? block->next->previous : partial_last_) = block->previous;
}

ChunkArena::Block* ChunkArena::map() {
  if (blocks_.size() == blocks_.capacity()) blocks_.reserve(std::max<std::size_t>(16, 2 * blocks_.size()));
  spare_.reserve(std::max(spare_at_least, blocks_.capacity() / spare_one_in) + 1);  // freed_in() must not throw
  void* const memory = ::mmap(nullptr, 2 * block_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  auto* const begin = static_cast<std::byte*>(memory);
  auto* const aligned = reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(begin) + block_bytes - 1) & ~(block_bytes - 1));
  if (aligned != begin) ::munmap(begin, static_cast<std::size_t>(aligned - begin));
  if (aligned + block_bytes != begin + 2 * block_bytes) {
    ::munmap(aligned + block_bytes, static_cast<std::size_t>(begin + block_bytes - aligned));
  }
  auto* const block = ::new (aligned) Block{};
  block->place = static_cast<std::uint32_t>(blocks_.size());
  blocks_.push_back(block);
  return block;
}

void ChunkArena::unmap(Block* block) noexcept {
  blocks_.back()->place = block->place;
  blocks_[block->place] = blocks_.back();
  blocks_.pop_back();
  ::munmap(block, block_bytes);
}

}  // namespace weir::inline v0::detail
