// An operation type used in the program and in a library that was compiled with hidden visibility is the same type both
// ways; types that only look the same are not.
#include <dlfcn.h>

#include "shared_library/operation_types.hpp"
#include "support/catch.hpp"

using namespace weir;
using shared_library::Call;
using shared_library::Library;
using shared_library::News;

namespace {

struct Unnamed {
  struct Args {};
  struct Result {};
};

const Library& library() {
  void* const handle = dlopen(WEIR_TEST_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  REQUIRE(handle != nullptr);
  const auto* const exported = static_cast<const Library*>(dlsym(handle, "weir_test_library"));
  REQUIRE(exported != nullptr);
  return *exported;
}

}  // namespace

TEST_CASE("listeners of the program hear operations and data events of the library") {
  int started = 0, answer = 0;
  Root root;
  root.on_start<Call>([&](const Call::Args& args) { started = args.number; });
  root.on_data<News>([](News& news) { news.value *= 2; });
  root.on_finish<Call>([&](const Call::Result& result) { answer = result.answer; });
  RootScope installed(std::move(root));
  library().run(21);
  CHECK(started == 21);
  CHECK(answer == 42);
}

TEST_CASE("listeners of the library hear operations of the program, and may be removed by it") {
  int finishes = 0;
  Op<Call> around{{}};
  Listener listener = library().listen(around, &finishes);
  {
    Op<Call> call{{1}, {100}};
    call.finish({11});
  }
  CHECK(finishes == 111);
  CHECK(listener.remove());
  { Op<Call> call{{1}, {100}}; }
  CHECK(finishes == 111);
}

TEST_CASE("the library finds the program's operations, and sees the same current one") {
  Op<Call> call{{}, {7}};
  CHECK(library().current() == &call);
  Op<Unnamed> inner{{}};
  CHECK(library().finds(inner, 7));
  CHECK_FALSE(library().finds(inner, 8));
}

TEST_CASE("types in anonymous namespaces and inside functions are not matched across") {
  struct Local {
    struct Args {};
    struct Result {};
    long other[4] = {};
  };
  int wrong = 0;
  Root root;
  root.on_start<Unnamed>([&] { ++wrong; });
  root.on_start<Local>([&] { ++wrong; });
  RootScope installed(std::move(root));
  library().run_unrelated();
  CHECK(wrong == 0);
}
