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
  consteval Name(const char (&literal)[N]) : data_(literal), size_and_literal_((N - 1) << 1 | 1) {}

  template <std::size_t N>
  Name(char (&buffer)[N]) : Name(std::string_view(buffer)) {}

  template <class Text>
  requires(std::convertible_to<const Text&, std::string_view> && !std::is_array_v<Text>) constexpr Name(const Text& text)
      : data_(std::string_view(text).data()), size_and_literal_(std::string_view(text).size() << 1) {}

  /// Requires: `text` has static storage and never changes (a static constexpr std::string_view).
  static constexpr Name from_static(std::string_view text) noexcept {
    Name name(text);
    name.size_and_literal_ |= 1;
    return name;
  }

  constexpr std::string_view view() const noexcept { return {data_, size_and_literal_ >> 1}; }
  /// True when the text has static storage and never changes.
  constexpr bool literal() const noexcept { return (size_and_literal_ & 1) != 0; }

 private:
  // Two words, so that a Name is passed in registers.
  const char* data_;
  std::size_t size_and_literal_;
};
static_assert(sizeof(Name) == 2 * sizeof(void*));

}  // namespace weir::inline v0
