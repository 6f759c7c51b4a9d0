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
  TraceStoreOptions store{};
  std::size_t max_line = 1u << 20;       ///< bytes; a longer line is skipped and counted, its connection lives
  std::size_t max_buffered = 64u << 20;  ///< bytes of half lines, of all connections; beyond it such a line is skipped and counted
  /// Further ones wait in the kernel's backlog. At most what the limit on open files leaves after 64 for everything else.
  std::size_t max_connections = 1000;
  /// At nine tenths of max_connections, a connection that for this long sent nothing of use or half a line is dropped.
  std::chrono::milliseconds idle_limit{10'000};
  bool native = true;                                 ///< false: services are not told that they may send more than JSON lines
  bool shared_memory = true;                          ///< false: what they send natively comes over the socket; their memory is not mapped
  std::size_t max_rings = 4096;                       ///< rings of all services together; those of further ones are refused, and counted
  std::size_t max_ring_bytes = std::size_t{4} << 30;  ///< memory of services that is mapped; it is theirs, and only read
  std::vector<uid_t> allow_uids{};                    ///< users besides our own that may connect; also widens the socket's mode as needed
  Logger* logger = nullptr;                           ///< nullptr: stderr_logger()
};

/// What the collector itself did, beside its store's counters.
struct CollectorStats {
  TraceStoreStats store;
  std::uint64_t bytes = 0, lines = 0;
  std::uint64_t rejected_malformed = 0;                       ///< lines that are no JSON, or none that we know
  std::uint64_t rejected_field = 0;                           ///< events with a field of the wrong type, missing, or out of range
  std::uint64_t rejected_too_long = 0, rejected_no_room = 0;  ///< over max_line; over max_buffered or out of memory
  std::uint64_t repaired_utf8 = 0;                            ///< lines accepted after invalid UTF-8 became U+FFFD
  std::uint64_t connections = 0, refused_peers = 0, dropped_idle = 0;
  std::uint64_t native_spans = 0;         ///< read from rings, or in their format from the socket
  std::uint64_t rejected_records = 0;     ///< records that cannot be spans
  std::uint64_t broken_rings = 0;         ///< rings that are not read any more: what they hold can only be a lie
  std::uint64_t refused_descriptors = 0;  ///< descriptors that came with no line to claim them
  std::uint64_t listener_pauses = 0;      ///< times that nobody was let in: at max_connections, or out of descriptors
  std::uint64_t reported_drops = 0;       ///< spans that services say they dropped; those below are the reasons they gave
  std::uint64_t reported_full = 0, reported_too_large = 0, reported_no_ring = 0, reported_reentrant = 0;
  /// Spans that services had sent here, as their next hello says, and that were never read: their connection was closed
  /// first. At least; those sent to an earlier collector are not among them.
  std::uint64_t lost_spans = 0;
  std::size_t open_connections = 0;
  /// One line of JSON: every counter under its name, those of the store in an object "store".
  std::string to_json() const;
};

/// Thread-safety: shared: safe. Callbacks are set before serve() and run on its thread, outside locks; they may call every
/// const member. What they throw is counted and goes no further.
class Collector {
 public:
  explicit Collector(std::string socket_path, CollectorOptions options = {});
  ~Collector();  ///< stops, waits for serve() to return
  Collector(const Collector&) = delete;
  Collector& operator=(const Collector&) = delete;

  /// `wanted`, if set, is asked before a span or a trace is made for the callback: what is not wanted costs nothing. It is called
  /// under the collector's lock, must be quick, and must not call the collector.
  void on_span_complete(std::function<void(std::string_view trace_id, const Span&)> callback, std::function<bool()> wanted = {});
  void on_trace_complete(std::function<void(const Trace&)> callback, std::function<bool()> wanted = {});
  /// See TraceStore::on_trace_changed().
  void on_trace_changed(std::function<void(const Trace&)> callback);

  /// Called when a service says that it dropped spans, and when spans that it had sent turn out never to have been read.
  void on_loss(std::function<void(std::string_view service, std::uint64_t spans)> callback);

  /// Takes in a trace of an earlier collector that was completed at `completed`: traces() and last_traces() have it, no callback is
  /// called, and what comes for it is late. The oldest first. Error: it serves already, or there is no memory for it.
  Result<void> restore(const Trace& trace, Timestamp completed);

  /// Binds the socket (0600, in a directory of the user's own). Errors: path too long, a live collector on it, something
  /// there that is not a socket, a directory that others may write.
  Result<void> listen();
  /// Serves until stop is requested; then reads what has arrived, completes all traces and removes the socket. Errors:
  /// listen() has not succeeded, or the kernel refuses an epoll or event descriptor.
  Result<void> serve(const StopToken& stop);
  /// listen() + serve().
  Result<void> start(const StopToken& stop);

  /// Snapshot: trace id -> completed root spans, each a tree.
  std::map<std::string, std::vector<Span>> traces() const;
  /// What a viewer missed: the newest `count` traces, see TraceStore::last_traces(). For ViewServer::on_replay().
  Replay last_traces(std::size_t count, std::size_t max_bytes = 1u << 20) const;
  CollectorStats stats() const;
  const std::string& socket_path() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir::inline v0
