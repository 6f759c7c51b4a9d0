#pragma once
// What a line on a control socket asks for (docs/wire_format.md), read without a tree: one of nlohmann::json's needs memory to be
// destroyed, and a service must not end where there is none.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "weir/core/result.hpp"

namespace weir::inline v0::control {

/// Thread-safety: a value.
struct ControlValue {
  enum class Type : std::uint8_t { null, boolean, number, text, texts, other };
  Type type = Type::null;
  double number = 0;
  std::string text{};
  std::vector<std::string> texts{};
};

/// Thread-safety: a value.
struct ControlRequest {
  std::optional<std::int64_t> id;
  bool has_set = false;
  std::vector<std::pair<std::string, ControlValue>> set;  // each key once: of equal keys the last
  std::optional<std::string> get;
};

/// More of these in one request, or deeper nesting, is an error.
inline constexpr std::size_t max_keys = 64, max_texts = 4'096, max_depth = 8;

/// Of what is no request at all only the id is known, if that. Throws std::bad_alloc.
std::optional<std::string> parse_request(std::string_view line, ControlRequest& request);

}  // namespace weir::inline v0::control
