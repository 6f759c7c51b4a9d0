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

/// What is needed of a span with ids of 64 bits to count what build_forest() would.
struct ForestNode {
  Timestamp start_time{};
  std::uint64_t id = 0, parent_id = 0;
  bool has_parent = false;
};
/// The same without trees.
Forest count_forest(std::vector<ForestNode> nodes);

}  // namespace weir::inline v0::detail
