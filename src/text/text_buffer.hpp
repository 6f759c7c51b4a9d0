#pragma once
// TextBuffer: text that grows, and is written in place. What a std::string does, which would have to be filled with zeros first.
//
//   char* to = buffer.room(size);   at least so many bytes, not initialized
//   …                               writes up to `end`
//   buffer.finish(end);

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// What grows throws std::bad_alloc; then nothing has changed.
/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class TextBuffer {
 public:
  /// Where `size` bytes may be written behind the text, to be followed by finish().
  char* room(std::size_t size) {
    if (size > capacity_ - size_) grow(size);
    return data_.get() + size_;
  }
  /// Takes what was written into room() up to `end`.
  void finish(const char* end) noexcept { size_ = static_cast<std::size_t>(end - data_.get()); }

  void append(std::string_view text) {
    char* const to = room(text.size());
    if (!text.empty()) std::memcpy(to, text.data(), text.size());
    size_ += text.size();
  }

  std::string_view view() const noexcept { return {data_.get(), size_}; }
  std::size_t size() const noexcept { return size_; }
  std::size_t capacity() const noexcept { return capacity_; }
  /// Forgets what comes after the first `size` bytes. Requires: there are as many.
  void truncate(std::size_t size) noexcept { size_ = size; }
  /// Empties it. Keeps its memory.
  void clear() noexcept { size_ = 0; }
  /// Empties it and gives its memory back.
  void release() noexcept {
    data_.reset();
    size_ = capacity_ = 0;
  }

 private:
  [[gnu::noinline]] void grow(std::size_t size) {
    const std::size_t capacity = std::max(2 * capacity_, size_ + size);
    std::unique_ptr<char[]> data(new char[capacity]);  // not initialized, as it would be by make_unique
    if (size_ != 0) std::memcpy(data.get(), data_.get(), size_);
    data_ = std::move(data);
    capacity_ = capacity;
  }

  std::unique_ptr<char[]> data_;
  std::size_t size_ = 0, capacity_ = 0;
};

}  // namespace weir::inline v0::detail
