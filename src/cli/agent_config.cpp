#include "cli/agent_config.hpp"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>

#include "cli/parse.hpp"
#include "net/read_file.hpp"
#include "text/json_depth.hpp"
#include "text/json_place.hpp"

namespace weir::cli {

namespace {

using nlohmann::json;

constexpr std::size_t max_groups = 1000;

Error wrong(std::string message) { return Error{std::make_error_code(std::errc::invalid_argument), std::move(message)}; }

Error wrong_member(const std::string& name, std::string_view should) {
  return wrong("member \"" + name + "\" should be " + std::string(should));
}

Result<std::string> text_of(const std::string& name, const json& value) {
  if (value.is_string() && !value.get_ref<const std::string&>().empty()) return value.get<std::string>();
  return wrong_member(name, "a text in quotes");
}

Result<std::vector<std::string>> texts_of(const std::string& name, const json& value) {
  if (!value.is_array()) return wrong_member(name, "a list of texts");
  std::vector<std::string> texts;
  for (const json& text : value) {
    if (!text.is_string()) return wrong_member(name, "a list of texts, each in quotes");
    texts.push_back(text.get<std::string>());
  }
  return texts;
}

Result<std::vector<uid_t>> users_of(const std::string& name, const json& value) {
  if (!value.is_array()) return wrong_member(name, "a list of users, by number or name");
  std::vector<uid_t> users;
  for (const json& user : value) {
    if (!user.is_string() && !user.is_number_unsigned()) return wrong_member(name, "a list of users, by number or name");
    const Result<uid_t> uid = parse_user(user.is_string() ? user.get<std::string>() : user.dump());
    if (!uid) return wrong("member \"" + name + "\": " + uid.error().message);
    users.push_back(*uid);
  }
  return users;
}

Result<ConfigValue> config_value(const std::string& name, const json& value) {
  if (value.is_boolean()) return ConfigValue(value.get<bool>());
  if (value.is_number_integer() && !(value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX)) {
    return ConfigValue(value.get<std::int64_t>());
  }
  if (value.is_number_float()) return ConfigValue(value.get<double>());
  if (value.is_string()) return ConfigValue(value.get<std::string>());
  if (!value.is_array()) return wrong_member(name, "a number, a text, true, false, or a list of texts");
  auto texts = texts_of(name, value);
  if (!texts) return texts.error();
  return ConfigValue(std::move(*texts));
}

Result<Config> config_of(const std::string& name, const json& value) {
  if (!value.is_object()) return wrong_member(name, "an object");
  Config config;
  for (const auto& [key, member] : value.items()) {
    auto read = config_value(name + "." + key, member);
    if (!read) return read.error();
    config.emplace(key, std::move(*read));
  }
  return config;
}

template <class T>
Result<void> take(Result<T> read, T& target) {
  if (!read) return read.error();
  target = std::move(*read);
  return {};
}

Result<void> read_match(const std::string& name, const json& value, AgentGroup& group) {
  if (!value.is_object()) return wrong_member(name, "an object");
  ProcessFilters& filters = group.match;
  for (const auto& [key, member] : value.items()) {
    const std::string path = name + "." + key;
    Result<void> read;
    if (key == "executable") {
      read = take(texts_of(path, member), filters.executables);
    } else if (key == "environment") {
      read = take(texts_of(path, member), filters.environment);
    } else if (key == "cgroup") {
      read = take(texts_of(path, member), filters.cgroups);
    } else if (key == "uid") {
      read = take(users_of(path, member), filters.uids);
    } else {
      read = wrong("member \"" + path + "\" is not known: there are executable, environment, uid and cgroup");
    }
    if (!read) return read.error();
  }
  if (filters.executables.empty() && filters.environment.empty() && filters.cgroups.empty() && filters.uids.empty()) {
    return wrong("member \"" + name + "\" matches every process: name an executable, an environment variable, a uid or a cgroup");
  }
  auto filter = instrument::FilterSet::create({.filters = filters});
  if (!filter) return wrong("member \"" + name + "\": " + filter.error().message);
  group.filter = std::move(*filter);
  return {};
}

Result<Distribution> distribution_of(const std::string& name, const json& value, const std::vector<Distribution>& known) {
  auto text = text_of(name, value);
  if (!text) return text.error();
  std::string names;
  for (const Distribution& distribution : known) {
    if (distribution.to_string() == *text) return distribution;
    names += (names.empty() ? "" : ", ") + distribution.to_string();
  }
  return wrong("member \"" + name + "\": there is no distribution '" + *text + "', only " + names);
}

Result<AgentGroup> group_of_json(const std::string& name, const json& value, const std::vector<Distribution>& distributions) {
  if (!value.is_object()) return wrong_member(name, "an object");
  AgentGroup group;
  for (const auto& [key, member] : value.items()) {
    const std::string path = name + "." + key;
    Result<void> read;
    if (key == "name") {
      read = take(text_of(path, member), group.name);
    } else if (key == "match") {
      read = read_match(path, member, group);
    } else if (key == "distribution") {
      read = take(distribution_of(path, member, distributions), group.distribution);
    } else if (key == "service_name") {
      read = take(text_of(path, member), group.service_name);
    } else if (key == "config") {
      read = take(config_of(path, member), group.config);
    } else {
      read = wrong("member \"" + path + "\" is not known: there are name, match, distribution, service_name and config");
    }
    if (!read) return read.error();
  }
  if (group.name.empty()) return wrong("member \"" + name + ".name\" is missing");
  if (!value.contains("match")) return wrong("member \"" + name + ".match\" is missing");
  return group;
}

Result<AgentConfig> config_of_json(const json& document, const std::vector<Distribution>& distributions) {
  if (!document.is_object()) return wrong("it should be a JSON object");
  AgentConfig config;
  for (const auto& [name, value] : document.items()) {
    if (name != "groups") return wrong("member \"" + name + "\" is not known: there is groups");
    if (!value.is_array()) return wrong_member(name, "a list");
    if (value.size() > max_groups) return wrong_member(name, "a list of at most " + std::to_string(max_groups));
    for (std::size_t i = 0; i < value.size(); ++i) {
      auto group = group_of_json("groups[" + std::to_string(i) + "]", value[i], distributions);
      if (!group) return group.error();
      if (config.find(group->name) != nullptr) return wrong("there are two groups '" + group->name + "'");
      config.groups.push_back(std::move(*group));
    }
  }
  if (!document.contains("groups")) return wrong("member \"groups\" is missing");
  return config;
}

}  // namespace

Result<AgentConfig> AgentConfig::parse(std::string_view text, const std::vector<Distribution>& distributions) {
  if (detail::json_depth(text) > detail::max_json_depth)
    return wrong("nested deeper than " + std::to_string(detail::max_json_depth) + " levels");
  try {
    return config_of_json(json::parse(text), distributions);
  } catch (const json::exception& error) {
    return wrong(detail::json_place(error.what()));
  }
}

const AgentGroup* AgentConfig::group_of(const ProcessEvent& process) const {
  const auto found = std::find_if(groups.begin(), groups.end(), [&](const AgentGroup& group) { return group.filter.passes(process); });
  return found == groups.end() ? nullptr : &*found;
}

const AgentGroup* AgentConfig::find(std::string_view name) const {
  const auto found = std::find_if(groups.begin(), groups.end(), [&](const AgentGroup& group) { return group.name == name; });
  return found == groups.end() ? nullptr : &*found;
}

std::vector<std::string> AgentConfig::variables() const {
  std::set<std::string> names;
  for (const AgentGroup& group : groups) {
    for (const std::string& variable : group.match.environment) names.insert(variable.substr(0, variable.find('=')));
  }
  return {names.begin(), names.end()};
}

AgentConfigFile::AgentConfigFile(std::string path, std::vector<Distribution> distributions)
    : path_(std::move(path)), distributions_(std::move(distributions)) {}

Result<std::optional<AgentConfig>> AgentConfigFile::look() {
  const auto failed = [&](Error error) -> Result<std::optional<AgentConfig>> {
    if (std::exchange(said_, error.message) == error.message) return std::optional<AgentConfig>();
    return error;
  };
  Result<std::string> text = net::read_file(path_, "the agent's configuration");
  if (!text) return failed(text.error());
  if (text_ == *text) {
    said_ = wrong_;
    return std::optional<AgentConfig>();
  }
  text_ = std::move(*text);
  wrong_.clear();
  auto config = AgentConfig::parse(*text_, distributions_);
  if (!config) {
    wrong_ = "the agent's configuration '" + path_ + "' is wrong: " + config.error().message;
    return failed(Error{config.error().code, wrong_});
  }
  said_.clear();
  return std::optional<AgentConfig>(std::move(*config));
}

std::string to_json(const Config& config) {
  json object = json::object();
  for (const auto& [key, value] : config) std::visit([&, name = key](const auto& held) { object[name] = held; }, value);
  return object.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace weir::cli
