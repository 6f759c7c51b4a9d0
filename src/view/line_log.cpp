#include "view/line_log.hpp"

#include <algorithm>
#include <cstring>
#include <new>

namespace weir::inline v0::detail {

void LineBlock::append(std::string_view line) {
  const std::size_t at = size();
  ends_.push_back(static_cast<std::uint32_t>(at + line.size()));
  std::memcpy(bytes_.get() + at, line.data(), line.size());
}

std::size_t LineBlock::line_at(std::size_t offset) const noexcept {
  return static_cast<std::size_t>(std::upper_bound(ends_.begin(), ends_.end(), offset) - ends_.begin());
}

std::size_t LineBlock::line_with(std::size_t bytes) const noexcept {
  if (bytes >= size()) return 0;
  const std::size_t from = size() - bytes, line = line_at(from);
  return line + (begin_of(line) < from ? 1 : 0);
}

bool LineLog::append(std::string_view line) noexcept {
  try {
    if (blocks_.empty() || !blocks_.back().block->has_room(line.size())) {
      const bool reused = spare_ && spare_->has_room(line.size());
      std::shared_ptr<LineBlock> block = reused ? spare_ : std::make_shared<LineBlock>(std::max(line.size(), LineBlock::usual_bytes));
      block->append(line);
      try {
        blocks_.push_back({block, end_line_, end_byte_});
      } catch (const std::bad_alloc&) {
        block->clear();
        return false;
      }
      if (reused) spare_.reset();
    } else {
      blocks_.back().block->append(line);
    }
  } catch (const std::bad_alloc&) {
    return false;
  }
  ++end_line_;
  end_byte_ += line.size();
  return true;
}

std::size_t LineLog::bytes_from(std::uint64_t line) const noexcept {
  if (blocks_.empty() || line >= end_line_) return 0;
  if (line <= first_line()) return end_byte_ - blocks_.front().first_byte;
  const auto after = std::upper_bound(blocks_.begin(), blocks_.end(), line,
                                      [](std::uint64_t number, const Entry& entry) { return number < entry.first_line; });
  const Entry& entry = *std::prev(after);
  return end_byte_ - entry.first_byte - entry.block->begin_of(line - entry.first_line);
}

std::uint64_t LineLog::line_with(std::size_t bytes) const noexcept {
  if (blocks_.empty() || bytes >= end_byte_ - blocks_.front().first_byte) return first_line();
  const std::uint64_t from = end_byte_ - bytes;  // the first byte that may stay
  if (from >= end_byte_) return end_line_;
  const auto after = std::upper_bound(blocks_.begin(), blocks_.end(), from,
                                      [](std::uint64_t byte, const Entry& entry) { return byte < entry.first_byte; });
  const Entry& entry = *std::prev(after);
  return entry.first_line + entry.block->line_with(entry.block->size() - (from - entry.first_byte));
}

LineLog::Found LineLog::find(std::uint64_t line) const noexcept {
  const auto after = std::upper_bound(blocks_.begin(), blocks_.end(), line,
                                      [](std::uint64_t number, const Entry& entry) { return number < entry.first_line; });
  const Entry& entry = *std::prev(after);
  return {&entry.block, static_cast<std::size_t>(line - entry.first_line)};
}

void LineLog::trim_to_bytes(std::size_t bytes) noexcept {
  while (!blocks_.empty() && end_byte_ - blocks_.front().first_byte - blocks_.front().block->size() >= bytes) drop_first();
}

void LineLog::trim_to_line(std::uint64_t line) noexcept {
  while (!blocks_.empty() && end_line_of(blocks_.front()) <= line) drop_first();
}

/// A block that nobody sends from is used again: it is warm.
void LineLog::drop_first() noexcept {
  std::shared_ptr<LineBlock> block = std::move(blocks_.front().block);
  blocks_.pop_front();
  if (block.use_count() != 1 || block->capacity() != LineBlock::usual_bytes) return;
  block->clear();
  spare_ = std::move(block);
}

}  // namespace weir::inline v0::detail
