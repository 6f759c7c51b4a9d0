#pragma once
// The bodies of ScopedSpan that put attributes into a span. set() is the hot path, with all that is inlined there.

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "weir/trace/scoped_span.hpp"
#include "weir/trace/tracer.hpp"

namespace weir::inline v0 {

[[gnu::always_inline]] inline void ScopedSpan::set(Name key, AttributeValue value) noexcept {  // inline: the switch folds away
  switch (value.type()) {
    case AttributeValue::Type::string: return put_text(key, value.text());
    case AttributeValue::Type::integer: return put_word(key, value.type(), static_cast<std::uint64_t>(value.integer()));
    case AttributeValue::Type::real: return put_word(key, value.type(), std::bit_cast<std::uint64_t>(value.real()));
    case AttributeValue::Type::boolean: return put_word(key, value.type(), value.boolean() ? 1 : 0);
  }
}

[[gnu::noinline]] inline void ScopedSpan::set_all(const Attributes& attributes) noexcept {
  if (!recording()) return;
  for (const Attribute& attribute : attributes) set(attribute.key, attribute.value);
}

[[gnu::always_inline]] inline void ScopedSpan::put_text(Name key, std::string_view text) noexcept {
  std::byte* const out = take_room(key, AttributeValue::Type::string, text.size());
  if (out != nullptr) return detail::copy_padded(out, text);
  if (recording()) put_text_slowly(key, text);
}

[[gnu::always_inline]] inline void ScopedSpan::put_word(Name key, AttributeValue::Type type, std::uint64_t word) noexcept {
  if (std::byte* const out = take_room(key, type, sizeof word)) {
    detail::store_word(out, word);
  } else if (recording()) {
    put_word_slowly(key, type, word);
  }
}

/// For a value of `size` bytes, padded. nullptr, and nothing has happened: nothing is recorded, its key is not at hand, or there
/// is more to be looked at.
[[gnu::always_inline]] inline std::byte* ScopedSpan::take_room(Name key, AttributeValue::Type type, std::size_t size) noexcept {
  if (!recording()) return nullptr;
  const detail::ThreadRing* const ring = detail::thread_state.ring;  // any ring of this thread: ids are the process's
  const std::uint32_t* const known = ring != nullptr ? ring->known_name(key) : nullptr;
  const std::size_t end = size_with(size);
  if (known == nullptr || end > quick_end_) [[unlikely]]
    return nullptr;
  return append(*known, type, size, end);
}

/// Requires: room. `end`: size_with(size)
[[gnu::always_inline]] inline std::byte* ScopedSpan::append(std::uint32_t key, AttributeValue::Type type, std::size_t size,
                                                            std::size_t end) noexcept {
  std::byte* const out = begin_ + size_;
  size_ = static_cast<std::uint32_t>(end);
  ++count_;
  detail::store_word(out, detail::attribute_word(key, static_cast<std::uint64_t>(type), size));
  return out + 8;
}

// Requires, from here on: recording().

[[gnu::noinline, gnu::cold]] inline void ScopedSpan::put_text_slowly(Name key, std::string_view text) noexcept {
  const std::string_view kept = detail::cut_text(text, limits().bytes);
  std::byte* const out = take_room_slowly(key, AttributeValue::Type::string, kept.size());
  if (out == nullptr) return;
  detail::copy_padded(out, kept);
  if (kept.size() == text.size()) return;
  become_special();
  ++truncated_;
}

[[gnu::noinline, gnu::cold]] inline void ScopedSpan::put_word_slowly(Name key, AttributeValue::Type type, std::uint64_t word) noexcept {
  if (std::byte* const out = take_room_slowly(key, type, sizeof word)) detail::store_word(out, word);
}

/// nullptr: the attribute is left out, and that is counted.
inline std::byte* ScopedSpan::take_room_slowly(Name key, AttributeValue::Type type, std::size_t size) noexcept {
  const std::uint32_t id = [key] {
    detail::ThreadState& thread = detail::thread_state;
    const detail::SpanSection section(thread);
    return thread.ring != nullptr ? thread.ring->name_id(key) : detail::intern(key.view());
  }();
  std::byte* out = nullptr;
  if (make_room(id, size)) {
    out = append(id, type, size, size_with(size));
  } else {
    become_special();
    ++truncated_;
  }
  quick_end_ = std::min(limits().safe_end(count_, size_), capacity());
  return out;
}

/// For one more attribute, with a value of `size` bytes. False: there is none, and its last value stays.
inline bool ScopedSpan::make_room(std::uint32_t key, std::size_t size) noexcept {
  if (count_ < limits().count && size_with(size) <= capacity()) return true;
  merge_equal_keys();
  const std::size_t old = find(key, 0), freed = old < size_ ? bytes_at(old) : 0;
  if (freed == 0 && count_ >= limits().count) return false;
  if (!grow(size_with(size) - freed)) return false;
  if (freed != 0) {
    std::byte* const out = begin_ + old;
    std::memmove(out, out + freed, size_ - old - freed);
    size_ -= static_cast<std::uint32_t>(freed);
    --count_;
  }
  return true;
}

/// Keeps the last value of each key.
inline void ScopedSpan::merge_equal_keys() noexcept {
  std::size_t kept = 0;
  for (std::size_t at = 0, next = 0; at < size_; at = next) {
    const std::size_t bytes = bytes_at(at);
    next = at + bytes;
    if (find(key_at(at), next) < size_) {
      --count_;
    } else {
      if (kept != at) std::memmove(begin_ + kept, begin_ + at, bytes);
      kept += bytes;
    }
  }
  size_ = static_cast<std::uint32_t>(kept);
}

/// size_: it is not there.
inline std::size_t ScopedSpan::find(std::uint32_t key, std::size_t from) noexcept {
  while (from < size_ && key_at(from) != key) from += bytes_at(from);
  return from;
}

inline std::uint64_t ScopedSpan::word_at(std::size_t at) noexcept {
  std::uint64_t word = 0;
  std::memcpy(&word, begin_ + at, sizeof word);
  return word;
}

/// To `needed` bytes or more.
inline bool ScopedSpan::grow(std::size_t needed) noexcept {
  if (needed <= capacity()) return true;
  if (needed > max_attribute_bytes) return false;
  const std::size_t wanted = std::min(max_attribute_bytes, std::max(std::size_t{capacity()} * 2, needed));
  auto* const larger = static_cast<std::byte*>(std::malloc(wanted + 16));
  if (larger == nullptr) return false;
  become_special();
  std::memcpy(larger, begin_, size_);
  if (begin_ != inline_) std::free(begin_);
  begin_ = larger;
  heap_bytes_ = static_cast<std::uint32_t>(wanted);
  return true;
}

}  // namespace weir::inline v0
