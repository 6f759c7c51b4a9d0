#pragma once
// Which characters show, as Go's strconv.Quote sees it. Free functions; thread-safe.

namespace weir::inline v0::detail {

/// Whether `c` is a letter, mark, number, punctuation, symbol (Unicode 15.0) or the ASCII space.
bool is_printable(char32_t c) noexcept;

}  // namespace weir::inline v0::detail
