#pragma once
// What a program and a library that it loads say to each other about telemetry.

#include "weir/telemetry/telemetry.hpp"

namespace shared_library {

/// What the library exports.
struct TelemetryLibrary {
  void (*count)(const weir::Telemetry& telemetry);
  void (*count_for_the_process)();
  weir::Counter (*counter)(const weir::Telemetry& telemetry, const char* key);
};

}  // namespace shared_library
