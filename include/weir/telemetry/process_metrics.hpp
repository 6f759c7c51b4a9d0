#pragma once
// What the process uses, as a part of every payload: a collector for Telemetry::at_emit.
//
//   telemetry.at_emit(weir::process_metrics);
//
//   {"process":{"cpu_seconds":1.25,"file_descriptors":12,"resident_bytes":8388608,"threads":3}}

#include "weir/telemetry/telemetry.hpp"

namespace weir::inline v0 {

/// Sets the nested key "process": "threads", "resident_bytes" (of memory, now), "cpu_seconds" (of all threads, user and system,
/// since the process began) and "file_descriptors" (open ones). What cannot be read is left out; where there is no /proc, that is
/// all but cpu_seconds. Does not throw. Thread-safe. (weir::weir)
void process_metrics(const Telemetry& telemetry) noexcept;

}  // namespace weir::inline v0
