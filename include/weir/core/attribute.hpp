#pragma once
// Attributes: typed key/value pairs on spans, activities, log lines. An AttributeValue is a view (it copies nothing);
// whoever keeps one copies it. AttributeSink is how an operation type describes its arguments and results to observers.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <type_traits>

#include "weir/core/name.hpp"

namespace weir::inline v0 {

/// A string, a 64-bit integer, a double or a bool. Unsigned values above INT64_MAX become doubles.
/// Thread-safety: a value. A string is borrowed: the text must outlive the AttributeValue.
class AttributeValue {
 public:
  enum class Type : std::uint8_t { string = 1, integer = 2, real = 3, boolean = 4 };

  constexpr AttributeValue(std::string_view text) noexcept : type_(Type::string), text_(text) {}
  template <class Text>
  requires(std::convertible_to<const Text&, std::string_view> &&
           !std::same_as<Text, std::string_view>) constexpr AttributeValue(const Text& text) noexcept
      : AttributeValue(std::string_view(text)) {}
  template <class Number>
  requires(std::integral<Number> && !std::same_as<Number, bool>) constexpr AttributeValue(Number number) noexcept {
    if constexpr (std::unsigned_integral<Number> && sizeof(Number) >= sizeof(std::int64_t)) {
      if (number > static_cast<Number>(INT64_MAX)) {
        type_ = Type::real, real_ = static_cast<double>(number);
        return;
      }
    }
    type_ = Type::integer, integer_ = static_cast<std::int64_t>(number);
  }
  constexpr AttributeValue(std::floating_point auto number) noexcept : type_(Type::real), real_(static_cast<double>(number)) {}
  constexpr AttributeValue(std::same_as<bool> auto truth) noexcept : type_(Type::boolean), boolean_(truth) {}

  constexpr Type type() const noexcept { return type_; }
  /// Requires the matching type().
  constexpr std::string_view text() const noexcept { return text_; }
  constexpr std::int64_t integer() const noexcept { return integer_; }
  constexpr double real() const noexcept { return real_; }
  constexpr bool boolean() const noexcept { return boolean_; }

 private:
  Type type_;
  union {
    std::string_view text_;
    std::int64_t integer_;
    double real_;
    bool boolean_;
  };
};

/// A view, as its parts are. Thread-safety: a value.
struct Attribute {
  Name key;
  AttributeValue value;
};

/// The attributes of one call: {{"user_id", id}, {"attempt", 2}}, or what a span of them views. A view, good for the call.
/// Thread-safety: a value.
class Attributes {
 public:
  constexpr Attributes() noexcept = default;
  constexpr Attributes(std::initializer_list<Attribute> list) noexcept {
    data_ = list.begin();
    size_ = list.size();
  }
  constexpr Attributes(std::span<const Attribute> list) noexcept : data_(list.data()), size_(list.size()) {}

  constexpr const Attribute* begin() const noexcept { return data_; }
  constexpr const Attribute* end() const noexcept { return data_ + size_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }

 private:
  const Attribute* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Receives attributes one by one. Key and value are borrowed for the call. Thread-safety: shared: unsafe.
class AttributeSink {
 public:
  virtual void set(Name key, AttributeValue value) = 0;

 protected:
  ~AttributeSink() = default;
};

}  // namespace weir::inline v0
