#pragma once
// The names of the process (trace/detail/name_table.hpp), in memory that collectors read.

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// The descriptor of that memory, made at the first call and kept; -1 where it cannot be had. In the child of a fork: another.
/// Thread-safety: shared: safe.
int shared_names() noexcept;

}  // namespace weir::inline v0::detail
