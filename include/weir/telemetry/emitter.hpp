#pragma once
// Emitter: takes the payload of a Telemetry buffer on a schedule that the server steers, and sends it through a Transport, in a
// thread of its own.
//
//   weir::Emitter emitter{*telemetry, weir::HttpTransport{"https://telemetry.example.com/v1/update/"}};
//   if (auto started = emitter.start(); !started) complain(started.error().message);   // sends now, then on schedule
//   emitter.stop(std::chrono::seconds{5});                                              // sends what is left
//
//            start()                                   410, 451, stop:true
//   idle ─────────────▶ sending ──answered──▶ waiting ────────────────────▶ ended
//     ▲                  │   ▲ ◀──it is time──┘ │                            │
//     │                  ▼   │                  │ stop()                     │
//     │                 pause (a try failed)    ▼                            │
//     └──────────────────────────────────── last send ◀──────────────────────┘ stop(), without a send
//
// What becomes of a payload whose tries have all failed: if the endpoint cannot have taken it, it goes back into the buffer; if it
// may have, it is sent again as it is, under the same update_id, before anything else. Nothing is lost while the endpoint is
// away, and nothing counts twice at an endpoint that looks at update_id. With a spool directory it waits there instead, and each
// cycle's payload with it, so that a crash loses no more than a cycle.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "weir/core/clock.hpp"
#include "weir/core/logger.hpp"
#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"
#include "weir/telemetry/payload.hpp"
#include "weir/telemetry/telemetry.hpp"
#include "weir/telemetry/transport.hpp"

namespace weir::inline v0 {

/// How an emitter's thread tells time, waits and throws dice: a seam for tests. Must not throw.
class Pacer {
 public:
  virtual ~Pacer() = default;
  virtual Timestamp now() noexcept = 0;
  /// Waits; false as soon as `stop` is requested.
  virtual bool wait(std::chrono::nanoseconds time, const StopToken& stop) noexcept = 0;
  /// In [0, 1).
  virtual double random() noexcept = 0;
};

struct EmitterOptions {
  /// Between updates, until the server wishes another. Smaller: fresher figures and more load on the server. This, like the
  /// other times here, is at most a year.
  std::chrono::nanoseconds interval = std::chrono::hours{1};
  /// Up to this much is added to `interval`, at random, so that instances that start together do not send together.
  std::chrono::nanoseconds interval_jitter = std::chrono::minutes{1};
  /// Before tries 2, 3 and 4: an update is tried once more often than there are pauses.
  std::vector<std::chrono::nanoseconds> pauses{std::chrono::seconds{8}, std::chrono::seconds{27}, std::chrono::seconds{64}};
  /// Up to this part of a pause is added to it, at random.
  double pause_jitter = 0.1;
  /// Where payloads wait that are not delivered, over restarts, too; empty: nowhere. The user's own, mode 0700; made if its last
  /// component is missing. Of one emitter: it is locked.
  std::string spool_directory{};
  std::size_t max_spool_bytes = 64u << 20;  ///< beyond it a payload stays in memory
  Logger* logger = &stderr_logger();        ///< must outlive the emitter; nullptr: stderr_logger()
  std::shared_ptr<Pacer> pacer{};           ///< nullptr: the machine's clock
};

struct EmitterStats {
  std::uint64_t updates = 0;  ///< payloads the endpoint has taken
  std::uint64_t tries = 0;    ///< requests
  std::uint64_t failed_tries = 0;
  std::uint64_t merged_back = 0;  ///< payloads that went back into the buffer
  std::uint64_t kept = 0;         ///< payloads in memory that the endpoint may have taken, to be sent again: 0 or 1
  std::uint64_t spooled = 0;      ///< payloads in the spool directory now
  bool running = false;           ///< between start() and stop(), or until the server ended it
  std::string ended;              ///< why the server ended it; empty: it did not
};

/// Thread-safety: shared: safe, also start() and stop() by several threads. In the child of a fork it is as if it had never been
/// started.
class Emitter {
 public:
  template <class T>
  requires std::is_base_of_v<Transport, std::decay_t<T>> Emitter(Telemetry telemetry, T&& transport, EmitterOptions options = {})
      : Emitter(std::move(telemetry), std::make_unique<std::decay_t<T>>(std::forward<T>(transport)), std::move(options)) {}
  Emitter(Telemetry telemetry, std::unique_ptr<Transport> transport, EmitterOptions options = {});
  /// stop() with five seconds. What is kept then goes back into the buffer, too.
  ~Emitter();
  Emitter(const Emitter&) = delete;
  Emitter& operator=(const Emitter&) = delete;

  /// Sends what the buffer holds, soon, and then on schedule. After stop(), or after the server has ended it, it may be started
  /// again. Error: it is running; the buffer has no instance id; the options make no sense; no thread; the spool directory
  /// cannot be used, or another emitter uses it; a transport or a collector has not come back yet since the last stop().
  Result<void> start();

  /// Ends the schedule, tries once to send what is left, and returns when that is done or the time is over, 200 ms more at
  /// most, whatever the endpoint does. What was not delivered is in the buffer again, or in the spool; but what the endpoint may
  /// have taken is kept, and sent again by the next start(). Nothing is sent after the server has ended it. Returns true if
  /// nothing was left. A second call waits for the first and returns the same; a call by the transport, a collector of the
  /// buffer or the logger, on the emitter's own thread, does nothing and returns false.
  ///
  /// A transport, collector or logger that does not come back in time is left behind, with a thread that keeps the transport
  /// and the buffer alive, puts back into the buffer what it holds, and ends.
  bool stop(std::chrono::nanoseconds timeout = std::chrono::seconds{5});

  EmitterStats stats() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace weir::inline v0
