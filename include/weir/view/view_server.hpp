#pragma once
// ViewServer: broadcasts completed spans, as JSON lines, to any number of viewers on a Unix socket.
//
//   collector.on_span_complete([&](std::string_view, const weir::Span& span) { view.broadcast(span); });
//
//   broadcast() ─▶ one log of lines, a place in it per viewer ─sent by the thread in serve(), many at once─▶ socket
//   created ─listen()─▶ listening ─serve()─▶ serving ─stop requested or close()─▶ closed (socket removed)
//
// A viewer that does not read costs a bounded piece of that log and nobody else anything: beyond `max_queued_bytes` its oldest lines
// go, whole, and it is told how many with a line ["dropped",n]; one that accepts no byte for `stall_limit` is disconnected.
// A viewer may ask for the past: with ["last",n] as its first line it gets the spans of the newest n traces before what
// comes; with ["last",n,"once"] these alone, and is disconnected. Who sends ["stats"] as its first line is no viewer: it gets the counters,
// in one line, and is disconnected. What else viewers send is read and ignored, up to `max_input` bytes.

#include <sys/types.h>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "weir/core/logger.hpp"
#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"
#include "weir/trace/replay.hpp"
#include "weir/trace/span.hpp"

namespace weir::inline v0 {

struct ViewServerOptions {
  std::size_t max_clients = 128;                ///< further ones are disconnected at once and counted
  std::size_t max_queued_bytes = 1u << 20;      ///< per client; beyond it the oldest lines go. Larger: slower viewers miss less
  std::chrono::milliseconds stall_limit{5000};  ///< a client that accepts nothing this long is disconnected
  std::size_t max_input = 4096;                 ///< bytes; a client that sends more is disconnected
  std::size_t max_replay = 1000;                ///< traces that a viewer gets at most when it asks for the last ones
  std::vector<uid_t> allow_uids{};              ///< users besides our own that may connect; widens the socket's mode as needed
  Logger* logger = nullptr;                     ///< nullptr: stderr_logger()
};

/// Counted since the server was made. queued == sent + dropped + abandoned + waiting, always.
struct ViewServerStats {
  std::uint64_t broadcast = 0;  ///< spans
  std::uint64_t queued = 0;     ///< lines, over all clients
  std::uint64_t sent = 0;       ///< lines that the kernel took whole
  std::uint64_t dropped = 0;    ///< lines that went for the bound's sake
  std::uint64_t abandoned = 0;  ///< lines that still waited when their client left or was disconnected
  std::uint64_t clients = 0;    ///< clients served
  std::uint64_t replays = 0;    ///< clients that asked for the last traces and were answered
  std::uint64_t inquiries = 0;  ///< clients that asked for the counters and were answered
  std::uint64_t stalled = 0;    ///< clients disconnected because they accepted nothing
  std::uint64_t flooding = 0;   ///< clients disconnected because they sent too much
  std::uint64_t refused = 0;    ///< clients over max_clients, or of a user who is not allowed
  std::size_t waiting = 0;      ///< lines, now
  std::size_t open_clients = 0;
  /// One line of JSON: every counter under its name.
  std::string to_json() const;
};

/// Thread-safety: shared: safe. broadcast() never blocks on a client and makes no system call that a client can stall.
class ViewServer {
 public:
  explicit ViewServer(std::string socket_path, ViewServerOptions options = {});
  ~ViewServer();  ///< close()
  ViewServer(const ViewServer&) = delete;
  ViewServer& operator=(const ViewServer&) = delete;

  /// Where the spans come from when a viewer asks for the last traces; without it there are none. Called on the
  /// thread in serve(), outside locks, once per viewer that asks; `max_bytes` of text are all that is of use. What it
  /// throws is logged, and that viewer gets live spans only, or, if it asked for the past alone, is disconnected. Set before serve(); what
  /// it uses must outlive that.
  ///   view.on_replay([&](std::size_t traces, std::size_t max_bytes) { return collector.last_traces(traces, max_bytes); });
  void on_replay(std::function<Replay(std::size_t traces, std::size_t max_bytes)> source);

  /// What is answered to ["stats"]: a JSON value on one line; without it such requests are ignored. Called as the above is, once
  /// per client that asks. When it throws, or its text is over max_queued_bytes, 1 MiB, or one line, that is logged, and that
  /// client gets live spans, as from a server that does not know the request. Set before serve(); what it uses must outlive that.
  ///   view.on_stats([&] { return collector.stats().to_json(); });
  void on_stats(std::function<std::string()> source);

  /// Binds the socket; errors as Collector::listen(), and invalid_argument when called twice or after close().
  Result<void> listen();
  /// Serves until stop is requested or close() is called, then closes. Error: invalid_argument without listen(), or while
  /// another thread serves.
  Result<void> serve(const StopToken& stop);
  /// listen() + serve().
  Result<void> start(const StopToken& stop);

  /// Queues one line (without children) for every client. A span whose line is over 1 MiB, or over max_queued_bytes, is
  /// dropped for all of them.
  void broadcast(const Span& span);
  /// Tells every client that spans of a service were lost: a line ["lost",{"service":…,"spans":n}].
  void broadcast_loss(std::string_view service, std::uint64_t spans);
  /// Disconnects all clients, after what is queued was offered to them once, removes the socket, and waits for serve() to
  /// be done with it. Idempotent.
  void close();

  /// Viewers connected now.
  std::size_t conn_count() const;
  ViewServerStats stats() const;
  const std::string& socket_path() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir::inline v0
