#pragma once
// Collector: listens on a Unix socket for the events of any number of services, assembles them (trace_store.hpp), and
// hands completed spans and traces on. Services send to it through SocketSender, or with the original's client.
//
//   weir::Collector collector{"/run/user/1000/weir/weir.sock"};
//   collector.on_trace_complete([](const weir::Trace& trace) { ... });
//   if (auto bound = collector.listen(); !bound) fail(bound.error().message);
//   collector.serve(stop.token());
//
//   created ─listen()─▶ listening ─serve()─▶ serving ─stop requested─▶ stopped (socket removed, all traces completed)
//
// Clients are not trusted: every line is checked, every buffer bounded, every overflow counted (docs/wire_format.md).

#include <sys/types.h>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "weir/collect/trace_store.hpp"
#include "weir/core/logger.hpp"
#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"

namespace weir::inline v0 {

struct CollectorOptions {
  TraceStoreOptions store;
  std::size_t max_line = 1u << 20;      ///< bytes; a longer line is skipped and counted, its connection lives
  std::size_t max_connections = 1000;   ///< further ones wait in the backlog... of the kernel
  std::chrono::seconds idle_limit{10};  ///< near max_connections: a connection that sent nothing or half a line this long is dropped
  std::vector<uid_t> allow_uids;        ///< users besides our own that may connect; also widens the socket's mode as needed
  Logger* logger = nullptr;             ///< nullptr: stderr_logger()
};

/// What the collector itself did, beside its store's counters.
struct CollectorStats {
  TraceStoreStats store;
  std::uint64_t bytes = 0, lines = 0;
  std::uint64_t rejected_malformed = 0, rejected_field = 0, rejected_too_long = 0, repaired_utf8 = 0;
  std::uint64_t connections = 0, refused_peers = 0, dropped_idle = 0;
  std::uint64_t reported_drops = 0;  ///< spans that services say they dropped
  std::size_t open_connections = 0;
  /// One line of JSON: every counter under its name.
  std::string to_json() const;
};

/// Thread-safety: shared: safe. Callbacks are set before listen() and run on the thread in serve(), outside locks.
class Collector {
 public:
  explicit Collector(std::string socket_path, CollectorOptions options = {});
  ~Collector();  ///< stops, waits for serve() to return
  Collector(const Collector&) = delete;
  Collector& operator=(const Collector&) = delete;

  void on_span_complete(std::function<void(std::string_view trace_id, const Span&)> callback);
  void on_trace_complete(std::function<void(const Trace&)> callback);

  /// Binds the socket (0600, in a directory of the user's own). Errors: path too long, a live collector on it, something
  /// there that is not a socket, a directory that others may write.
  Result<void> listen();
  /// Serves until stop is requested; then reads what has arrived, completes all traces and removes the socket.
  /// Requires: listen() succeeded.
  Result<void> serve(const StopToken& stop);
  /// listen() + serve().
  Result<void> start(const StopToken& stop);

  /// Snapshot: trace id -> completed root spans, each a tree.
  std::map<std::string, std::vector<Span>> traces() const;
  CollectorStats stats() const;
  const std::string& socket_path() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir::inline v0
