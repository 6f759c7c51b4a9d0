#pragma once
// What a collector has done, in a few lines for people: the end of `weir run`, and of `weir collect` on a terminal.

#include <cstdint>

#include "weir/collect/collector.hpp"

namespace weir::cli {

/// Spans and traces; then a line each for what was not kept, lost, evicted, rejected or not stored, where that is not zero.
void say_summary(const CollectorStats& stats, std::uint64_t traces_not_stored);

}  // namespace weir::cli
