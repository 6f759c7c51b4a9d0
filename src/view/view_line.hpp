#pragma once

#include <cstddef>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// Bytes of a line of a view socket with its newline, at most; the original's client gives up on a longer one.
inline constexpr std::size_t max_view_line = 1u << 20;

}  // namespace weir::inline v0::detail
