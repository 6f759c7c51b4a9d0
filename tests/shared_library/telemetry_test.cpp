// A program and a library that it loads, each with its own copy of weir's code, count in the same buffers and on the same cells.
#include <dlfcn.h>

#include <string>
#include <thread>

#include "shared_library/telemetry_types.hpp"
#include "support/catch.hpp"
#include "support/telemetry.hpp"

using namespace weir;
using namespace weir::testing;
using nlohmann::json;
using shared_library::TelemetryLibrary;

namespace {

const TelemetryLibrary& library() {
  void* const handle = dlopen(WEIR_TEST_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  REQUIRE(handle != nullptr);
  const auto* const exported = static_cast<const TelemetryLibrary*>(dlsym(handle, "weir_test_library"));
  REQUIRE(exported != nullptr);
  return *exported;
}

}  // namespace

TEST_CASE("the library counts in the program's buffer, by keys and by handles") {
  const Telemetry telemetry = buffer();
  telemetry.increment("key");
  const auto use = [&] { library().count(telemetry); };
  use();
  std::thread(use).join();
  telemetry.increment("key");
  const Counter counter = library().counter(telemetry, "handle");
  counter.increment();
  telemetry.counter("handle").increment();
  telemetry.increment("handle");
  const Payload payload = telemetry.take();
  CHECK(payload.as_int("key") == 6);
  CHECK(payload.as_int("handle") == 3);
  CHECK(histogram(payload, "latency").count() == 2);
  CHECK(data(payload).at("value") == "of the library");
  CHECK(payload.items.size() == 4);
}

TEST_CASE("the process's telemetry is the same for both") {
  REQUIRE(init_telemetry(InstanceId::random()).has_value());
  telemetry().increment("key");
  library().count_for_the_process();
  CHECK(data(telemetry().take()) == json{{"key", 2}});
}
