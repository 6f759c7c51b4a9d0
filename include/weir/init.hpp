#pragma once
// init: one call that wires what a service usually wants, from what it says here and from the environment.
//
//   int main() {
//     auto weir_session = weir::init({.service = "checkout"});
//     …                                                          // the service runs
//   }                                                            // what is left is sent
//
//   weir::tracer() ─▶ SocketSender ─▶ $WEIR_SOCKET, else the default path
//   the installed root ─▶ OperationsToSpans, OperationsToMetrics
//   weir::telemetry() ─▶ Emitter, where a transport is given
//
// Everything that it does can be done by hand: examples/checkout does. What is said here counts more than the environment, which
// counts where nothing is said, but for the variables that disable everything. docs/environment.md has the table.

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "weir/core/clock.hpp"
#include "weir/core/logger.hpp"
#include "weir/telemetry/emitter.hpp"
#include "weir/telemetry/instance_id.hpp"
#include "weir/telemetry/telemetry.hpp"
#include "weir/trace/default_tracer.hpp"
#include "weir/trace/sampler.hpp"
#include "weir/trace/sender.hpp"
#include "weir/trace/socket_sender.hpp"

namespace weir::inline v0 {

struct InitOptions {
  /// Empty: OTEL_SERVICE_NAME, else service.name in OTEL_RESOURCE_ATTRIBUTES, else the collector uses the process's name.
  std::string service{};
  /// Of the service, for exporters. Those of OTEL_RESOURCE_ATTRIBUTES are added, but for keys that are here.
  std::vector<std::pair<std::string, std::string>> attributes{};

  std::string socket{};           ///< the collector's; empty: WEIR_SOCKET, else SocketSender::default_path()
  SocketSenderOptions sending{};  ///< without a logger: `logger`
  std::shared_ptr<Sender>
      sender{};  ///< takes the spans instead of a SocketSender, as an InMemorySender in tests. One that no tracer has had

  std::optional<Sampler> sampler{};  ///< nothing: OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG, else Sampler's default
  /// Per span. Nothing: OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT, else OTEL_ATTRIBUTE_COUNT_LIMIT, else TracerOptions' default.
  std::optional<std::size_t> max_attributes{};
  /// Per string. Nothing: OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT, else OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT, else TracerOptions' default.
  std::optional<std::size_t> max_attribute_bytes{};
  const Clock* clock = nullptr;  ///< of spans, for tests; nullptr: the machine's

  bool operations = true;                   ///< install a root whose operations become spans and metrics
  InstanceId instance{};                    ///< of telemetry(); nil: a random one
  TelemetryOptions telemetry{};             ///< of telemetry(), which a process gets once: later sessions go on with it as it is
  std::unique_ptr<Transport> transport{};   ///< where telemetry goes; nullptr: nowhere, and it stays in telemetry()
  std::optional<EmitterOptions> emitter{};  ///< nothing: its defaults

  /// What the end of the session takes at most, 200 ms more where there is a transport.
  std::chrono::milliseconds stop_timeout{1000};
  Logger* logger = &stderr_logger();  ///< of variables that make no sense and of what could not be wired; must outlive the session
};

/// What became of what a session took.
struct SessionStats {
  TracerStats spans;
  TelemetryStats telemetry;
  EmitterStats updates;
};

/// What init() has wired; its end undoes it. Thread-safety: Distinct objects: safe. Shared: safe, but for moves and the end.
class [[nodiscard]] Session {
 public:
  Session() noexcept;  ///< of nothing
  Session(Session&&) noexcept;
  /// Ends what it was before.
  Session& operator=(Session&&) noexcept;
  /// end().
  ~Session();

  /// False: nothing is wired. weir is disabled, another session lives, or this one was moved from or has ended.
  explicit operator bool() const noexcept { return state_ != nullptr; }

  /// Delivers the spans that ended before the call.
  FlushResult flush(std::chrono::milliseconds timeout = std::chrono::milliseconds{1000}) noexcept;
  /// All zero if nothing is wired.
  SessionStats stats() const;
  /// Puts the previous root back, turns weir::tracer() off and stops the emitter; what is there is delivered within
  /// InitOptions::stop_timeout. Operations that still run go on as before, and their spans are dropped. Idempotent.
  void end() noexcept;

 private:
  friend Session init(InitOptions options);
  struct State;
  explicit Session(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

/// Reads the environment, once, and wires. With WEIR_DISABLED=1 or OTEL_SDK_DISABLED=true nothing happens: no thread, no socket, no
/// root, no telemetry. While another session lives nothing happens either, and the logger is told. Variables that make no
/// sense, and parts that cannot be wired, are told to the logger and left out. Call it in main, before threads that set
/// variables. Thread-safety: safe, as far as getenv is.
Session init(InitOptions options = {});

}  // namespace weir::inline v0
