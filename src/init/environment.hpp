#pragma once
// What the environment says to weir::init. docs/environment.md has the table.

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "weir/core/logger.hpp"
#include "weir/trace/sampler.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: a value.
struct Environment {
  bool disabled = false;  // then nothing else was read
  std::string service;
  std::vector<std::pair<std::string, std::string>> attributes;  // without service.name; each key once
  std::optional<Sampler> sampler;
  std::optional<std::size_t> max_attributes, max_attribute_bytes;
};

/// Empty variables are as unset ones. What makes no sense is told to `logger` and ignored. Thread-safety: as getenv.
Environment read_environment(Logger& logger);

/// "key=value,key=value", both percent-encoded, as OTEL_RESOURCE_ATTRIBUTES has it. Nothing if any of it is malformed; of equal keys
/// the last counts.
std::optional<std::vector<std::pair<std::string, std::string>>> parse_resource_attributes(std::string_view text);

}  // namespace weir::inline v0::detail
