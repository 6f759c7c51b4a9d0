#pragma once
// Flat spans of one trace to trees. Iterative throughout; trees have at most max_span_depth levels.

#include <cstdint>
#include <vector>

#include "weir/trace/span.hpp"

namespace weir::inline v0::detail {

struct Forest {
  std::vector<Span> roots;
  std::uint32_t orphans = 0;    // roots that name a parent which is not there
  std::uint32_t cycles = 0;     // roots that were their own descendants; their parent_id is cleared
  std::uint32_t flattened = 0;  // spans on the lowest level whose parent is there too
};

/// Requires: spans without children, with distinct ids. Roots and children are ordered by start time, then id.
Forest build_forest(std::vector<Span> spans);

}  // namespace weir::inline v0::detail
