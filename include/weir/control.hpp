#pragma once
// The control socket: how a process that is linked with weir is changed, and asked, while it runs.
//
//   int main() {
//     if (const auto listening = weir::enable_control(); !listening) std::cerr << listening.error().message << '\n';
//     …
//   }
//
//   Manager, weir ps ─▶ ControlFactory ══ control-<pid>.sock ══ a thread of the process ─▶ sampler of every Tracer
//                       (instrument/control_factory.hpp)                                ├▶ which operations observers hear
//                                                                                       ├▶ level of every LogTracker
//                                                                                       └▶ disabled keys of weir::telemetry()
//
//   off ─enable_control(), WEIR_CONTROL=1 and weir::init()─▶ listening ─disable_control(), exit(), quick_exit()─▶ off
//
// A configuration is whole: what it does not name is as the program has it by itself, and comes back as the program has set it
// meanwhile. What is in force stays so when the manager goes away, and ends with disable_control().
//
// A child of fork() neither serves the socket of its parent nor removes it, and has none unless it calls enable_control() itself;
// what is in force at the fork is so in both. docs/wire_format.md says what goes over the socket.

#include <sys/types.h>
#include <string>

#include "weir/core/logger.hpp"
#include "weir/core/result.hpp"

namespace weir::inline v0 {

struct ControlOptions {
  /// Where to listen; `%p` stands for the process id. Empty: WEIR_CONTROL if that is a path, else control_socket_path().
  std::string socket{};
  /// What the process is called in its statistics. Empty: the name that weir::init was given, else OTEL_SERVICE_NAME, else the program's.
  std::string service{};
  Logger* logger = nullptr;  ///< of what goes wrong on the thread; nullptr: stderr_logger(). Must outlive the process
};

/// Listens from now on, on a thread of its own that takes no signals. Only the process's own user and root may connect. Called
/// again, it changes nothing. With WEIR_DISABLED=1 or OTEL_SDK_DISABLED=true nothing happens, which is no error. Errors: the path is no
/// good, somebody else listens there, no thread, descriptor or memory.
/// Thread-safety: safe, as far as getenv is.
Result<void> enable_control(ControlOptions options = {});

/// Stops listening, removes the socket, and puts back what the program has by itself. Idempotent. Thread-safety: safe.
void disable_control() noexcept;

/// Where the process listens; empty while it does not. Thread-safety: safe.
std::string control_socket();

/// control-<pid>.sock in default_socket_directory(). Thread-safety: as getenv.
std::string control_socket_path(pid_t pid);

}  // namespace weir::inline v0
