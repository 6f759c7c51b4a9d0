#pragma once
// LineReader: cuts a stream of bytes into lines, within a bound. Feed it what arrives; a line that is longer than the bound
// is skipped up to its newline, and counted. Thread-safety: Distinct objects: safe. Shared: unsafe.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "weir/core/version.hpp"

namespace weir::inline v0::net {

class LineReader {
 public:
  explicit LineReader(std::size_t max_line) : max_line_(max_line) {}

  /// Calls `on_line(std::string_view)` for each line that `data` completes, without its newline. The view is valid for the
  /// call. Lines that arrive whole are not copied.
  template <class OnLine>
  void feed(std::string_view data, OnLine&& on_line) {
    while (!data.empty()) {
      const void* const newline = std::memchr(data.data(), '\n', data.size());
      if (newline == nullptr) {
        keep(data);
        return;
      }
      const auto size = static_cast<std::size_t>(static_cast<const char*>(newline) - data.data());
      const std::string_view end = data.substr(0, size);
      data.remove_prefix(size + 1);
      if (skipping_ || partial_.size() + end.size() > max_line_) {
        skipped_ += skipping_ ? 0 : 1;
        skipping_ = false;
        forget();
      } else if (partial_.empty()) {
        on_line(end);
      } else {
        partial_.append(end);
        on_line(std::string_view(partial_));
        forget();
      }
    }
  }

  /// The stream has ended: what stands without a newline is a line, too.
  template <class OnLine>
  void finish(OnLine&& on_line) {
    if (!partial_.empty()) on_line(std::string_view(partial_));
    partial_.clear();
    skipping_ = false;
  }

  std::uint64_t skipped() const { return skipped_; }

 private:
  void keep(std::string_view part) {
    if (skipping_) return;
    if (partial_.size() + part.size() <= max_line_) {
      partial_.append(part);
      return;
    }
    ++skipped_;
    skipping_ = true;
    forget();
  }

  void forget() {
    partial_.clear();
    if (partial_.capacity() > (64u << 10)) partial_.shrink_to_fit();
  }

  std::size_t max_line_;
  std::string partial_;
  bool skipping_ = false;
  std::uint64_t skipped_ = 0;
};

}  // namespace weir::inline v0::net
