#include "weir/view/path_groups.hpp"

#include <algorithm>
#include <utility>

#include "view/path_pattern.hpp"

namespace weir::inline v0 {

namespace {

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blanks = " \t\r";
  const std::size_t begin = text.find_first_not_of(blanks);
  return begin == text.npos ? std::string_view() : text.substr(begin, text.find_last_not_of(blanks) + 1 - begin);
}

}  // namespace

struct PathGroups::Impl {
  std::vector<std::pair<detail::PathPattern, std::string>> groups;
};

PathGroups::PathGroups() = default;
PathGroups::~PathGroups() = default;
PathGroups::PathGroups(const PathGroups&) = default;
PathGroups& PathGroups::operator=(const PathGroups&) = default;

Result<PathGroup> parse_path_group(std::string_view text) {
  const std::size_t equals = text.rfind('=');
  PathGroup group{std::string(trimmed(text.substr(0, equals))), {}};
  group.name = equals == text.npos ? group.pattern : std::string(trimmed(text.substr(equals + 1)));
  if (group.pattern.empty() || group.name.empty()) {
    return Error{std::make_error_code(std::errc::invalid_argument),
                 "'" + std::string(text) + "' is no path group: write it as REGEX=NAME, as in /users/\\d+=/users/:id"};
  }
  return group;
}

Result<std::vector<PathGroup>> parse_path_groups(std::string_view text) {
  std::vector<PathGroup> groups;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = trimmed(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty() || line.front() == '#') continue;
    Result<PathGroup> group = parse_path_group(line);
    if (!group) return Error{group.error().code, "line " + std::to_string(number) + ": " + group.error().message};
    groups.push_back(std::move(*group));
  }
  return groups;
}

Result<PathGroups> PathGroups::create(const std::vector<PathGroup>& groups) {
  auto impl = std::make_shared<Impl>();
  for (const PathGroup& group : groups) {
    Result<detail::PathPattern> pattern = detail::PathPattern::compile(group.pattern);
    if (!pattern) return Error{pattern.error().code, "path group '" + group.pattern + "': " + pattern.error().message};
    impl->groups.emplace_back(std::move(*pattern), group.name);
  }
  PathGroups result;
  result.impl_ = std::move(impl);
  return result;
}

std::optional<std::string_view> PathGroups::find(std::string_view path) const {
  if (impl_ == nullptr || path.size() > max_path) return std::nullopt;
  for (const auto& [pattern, name] : impl_->groups) {
    if (pattern.matches(path)) return name;
  }
  return std::nullopt;
}

}  // namespace weir::inline v0
