#pragma once
// The file that steers `weir agent`: groups of processes, and how each is configured. docs/instrumentation.md describes it.
//
//   {"groups": [{"name": "checkout",
//                "match": {"executable": ["*/checkout"], "environment": ["WEIR_CONTROL"], "uid": ["www-data"], "cgroup":
//                ["/system.slice"]}, "config": {"sampling": 0.1}}]}
//
// A process belongs to the first group that it matches, and stays there.

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "instrument/process_filters.hpp"
#include "weir/core/result.hpp"
#include "weir/instrument/detector.hpp"
#include "weir/instrument/instrumentation.hpp"

namespace weir::cli {

struct AgentGroup {
  std::string name;
  ProcessFilters match;
  instrument::FilterSet filter;  ///< of `match`
  Distribution distribution{"cpp", "weir"};
  std::string service_name;  ///< empty: the process's own
  Config config;
};

/// Thread-safety: a value.
struct AgentConfig {
  std::vector<AgentGroup> groups;

  /// `distributions`: those that there are. Error: no JSON, nested too deep, a member that is not known or has another type, two
  /// groups of one name, a group that matches everything; the message names the line or the member.
  static Result<AgentConfig> parse(std::string_view json, const std::vector<Distribution>& distributions);

  /// The first group that the process matches; nullptr: none. Its environment has the variables() that it has.
  const AgentGroup* group_of(const ProcessEvent& process) const;
  const AgentGroup* find(std::string_view name) const;
  /// The environment variables that the groups ask for.
  std::vector<std::string> variables() const;
};

/// The file, read again when it changes. Thread-safety: Distinct objects: safe. Shared: unsafe.
class AgentConfigFile {
 public:
  AgentConfigFile(std::string path, std::vector<Distribution> distributions);

  /// The configuration, if the file is another than at the last look; nothing if it is the same. Error: as parse(), or it cannot be
  /// read; said once for each content.
  Result<std::optional<AgentConfig>> look();

 private:
  const std::string path_;
  const std::vector<Distribution> distributions_;
  std::optional<std::string> text_;  // of the last look that could read it
  std::string wrong_;                // what is wrong with that text; empty: nothing
  std::string said_;                 // the error of the last look
};

/// A configuration as one JSON object.
std::string to_json(const Config& config);

}  // namespace weir::cli
