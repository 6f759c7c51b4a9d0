#pragma once
// ControlLine: what tracer and collector say to each other beside events and spans: a JSON array with a name in front, as
// ["weir",1,{"service":"checkout","native":1}] (docs/wire_format.md). Things that no such line has are read and left out.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: a value.
struct ControlValue {
  enum class Type : std::uint8_t { none, text, unsigned_integer, negative_integer, real, boolean };
  Type type = Type::none;  // none: null, an array or an object too
  std::string text;
  std::uint64_t number = 0;  // the bits of a negative one
  double real = 0;
  bool boolean = false;

  const std::string* string() const noexcept { return type == Type::text ? &text : nullptr; }
  std::optional<std::uint64_t> unsigned_integer() const noexcept;
  std::optional<std::int64_t> integer() const noexcept;
  std::optional<double> any_number() const noexcept;
  bool is_true() const noexcept { return type == Type::boolean && boolean; }
};

/// Thread-safety: a value.
struct ControlLine {
  std::string name;
  std::vector<ControlValue> values;                           // after the name
  std::vector<std::pair<std::string, ControlValue>> options;  // of the objects among the values; of equal keys the last counts

  /// One of no type, if there is none.
  const ControlValue& value(std::size_t index) const noexcept;
  const ControlValue& option(std::string_view key) const noexcept;
};

/// std::nullopt: no JSON, or no array that begins with a string. May throw std::bad_alloc, and only there: a tree of nlohmann::json
/// allocates in its destructor and in operator==, where that ends the program. Thread-safe.
std::optional<ControlLine> parse_control_line(std::string_view line);

}  // namespace weir::inline v0::detail
