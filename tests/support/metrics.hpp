#pragma once
// A telemetry of its own, and what a payload of it says.

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <variant>

#include "support/catch.hpp"
#include "weir/telemetry/payload.hpp"
#include "weir/telemetry/telemetry.hpp"

namespace weir::testing {

struct Measured {
  explicit Measured(TelemetryOptions options = {}) : telemetry(*Telemetry::create(InstanceId::random(), std::move(options))) {}

  Telemetry telemetry;
};

/// The histogram of this key. Nothing if there is none, or something else.
inline HistogramData histogram(const Payload& payload, std::string_view key) {
  const TelemetryData* const data = payload.find(key);
  if (data == nullptr) return {};
  CAPTURE(key);
  const auto* const found = std::get_if<TelemetryHistogram>(data);
  REQUIRE(found != nullptr);
  CHECK(found->unit == "s");
  return found->data;
}

/// How many keys begin so.
inline std::size_t keys(const Payload& payload, std::string_view beginning) {
  std::size_t number = 0;
  for (const Payload::Item& item : payload.items) number += std::string_view(item.key).starts_with(beginning) ? 1 : 0;
  return number;
}

}  // namespace weir::testing
