// Compiled with -fvisibility=hidden, linked with a weir::weir of its own, and loaded with dlopen.
#include <string>

#include "shared_library/telemetry_types.hpp"

namespace {

void count(const weir::Telemetry& telemetry) {
  telemetry.increment("key");
  telemetry.increment("key");
  telemetry.set("value", std::string("of the library"));
  telemetry.histogram("latency").record(1.0);
}
void count_for_the_process() { weir::telemetry().increment("key"); }
weir::Counter counter(const weir::Telemetry& telemetry, const char* key) { return telemetry.counter(key); }

}  // namespace

extern "C" {
[[gnu::visibility("default")]] extern const shared_library::TelemetryLibrary weir_test_library;
const shared_library::TelemetryLibrary weir_test_library{count, count_for_the_process, counter};
}
