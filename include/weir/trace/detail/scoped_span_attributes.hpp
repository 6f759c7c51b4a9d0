#pragma once
// The bodies of ScopedSpan that put attributes into a span. set(), put_word() and put_text() are the hot path.

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "weir/trace/scoped_span.hpp"
#include "weir/trace/tracer.hpp"

namespace weir::inline v0 {

[[gnu::always_inline]] inline void ScopedSpan::set(Name key, AttributeValue value) noexcept {  // inline: the switch folds away
  detail::ThreadRing* ring = detail::thread_state.ring;  // any ring of this thread: ids are the process's
  const std::uint32_t* const known = ring != nullptr ? ring->known_name(key) : nullptr;
  const std::uint32_t id = known != nullptr ? *known : find_key(ring, key);
  switch (value.type()) {
    case AttributeValue::Type::string: return put_text(id, value.text());
    case AttributeValue::Type::integer: return put_word(id, value.type(), static_cast<std::uint64_t>(value.integer()));
    case AttributeValue::Type::real: return put_word(id, value.type(), std::bit_cast<std::uint64_t>(value.real()));
    case AttributeValue::Type::boolean: return put_word(id, value.type(), value.boolean() ? 1 : 0);
  }
}

/// Anything, if nothing is recorded: in a signal handler, the thread may have the names' lock.
[[gnu::noinline, gnu::cold]] inline std::uint32_t ScopedSpan::find_key(detail::ThreadRing* ring, Name key) const noexcept {
  if (!recording()) return 0;
  const detail::SpanSection section(detail::thread_state);
  return ring != nullptr ? ring->name_id(key) : detail::intern(key.view());
}

[[gnu::noinline]] inline void ScopedSpan::set_all(const Attributes& attributes) noexcept {
  if (!recording()) return;
  for (const Attribute& attribute : attributes) set(attribute.key, attribute.value);
}

/// Requires: fits(words).
[[gnu::always_inline]] inline std::byte* ScopedSpan::take_room(std::uint64_t words) noexcept {
  std::byte* out = end_ - 8 * std::size_t{static_cast<std::uint16_t>(left_)};
  left_ -= one_attribute + words;
  return out;
}

[[gnu::always_inline]] inline void ScopedSpan::put_word(std::uint32_t key, AttributeValue::Type type, std::uint64_t word) noexcept {
  if (!fits(2)) [[unlikely]]
    return put_word_slowly(key, type, word);
  std::byte* out = take_room(2);
  const std::uint64_t head = detail::attribute_word(key, static_cast<std::uint64_t>(type), sizeof word);
  std::memcpy(out, &head, sizeof head);
  std::memcpy(out + sizeof head, &word, sizeof word);
}

[[gnu::always_inline]] inline void ScopedSpan::put_text(std::uint32_t key, std::string_view text) noexcept {
  const std::size_t words = (8 + 7 + text.size()) / 8;
  if (!fits(words)) [[unlikely]]
    return put_text_slowly(key, text);
  if (text.size() > limits_.bytes) [[unlikely]]
    return put_text_slowly(key, text);
  std::byte* out = take_room(words);
  const std::uint64_t head = detail::attribute_word(key, static_cast<std::uint64_t>(AttributeValue::Type::string), text.size());
  std::memcpy(out, &head, sizeof head);
  detail::copy_padded(out + sizeof head, text);
}

[[gnu::noinline, gnu::cold]] inline void ScopedSpan::put_word_slowly(std::uint32_t key, AttributeValue::Type type,
                                                                     std::uint64_t word) noexcept {
  if (recording() && make_room_slowly(key, 16)) put_word(key, type, word);
}

[[gnu::noinline, gnu::cold]] inline void ScopedSpan::put_text_slowly(std::uint32_t key, std::string_view text) noexcept {
  if (!recording()) return;
  if (text.size() > limits_.bytes) {
    text = detail::cut_text(text, limits_.bytes);
    become_special();
    ++truncated_;
  }
  if (make_room_slowly(key, 8 + detail::padded(text.size()))) put_text(key, text);
}

/// For one more attribute. False: it is left out, and counted.
inline bool ScopedSpan::make_room_slowly(std::uint32_t key, std::size_t bytes) noexcept {
  if (fits(bytes / 8)) return true;
  become_special();
  merge_equal_keys();
  if (count() >= limits_.count) {  // full, but a value that is there already may still change
    std::byte* const all = attributes();
    for (std::size_t at = 0; at < size();) {
      std::uint64_t word = 0;
      std::memcpy(&word, all + at, sizeof word);
      const std::size_t step = 8 + detail::padded(detail::attribute_bytes(word));
      if (detail::attribute_key(word) == key) {
        std::memmove(all + at, all + at + step, size() - at - step);
        left_ += one_attribute + step / 8;
        break;
      }
      at += step;
    }
  }
  if (count() < limits_.count && make_room(bytes)) return true;
  ++truncated_;
  return false;
}

/// Keeps the last value of each key.
inline void ScopedSpan::merge_equal_keys() noexcept {
  std::byte* const all = attributes();
  const std::size_t end = size();
  std::size_t kept = 0;
  for (std::size_t at = 0; at < end;) {
    std::uint64_t word = 0;
    std::memcpy(&word, all + at, sizeof word);
    const std::size_t step = 8 + detail::padded(detail::attribute_bytes(word));
    bool again = false;
    for (std::size_t later = at + step; later < end && !again;) {
      std::uint64_t other = 0;
      std::memcpy(&other, all + later, sizeof other);
      again = detail::attribute_key(other) == detail::attribute_key(word);
      later += 8 + detail::padded(detail::attribute_bytes(other));
    }
    if (again) {
      left_ += one_attribute + step / 8;
    } else {
      std::memmove(all + kept, all + at, step);
      kept += step;
    }
    at += step;
  }
}

inline bool ScopedSpan::make_room(std::size_t bytes) noexcept {
  const std::uint32_t used = size();
  if (capacity() - used >= bytes) return true;
  if (used + bytes > max_attribute_bytes) return false;
  const std::size_t wanted = std::min(max_attribute_bytes, std::max(std::size_t{capacity()} * 2, used + bytes));  // both multiples of 8
  auto* larger = static_cast<std::byte*>(std::malloc(wanted + 16));
  if (larger == nullptr) return false;
  std::memcpy(larger, attributes(), used);
  if (on_heap()) std::free(attributes());
  left_ += (wanted - capacity()) / 8;
  heap_bytes_ = static_cast<std::uint32_t>(wanted);
  end_ = larger + wanted;
  return true;
}

}  // namespace weir::inline v0
