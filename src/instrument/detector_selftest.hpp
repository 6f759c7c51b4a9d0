#pragma once
// Whether a detector works here: it is tried with a child of our own, as neither the uid nor the kernel's version tells (private to src).

#include <span>
#include <string_view>

#include "instrument/raw_source.hpp"
#include "weir/core/result.hpp"

namespace weir::inline v0::instrument {

struct DetectorSelftest {
  std::string_view name;     // as in DetectorCapabilities::backend
  Result<void> (*try_it)();  // error: says why not. Takes milliseconds, at most some seconds. Thread-safety: safe
};

/// In the order in which best_available() tries them.
std::span<const DetectorSelftest> detector_selftests() noexcept;

/// Attaches, sees a child of our own begin, and detaches.
Result<void> sees_own_child(RawSource& source);
/// A child of our own is in /proc, and a pidfd tells that it has ended.
Result<void> sees_own_child_in_proc();

}  // namespace weir::inline v0::instrument
