#include "view/durations.hpp"

#include <algorithm>
#include <bit>
#include <limits>

namespace weir::inline v0::detail {

void Durations::add(std::chrono::nanoseconds duration) {
  constexpr auto largest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  const auto value = static_cast<std::uint64_t>(std::max<std::int64_t>(duration.count(), 0));
  ++count_;
  total_ = std::min(total_ + value, largest);
  max_ = std::max(max_, value);
  min_ = std::min(min_, value);
  if (blocks_ != nullptr) return count_in_bucket(value);
  if (exact_.size() < max_exact) return exact_.push_back(value);
  blocks_ = std::make_unique<Blocks>();
  for (const std::uint64_t earlier : exact_) count_in_bucket(earlier);
  count_in_bucket(value);
  std::vector<std::uint64_t>().swap(exact_);
}

/// Block 0 holds the values below 64 one by one, block n those of n + 6 bits, by their six bits behind the first.
void Durations::count_in_bucket(std::uint64_t value) {
  const auto bits = static_cast<unsigned>(std::bit_width(value));
  const unsigned block = bits <= sub_bits ? 0 : bits - sub_bits;
  const std::uint64_t index = block == 0 ? value : (value >> (block - 1)) & ((1u << sub_bits) - 1);
  std::unique_ptr<Block>& counts = (*blocks_)[block];
  if (counts == nullptr) counts = std::make_unique<Block>();
  ++(*counts)[index];
}

std::chrono::nanoseconds Durations::percentile(unsigned percent) const {
  const auto as_duration = [](std::uint64_t value) { return std::chrono::nanoseconds{static_cast<std::int64_t>(value)}; };
  if (count_ == 0) return {};
  const std::uint64_t rank = std::max<std::uint64_t>(count_ / 100 * percent + (count_ % 100 * percent + 99) / 100, 1);
  if (blocks_ == nullptr) {
    std::vector<std::uint64_t> sorted = exact_;
    const auto place = sorted.begin() + static_cast<std::ptrdiff_t>(rank - 1);
    std::nth_element(sorted.begin(), place, sorted.end());
    return as_duration(*place);
  }
  std::uint64_t seen = 0;
  for (unsigned block = 0; block < blocks_->size(); ++block) {
    if ((*blocks_)[block] == nullptr) continue;
    for (std::uint64_t index = 0; index < (1u << sub_bits); ++index) {
      seen += (*(*blocks_)[block])[index];
      if (seen < rank) continue;
      if (block == 0) return as_duration(index);
      const std::uint64_t first = ((std::uint64_t{1} << sub_bits) + index) << (block - 1);
      const std::uint64_t width = std::uint64_t{1} << (block - 1);
      return as_duration(std::clamp(first + (width - 1) / 2, min_, max_));
    }
  }
  return max();
}

}  // namespace weir::inline v0::detail
