#pragma once
// ControlFactory: the Factory of Distribution{"cpp", "weir"}: changes processes that are linked with weir through their control
// sockets (control.hpp). It needs no privileges, and changes nothing but what they offer.
//
//   auto factory = std::make_shared<weir::ControlFactory>();
//   auto manager = weir::Manager<…>::create({.factories = {{{"cpp", "weir"}, factory}}, …});
//   auto text = factory->statistics(pid);                      // for people: weir ps
//
//   key of Config          takes                                              changes
//   sampling               0 to 1, "always", "never", "ratio:0.1",            the sampler of every Tracer
//                          "traceidratio:0.1" and its kin
//   disabled_operations    globs of names or types of operations              what observers, and so spans and metrics, hear of
//   log_level              "debug", "info", "warn", "error"                   what each LogTracker writes
//   disabled_keys          globs of keys                                      what weir::telemetry() keeps
//
// Where the socket is: what the process's own WEIR_CONTROL and XDG_RUNTIME_DIR say, in its own root directory if that is
// another than ours, and as the user that it is in its own user namespace. That must map our uid, to the process's own or to root:
// else the process takes us for nobody, and refuses. A process that changes these variables itself, or names a path in
// ControlOptions, is found with the options here.
//
// apply_config() waits for the process's answer: one that makes no sense to the process is an error that names each key, and
// changes nothing. A process that does not answer (SIGSTOP, a debugger) is an error after the timeout. When an instrumentation is
// closed, the process keeps what it was given last.

#include <sys/types.h>
#include <chrono>
#include <memory>
#include <string>

#include "weir/core/result.hpp"
#include "weir/instrument/instrumentation.hpp"

namespace weir::inline v0 {

struct ControlFactoryOptions {
  /// Of sockets called control-<pid>.sock. Empty: that of each process, as its environment says.
  std::string directory{};
  /// For each of: the socket to come (for a process whose environment asks for one), to connect, an answer. Larger: patience with
  /// busy processes; smaller: a manager that waits less for stopped ones.
  std::chrono::milliseconds timeout{2000};
};

/// Thread-safety: shared: safe.
class ControlFactory final : public Factory {
 public:
  explicit ControlFactory(ControlFactoryOptions options = {});
  ~ControlFactory() override;
  ControlFactory(const ControlFactory&) = delete;
  ControlFactory& operator=(const ControlFactory&) = delete;

  /// Errors: InstrumentErrc::not_applicable if the process has no control socket and does not ask for one, saying what would
  /// help; no_such_process; permission_denied for one of another user.
  ///
  /// Of what it returns: load() waits for the socket, checks that the process itself listens there and speaks version 1, and applies
  /// Settings::initial_config. Status names "socket", and "configuration" with the error if the process refuses it, which
  /// is no failure. run() ends without error when the process ends.
  Result<std::unique_ptr<Instrumentation>> create(pid_t pid, const Settings& settings) override;

  /// What the process says of itself, a JSON object (docs/wire_format.md). Errors: as create(), load(). Blocks up to twice the timeout.
  Result<std::string> statistics(pid_t pid) const;

 private:
  const ControlFactoryOptions options_;
};

}  // namespace weir::inline v0
