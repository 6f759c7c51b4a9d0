#pragma once
// eventually(condition): waits until the condition holds, false when it does not within a time that only guards against
// hanging. What a test waits for is a state, never a duration.

#include <poll.h>
#include <chrono>

namespace weir::testing {

template <class Condition>
bool eventually(Condition condition, std::chrono::seconds guard = std::chrono::seconds{60}) {
  const auto end = std::chrono::steady_clock::now() + guard;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= end) return false;
    ::poll(nullptr, 0, 1);
  }
  return true;
}

}  // namespace weir::testing
