#pragma once
// Events from JSON for the collector, which wants to know more than parse_event tells. Free functions; thread-safe.

#include <string_view>

#include "weir/trace/event.hpp"

namespace weir::inline v0::detail {

/// parse_event, telling whether the line only parsed after its invalid UTF-8 was repaired. The error's code says what sort
/// it is: std::errc::bad_message (no JSON object, nested too deep) or std::errc::invalid_argument (a field).
Result<Event> decode_event(std::string_view json, bool& repaired);

}  // namespace weir::inline v0::detail
