#pragma once
// How deep a JSON text is nested, before a parser sees it. Free functions; thread-safe.

#include <cstddef>
#include <string_view>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// What weir allows in texts that others write.
inline constexpr std::size_t max_json_depth = 16;

/// The number of arrays and objects that are open at once, at most. Any text; what is no JSON has some depth, too.
inline std::size_t json_depth(std::string_view text) noexcept {
  std::size_t depth = 0, deepest = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > deepest) deepest = depth;
    } else if ((c == '}' || c == ']') && depth > 0) {
      --depth;
    }
  }
  return deepest;
}

}  // namespace weir::inline v0::detail
