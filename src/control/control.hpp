#pragma once
// What weir::init and the control socket know of each other.

#include <string>

#include "weir/core/logger.hpp"

namespace weir::inline v0::control {

/// What the process is called from now on, unless ControlOptions says so. Thread-safety: safe.
void set_service(const std::string& service) noexcept;

/// Whether WEIR_CONTROL asks for a socket; `logger` hears of a value that makes no sense. Thread-safety: as getenv.
bool wanted(Logger& logger);

}  // namespace weir::inline v0::control
