#pragma once
// Letters of ASCII, whatever the locale.

#include <string>
#include <string_view>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

constexpr char lower(char c) noexcept { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

inline std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = lower(c);
  return result;
}

}  // namespace weir::inline v0::detail
