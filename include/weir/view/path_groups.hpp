#pragma once
// PathGroups: which paths are one endpoint. /users/17 and /users/18 are two paths and one `/users/:id`; a list of regular
// expressions says so. The first one that matches a whole path gives it its name.
//
//   auto groups = weir::PathGroups::create({{R"(/users/\d+)", "/users/:id"}, {R"(/assets/.*)", "/assets"}});
//   groups->find("/users/17")   // "/users/:id"
//
// Expressions are those of RE2, Go and JavaScript, as far as a path needs them: . [a-z] [^/] \d \w \s \D \W \S, * + ? {n,m} and
// their lazy forms, ( ) (?: ) (?P<name> ) |, ^ and $ (which are there anyway), \xHH, \x{HHHH} and \ before a sign. A { that
// begins no {n,m} is itself. Characters are Unicode's. There are no look-arounds, back-references and flags.
// Matching takes time in proportion to path and expression, and no stack, whatever the path.

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "weir/core/result.hpp"

namespace weir::inline v0 {

/// Thread-safety: a value.
struct PathGroup {
  std::string pattern;
  std::string name;
};

/// "REGEX=NAME", as one writes it on the command line; the last '=' counts. Without one the expression is the name, too. Error:
/// one of the two is empty.
Result<PathGroup> parse_path_group(std::string_view text);
/// One to a line, in this order; blank lines and those that begin with '#' are skipped. Errors begin with "line N: ". The
/// expressions are not looked at.
Result<std::vector<PathGroup>> parse_path_groups(std::string_view text);

/// Thread-safety: a value; shared: safe to read.
class PathGroups {
 public:
  static constexpr std::size_t max_path = 2048;  ///< bytes; a longer path is in no group

  PathGroups();  ///< none
  ~PathGroups();
  PathGroups(const PathGroups&);
  PathGroups& operator=(const PathGroups&);

  /// Error: an expression that is none; the message has it whole, what is wrong, and where.
  static Result<PathGroups> create(const std::vector<PathGroup>& groups);

  /// The name of the first group that matches the whole path. Valid as long as a copy of this is there.
  std::optional<std::string_view> find(std::string_view path) const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace weir::inline v0
