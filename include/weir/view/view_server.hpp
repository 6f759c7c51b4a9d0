#pragma once
// ViewServer: broadcasts completed spans, as JSON lines, to any number of viewers on a Unix socket.
//
//   collector.on_span_complete([&](std::string_view, const weir::Span& span) { view.broadcast(span); });
//
// A viewer that does not read costs a bounded queue and nobody else anything: beyond `max_queued_bytes` its oldest lines
// go and it is told how many with a line ["dropped",n]; a viewer that accepts no byte for `stall_limit` is disconnected.

#include <sys/types.h>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "weir/core/logger.hpp"
#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"
#include "weir/trace/span.hpp"

namespace weir::inline v0 {

struct ViewServerOptions {
  std::size_t max_clients = 128;                ///< further ones are disconnected at once and counted
  std::size_t max_queued_bytes = 1u << 20;      ///< per client; beyond it the oldest lines go
  std::chrono::milliseconds stall_limit{5000};  ///< a client that accepts nothing this long is disconnected
  std::vector<uid_t> allow_uids;                ///< users besides our own that may connect
  Logger* logger = nullptr;                     ///< nullptr: stderr_logger()
};

struct ViewServerStats {
  std::uint64_t broadcast = 0;  ///< spans
  std::uint64_t dropped = 0;    ///< lines dropped, over all clients
  std::uint64_t clients = 0, stalled = 0, refused = 0;
};

/// Thread-safety: shared: safe. broadcast() never blocks on a client.
class ViewServer {
 public:
  explicit ViewServer(std::string socket_path, ViewServerOptions options = {});
  ~ViewServer();  ///< close(), waits for serve() to return
  ViewServer(const ViewServer&) = delete;
  ViewServer& operator=(const ViewServer&) = delete;

  /// Binds the socket; errors as Collector::listen().
  Result<void> listen();
  /// Serves until stop is requested or close() is called. Requires: listen() succeeded.
  Result<void> serve(const StopToken& stop);
  /// listen() + serve().
  Result<void> start(const StopToken& stop);

  /// Queues one line (without children) for every client.
  void broadcast(const Span& span);
  /// Disconnects all clients, after what is queued was offered to them once, and removes the socket. Idempotent.
  void close();

  std::size_t conn_count() const;
  ViewServerStats stats() const;
  const std::string& socket_path() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir::inline v0
