#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <system_error>

#include "weir/telemetry/payload.hpp"
#include "weir/telemetry/transport.hpp"

namespace weir::inline v0 {

namespace {

using nlohmann::json;

constexpr int max_depth = 16;
constexpr std::size_t max_keys = 10'000;

Error refused(std::string what) { return {std::make_error_code(std::errc::bad_message), "the response " + std::move(what)}; }

Error wrong_type(std::string_view member, std::string_view expected) {
  return refused("has a member \"" + std::string(member) + "\" that is no " + std::string(expected));
}

/// nullptr: it is not there, or null, as Go writes what is empty.
const json* member_of(const json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

/// 0 for a number that no duration can be.
std::chrono::nanoseconds duration_of(const json& number) {
  constexpr double beyond = 9223372036854775808.0;  // 2^63
  if (number.is_number_unsigned()) {
    const auto value = number.get<std::uint64_t>();
    return std::chrono::nanoseconds(value <= INT64_MAX ? static_cast<std::int64_t>(value) : 0);
  }
  if (number.is_number_integer()) return std::chrono::nanoseconds(number.get<std::int64_t>());
  const auto value = number.get<double>();
  const bool whole = std::isfinite(value) && value == std::floor(value) && value > -beyond && value < beyond;
  return std::chrono::nanoseconds(whole ? static_cast<std::int64_t>(value) : 0);
}

Result<std::vector<std::string>> keys_of(const json& object, const char* name) {
  std::vector<std::string> keys;
  const json* const member = member_of(object, name);
  if (member == nullptr) return keys;
  if (!member->is_array()) return wrong_type(name, "list");
  if (member->size() > max_keys) return refused("has more than " + std::to_string(max_keys) + " keys in \"" + name + "\"");
  keys.reserve(member->size());
  for (const json& key : *member) {
    if (!key.is_string()) return wrong_type(name, "list of strings");
    keys.push_back(key.get<std::string>());
  }
  return keys;
}

}  // namespace

Result<Response> Response::from_json(std::string_view text) {
  if (text.size() > max_answer_bytes) {
    return refused("has " + std::to_string(text.size()) + " bytes, and at most " + std::to_string(max_answer_bytes) + " are read");
  }
  bool too_deep = false;
  const auto watch = [&](int depth, json::parse_event_t, const json&) {
    too_deep = too_deep || depth > max_depth;
    return true;
  };
  const json parsed = json::parse(text, watch, false);
  if (parsed.is_discarded()) return refused("is no JSON");
  if (too_deep) return refused("is nested deeper than " + std::to_string(max_depth));
  if (!parsed.is_object()) return refused("is no JSON object");

  Response response;
  if (const json* const member = member_of(parsed, "next_update")) {
    if (!member->is_number()) return wrong_type("next_update", "number");
    response.next_update = duration_of(*member);
  }
  if (const json* const member = member_of(parsed, "stop")) {
    if (!member->is_boolean()) return wrong_type("stop", "boolean");
    response.stop = member->get<bool>();
  }
  if (const json* const member = member_of(parsed, "error")) {
    if (!member->is_string()) return wrong_type("error", "string");
    response.error = member->get<std::string>();
  }
  Result<std::vector<std::string>> disable = keys_of(parsed, "disable_keys"), enable = keys_of(parsed, "enable_keys");
  if (!disable) return std::move(disable).error();
  if (!enable) return std::move(enable).error();
  if (disable->size() + enable->size() > max_keys) return refused("names more than " + std::to_string(max_keys) + " keys");
  response.disable_keys = std::move(disable).value();
  response.enable_keys = std::move(enable).value();
  return response;
}

std::string Response::to_json() const {
  json object = json::object();
  if (next_update.count() != 0) object["next_update"] = static_cast<std::int64_t>(next_update.count());
  if (stop) object["stop"] = true;
  if (!error.empty()) object["error"] = error;
  if (!disable_keys.empty()) object["disable_keys"] = disable_keys;
  if (!enable_keys.empty()) object["enable_keys"] = enable_keys;
  return object.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace weir::inline v0
