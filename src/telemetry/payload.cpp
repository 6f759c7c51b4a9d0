#include "weir/telemetry/payload.hpp"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "text/json.hpp"
#include "text/time.hpp"

namespace weir::inline v0 {

namespace {

using detail::append_integer;

void append_string(std::string& out, std::string_view text) { detail::append_json_string(out, text, detail::JsonEscapes::no_html); }

/// Which JSON may begin with, but only where nothing comes before it.
constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";

void append_real(std::string& out, double number) {
  if (!std::isfinite(number)) {
    out += "null";
    return;
  }
  char digits[32];
  out.append(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
}

void append_value(std::string& out, const detail::TelemetryValueView& view) {
  const AttributeValue& value = view.value;
  switch (value.type()) {
    case AttributeValue::Type::string:
      if (view.document && nlohmann::json::accept(value.text())) {
        std::string_view text = value.text();
        if (text.starts_with(byte_order_mark)) text.remove_prefix(byte_order_mark.size());
        for (const char c : text) out += c == '\n' || c == '\r' ? ' ' : c;  // outside of strings, where JSON allows them
      } else {
        append_string(out, value.text());
      }
      break;
    case AttributeValue::Type::integer: append_integer(out, value.integer()); break;
    case AttributeValue::Type::real: append_real(out, value.real()); break;
    case AttributeValue::Type::boolean: out += value.boolean() ? "true" : "false"; break;
  }
}

/// Appends `items` in brackets, each by append(item), with commas between them.
template <class Items, class Append>
void append_all(std::string& out, std::string_view brackets, const Items& items, Append append) {
  out += brackets[0];
  bool first = true;
  for (const auto& item : items) {
    if (!std::exchange(first, false)) out += ',';
    append(item);
  }
  out += brackets[1];
}

struct AppendData {
  std::string& out;

  void operator()(TelemetryCounter number) const { append_integer(out, number); }
  void operator()(TelemetryGauge number) const { append_real(out, number); }
  void operator()(const TelemetryHistogram& histogram) const {
    const HistogramData& data = histogram.data;
    out += "{\"count\":";
    append_integer(out, data.count());
    const std::pair<std::string_view, double> numbers[] = {
        {"sum", data.sum()},         {"min", data.min()},          {"max", data.max()},          {"p50", data.quantile(0.5)},
        {"p90", data.quantile(0.9)}, {"p95", data.quantile(0.95)}, {"p99", data.quantile(0.99)}, {"p999", data.quantile(0.999)}};
    for (const auto& [name, number] : numbers) {
      out.append(",\"").append(name).append("\":");
      append_real(out, number);
    }
    if (!histogram.unit.empty()) {
      out += ",\"unit\":";
      append_string(out, histogram.unit);
    }
    out += '}';
  }
  void operator()(const TelemetryValue& value) const { append_value(out, value); }
  void operator()(const TelemetryNested& nested) const {
    append_all(out, "{}", nested, [&](const auto& item) {
      append_string(out, item.first);
      out += ':';
      append_value(out, item.second);
    });
  }
  void operator()(const TelemetryList& list) const {
    append_all(out, "[]", list, [&](const TelemetryValue& value) { append_value(out, value); });
  }
  void operator()(const TelemetrySet& set) const {
    append_all(out, "[]", set, [&](const auto& item) {
      out += "{\"value\":";
      append_value(out, item.first);
      out += ",\"count\":";
      append_integer(out, item.second);
      out += '}';
    });
  }
};

}  // namespace

std::string Payload::to_json() const {
  std::string out;
  out.reserve(200 + items.size() * 32);
  out += "{\"instance_id\":";
  append_string(out, instance_id.to_string());
  out += ",\"timestamp\":\"";
  detail::append_time(out, timestamp);
  out += "\",\"update_id\":";
  append_string(out, update_id);
  out += ",\"data\":";
  append_all(out, "{}", items, [&](const Item& item) {
    append_string(out, item.key);
    out += ':';
    std::visit(AppendData{out}, item.data);
  });
  out += '}';
  return out;
}

}  // namespace weir::inline v0
