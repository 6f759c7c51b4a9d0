#include "collect/keep_rules.hpp"

#include <algorithm>
#include <system_error>

#include "text/quantity.hpp"

namespace weir::inline v0 {

namespace {

constexpr std::string_view conjunction = "&&", at_least = ">=";
constexpr std::string_view error_key = "error", status_key = "otel.status_code";

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

Result<void> add_condition(KeepRule& rule, std::string_view text) {
  if (text == "error") {
    rule.error = true;
    return {};
  }
  constexpr std::string_view duration = "duration";
  if (text.starts_with(duration) && trimmed(text.substr(duration.size())).starts_with(at_least)) {
    const auto least = detail::parse_duration(trimmed(trimmed(text.substr(duration.size())).substr(at_least.size())));
    if (!least) return least.error();
    rule.min_duration = *least;
    return {};
  }
  const std::size_t equals = text.find('=');
  const std::string_view key = trimmed(text.substr(0, equals));
  if (equals == text.npos || key.empty() || key == duration || key.find_first_of("<>") != key.npos) {
    return detail::wrong_value(
        text, "is no condition: write error, duration>=250ms, name=GLOB, service=GLOB or KEY=GLOB, with && between several");
  }
  std::string glob(trimmed(text.substr(equals + 1)));
  if (glob.size() - static_cast<std::size_t>(std::count(glob.begin(), glob.end(), '*')) > detail::Glob::max_bytes) {
    return detail::wrong_value(text, "is too long: a pattern has at most 255 bytes");
  }
  if (key == "name") {
    rule.name = std::move(glob);
  } else if (key == "service") {
    rule.service = std::move(glob);
  } else if (rule.key.empty()) {
    rule.key = key;
    rule.value = std::move(glob);
  } else {
    return detail::wrong_value(text, "is a second attribute: a rule can ask for one");
  }
  return {};
}

}  // namespace

Result<KeepRule> KeepRule::parse(std::string_view text) {
  KeepRule rule;
  for (;;) {
    const std::size_t end = text.find(conjunction);
    if (Result<void> added = add_condition(rule, trimmed(text.substr(0, end))); !added) return added.error();
    if (end == text.npos) return rule;
    text.remove_prefix(end + conjunction.size());
  }
}

namespace detail {

KeepRules::KeepRules(const TraceStoreOptions& options) : otherwise_(word_of(options.keep_ratio)) {
  rules_.reserve(options.keep.size());
  for (const KeepRule& rule : options.keep) {
    rules_.push_back({rule.error, rule.min_duration, Glob(rule.name), Glob(rule.service), rule.key, Glob(rule.value), word_of(rule.part)});
    attributes_ = attributes_ || !rule.key.empty();
  }
}

bool KeepRules::ask_for(std::string_view key) const noexcept {
  if (key == error_key || key == status_key) return true;
  return attributes_ && std::any_of(rules_.begin(), rules_.end(), [&](const Rule& rule) { return rule.key == key; });
}

void KeepRules::note(TraceFacts& facts, std::string_view key, std::string_view value) const {
  if ((key == error_key && value == "true") || (key == status_key && value == "ERROR")) facts.error = true;
  if (!attributes_) return;
  facts.attributes.resize(rules_.size());
  for (std::size_t i = 0; i < rules_.size(); ++i) {
    if (!facts.attributes[i] && key == rules_[i].key && rules_[i].value.matches(value)) facts.attributes[i] = true;
  }
}

KeepRules::Verdict KeepRules::judge(const TraceFacts& facts) const {
  for (std::size_t i = 0; i < rules_.size(); ++i) {
    const Rule& rule = rules_[i];
    if (rule.error && !facts.error) continue;
    if (rule.min_duration.count() > 0 && (facts.start > facts.end || facts.end - facts.start < rule.min_duration)) continue;
    if (!rule.key.empty() && (facts.attributes.empty() || !facts.attributes[i])) continue;
    if (!rule.service.matches(facts.service) || !rule.name.matches(facts.root)) continue;
    return {Sampler::below(facts.id, rule.part), i};
  }
  return {Sampler::below(facts.id, otherwise_), SIZE_MAX};
}

TraceId KeepRules::id_of_text(std::string_view id) noexcept {
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : id) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return {0, split_mix(hash)};
}

}  // namespace detail

}  // namespace weir::inline v0
