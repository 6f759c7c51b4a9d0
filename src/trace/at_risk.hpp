#pragma once
// AtRisk: spans that the kernel accepted and that the collector may not have read: those within the last socket buffer.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class AtRisk {
 public:
  void sent(std::uint64_t bytes, std::uint64_t spans) {
    bytes_ += bytes;
    sends_.push_back({bytes_, spans});
    while (sends_.size() - first_ > 1 && bytes_ - sends_[first_].end >= buffer_bytes_) ++first_;
    if (first_ > 1024) sends_.erase(sends_.begin(), sends_.begin() + static_cast<std::ptrdiff_t>(first_)), first_ = 0;
  }
  void clear() noexcept { sends_.clear(), first_ = 0; }
  bool empty() const noexcept { return sends_.empty(); }
  std::uint64_t spans() const noexcept {
    std::uint64_t sum = 0;
    for (std::size_t i = first_; i < sends_.size(); ++i) sum += sends_[i].spans;
    return sum;
  }
  void set_buffer(std::uint64_t bytes) noexcept { buffer_bytes_ = bytes; }

 private:
  struct Send {
    std::uint64_t end, spans;
  };
  std::uint64_t bytes_ = 0, buffer_bytes_ = 212'992;
  std::vector<Send> sends_;
  std::size_t first_ = 0;
};

}  // namespace weir::inline v0::detail
