#pragma once
// ControlSettings: what can be changed in a running process, and the changing of it.

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "control/request.hpp"
#include "weir/core/logger.hpp"
#include "weir/trace/sampler.hpp"

namespace weir::inline v0::control {

/// What it does not name is as the program has it by itself. Thread-safety: a value.
struct ControlSettings {
  std::optional<Sampler> sampling;
  std::optional<Logger::Level> log_level;
  std::vector<std::string> disabled_operations, disabled_keys;  // globs

  bool empty() const noexcept { return !sampling && !log_level && disabled_operations.empty() && disabled_keys.empty(); }
};

/// Patterns of one list, each tried on every new key or type; and bytes of each (detail::Glob::max_bytes, stars not counted).
inline constexpr std::size_t max_patterns = 32, max_pattern_bytes = 512;

/// Of each key that makes no sense, why. Throws std::bad_alloc.
using Problems = std::vector<std::pair<std::string, std::string>>;
Problems read_settings(const std::vector<std::pair<std::string, ControlValue>>& given, ControlSettings& settings);

/// In the whole process, in the place of what was applied before. False: no memory, and nothing has changed. Requires: no other call.
bool apply(const ControlSettings& settings) noexcept;

/// Of the process: one JSON object. Throws std::bad_alloc.
std::string statistics(std::string_view service, const ControlSettings& settings);

}  // namespace weir::inline v0::control
