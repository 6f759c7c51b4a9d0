#include "mixed_build.hpp"

#if WEIR_CHECK_LIFETIMES
#error "this file is meant to be compiled without the checks"
#endif

namespace weir::testing::mixed_build {

std::array<std::size_t, 4> unchecked_layout() { return layout(); }
void start_and_finish_unchecked() {
  Op<Inner> op{{}};
  const Op<Outer> below{{}};
}
Handle<Inner> make_unchecked() { return start<Inner>({}); }

}  // namespace weir::testing::mixed_build
