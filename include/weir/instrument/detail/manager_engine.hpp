#pragma once
// What a Manager (manager.hpp) is without its template parameters: details and groups are hidden behind pointers, everything else is
// compiled once. Only manager.hpp uses it.

#include <sys/types.h>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "weir/core/logger.hpp"
#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"
#include "weir/instrument/detector.hpp"
#include "weir/instrument/instrumentation.hpp"

namespace weir::inline v0 {

class Telemetry;
struct Instrument;
struct RetryFailed;
struct ManagerStats;
enum class ProcessState;

namespace detail {

/// A value of the user's group type. Thread-safety: immutable.
class AnyGroup {
 public:
  virtual ~AnyGroup() = default;
  virtual bool equals(const AnyGroup& other) const = 0;
  const std::size_t hash;

 protected:
  explicit AnyGroup(std::size_t hash_value) : hash(hash_value) {}
};
using GroupKey = std::shared_ptr<const AnyGroup>;

/// A value of the user's details, and its text.
struct AnyDetails {
  std::shared_ptr<const void> value;
  std::string text;
};

/// A Handler. Empty functions are those that it does not have.
struct ManagerCalls {
  using Report = std::function<Result<void>(pid_t, const std::optional<Error>&, const void*, const StopToken&)>;

  std::function<Result<AnyDetails>(const ProcessEvent&, const StopToken&)> process_details;
  std::function<Result<GroupKey>(const void*, const Distribution&, const StopToken&)> config_group;
  std::function<Result<GroupKey>(const void*, const StopToken&)> process_group;
  std::function<Result<Distribution>(const void*, const StopToken&)> distribution;
  std::function<Result<Settings>(const void*, const Distribution&, const StopToken&)> settings;
  Report on_init, on_run;
  std::function<Result<void>(pid_t, const std::optional<Error>&, const void*, const Status&, const StopToken&)> on_load;
  std::function<Result<void>(pid_t, const void*, const StopToken&)> on_exit;
};

/// ManagerOptions.
struct ManagerParts {
  Logger* logger = nullptr;
  std::map<Distribution, std::shared_ptr<Factory>> factories;
  std::vector<std::shared_ptr<Factory>> generic_factories;
  ManagerCalls calls;
  std::shared_ptr<ProcessDetector> detector;
  std::size_t workers = 0;
  std::chrono::milliseconds step_timeout{0}, stop_timeout{0};
  const Telemetry* telemetry = nullptr;
  std::function<Result<ProcessEvent>(pid_t)> read_process;
};

/// ManagedProcess.
struct ManagedRow {
  pid_t pid = 0;
  std::uint64_t start_time = 0;
  std::shared_ptr<const void> details;
  ProcessState state{};
  Distribution distribution;
  std::optional<Error> error;
  Status status;
  Config config;
};

/// Thread-safety: as Manager.
class ManagerEngine {
 public:
  static Result<std::unique_ptr<ManagerEngine>> create(ManagerParts parts);
  ~ManagerEngine();
  ManagerEngine(const ManagerEngine&) = delete;
  ManagerEngine& operator=(const ManagerEngine&) = delete;

  void update_config(std::vector<std::pair<GroupKey, Config>> update);
  void request(const Instrument& request);
  void uninstrument(GroupKey group);
  void request(const RetryFailed& request);
  Result<void> run(const StopToken& stop);
  std::vector<ManagedRow> processes() const;
  ManagerStats stats() const;

 private:
  struct Impl;
  explicit ManagerEngine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace detail

}  // namespace weir::inline v0
