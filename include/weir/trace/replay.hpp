#pragma once
// Replay: completed spans of the past, for who comes later.

#include <cstdint>
#include <vector>

#include "weir/trace/span.hpp"

namespace weir::inline v0 {

/// The spans of the newest traces, as someone who had been there would have got them.
struct Replay {
  std::vector<Span> spans;     ///< without children; the oldest trace first, in each trace children before their parents
  std::uint64_t left_out = 0;  ///< spans that were asked for and are not there for the limit's sake; older than all of `spans`
};

}  // namespace weir::inline v0
