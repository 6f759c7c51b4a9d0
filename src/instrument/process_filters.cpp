#include "instrument/process_filters.hpp"

#include <algorithm>
#include <limits>

namespace weir::inline v0::instrument {

namespace {

constexpr std::string_view deleted = " (deleted)";  // the kernel's word for an executable that was replaced or removed
constexpr auto longest_wait = std::chrono::hours{24};

Error wrong(std::string what) { return {std::make_error_code(std::errc::invalid_argument), "process detector: " + std::move(what)}; }

std::string in_quotes(std::string_view text) {
  constexpr std::size_t enough = 64;
  return '"' + std::string(text.substr(0, enough)) + (text.size() > enough ? "…\"" : "\"");
}

/// What is wrong with a list of texts, whichever they are.
std::optional<Error> list_error(std::string_view list, const std::vector<std::string>& texts, bool paths) {
  const std::string name(list);
  if (texts.size() > ProcessFilters::max_entries)
    return wrong(name + " has " + std::to_string(texts.size()) + " entries; the limit is " + std::to_string(ProcessFilters::max_entries));
  for (const std::string& text : texts) {
    if (text.empty()) return wrong(name + " has an empty entry");
    if (text.size() > ProcessFilters::max_text)
      return wrong(name + " has an entry of " + std::to_string(text.size()) + " bytes; the limit is " +
                   std::to_string(ProcessFilters::max_text));
    if (text.find('\0') != text.npos)
      return wrong(name + ": " + in_quotes(text.c_str()) + " goes on after a NUL, which no process can have there");
    if (paths && text.front() != '/') return wrong(name + ": " + in_quotes(text) + " is no absolute path; begin it with '/'");
  }
  return std::nullopt;
}

std::optional<Error> options_error(const DetectorOptions& options) {
  const ProcessFilters& filters = options.filters;
  if (auto error = list_error("filters.executables", filters.executables, false)) return error;
  for (const std::string& glob : filters.executables) {
    if (glob.front() != '/' && glob.front() != '*' && glob.front() != '?')
      return wrong("filters.executables: " + in_quotes(glob) + " matches no path, as paths begin with '/'; write " +
                   in_quotes("*/" + glob));
  }
  if (auto error = list_error("filters.environment", filters.environment, false)) return error;
  for (const std::string& variable : filters.environment) {
    if (variable.front() == '=')
      return wrong("filters.environment: " + in_quotes(variable) + " names no variable; write NAME or NAME=VALUE");
  }
  if (filters.uids.size() > ProcessFilters::max_entries)
    return wrong("filters.uids has " + std::to_string(filters.uids.size()) + " entries; the limit is " +
                 std::to_string(ProcessFilters::max_entries));
  if (auto error = list_error("filters.cgroups", filters.cgroups, true)) return error;
  if (auto error = list_error("filters.excluded_paths", filters.excluded_paths, true)) return error;
  if (auto error = list_error("environment", options.environment, false)) return error;
  for (const std::string& name : options.environment) {
    if (name.find('=') != name.npos) return wrong("environment: " + in_quotes(name) + " is no name of a variable, as it contains '='");
  }
  if (auto error = list_error("files", options.files, true)) return error;
  if (options.minimum_age.count() < 0 || options.minimum_age > longest_wait) return wrong("minimum_age must be from 0 to 24 hours");
  if (options.scan_interval.count() < 1 || options.scan_interval > longest_wait)
    return wrong("scan_interval must be from 1 ms to 24 hours");
  if (options.receive_buffer == 0 || options.receive_buffer > std::size_t{std::numeric_limits<int>::max()} / 2)
    return wrong("receive_buffer must be from 1 byte to 1 GiB");
  return std::nullopt;
}

std::string_view without_deleted(std::string_view path) noexcept {
  return path.size() > deleted.size() && path.substr(path.size() - deleted.size()) == deleted ? path.substr(0, path.size() - deleted.size())
                                                                                              : path;
}

}  // namespace

bool matches_glob(std::string_view pattern, std::string_view text) noexcept {
  std::size_t p = 0, t = 0, star = pattern.npos, tried = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      tried = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p, ++t;
    } else if (star != pattern.npos) {  // only the last star can have to be longer
      p = star + 1;
      t = ++tried;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

Result<FilterSet> FilterSet::create(const DetectorOptions& options) {
  if (auto error = options_error(options)) return *std::move(error);
  FilterSet set = keeping(options.environment);
  set.filters_ = options.filters;
  for (std::string& cgroup : set.filters_.cgroups) {
    while (!cgroup.empty() && cgroup.back() == '/') cgroup.pop_back();  // "/" becomes the prefix of all
  }
  for (const std::string& variable : options.filters.environment) {
    const std::size_t equals = variable.find('=');
    std::string name = variable.substr(0, equals);
    set.kept_.push_back(name);
    set.variables_.emplace_back(std::move(name), equals == variable.npos ? std::nullopt : std::optional(variable.substr(equals + 1)));
  }
  std::sort(set.kept_.begin(), set.kept_.end());
  return set;
}

FilterSet FilterSet::keeping(std::vector<std::string> names) {
  FilterSet set;
  set.kept_ = std::move(names);
  std::sort(set.kept_.begin(), set.kept_.end());
  return set;
}

bool FilterSet::passes_executable(std::string_view path) const noexcept {
  const std::string_view name = without_deleted(path);
  for (const std::string& excluded : filters_.excluded_paths) {
    if (excluded == name || excluded == path) return false;
  }
  if (filters_.executables.empty()) return true;
  return std::any_of(filters_.executables.begin(), filters_.executables.end(),
                     [&](const std::string& glob) { return matches_glob(glob, name) || matches_glob(glob, path); });
}

bool FilterSet::passes_uid(uid_t uid) const noexcept {
  return filters_.uids.empty() || std::find(filters_.uids.begin(), filters_.uids.end(), uid) != filters_.uids.end();
}

bool FilterSet::passes_cgroup(std::string_view path) const noexcept {
  if (filters_.cgroups.empty()) return true;
  return std::any_of(filters_.cgroups.begin(), filters_.cgroups.end(), [&](const std::string& prefix) {
    return !path.empty() && path.substr(0, prefix.size()) == prefix && (path.size() == prefix.size() || path[prefix.size()] == '/');
  });
}

bool FilterSet::passes_environment(const Environment& environment) const {
  return std::all_of(variables_.begin(), variables_.end(), [&](const auto& variable) {
    const auto found = environment.find(variable.first);
    return found != environment.end() && (!variable.second || *variable.second == found->second);
  });
}

bool FilterSet::keeps(std::string_view name) const noexcept { return std::binary_search(kept_.begin(), kept_.end(), name, std::less<>{}); }

}  // namespace weir::inline v0::instrument
