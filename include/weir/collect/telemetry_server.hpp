#pragma once
// TelemetryServer: the server side of telemetry, over HTTP. Emitters send their updates to it, a TelemetryStore keeps them, a policy file
// steers the emitters; people and programs read instances and series from it. docs/wire_format.md has requests and answers.
//
//   POST /v1/update/{id}             an update; the answer is what the policy wishes
//   GET  /v1/instances               who has sent, the last one first
//   GET  /v1/instances/{id}          one of them: its keys and its last update
//   GET  /v1/instances/{id}/series   the numbers of one key
//   GET  /v1/processes               the processes of an agent (docs/instrumentation.md), where there is one
//
// For users of this machine: requests are answered only under a local name, and not for pages of other servers. There is no
// authentication; whoever can reach the address can send and read.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "weir/collect/telemetry_policy.hpp"
#include "weir/collect/telemetry_store.hpp"
#include "weir/core/clock.hpp"
#include "weir/core/logger.hpp"
#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"

namespace weir::inline v0 {

struct TelemetryServerOptions {
  std::size_t max_body = 4u << 20;                 ///< bytes of one update, also decompressed
  std::size_t max_connections = 256;               ///< beyond it the one leaves that has sent its request, or read its answer, for longest
  std::size_t max_buffered = 64u << 20;            ///< bytes of all requests and answers; beyond it the same, or 503
  std::size_t threads = 2;                         ///< that answer whole requests
  std::chrono::milliseconds request_time{10'000};  ///< for sending a request, from the connection on
  std::chrono::milliseconds answer_time{10'000};   ///< for reading the answer
  /// What GET /v1/processes answers, in JSON; its error is answered 503. Called by several threads at once, each of which it holds up.
  /// Nothing: 404.
  std::function<Result<std::string>()> processes{};
  const Clock* clock = nullptr;  ///< of updates; nullptr: the system's
  Logger* logger = nullptr;      ///< nullptr: stderr_logger()
};

struct TelemetryServerStats {
  TelemetryStoreStats store;
  std::uint64_t connections = 0, requests = 0;
  std::uint64_t refused_hosts = 0;     ///< requests under a foreign name, or for a foreign page: answered 403
  std::uint64_t refused_requests = 0;  ///< too large, or no HTTP that we know
  std::uint64_t timed_out = 0;         ///< requests and answers that took too long
  std::uint64_t dropped = 0;           ///< unfinished requests and answers that made room for others
  std::uint64_t listener_pauses = 0;   ///< times that nobody was let in: out of descriptors
  std::size_t open_connections = 0;
  /// One line of JSON: the store's counters, and the others in an object "http".
  std::string to_json() const;
};

/// Thread-safety: shared: safe.
class TelemetryServer {
 public:
  /// `address`: "4318", "127.0.0.1:4318", "[::1]:4318", "unix:/run/weir/http.sock"; a port alone is one of 127.0.0.1, port 0 any
  /// that is free. Store, policy (nullptr: an update each hour), clock and logger must outlive the server.
  TelemetryServer(std::string address, TelemetryStore& store, TelemetryPolicyFile* policy = nullptr, TelemetryServerOptions options = {});
  ~TelemetryServer();
  TelemetryServer(const TelemetryServer&) = delete;
  TelemetryServer& operator=(const TelemetryServer&) = delete;

  /// Whether `address` is written as one is.
  static Result<void> check_address(const std::string& address);

  /// Error: no address; in use, or not this machine's; the rules of the collector's socket are broken (a Unix socket); this weir
  /// is built without cpp-httplib.
  Result<void> listen();
  /// Serves until stop is requested; updates that have arrived are stored and answered then, within a second. Error: listen() has
  /// not succeeded; the socket is of no use any more; no thread; no memory.
  Result<void> serve(const StopToken& stop);

  /// As it is written; the port is the one that was found, once listen() has succeeded.
  std::string address() const;
  TelemetryServerStats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir::inline v0
