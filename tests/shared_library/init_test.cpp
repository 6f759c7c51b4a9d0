// A program and a library that it loads, each with its own copy of weir's code, have one default tracer and one session.
#include <dlfcn.h>

#include <utility>

#include "shared_library/init_types.hpp"
#include "support/catch.hpp"
#include "weir/trace/in_memory_sender.hpp"

using namespace weir;

TEST_CASE("the library makes spans with the program's tracer, and cannot begin a session beside the program's") {
  void* const handle = dlopen(WEIR_TEST_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  REQUIRE(handle != nullptr);
  const auto* const library = static_cast<const shared_library::InitLibrary*>(dlsym(handle, "weir_test_library"));
  REQUIRE(library != nullptr);
  CHECK(library->tracer() == &tracer());
  library->make_span();  // the tracer is off

  const InMemorySender sink;
  InitOptions options;
  options.sender = std::make_shared<InMemorySender>(sink);
  const Session session = init(std::move(options));
  REQUIRE(session);
  library->make_span();
  CHECK_FALSE(library->init());
  library->make_span();
  REQUIRE(sink.spans().size() == 2);
  CHECK(sink.spans()[1].name == "of the library");
}
