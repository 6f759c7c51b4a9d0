#pragma once
// Where a JSON text is wrong, for the people who wrote it. Free function; thread-safe.

#include <string>
#include <string_view>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// "line 2, column 7: …", from nlohmann's "[json.exception.parse_error.101] parse error at line 2, column 7: …".
inline std::string json_place(std::string_view what) {
  const std::size_t at = what.find("at line ");
  return std::string(at == what.npos ? what : what.substr(at + 3));
}

}  // namespace weir::inline v0::detail
