#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <system_error>

#include "telemetry/json_members.hpp"
#include "weir/telemetry/payload.hpp"
#include "weir/telemetry/transport.hpp"

namespace weir::inline v0 {

namespace {

using detail::JsonMember;
using Type = JsonMember::Type;

constexpr std::size_t max_keys = detail::max_texts;

Error refused(std::string what) { return {std::make_error_code(std::errc::bad_message), "the response " + std::move(what)}; }

Error wrong_type(std::string_view member, std::string_view expected) {
  return refused("has a member \"" + std::string(member) + "\" that is no " + std::string(expected));
}

/// 0 for a number that no duration can be.
std::chrono::nanoseconds duration_of(const JsonMember& number) {
  constexpr double beyond = 9223372036854775808.0;  // 2^63
  if (number.type == Type::integer) return std::chrono::nanoseconds(number.integer);
  const double value = number.real;
  const bool whole = std::isfinite(value) && value == std::floor(value) && value > -beyond && value < beyond;
  return std::chrono::nanoseconds(whole ? static_cast<std::int64_t>(value) : 0);
}

Result<std::vector<std::string>> keys_of(JsonMember& member) {
  if (member.type == Type::absent) return std::vector<std::string>();
  if (member.type != Type::list) return wrong_type(member.name, "list");
  if (member.size > max_keys) return refused("has more than " + std::to_string(max_keys) + " keys in \"" + std::string(member.name) + "\"");
  if (!member.only_texts) return wrong_type(member.name, "list of strings");
  return std::move(member.texts);
}

}  // namespace

Result<Response> Response::from_json(std::string_view text) {
  if (text.size() > max_answer_bytes) {
    return refused("has " + std::to_string(text.size()) + " bytes, and at most " + std::to_string(max_answer_bytes) + " are read");
  }
  enum { next_update_at, stop_at, error_at, disable_at, enable_at };
  JsonMember members[] = {{.name = "next_update"}, {.name = "stop"}, {.name = "error"}, {.name = "disable_keys"}, {.name = "enable_keys"}};
  switch (read_members(text, members)) {
    case detail::JsonProblem::no_json: return refused("is no JSON");
    case detail::JsonProblem::too_deep: return refused("is nested deeper than " + std::to_string(detail::max_json_depth));
    case detail::JsonProblem::no_object: return refused("is no JSON object");
    case detail::JsonProblem::none: break;
  }

  Response response;
  if (const JsonMember& member = members[next_update_at]; member.type != Type::absent) {
    if (member.type != Type::integer && member.type != Type::real) return wrong_type(member.name, "number");
    response.next_update = duration_of(member);
  }
  if (const JsonMember& member = members[stop_at]; member.type != Type::absent) {
    if (member.type != Type::boolean) return wrong_type(member.name, "boolean");
    response.stop = member.boolean;
  }
  if (JsonMember& member = members[error_at]; member.type != Type::absent) {
    if (member.type != Type::text) return wrong_type(member.name, "string");
    response.error = std::move(member.text);
  }
  Result<std::vector<std::string>> disable = keys_of(members[disable_at]), enable = keys_of(members[enable_at]);
  if (!disable) return std::move(disable).error();
  if (!enable) return std::move(enable).error();
  if (disable->size() + enable->size() > max_keys) return refused("names more than " + std::to_string(max_keys) + " keys");
  response.disable_keys = std::move(disable).value();
  response.enable_keys = std::move(enable).value();
  return response;
}

std::string Response::to_json() const {
  using nlohmann::json;
  json object = json::object();
  if (next_update.count() != 0) object["next_update"] = static_cast<std::int64_t>(next_update.count());
  if (stop) object["stop"] = true;
  if (!error.empty()) object["error"] = error;
  if (!disable_keys.empty()) object["disable_keys"] = disable_keys;
  if (!enable_keys.empty()) object["enable_keys"] = enable_keys;
  return object.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace weir::inline v0
