#pragma once
// ViewClient: receives completed spans from a ViewServer (ours or the original's).
//
//   weir::ViewClient client{"/run/user/1000/weir/weir-view.sock"};
//   auto ended = client.run(stop.token(), [](std::string_view trace_id, const weir::Span& span) { ... });

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"
#include "weir/trace/span.hpp"

namespace weir::inline v0 {

/// Thread-safety: Distinct objects: safe. Shared: unsafe, but for the stop token given to run(). Callbacks run on the thread
/// in run().
class ViewClient {
 public:
  explicit ViewClient(std::string socket_path);

  /// Asks for the spans of the last `traces` traces on each connection; they come before live ones. A span that ends while
  /// we connect can come twice: the first one counts (as in TreeAssembler). 0, the default: live spans only; so it is with
  /// servers that know no such request, the original's. Set before run().
  void replay(std::size_t traces) { replay_ = traces, once_ = false; }
  /// The same, and the server closes the connection behind them: run() returns. The original's knows no such request, and sends
  /// live spans.
  void replay_once(std::size_t traces) { replay_ = traces, once_ = true; }
  /// Called when connected. The server broadcasts to us from the moment it accepts the connection, shortly after. Set
  /// before run().
  void on_connected(std::function<void()> callback);
  /// Called when the server says that it dropped lines for us, with their number. Set before run().
  void on_dropped(std::function<void(std::uint64_t count)> callback);

  /// Called when the server says that spans of a service were lost before they came to the collector. Set before run().
  void on_loss(std::function<void(std::string_view service, std::uint64_t spans)> callback);

  /// Connects and calls `on_span` for each span until stop is requested or the server closes the connection, which both
  /// return success; can be called again. Errors: nothing to connect to (as connect(2) says it), or a callback threw: then
  /// the connection is closed, and the message says what. Lines over 1 MiB and lines that do not parse are skipped and
  /// counted.
  Result<void> run(const StopToken& stop, const std::function<void(std::string_view trace_id, const Span&)>& on_span);

  /// The counters of the collector whose view server this is, as JSON on one line; on a connection of its own. Whatever else comes is
  /// passed over. Errors: nothing to connect to; connection_reset: closed without an answer, as when it lets nobody else in;
  /// timed_out: no answer within `timeout`, as from the original's collector, which does not know the request.
  Result<std::string> stats(std::chrono::milliseconds timeout = std::chrono::seconds{1}) const;

  /// Lines skipped, over all runs.
  std::uint64_t skipped_lines() const noexcept { return skipped_; }
  /// Lines that servers say they dropped, over all runs.
  std::uint64_t dropped_lines() const noexcept { return dropped_; }
  const std::string& socket_path() const noexcept { return socket_path_; }

 private:
  Result<void> receive(const StopToken& stop, const std::function<void(std::string_view, const Span&)>& on_span);
  void take_line(std::string_view line, const std::function<void(std::string_view, const Span&)>& on_span);

  std::string socket_path_;
  std::function<void()> on_connected_;
  std::function<void(std::uint64_t)> on_dropped_;
  std::function<void(std::string_view, std::uint64_t)> on_loss_;
  std::size_t replay_ = 0;
  bool once_ = false;
  std::uint64_t skipped_ = 0;
  std::uint64_t dropped_ = 0;
};

}  // namespace weir::inline v0
