#include "net/line_splitter.hpp"

#include <algorithm>
#include <bit>

namespace weir::inline v0::net {

namespace {

constexpr std::size_t first_buffer = 4096;

}  // namespace

void LineSplitter::forget() {
  handed_out_ = false;
  partial_.clear();
  if (partial_.capacity() > first_buffer + 1) release();
}

LineSplitter::Got LineSplitter::next(std::string_view& data, std::string_view& line) {
  let_go();
  const std::size_t newline = data.find('\n');
  const bool ends = newline != std::string_view::npos;
  const std::string_view piece = data.substr(0, newline);
  data.remove_prefix(ends ? newline + 1 : data.size());
  if (skipping_) {
    skipping_ = !ends;
    return Got::nothing;
  }
  const bool too_long = partial_.size() + piece.size() > max_line_;
  if (ends && partial_.empty() && !too_long) {
    line = piece;
    return Got::line;
  }
  if (too_long || !keep(piece)) {
    release();
    skipping_ = !ends;
    return too_long ? Got::too_long : Got::no_room;
  }
  if (!ends) return Got::nothing;
  handed_out_ = true;
  line = partial_;
  return Got::line;
}

LineSplitter::Got LineSplitter::finish(std::string_view& line) {
  if (!incomplete() || skipping_) return Got::nothing;
  handed_out_ = true;
  line = partial_;
  return Got::line;
}

bool LineSplitter::keep(std::string_view piece) {
  const std::size_t needed = partial_.size() + piece.size();
  if (needed > partial_.capacity()) {
    const std::size_t before = counted();
    const std::size_t wanted = std::max(needed, std::min(std::max(std::bit_ceil(needed), first_buffer), max_line_));
    if (budget_.used + wanted - before > budget_.limit) return false;
    std::string larger;  // gets what it asks for; one that grows may get twice that
    larger.reserve(wanted);
    larger.append(partial_);
    partial_.swap(larger);
    budget_.used += counted() - before;
  }
  partial_.append(piece);
  return true;
}

/// What is inside the object does not count.
std::size_t LineSplitter::counted() const { return partial_.capacity() > std::string().capacity() ? partial_.capacity() : 0; }

void LineSplitter::release() {
  budget_.used -= counted();
  std::string().swap(partial_);
}

}  // namespace weir::inline v0::net
