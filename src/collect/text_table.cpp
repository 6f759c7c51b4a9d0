#include "collect/text_table.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "weir/core/ids.hpp"

namespace weir::inline v0::detail {

namespace {

constexpr std::string_view overflow_text = "\xe2\x80\xa6overflow";
constexpr std::size_t block_bytes = 16u << 10;
constexpr std::size_t common_share = 4;  // of the table, one in so many is for texts that are

}  // namespace

std::uint64_t seeded_hash(std::string_view text, std::uint64_t seed) noexcept {
  std::uint64_t hash = seed ^ text.size();
  const char* at = text.data();
  for (std::size_t left = text.size(); left > 0;) {
    const std::size_t bytes = std::min<std::size_t>(left, 8);
    std::uint64_t word = 0;
    std::memcpy(&word, at, bytes);
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
    at += bytes;
    left -= bytes;
  }
  return split_mix(hash);
}

TextTable::TextTable(std::size_t max_texts, std::size_t max_bytes)
    : max_texts_(max_texts), max_bytes_(max_bytes), seed_(random_seed()), texts_{overflow_text}, slots_(16) {}

std::uint32_t TextTable::intern(std::string_view text) {
  const std::uint64_t hash = seeded_hash(text, seed_);
  if (const std::uint32_t id = find(hash, text)) return id;
  if (texts_.size() > max_texts_ || bytes_ + text.size() > max_bytes_) {
    ++overflowed_;
    return 0;
  }
  return add(hash, text);
}

std::uint32_t TextTable::intern_not_recent(std::string_view text, const Ends& ends, Recent& recent) {
  const std::uint32_t id = intern_if_came_before(text);
  if (id != 0) recent = {ends, id};
  return id;
}

std::uint32_t TextTable::intern_if_came_before(std::string_view text) {
  const std::uint64_t hash = seeded_hash(text, seed_);
  if (const std::uint32_t id = find(hash, text)) return id;
  const auto mark = static_cast<std::uint32_t>(hash >> 32 | 1);
  if (std::uint32_t& before = came_once_[(hash >> 20) % came_once_.size()]; before != mark) {
    before = mark;
    return 0;
  }
  if (texts_.size() > max_texts_ / common_share || bytes_ + text.size() > max_bytes_ / common_share) return 0;
  return add(hash, text);
}

/// 0: it is not there.
std::uint32_t TextTable::find(std::uint64_t hash, std::string_view text) const noexcept {
  std::size_t i = hash & (slots_.size() - 1);
  while (slots_[i] != 0 && texts_[slots_[i]] != text) i = (i + 1) & (slots_.size() - 1);
  return slots_[i];
}

/// Requires: it is not there.
std::uint32_t TextTable::add(std::uint64_t hash, std::string_view text) {
  if ((texts_.size() + 1) * 2 > slots_.size()) grow();
  std::size_t i = hash & (slots_.size() - 1);
  while (slots_[i] != 0) i = (i + 1) & (slots_.size() - 1);
  texts_.push_back(keep(text));
  slots_[i] = static_cast<std::uint32_t>(texts_.size() - 1);
  longest_ = std::max(longest_, text.size());
  return slots_[i];
}

void TextTable::grow() {
  std::vector<std::uint32_t> slots(slots_.size() * 2);
  for (std::uint32_t id = 1; id < texts_.size(); ++id) {
    std::size_t i = seeded_hash(texts_[id], seed_) & (slots.size() - 1);
    while (slots[i] != 0) i = (i + 1) & (slots.size() - 1);
    slots[i] = id;
  }
  slots_ = std::move(slots);
}

std::string_view TextTable::keep(std::string_view text) {
  bytes_ += text.size();
  if (text.empty()) return {};
  if (text.size() > room_) {
    const std::size_t bytes = std::max(block_bytes, text.size());
    blocks_.push_back(std::make_unique<char[]>(bytes));
    room_ = bytes;
    block_end_ = blocks_.back().get() + bytes;
  }
  char* const place = block_end_ - room_;
  std::memcpy(place, text.data(), text.size());
  room_ -= text.size();
  return {place, text.size()};
}

}  // namespace weir::inline v0::detail
