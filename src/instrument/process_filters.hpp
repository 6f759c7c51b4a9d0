#pragma once
// FilterSet: DetectorOptions, checked once, and the questions that are asked of a process (private to src).

#include <sys/types.h>
#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "weir/core/result.hpp"
#include "weir/instrument/detector.hpp"

namespace weir::inline v0::instrument {

/// Whether all of `text` is what `pattern` says: `*` is any text, slashes too, `?` any one byte, everything else itself.
bool matches_glob(std::string_view pattern, std::string_view text) noexcept;

/// Thread-safety: shared: safe once created.
class FilterSet {
 public:
  using Environment = std::map<std::string, std::string, std::less<>>;

  FilterSet() = default;  ///< everything passes
  /// Error (invalid_argument): an option that is beyond its limits, or that no process can fulfil; names it.
  static Result<FilterSet> create(const DetectorOptions& options);
  /// Nothing is filtered, and these variables are kept.
  static FilterSet keeping(std::vector<std::string> names);

  // In the order in which they are cheapest to answer.
  bool passes_executable(std::string_view path) const noexcept;
  bool passes_uid(uid_t uid) const noexcept;
  bool passes_cgroup(std::string_view path) const noexcept;
  /// Of what keeps() kept.
  bool passes_environment(const Environment& environment) const;
  /// Whether events carry the variable of that name, or a filter asks for it.
  bool keeps(std::string_view name) const noexcept;
  FilterSet without_filters() const { return keeping(kept_); }
  bool keeps_any() const noexcept { return !kept_.empty(); }

  bool passes(const ProcessEvent& event) const {
    return passes_executable(event.executable) && passes_uid(event.uid) && passes_cgroup(event.cgroup) &&
           passes_environment(event.environment);
  }

 private:
  static ProcessFilters without_exclusions() {
    ProcessFilters filters;
    filters.excluded_paths.clear();
    return filters;
  }

  ProcessFilters filters_ = without_exclusions();
  std::vector<std::pair<std::string, std::optional<std::string>>> variables_;  // name and, if it is asked for, value
  std::vector<std::string> kept_;                                              // sorted
};

}  // namespace weir::inline v0::instrument
