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
#include "weir/telemetry/detail/buffer.hpp"
#include "weir/telemetry/histogram_data.hpp"
#include "weir/telemetry/instance_id.hpp"

namespace weir::inline v0 {

/// What a key was set to, or a list or set holds: a scalar or a JSON document. Owns its text. Thread-safety: a value.
class TelemetryValue {
 public:
  TelemetryValue(const detail::TelemetryValueView& view) {
    switch (view.value.type()) {
      case AttributeValue::Type::string:
        if (view.document)
          value_ = Document{std::string(view.value.text())};
        else
          value_ = std::string(view.value.text());
        break;
      case AttributeValue::Type::integer: value_ = view.value.integer(); break;
      case AttributeValue::Type::real: value_ = view.value.real(); break;
      case AttributeValue::Type::boolean: value_ = view.value.boolean(); break;
    }
  }

  std::optional<std::int64_t> integer() const noexcept {
    const auto* const number = std::get_if<std::int64_t>(&value_);
    return number != nullptr ? std::optional(*number) : std::nullopt;
  }
  operator detail::TelemetryValueView() const noexcept {
    if (const auto* const text = std::get_if<std::string>(&value_)) return AttributeValue(*text);
    if (const auto* const document = std::get_if<Document>(&value_)) return Json{document->text};
    if (const auto* const number = std::get_if<std::int64_t>(&value_)) return AttributeValue(*number);
    if (const auto* const real = std::get_if<double>(&value_)) return AttributeValue(*real);
    return AttributeValue(std::get<bool>(value_));
  }
  std::size_t bytes() const noexcept { return static_cast<detail::TelemetryValueView>(*this).bytes(); }

 private:
  struct Document {
    std::string text;
  };
  std::variant<bool, std::int64_t, double, std::string, Document> value_;
};

namespace detail {

struct ValueHash {
  using is_transparent = void;
  std::size_t operator()(const TelemetryValueView& view) const noexcept {
    const AttributeValue& value = view.value;
    switch (value.type()) {
      case AttributeValue::Type::string: return std::hash<std::string_view>{}(value.text()) + (view.document ? 1 : 0);
      case AttributeValue::Type::integer: return std::hash<std::int64_t>{}(value.integer()) * 0x9E3779B97F4A7C15u;
      case AttributeValue::Type::real: return std::hash<double>{}(value.real());
      case AttributeValue::Type::boolean: return value.boolean() ? 1 : 2;
    }
    return 0;
  }
};

/// Of the same type and value; NaN is NaN.
struct ValueEqual {
  using is_transparent = void;
  bool operator()(const TelemetryValueView& a, const TelemetryValueView& b) const noexcept {
    if (a.value.type() != b.value.type() || a.document != b.document) return false;
    switch (a.value.type()) {
      case AttributeValue::Type::string: return a.value.text() == b.value.text();
      case AttributeValue::Type::integer: return a.value.integer() == b.value.integer();
      case AttributeValue::Type::real:
        return a.value.real() == b.value.real() || (a.value.real() != a.value.real() && b.value.real() != b.value.real());
      case AttributeValue::Type::boolean: return a.value.boolean() == b.value.boolean();
    }
    return false;
  }
};

}  // namespace detail

/// The kinds of keys, as a payload holds them.
using TelemetryCounter = std::int64_t;
using TelemetryGauge = double;
using TelemetryNested = std::map<std::string, TelemetryValue, std::less<>>;
using TelemetryList = std::vector<TelemetryValue>;
using TelemetrySet =
    std::unordered_map<TelemetryValue, std::uint64_t, detail::ValueHash, detail::ValueEqual>;  ///< how often each was appended
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
  std::string update_id;    ///< 32 lower-case hex digits: a server that has seen it has this payload
  std::vector<Item> items;  ///< each key once

  bool empty() const noexcept { return items.empty(); }
  const TelemetryData* find(std::string_view key) const noexcept {
    for (const Item& item : items)
      if (item.key == key) return &item.data;
    return nullptr;
  }
  /// The value of a counter, or of a key that was set to an integer; else 0.
  std::int64_t as_int(std::string_view key) const noexcept {
    const TelemetryData* const data = find(key);
    if (data == nullptr) return 0;
    if (const auto* const counter = std::get_if<TelemetryCounter>(data)) return *counter;
    const auto* const value = std::get_if<TelemetryValue>(data);
    return value != nullptr ? value->integer().value_or(0) : 0;
  }
  /// One line. Whatever is in it, it is JSON: text that is no UTF-8 is repaired, numbers that JSON lacks are null. (weir::weir)
  std::string to_json() const;
};

/// What a server answers. Unknown members are ignored. Thread-safety: a value.
struct Response {
  std::chrono::nanoseconds next_update{0};  ///< 0: absent, or a number no duration can be
  bool stop = false;
  std::string error{};
  std::vector<std::string> disable_keys{}, enable_keys{};

  /// Error: no JSON object, or a member of another type than it should be, by name. (weir::weir)
  static Result<Response> from_json(std::string_view text);
  std::string to_json() const;
};

}  // namespace weir::inline v0
