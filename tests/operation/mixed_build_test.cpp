// A program of files that check lifetimes and files that do not.
#include "mixed_build.hpp"

#include "support/catch.hpp"

static_assert(WEIR_CHECK_LIFETIMES == 1);

using namespace weir::testing::mixed_build;

TEST_CASE("files with and without the lifetime checks of debug builds link, and share their operations") {
  CHECK(layout() == unchecked_layout());
  int finishes = 0;
  weir::Root root;
  root.on_finish<Inner>([&] { ++finishes; });
  const weir::RootScope installed(std::move(root));
  for (int i = 0; i < 3; ++i) {
    weir::Op<Outer> outer{{}};
    {
      const weir::Op<Inner> checked{{}};
      start_and_finish_unchecked();
    }
    start_and_finish_unchecked();
    auto shared = make_unchecked();
    const weir::Op<Inner> below{weir::under(shared), {}};
  }
  CHECK(finishes == 15);
}
