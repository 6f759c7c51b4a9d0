#pragma once
// Operations that two files share: one that checks lifetimes, one that does not.

#include <array>
#include <cstddef>

#include "weir/operation/operation.hpp"

namespace weir::testing::mixed_build {

struct Outer {
  struct Args {};
  struct Result {};
};
struct Inner {
  struct Args {};
  struct Result {};
  long state = 0;
};

constexpr std::array<std::size_t, 4> layout() { return {sizeof(Op<Outer>), sizeof(Op<Inner>), alignof(Op<Inner>), sizeof(Handle<Inner>)}; }

std::array<std::size_t, 4> unchecked_layout();
void start_and_finish_unchecked();
Handle<Inner> make_unchecked();

}  // namespace weir::testing::mixed_build
