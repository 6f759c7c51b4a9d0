#pragma once
// TextTable: texts that come again and again (names, keys, services) as dense ids, for the span store. Bounded, and never
// emptied: what comes when it is full is id 0, "…overflow", and is counted. Texts may be hostile: the hash is seeded.

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// A hash of `text` that nobody can foretell who does not know the seed.
std::uint64_t seeded_hash(std::string_view text, std::uint64_t seed) noexcept;

/// Thread-safety: Distinct objects: safe. Shared: safe to read.
class TextTable {
 public:
  TextTable(std::size_t max_texts, std::size_t max_bytes);

  std::uint32_t intern(std::string_view text);
  /// The id of a text that is there, or that comes for the second time while the table is not much in use: whoever sends ever new
  /// texts takes no place from others. 0 for any other text.
  std::uint32_t intern_if_common(std::string_view text);
  /// "…overflow" for an id that was never given out. Good for the table's life.
  std::string_view text(std::uint32_t id) const noexcept { return texts_[id < texts_.size() ? id : 0]; }
  /// Bytes of the longest text.
  std::size_t longest() const noexcept { return longest_; }
  /// How many times a text found no place.
  std::uint64_t overflowed() const noexcept { return overflowed_; }

 private:
  std::uint32_t intern_if_came_before(std::string_view text);
  std::uint32_t find(std::uint64_t hash, std::string_view text) const noexcept;
  std::uint32_t add(std::uint64_t hash, std::string_view text);
  void grow();
  std::string_view keep(std::string_view text);

  const std::size_t max_texts_, max_bytes_;
  const std::uint64_t seed_;
  std::vector<std::string_view> texts_;  // by id
  std::vector<std::uint32_t> slots_;     // by hash: ids, 0: free
  std::vector<std::unique_ptr<char[]>> blocks_;
  char* block_end_ = nullptr;                       // of the last block
  std::size_t room_ = 0, bytes_ = 0, longest_ = 0;  // bytes left in the last block, in all texts, in the longest
  std::uint64_t overflowed_ = 0;
  std::array<std::uint32_t, 1024> came_once_{};  // parts of hashes

  /// A text that was common: its size, its first and last eight bytes, its id.
  struct Recent {
    std::uint64_t front = 0, back = 0;
    std::uint32_t size = 0, id = 0;
  };
  std::array<Recent, 64> recent_{};
};

}  // namespace weir::inline v0::detail
