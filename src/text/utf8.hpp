#pragma once
// Text that may not be UTF-8: told apart, and repaired as Go repairs it. Free functions; thread-safe.

#include <string>
#include <string_view>

#include "weir/core/text.hpp"

namespace weir::inline v0::detail {

bool valid_utf8(std::string_view text) noexcept;

/// `text` with each byte that is not part of valid UTF-8 replaced by U+FFFD.
std::string repair_utf8(std::string_view text);

}  // namespace weir::inline v0::detail
