#include "init/environment.hpp"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "text/ascii.hpp"

namespace weir::inline v0::detail {

namespace {

constexpr std::size_t most_attributes = 255;  // of TracerOptions

/// Empty: unset.
std::string_view variable(const char* name) {
  const char* const text = std::getenv(name);
  return text != nullptr ? text : "";
}

void complain(Logger& logger, std::string_view name, std::string_view value, std::string_view advice) {
  logger.log(Logger::Level::warning, std::string(name) + "=" + std::string(value) + " is ignored: " + std::string(advice));
}

bool is_set(const char* name, Logger& logger) {
  const std::string_view value = variable(name);
  if (value == "1" || lower(value) == "true") return true;
  if (!value.empty() && value != "0" && lower(value) != "false") complain(logger, name, value, "it takes true and false, 1 and 0");
  return false;
}

/// Of the first variable that is set and makes sense.
std::optional<std::size_t> limit(std::initializer_list<const char*> names, Logger& logger, std::size_t most = SIZE_MAX) {
  for (const char* const name : names) {
    const std::string_view value = variable(name);
    if (value.empty()) continue;
    std::size_t number = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error == std::errc{} && end == value.data() + value.size() && number <= most) return number;
    complain(logger, name, value, most == SIZE_MAX ? "it takes a number" : "it takes a number up to " + std::to_string(most));
  }
  return std::nullopt;
}

std::string_view trimmed(std::string_view text) {
  const auto is_blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

std::optional<std::string> percent_decoded(std::string_view text) {
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    unsigned char byte = 0;
    const char* const digits = text.data() + i + 1;
    if (text.size() - i < 3 || std::from_chars(digits, digits + 2, byte, 16).ptr != digits + 2) return std::nullopt;
    decoded += static_cast<char>(byte);
    i += 2;
  }
  return decoded;
}

}  // namespace

std::optional<std::vector<std::pair<std::string, std::string>>> parse_resource_attributes(std::string_view text) {
  std::vector<std::pair<std::string, std::string>> attributes;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(','), text.size());
    const std::string_view pair = trimmed(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (pair.empty()) continue;
    const std::size_t equals = pair.find('=');
    if (equals == std::string_view::npos) return std::nullopt;
    auto key = percent_decoded(trimmed(pair.substr(0, equals))), value = percent_decoded(trimmed(pair.substr(equals + 1)));
    if (!key || !value || key->empty()) return std::nullopt;
    std::erase_if(attributes, [&](const auto& earlier) { return earlier.first == *key; });
    attributes.emplace_back(std::move(*key), std::move(*value));
  }
  return attributes;
}

Environment read_environment(Logger& logger) {
  Environment environment;
  const bool disabled = is_set("WEIR_DISABLED", logger);
  if (disabled || is_set("OTEL_SDK_DISABLED", logger)) {
    environment.disabled = true;
    return environment;
  }
  if (const std::string_view value = variable("OTEL_RESOURCE_ATTRIBUTES"); !value.empty()) {
    auto attributes = parse_resource_attributes(value);
    if (!attributes) complain(logger, "OTEL_RESOURCE_ATTRIBUTES", value, "it takes key=value,key=value, with %XX for what is none of that");
    for (auto& [key, text] : attributes.value_or(decltype(environment.attributes){})) {
      if (key == "service.name")
        environment.service = text;
      else
        environment.attributes.emplace_back(std::move(key), std::move(text));
    }
  }
  if (const std::string_view value = variable("OTEL_SERVICE_NAME"); !value.empty()) environment.service = value;
  if (const std::string_view name = variable("OTEL_TRACES_SAMPLER"); !name.empty()) {
    const std::string_view argument = variable("OTEL_TRACES_SAMPLER_ARG");
    auto without_argument = Sampler::parse(name);
    auto sampler = Sampler::parse(name, argument);
    if (!without_argument)
      complain(logger, "OTEL_TRACES_SAMPLER", name, without_argument.error().message);
    else if (!sampler)
      complain(logger, "OTEL_TRACES_SAMPLER_ARG", argument, sampler.error().message);
    if (without_argument) environment.sampler = sampler ? *std::move(sampler) : *std::move(without_argument);
  }
  environment.max_attributes = limit({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT"}, logger, most_attributes);
  environment.max_attribute_bytes = limit({"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"}, logger);
  return environment;
}

}  // namespace weir::inline v0::detail
