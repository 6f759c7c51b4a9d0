#pragma once
// TextTable: texts that come again and again (names, keys, services) as dense ids, for the span store. Bounded, and never
// emptied: what comes when it is full is id 0, "…overflow", and is counted. Texts may be hostile: the hash is seeded.

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
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
  [[gnu::always_inline]] std::uint32_t intern_if_common(std::string_view text) {
    if (text.empty() || text.size() > common_bytes) return 0;
    const Ends ends = ends_of(text);
    Recent& recent = recent_[((ends.front ^ std::rotl(ends.back, 29)) + ends.size) * 0x9E3779B97F4A7C15u >> 58];
    if (recent.ends == ends && (ends.size <= 16 || texts_[recent.id] == text)) [[likely]]
      return recent.id;
    return intern_not_recent(text, ends, recent);
  }
  /// "…overflow" for an id that was never given out. Good for the table's life.
  std::string_view text(std::uint32_t id) const noexcept { return texts_[id < texts_.size() ? id : 0]; }
  /// Bytes of the longest text.
  std::size_t longest() const noexcept { return longest_; }
  /// How many times a text found no place.
  std::uint64_t overflowed() const noexcept { return overflowed_; }

 private:
  static constexpr std::size_t common_bytes = 256;  // of a text that may be common

  /// The first and the last eight bytes of a text, or what there is of them: all of one that has sixteen or fewer.
  struct Ends {
    std::uint64_t front = 0, back = 0;
    std::uint32_t size = 0;
    friend bool operator==(const Ends& a, const Ends& b) noexcept {
      return ((a.front ^ b.front) | (a.back ^ b.back) | (a.size ^ b.size)) == 0;
    }
  };
  /// A text that was common.
  struct Recent {
    Ends ends;
    std::uint32_t id = 0;
  };

  /// Requires: not empty.
  [[gnu::always_inline]] static Ends ends_of(std::string_view text) noexcept {
    Ends ends{0, 0, static_cast<std::uint32_t>(text.size())};
    const char* const end = text.data() + text.size();
    if (text.size() >= 8) {
      std::memcpy(&ends.front, text.data(), 8);
      std::memcpy(&ends.back, end - 8, 8);
    } else if (text.size() >= 4) {
      std::uint32_t front = 0, back = 0;  // not into the eight bytes, whose reader would have to wait for the four
      std::memcpy(&front, text.data(), 4);
      std::memcpy(&back, end - 4, 4);
      ends.front = front;
      ends.back = back;
    } else {
      ends.front = static_cast<unsigned char>(text.front());
      ends.back = static_cast<std::uint64_t>(static_cast<unsigned char>(text[text.size() / 2])) << 8 | static_cast<unsigned char>(end[-1]);
    }
    return ends;
  }
  std::uint32_t intern_not_recent(std::string_view text, const Ends& ends, Recent& recent);
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
  std::array<Recent, 64> recent_{};
};

}  // namespace weir::inline v0::detail
