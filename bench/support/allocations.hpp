#pragma once
// Counts heap allocations of the calling thread. allocations.cpp puts itself before malloc, calloc, realloc and the aligned
// ones; operator new is counted through malloc, which libstdc++ calls (main() checks that it does).

#include <cstdint>

namespace bench {

/// Allocations made by the calling thread so far.
std::uint64_t allocations() noexcept;

}  // namespace bench
