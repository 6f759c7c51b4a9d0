#include "weir/collect/telemetry_policy.hpp"

#include <mutex>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "net/read_file.hpp"
#include "text/json_depth.hpp"
#include "text/json_place.hpp"
#include "text/quantity.hpp"

namespace weir::inline v0 {

namespace {

using nlohmann::json;

constexpr std::chrono::seconds default_interval = std::chrono::hours{1};
constexpr std::chrono::seconds shortest_interval{1}, longest_interval = std::chrono::hours{24 * 30};

Error wrong(std::string message) { return Error{std::make_error_code(std::errc::invalid_argument), std::move(message)}; }

Error wrong_member(const std::string& name, std::string_view should) {
  return wrong("member \"" + name + "\" should be " + std::string(should));
}

}  // namespace

struct PolicyReader {
  using Rule = TelemetryPolicy::Rule;

  static Result<std::chrono::nanoseconds> interval(const std::string& name, const json& value) {
    if (!value.is_string()) return wrong_member(name, "a duration in quotes, as \"30s\", \"5m\" or \"1h\"");
    const auto time = detail::parse_duration(value.get_ref<const std::string&>());
    if (!time) return wrong("member \"" + name + "\": " + time.error().message);
    if (*time < shortest_interval || *time > longest_interval) return wrong_member(name, "from 1s to 720h");
    return std::chrono::nanoseconds{*time};
  }

  static Result<std::vector<std::string>> keys(const std::string& name, const json& value) {
    if (!value.is_array()) return wrong_member(name, "a list of keys");
    std::vector<std::string> keys;
    for (const json& key : value) {
      if (!key.is_string()) return wrong_member(name, "a list of keys, each in quotes");
      keys.push_back(key.get<std::string>());
    }
    return keys;
  }

  /// `prefix`: what stands before the members' names in messages.
  static Result<void> member(const std::string& prefix, const std::string& member, const json& value, Rule& rule) {
    const std::string name = prefix + member;
    const auto take = [](auto result, auto& target) -> Result<void> {
      if (!result) return result.error();
      target = std::move(*result);
      return {};
    };
    if (member == "next_update") return take(interval(name, value), rule.next_update);
    if (member == "disable_keys") return take(keys(name, value), rule.disable_keys);
    if (member == "enable_keys") return take(keys(name, value), rule.enable_keys);
    if (member != "stop")
      return wrong("member \"" + name +
                   "\" is not known: there are next_update, disable_keys, enable_keys, stop and, at the top, instances");
    if (!value.is_boolean()) return wrong_member(name, "true or false");
    rule.stop = value.get<bool>();
    return {};
  }

  static Result<void> instances(const json& value, TelemetryPolicy& policy) {
    if (!value.is_object()) return wrong_member("instances", "an object whose members are instance ids");
    for (const auto& [text, members] : value.items()) {
      const std::string name = "instances." + text;
      const InstanceId id = InstanceId::parse(text);
      if (!id.valid()) return wrong("member \"" + name + "\" is no instance id: write a UUID, as 6ba7b810-9dad-11d1-80b4-00c04fd430c8");
      if (!members.is_object()) return wrong_member(name, "an object");
      for (const auto& [key, wish] : members.items())
        if (auto read = member(name + ".", key, wish, policy.instances_[id]); !read) return read;
    }
    return {};
  }

  static Result<TelemetryPolicy> policy(const json& document) {
    if (!document.is_object()) return wrong("a policy is a JSON object");
    TelemetryPolicy policy;
    for (const auto& [name, value] : document.items()) {
      auto read = name == "instances" ? instances(value, policy) : member("", name, value, policy.all_);
      if (!read) return read.error();
    }
    return policy;
  }
};

Result<TelemetryPolicy> TelemetryPolicy::parse(std::string_view text) {
  if (detail::json_depth(text) > detail::max_json_depth)
    return wrong("nested deeper than " + std::to_string(detail::max_json_depth) + " levels");
  try {
    return PolicyReader::policy(json::parse(text));
  } catch (const json::exception& error) {
    return wrong(detail::json_place(error.what()));
  }
}

void TelemetryPolicy::apply(const Rule& rule, Response& response) const {
  if (rule.next_update) response.next_update = *rule.next_update;
  if (rule.stop) response.stop = *rule.stop;
  if (rule.disable_keys) response.disable_keys = *rule.disable_keys;
  if (rule.enable_keys) response.enable_keys = *rule.enable_keys;
}

Response TelemetryPolicy::response(const InstanceId& id) const {
  Response response;
  response.next_update = default_interval;
  apply(all_, response);
  if (const auto own = instances_.find(id); own != instances_.end()) apply(own->second, response);
  return response;
}

namespace {

Result<std::string> read_policy(const std::string& path) {
  return net::read_file(path, "the telemetry policy", TelemetryPolicyFile::max_bytes);
}

Result<TelemetryPolicy> parse_file(const std::string& path, std::string_view text) {
  auto policy = TelemetryPolicy::parse(text);
  if (!policy) return Error{policy.error().code, "the telemetry policy '" + path + "' is wrong: " + policy.error().message};
  return policy;
}

}  // namespace

struct TelemetryPolicyFile::State {
  std::string path;
  Logger& logger;
  std::mutex mutex;
  // Guarded by mutex.
  TelemetryPolicy policy;
  std::string text;      // what the file held when it was read last
  std::string reported;  // what is wrong with it, if that has been said
  Clock::time_point next_look{};

  void look() {
    Result<std::string> now = read_policy(path);
    if (now && *now == text) {
      reported.clear();
      return;
    }
    Result<TelemetryPolicy> read = now ? parse_file(path, *now) : Result<TelemetryPolicy>(now.error());
    if (read) {
      policy = std::move(*read);
      text = std::move(*now);
      reported.clear();
    } else if (std::exchange(reported, read.error().message) != reported) {
      logger.log(Logger::Level::warning, read.error().message + "; the policy from before stays");
    }
  }
};

TelemetryPolicyFile::TelemetryPolicyFile(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
TelemetryPolicyFile::TelemetryPolicyFile(TelemetryPolicyFile&&) noexcept = default;
TelemetryPolicyFile& TelemetryPolicyFile::operator=(TelemetryPolicyFile&&) noexcept = default;
TelemetryPolicyFile::~TelemetryPolicyFile() = default;

Result<TelemetryPolicyFile> TelemetryPolicyFile::open(std::string path, Logger& logger) {
  Result<std::string> text = read_policy(path);
  if (!text) return text.error();
  Result<TelemetryPolicy> policy = parse_file(path, *text);
  if (!policy) return policy.error();
  std::unique_ptr<State> state(new State{
      .path = std::move(path), .logger = logger, .mutex = {}, .policy = std::move(*policy), .text = std::move(*text), .reported = {}});
  return TelemetryPolicyFile(std::move(state));
}

Response TelemetryPolicyFile::response(const InstanceId& id, Clock::time_point now) {
  State& state = *state_;
  std::lock_guard lock(state.mutex);
  if (now >= state.next_look) {
    state.next_look = now + recheck;
    state.look();
  }
  return state.policy.response(id);
}

}  // namespace weir::inline v0
