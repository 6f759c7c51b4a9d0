#pragma once
// Name: the name of a span or the key of an attribute. It remembers whether it was made from a string literal: then its
// address is its identity for the life of the program, and interning it costs one look-up by address.
//
//   tracer.enter("HandleRequest");                  // literal
//   tracer.enter(std::string("job " + queue));      // text made at run time: looked up by content
//   std::make_unique<ScopedSpan>(tracer, Name("x")); // a function that forwards hides the literal: say Name
//
// A literal of a library that is unloaded must not be used by then: its address may come to hold another text.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "weir/core/version.hpp"

namespace weir::inline v0 {

/// A view: it must not outlive the text it was made from. Thread-safety: a value.
class Name {
 public:
  template <std::size_t N>
  consteval Name(const char (&literal)[N]) : data_(literal), word_(word_of(N - 1, hash_of({literal, N - 1}))) {}

  template <std::size_t N>
  Name(char (&buffer)[N]) : Name(std::string_view(buffer)) {}

  template <class Text>
  requires(std::convertible_to<const Text&, std::string_view> && !std::is_array_v<Text>) constexpr Name(const Text& text)
      : data_(std::string_view(text).data()), word_(std::string_view(text).size() << size_shift) {}

  /// Requires: `text` has static storage and never changes (a static constexpr std::string_view).
  static constexpr Name from_static(std::string_view text) noexcept {
    Name name(text);
    name.word_ = word_of(text.size(), std::is_constant_evaluated() ? hash_of(text) : hash_of(text.data()));
    return name;
  }

  constexpr std::string_view view() const noexcept { return {data_, word_ >> size_shift}; }
  /// True when the text has static storage and never changes.
  constexpr bool literal() const noexcept { return (word_ & 1) != 0; }

  // What follows is for tables by address.
  static constexpr std::size_t hashes = 256;
  /// Of a literal, below `hashes`. Mostly a constant: names of one address may have different ones.
  constexpr std::size_t hash() const noexcept { return word_ >> 1 & (hashes - 1); }
  /// Two literals with the same address and the same word are one name.
  constexpr std::size_t word() const noexcept { return word_; }

 private:
  static constexpr unsigned size_shift = 9;

  static constexpr std::size_t word_of(std::size_t size, std::size_t hash) noexcept {
    return size << size_shift | (hash & (hashes - 1)) << 1 | 1;
  }
  static constexpr std::size_t hash_of(std::string_view text) noexcept {
    std::uint32_t hash = 2166136261;  // FNV-1a
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619;
    return hash ^ hash >> 16;
  }
  static std::size_t hash_of(const char* address) noexcept {
    const auto bits = reinterpret_cast<std::uintptr_t>(address);
    return bits ^ bits >> 8;
  }

  // Two words, so that a Name is passed in registers.
  const char* data_;
  std::size_t word_;  // bit 0 literal, bits 1..8 hash, the rest size
};
static_assert(sizeof(Name) == 2 * sizeof(void*));

}  // namespace weir::inline v0
