#pragma once
// LineLog: the lines that wait for viewers, once for all of them. ViewServer appends under its lock; each viewer has a place in it,
// and blocks that it is sending from are its own, too, so that they can be read without the lock while more is appended.
//
//   begin() ─▶ | block | block | block … ◀─ append()          place of a viewer: the number of its next line
//   oldest blocks leave: trim_to_bytes(), trim_to_line()

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string_view>
#include <vector>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// Whole lines in a row. Thread-safety: append() under the owner's lock; bytes() up to an end that was read under it: anywhere.
class LineBlock {
 public:
  static constexpr std::size_t usual_bytes = 64u << 10;

  /// Throws std::bad_alloc, as append() does.
  explicit LineBlock(std::size_t capacity) : bytes_(new char[capacity]), capacity_(capacity) {}

  bool has_room(std::size_t size) const noexcept { return capacity_ - this->size() >= size; }
  std::size_t capacity() const noexcept { return capacity_; }
  /// Requires: has_room(line.size()).
  void append(std::string_view line);
  void clear() noexcept { ends_.clear(); }

  std::size_t lines() const noexcept { return ends_.size(); }
  std::size_t size() const noexcept { return ends_.empty() ? 0 : ends_.back(); }
  /// Where line `line` begins, from 0 on; that of lines() is size().
  std::size_t begin_of(std::size_t line) const noexcept { return line == 0 ? 0 : ends_[line - 1]; }
  /// The line that byte `offset` is in; lines() for size().
  std::size_t line_at(std::size_t offset) const noexcept;
  /// The first line from which there are at most `bytes` to the end.
  std::size_t line_with(std::size_t bytes) const noexcept;
  const char* bytes() const noexcept { return bytes_.get(); }

 private:
  std::unique_ptr<char[]> bytes_;
  std::size_t capacity_;
  std::vector<std::uint32_t> ends_;
};

/// Lines and bytes are numbered from the log's beginning on, those that have left included. Thread-safety: shared: unsafe.
class LineLog {
 public:
  /// The block that a line is in.
  struct Found {
    const std::shared_ptr<LineBlock>* block = nullptr;
    std::size_t line = 0;  // in the block
  };

  /// False when memory is short: nothing is appended.
  bool append(std::string_view line) noexcept;

  std::uint64_t first_line() const noexcept { return blocks_.empty() ? end_line_ : blocks_.front().first_line; }
  std::uint64_t end_line() const noexcept { return end_line_; }
  /// Bytes from the beginning of `line` on, or of the first line if that has left.
  std::size_t bytes_from(std::uint64_t line) const noexcept;
  /// The first line from which there are at most `bytes` to the end.
  std::uint64_t line_with(std::size_t bytes) const noexcept;
  /// Requires: first_line() <= line < end_line().
  Found find(std::uint64_t line) const noexcept;

  /// Lets blocks go in front of the last `bytes` bytes, or whose lines are all before `line`.
  void trim_to_bytes(std::size_t bytes) noexcept;
  void trim_to_line(std::uint64_t line) noexcept;

 private:
  struct Entry {
    std::shared_ptr<LineBlock> block;
    std::uint64_t first_line = 0, first_byte = 0;
  };
  void drop_first() noexcept;
  std::uint64_t end_line_of(const Entry& entry) const noexcept { return entry.first_line + entry.block->lines(); }

  std::deque<Entry> blocks_;  // none is empty
  std::shared_ptr<LineBlock> spare_;
  std::uint64_t end_line_ = 0, end_byte_ = 0;
};

}  // namespace weir::inline v0::detail
