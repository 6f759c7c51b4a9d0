#pragma once
// TelemetryDesk: the telemetry server of `weir collect --http`, with its store and its policy, on a thread of its own.

#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "cli/commands.hpp"
#include "weir/collect/telemetry_policy.hpp"
#include "weir/collect/telemetry_server.hpp"
#include "weir/collect/telemetry_store.hpp"
#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"

namespace weir::cli {

/// Thread-safety: Distinct objects: safe. Shared: unsafe, but for the stop token.
class TelemetryDesk {
 public:
  /// Opens the store, reads the policy and binds the address; nullptr without --http.
  static Result<std::unique_ptr<TelemetryDesk>> open(const CollectSettings& settings);
  ~TelemetryDesk();
  TelemetryDesk(const TelemetryDesk&) = delete;
  TelemetryDesk& operator=(const TelemetryDesk&) = delete;

  /// Serves until stop is requested. `stop` is also requested when it cannot go on.
  void start(StopSource stop);
  /// Waits for the end. Requires: start(), and stop is requested.
  Result<void> finish();

  std::string address() const { return server_->address(); }
  /// One line of JSON.
  std::string counters() const { return server_->stats().to_json(); }

 private:
  TelemetryDesk(TelemetryStore store, std::optional<TelemetryPolicyFile> policy);

  TelemetryStore store_;
  std::optional<TelemetryPolicyFile> policy_;
  std::optional<TelemetryServer> server_;  // uses the others
  Result<void> served_;
  std::thread thread_;
};

}  // namespace weir::cli
