#pragma once
// Payload and Response: what a telemetry client and its server say to each other, as values. Telemetry::take() makes a payload,
// an Emitter sends it as JSON, and the server answers with a response.
//
//   {"instance_id":"…","timestamp":"2026-01-02T15:04:05Z","update_id":"…","data":{"requests":12,"version":"1.4.2",…}}
//   {"next_update":3600000000000,"disable_keys":["user_agent"]}
//
// Source of the format: Caddy's telemetry package; update_id is weir's.

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "weir/core/attribute.hpp"
#include "weir/core/clock.hpp"
#include "weir/core/result.hpp"
#include "weir/telemetry/histogram_data.hpp"
#include "weir/telemetry/instance_id.hpp"

namespace weir::inline v0 {

/// A JSON document, as text: telemetry.set("config", weir::Json{text}). What is no JSON is sent as a string. A view.
struct Json {
  std::string_view text;
};

/// What a key may be set to, or a list or set may hold: a scalar or a JSON document. Owns its text. Thread-safety: a value.
class TelemetryValue {
 public:
  TelemetryValue(AttributeValue value);
  TelemetryValue(Json json) : value_(Document{std::string(json.text)}) {}

  std::optional<std::int64_t> integer() const noexcept;
  /// Where its text is, or what a scalar looks like in JSON.
  std::size_t bytes() const noexcept;
  std::size_t hash() const noexcept;
  friend bool operator==(const TelemetryValue&, const TelemetryValue&) = default;

 private:
  friend struct PayloadWriter;
  struct Document {
    std::string text;
    friend bool operator==(const Document&, const Document&) = default;
  };
  std::variant<bool, std::int64_t, double, std::string, Document> value_;
};

struct TelemetryValueHash {
  std::size_t operator()(const TelemetryValue& value) const noexcept { return value.hash(); }
};

/// The kinds of keys, as a payload holds them.
using TelemetryCounter = std::int64_t;
using TelemetryGauge = double;
using TelemetryNested = std::map<std::string, TelemetryValue, std::less<>>;
using TelemetryList = std::vector<TelemetryValue>;
using TelemetrySet = std::unordered_map<TelemetryValue, std::uint64_t, TelemetryValueHash>;  ///< how often each was appended
struct TelemetryHistogram {
  HistogramData data;
  std::string unit;  ///< UCUM: "s", "By"; empty: none
};
using TelemetryData =
    std::variant<TelemetryCounter, TelemetryGauge, TelemetryHistogram, TelemetryValue, TelemetryNested, TelemetryList, TelemetrySet>;

/// What a buffer held when it was taken. Thread-safety: a value.
struct Payload {
  struct Item {
    std::string key;
    TelemetryData data;
  };

  InstanceId instance_id;
  Timestamp timestamp{};
  std::string update_id;     ///< 32 lower-case hex digits: a server that has seen it has this payload
  std::vector<Item> items;   ///< each key once

  bool empty() const noexcept { return items.empty(); }
  const TelemetryData* find(std::string_view key) const noexcept;
  /// The value of a counter, or of a key that was set to an integer; else 0.
  std::int64_t as_int(std::string_view key) const noexcept;
  /// One line. Whatever is in it, it is JSON: text that is no UTF-8 is repaired, numbers that JSON lacks are null. (weir::weir)
  std::string to_json() const;
};

/// What a server answers. Unknown members are ignored. Thread-safety: a value.
struct Response {
  std::chrono::nanoseconds next_update{0};  ///< 0: absent, or a number no duration can be
  bool stop = false;
  std::string error;
  std::vector<std::string> disable_keys, enable_keys;

  /// Error: no JSON object, or a member of another type than it should be, by name. (weir::weir)
  static Result<Response> from_json(std::string_view text);
  std::string to_json() const;
};

}  // namespace weir::inline v0
