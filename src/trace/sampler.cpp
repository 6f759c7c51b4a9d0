#include "weir/trace/sampler.hpp"

#include <charconv>
#include <system_error>

#include "text/json.hpp"

namespace weir::inline v0 {

namespace {

Error parse_error(std::string message) { return {std::make_error_code(std::errc::invalid_argument), std::move(message)}; }

Result<Sampler> parse_ratio(std::string_view name, std::string_view argument) {
  double part = 1;
  if (!argument.empty()) {
    const auto [end, error] = std::from_chars(argument.data(), argument.data() + argument.size(), part);
    if (error != std::errc{} || end != argument.data() + argument.size() || !(part >= 0 && part <= 1)) {
      std::string message = "the sampler ";
      message.append(name).append(" takes a number from 0 to 1, not ");
      detail::append_json_string(message, argument);
      return parse_error(std::move(message));
    }
  }
  return Sampler::ratio(part);
}

}  // namespace

Result<Sampler> Sampler::parse(std::string_view name, std::string_view argument) {
  constexpr std::string_view prefix = "parentbased_";
  const bool follows = name.substr(0, prefix.size()) == prefix;
  const std::string_view root = follows ? name.substr(prefix.size()) : name;
  Result<Sampler> sampler = never();
  if (root == "always_on") {
    sampler = always();
  } else if (root == "traceidratio") {
    sampler = parse_ratio(name, argument);
  } else if (root != "always_off") {
    std::string message = "there is no sampler ";
    detail::append_json_string(message, name);
    message += "; it may be always_on, always_off or traceidratio, and each of them after parentbased_";
    return parse_error(std::move(message));
  }
  if (!sampler || !follows) return sampler;
  return parent_based(*std::move(sampler));
}

}  // namespace weir::inline v0
