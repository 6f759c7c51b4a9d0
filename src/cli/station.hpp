#pragma once
// Station: a collector with its view server and what it prints, as `collect` and `run` need them.
//
//   services ══▶ Collector ─spans─▶ ViewServer ══▶ viewers
//                    ├─traces─▶ Printer ─▶ stdout or stderr
//                    └─traces─▶ TraceDatabase ─▶ a file, from which the next one restores them

#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "cli/commands.hpp"
#include "cli/output.hpp"
#include "weir/collect/collector.hpp"
#include "weir/collect/trace_database.hpp"
#include "weir/core/stop.hpp"
#include "weir/view/view_server.hpp"

namespace weir::cli {

/// Thread-safety: Distinct objects: safe. Shared: unsafe, but for the stop token.
class Station {
 public:
  /// Prints traces to `fd`, called `name` in messages.
  Station(const CollectSettings& settings, int fd, std::string name);
  ~Station();
  Station(const Station&) = delete;
  Station& operator=(const Station&) = delete;

  /// Opens the database and restores what it keeps; then binds both sockets.
  Result<void> listen();
  /// Collects until stop is requested; then everything is printed, offered to the viewers, and closed.
  Result<void> serve(const StopToken& stop);

  /// Counters of somebody else's, a line of JSON, as "telemetry" among ours. Safe to call from any thread. Set before serve().
  void also_count(std::function<std::string()> telemetry) { telemetry_ = std::move(telemetry); }
  /// One line of JSON: the collector's counters, "view", "print" and, where they are, "db" and "telemetry". What `weir stats` gets.
  std::string counters() const;
  CollectorStats stats() const { return collector_.stats(); }
  /// Traces that are not in the database.
  std::uint64_t not_stored() const { return database_ ? database_->stats().dropped() : 0; }
  const std::string& socket() const { return collector_.socket_path(); }
  const std::string& view_socket() const { return view_.socket_path(); }

 private:
  Result<void> restore();

  const std::string db_;
  const TraceDatabaseOptions db_options_;
  std::function<std::string()> telemetry_;
  ViewServer view_;
  std::optional<Printer> printer_;
  std::optional<TraceDatabase> database_;
  Collector collector_;  // its callbacks use the others
};

}  // namespace weir::cli
