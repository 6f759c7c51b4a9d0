#include "control/settings.hpp"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <memory>

#include "text/json.hpp"
#include "weir/activity/log_tracker.hpp"
#include "weir/core/detail/exceptions.hpp"
#include "weir/core/detail/glob.hpp"
#include "weir/operation/operation.hpp"
#include "weir/telemetry/telemetry.hpp"
#include "weir/trace/default_tracer.hpp"

namespace weir::inline v0::control {

namespace {

using Type = ControlValue::Type;

std::string in_quotes(std::string_view text) {
  std::string json;
  detail::append_json_string(json, text.substr(0, 100));
  return json;
}

/// Nothing: it is none.
std::optional<double> number_in(std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::optional<Sampler> ratio(double part) {
  if (!(part >= 0 && part <= 1)) return std::nullopt;
  return Sampler::parent_based(Sampler::ratio(part));
}

/// always, never, ratio:0.1 and 0.1, following callers; or a name of OTEL_TRACES_SAMPLER, with its argument after a colon.
std::optional<Sampler> sampler_in(std::string_view text) {
  if (text == "always") return Sampler::parent_based(Sampler::always());
  if (text == "never") return Sampler::parent_based(Sampler::never());
  if (const auto number = number_in(text)) return ratio(*number);
  const std::size_t colon = text.find(':');
  const std::string_view name = text.substr(0, colon);
  const std::string_view argument = colon != text.npos ? text.substr(colon + 1) : std::string_view{};
  if (name == "ratio") {
    const auto number = number_in(argument);
    return number ? ratio(*number) : std::nullopt;
  }
  auto parsed = Sampler::parse(name, argument);
  if (!parsed || (colon != text.npos && argument.empty())) return std::nullopt;
  return *std::move(parsed);
}

std::optional<Logger::Level> level_in(std::string_view text) {
  if (text == "debug") return Logger::Level::debug;
  if (text == "info") return Logger::Level::info;
  if (text == "warn" || text == "warning") return Logger::Level::warning;
  if (text == "error") return Logger::Level::error;
  return std::nullopt;
}

/// Why these are no patterns.
std::optional<std::string> wrong_patterns(const ControlValue& value) {
  if (value.type != Type::texts) return "takes a list of texts";
  if (value.texts.size() > max_patterns) return "takes at most " + std::to_string(max_patterns) + " patterns";
  for (const std::string& pattern : value.texts) {
    const auto stars = static_cast<std::size_t>(std::count(pattern.begin(), pattern.end(), '*'));
    if (pattern.empty()) return "has an empty pattern, which matches nothing";
    if (pattern.size() > max_pattern_bytes || pattern.size() - stars > detail::Glob::max_bytes)
      return "has a pattern that is too long: " + in_quotes(pattern) + "…";
  }
  return std::nullopt;
}

class HiddenOperations final : public detail::OperationFilter {
 public:
  explicit HiddenOperations(const std::vector<std::string>& patterns) : patterns_(patterns.begin(), patterns.end()) {}
  bool hides(std::string_view title, std::string_view type_name) const noexcept override {
    return std::any_of(patterns_.begin(), patterns_.end(),
                       [&](const detail::Glob& pattern) { return pattern.matches(title) || pattern.matches(type_name); });
  }

 private:
  const std::vector<detail::Glob> patterns_;
};

void append_list(std::string& out, const std::vector<std::string>& texts) {
  out += '[';
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (i != 0) out += ',';
    detail::append_json_string(out, texts[i]);
  }
  out += ']';
}

void append_counts(std::string& out, std::initializer_list<std::pair<std::string_view, std::uint64_t>> counts) {
  char before = '{';
  for (const auto& [name, count] : counts) {
    out += std::exchange(before, ',');
    detail::append_json_string(out, name);
    out += ':';
    detail::append_integer(out, count);
  }
  out += '}';
}

}  // namespace

Problems read_settings(const std::vector<std::pair<std::string, ControlValue>>& given, ControlSettings& settings) {
  Problems problems;
  const auto wrong = [&](const std::string& key, std::string why) { problems.emplace_back(key, std::move(why)); };
  for (const auto& [key, value] : given) {
    if (key == "sampling") {
      settings.sampling = value.type == Type::number ? ratio(value.number)
                          : value.type == Type::text ? sampler_in(value.text)
                                                     : std::nullopt;
      if (!settings.sampling) {
        wrong(
            key,
            "takes a number from 0 to 1, \"always\", \"never\", \"ratio:0.1\", or a name of OTEL_TRACES_SAMPLER, as \"traceidratio:0.1\"");
      }
    } else if (key == "log_level") {
      settings.log_level = value.type == Type::text ? level_in(value.text) : std::nullopt;
      if (!settings.log_level) wrong(key, "takes \"debug\", \"info\", \"warn\" or \"error\"");
    } else if (key == "disabled_operations" || key == "disabled_keys") {
      if (auto why = wrong_patterns(value))
        wrong(key, *std::move(why));
      else
        (key == "disabled_keys" ? settings.disabled_keys : settings.disabled_operations) = value.texts;
    } else {
      wrong(key.substr(0, 100), "is no setting; there are sampling, disabled_operations, log_level and disabled_keys");
    }
  }
  return problems;
}

bool apply(const ControlSettings& settings) noexcept {
  WEIR_TRY {
    std::unique_ptr<const detail::OperationFilter> filter;
    if (!settings.disabled_operations.empty()) filter = std::make_unique<HiddenOperations>(settings.disabled_operations);
    if (!telemetry().disable_matching(settings.disabled_keys)) return false;
    // Nothing fails from here on.
    filter.reset(detail::hide_operations(filter.release()));
    detail::process().steer_samplers(settings.sampling);
    LogTracker::steer_level(settings.log_level);
    return true;
  }
  WEIR_CATCH_ALL { return false; }
}

namespace {

/// Of all tracers together.
TracerStats span_counts() {
  struct Counted {
    std::shared_ptr<Sender> sender;
    std::uint64_t no_ring, stopped, reentrant;
  };
  std::vector<Counted> tracers;
  detail::process().for_each_tracer([&](const detail::TracerEntry& entry, const Sampler&) {
    tracers.push_back({entry.sender, entry.dropped_no_ring.load(std::memory_order_relaxed),
                       entry.dropped_stopped.load(std::memory_order_relaxed), entry.dropped_reentrant.load(std::memory_order_relaxed)});
  });
  TracerStats all;
  for (const Counted& tracer : tracers) {
    const TracerStats stats = tracer.sender->stats();
    all.emitted += stats.emitted + tracer.no_ring + tracer.stopped + tracer.reentrant;
    all.delivered += stats.delivered;
    all.in_flight += stats.in_flight;
    all.dropped_full += stats.dropped_full;
    all.dropped_too_large += stats.dropped_too_large;
    all.dropped_no_ring += stats.dropped_no_ring + tracer.no_ring;
    all.dropped_reentrant += stats.dropped_reentrant + tracer.reentrant;
    all.dropped_stopped += stats.dropped_stopped + tracer.stopped;
    all.not_sampled += stats.not_sampled;
    all.truncated_attributes += stats.truncated_attributes;
    all.unacknowledged += stats.unacknowledged;
    all.connects += stats.connects;
  }
  return all;
}

/// Of the tracers that there are, each once.
std::string samplers_in_force() {
  std::vector<Sampler> samplers;
  detail::process().for_each_tracer([&](const detail::TracerEntry&, const Sampler& in_force) { samplers.push_back(in_force); });
  if (samplers.empty()) return tracer().sampler().to_string();
  std::string all;
  for (std::vector<std::string> said; const Sampler& sampler : samplers) {
    std::string text = sampler.to_string();
    if (std::find(said.begin(), said.end(), text) != said.end()) continue;
    all += (all.empty() ? "" : ", ") + text;
    said.push_back(std::move(text));
  }
  return all;
}

}  // namespace

std::string statistics(std::string_view service, const ControlSettings& settings) {
  std::string out = "{\"pid\":";
  detail::append_integer(out, ::getpid());
  out += ",\"service\":";
  detail::append_json_string(out, service);
  out += ",\"weir\":";
  detail::append_json_string(out, WEIR_VERSION_STRING);
  const TracerStats spans = span_counts();
  out += ",\"spans\":";
  append_counts(out, {{"emitted", spans.emitted},
                      {"delivered", spans.delivered},
                      {"in_flight", spans.in_flight},
                      {"dropped_full", spans.dropped_full},
                      {"dropped_too_large", spans.dropped_too_large},
                      {"dropped_no_ring", spans.dropped_no_ring},
                      {"dropped_reentrant", spans.dropped_reentrant},
                      {"dropped_stopped", spans.dropped_stopped},
                      {"not_sampled", spans.not_sampled},
                      {"truncated_attributes", spans.truncated_attributes},
                      {"unacknowledged", spans.unacknowledged},
                      {"connects", spans.connects}});
  const TelemetryStats counted = telemetry().stats();
  out += ",\"telemetry\":";
  append_counts(out, {{"items", counted.items},
                      {"bytes", counted.bytes},
                      {"dropped_items", counted.dropped_items},
                      {"type_conflicts", counted.type_conflicts},
                      {"invalid_values", counted.invalid_values},
                      {"payloads", counted.payloads},
                      {"collector_failures", counted.collector_failures}});
  out += ",\"sampling\":";
  detail::append_json_string(out, samplers_in_force());
  out += ",\"settings\":{\"disabled_keys\":";
  append_list(out, settings.disabled_keys);
  out += ",\"disabled_operations\":";
  append_list(out, settings.disabled_operations);
  out += ",\"log_level\":";
  settings.log_level ? detail::append_json_string(out, to_string(*settings.log_level)) : void(out += "null");
  out += ",\"sampling\":";
  settings.sampling ? detail::append_json_string(out, settings.sampling->to_string()) : void(out += "null");
  out += "}}";
  return out;
}

}  // namespace weir::inline v0::control
