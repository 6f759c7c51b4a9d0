#pragma once
// TelemetryPolicy: what a telemetry server wishes of its clients, from a small JSON file that people edit while it runs. A
// TelemetryServer asks it for each answer.
//
//   {
//     "next_update": "1h",
//     "disable_keys": ["user_agent"],
//     "enable_keys": ["memory"],
//     "stop": false,
//     "instances": {"6ba7b810-9dad-11d1-80b4-00c04fd430c8": {"next_update": "30s"}}
//   }
//
// Every member may be absent. What stands under an instance's id replaces, member by member, what is said for all.

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "weir/core/logger.hpp"
#include "weir/core/result.hpp"
#include "weir/telemetry/instance_id.hpp"
#include "weir/telemetry/payload.hpp"

namespace weir::inline v0 {

/// Thread-safety: a value.
class TelemetryPolicy {
 public:
  TelemetryPolicy() = default;  ///< an update each hour, and no other wish

  /// next_update: as 30s, 5m or 1h, from one second to 30 days, which is what clients heed. Error: no JSON object, nested
  /// deeper than 16 levels, a member that is not known or has another type; the message names the line or the member.
  static Result<TelemetryPolicy> parse(std::string_view json);

  /// What an instance is answered.
  Response response(const InstanceId& id) const;

 private:
  friend struct PolicyReader;
  struct Rule {
    std::optional<std::chrono::nanoseconds> next_update;
    std::optional<bool> stop;
    std::optional<std::vector<std::string>> disable_keys, enable_keys;
  };
  void apply(const Rule& rule, Response& response) const;

  Rule all_;
  std::map<InstanceId, Rule> instances_;
};

/// A policy and the file that it is read from, again when the file changes. Thread-safety: shared: safe. Movable.
class TelemetryPolicyFile {
 public:
  using Clock = std::chrono::steady_clock;

  /// How often the file is looked at, at most.
  static constexpr std::chrono::seconds recheck{1};
  /// Larger files are refused.
  static constexpr std::size_t max_bytes = 1u << 20;

  /// Error: the file cannot be read, or holds no policy; the message names it. The logger must outlive the object.
  static Result<TelemetryPolicyFile> open(std::string path, Logger& logger = stderr_logger());
  TelemetryPolicyFile(TelemetryPolicyFile&&) noexcept;
  TelemetryPolicyFile& operator=(TelemetryPolicyFile&&) noexcept;
  ~TelemetryPolicyFile();

  /// What an instance is answered, at `now`. A file that has become unreadable or wrong is reported once, and what it said
  /// before stays.
  Response response(const InstanceId& id, Clock::time_point now = Clock::now());

 private:
  struct State;
  explicit TelemetryPolicyFile(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

}  // namespace weir::inline v0
