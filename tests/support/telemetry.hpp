#pragma once
// What the tests of the telemetry buffer share: buffers that are there, logs that are kept, and payloads as they can be compared.

#include <cstdint>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/sanitizers.hpp"
#include "weir/telemetry/payload.hpp"
#include "weir/telemetry/telemetry.hpp"

namespace weir::testing {

class KeepingLogger final : public Logger {
 public:
  void log(Level level, std::string_view message, std::span<const Attribute> attributes) noexcept override {
    std::string line(to_string(level));
    line.append(": ").append(message);
    for (const Attribute& attribute : attributes)
      line.append(" ")
          .append(attribute.key.view())
          .append("=")
          .append(attribute.value.type() == AttributeValue::Type::string ? attribute.value.text() : "?");
    std::lock_guard lock(mutex_);
    lines_.push_back(std::move(line));
  }
  std::vector<std::string> lines() const {
    std::lock_guard lock(mutex_);
    return lines_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;  // guarded by mutex_
};

/// Swallows everything: for tests that make more conflicts than anybody wants to read.
class SilentLogger final : public Logger {
 public:
  void log(Level, std::string_view, std::span<const Attribute>) noexcept override {}
};

inline Logger& silence() {
  static SilentLogger logger;
  return logger;
}

/// A buffer of a random instance.
inline Telemetry buffer(TelemetryOptions options = {}) {
  Result<Telemetry> made = Telemetry::create(InstanceId::random(), std::move(options));
  if (!made) FAIL(made.error().message);
  return *made;
}

/// The "data" of a payload, as its JSON has it.
inline nlohmann::json data(const Payload& payload) { return nlohmann::json::parse(payload.to_json()).at("data"); }

/// A set as JSON has it, whose order means nothing: how often each value was appended, by the value's text.
using Counts = std::map<std::string, std::uint64_t>;
inline Counts counts(const nlohmann::json& set) {
  Counts found;
  for (const nlohmann::json& item : set) {
    REQUIRE(item.size() == 2);
    REQUIRE(found.emplace(item.at("value").dump(), item.at("count").get<std::uint64_t>()).second);
  }
  return found;
}

inline const HistogramData& histogram(const Payload& payload, std::string_view key) {
  const TelemetryData* const found = payload.find(key);
  REQUIRE(found != nullptr);
  REQUIRE(std::holds_alternative<TelemetryHistogram>(*found));
  return std::get<TelemetryHistogram>(*found).data;
}

}  // namespace weir::testing
