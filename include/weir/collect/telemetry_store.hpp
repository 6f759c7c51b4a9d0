#pragma once
// TelemetryStore: what telemetry updates become, without HTTP. A TelemetryServer hands it bodies and gets answers; whoever
// shows telemetry asks it for instances and their series.
//
//   body ─receive()─▶ checked ─▶ stored, once per update_id ─▶ instances() series()
//                        │            └─ beyond a bound the oldest leave, counted
//                        └─ 400 and why
//
// An update is kept as its JSON, and its numbers as series: "requests" of a counter or a number that was set, "memory.rss" of
// a nested one, "latency.count", "latency.p99" of a histogram. Lists and sets have none.

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "weir/core/clock.hpp"
#include "weir/core/logger.hpp"
#include "weir/core/result.hpp"
#include "weir/telemetry/instance_id.hpp"
#include "weir/telemetry/payload.hpp"

namespace weir::inline v0 {

struct TelemetryStoreOptions {
  /// Of the database (SQLite), made with mode 0600 if it is not there. Empty: in memory, and gone with the store.
  std::string path{};
  /// Beyond it the instance leaves that has been silent for longest.
  std::size_t max_instances = 10'000;
  /// Kept of one instance; beyond either its oldest leave.
  std::size_t max_updates = 10'000, max_instance_bytes = 64u << 20;
  /// Kept of all: JSON, and 64 bytes and its key for each number. Beyond it the oldest updates leave. A database file is larger,
  /// by half perhaps, and does not shrink.
  std::size_t max_bytes = 256u << 20;
  std::chrono::seconds max_age = std::chrono::hours{24 * 90};  ///< older updates and instances leave
  std::size_t max_numbers = 10'000;                            ///< of one update in series; further ones are in its JSON only
  Logger* logger = nullptr;                                    ///< nullptr: stderr_logger(); must outlive the store
};

/// What an HTTP client is told. The body is JSON: a Response, or {"error":"…"}.
struct TelemetryAnswer {
  int status = 200;
  std::string body;
  std::chrono::seconds retry_after{0};  ///< 0: not said
};

struct TelemetryInstance {
  InstanceId id;
  Timestamp first_seen{}, last_seen{};
  Timestamp expect_next{};    ///< when its next update should be here
  std::uint64_t updates = 0;  ///< received, each once
  std::uint64_t kept = 0;     ///< of these
  std::uint64_t bytes = 0;    ///< of what is kept
};

using TelemetryNumber = std::variant<std::int64_t, double>;

struct TelemetryPoint {
  Timestamp time{};  ///< the update's own, or when it was received if that is earlier
  TelemetryNumber number;
};

struct TelemetrySeries {
  std::vector<TelemetryPoint> points;  ///< the oldest first
  bool more = false;                   ///< there are more than were asked for
};

/// Counted since the store was opened, but for instances, updates_kept and bytes, which are what it holds.
struct TelemetryStoreStats {
  std::uint64_t updates = 0, duplicates = 0;  ///< stored; seen before
  std::uint64_t rejected = 0;                 ///< no updates of the right shape
  std::uint64_t failed = 0;                   ///< answered 503: the database could not take them
  std::uint64_t evicted_instances = 0, evicted_updates = 0;
  std::uint64_t dropped_numbers = 0;  ///< not in series: beyond max_numbers, or a key over 256 bytes
  std::uint64_t instances = 0, updates_kept = 0, bytes = 0;
  /// One line of JSON: every counter under its name.
  std::string to_json() const;
};

/// Thread-safety: shared: safe. Movable.
class TelemetryStore {
 public:
  /// Error: the path is no database, one of another program or of a newer weir, damaged, in use, or cannot be written; a bound is 0;
  /// a path, and this weir is built without SQLite. The message names the file.
  static Result<TelemetryStore> open(TelemetryStoreOptions options = {});
  TelemetryStore(TelemetryStore&&) noexcept;
  TelemetryStore& operator=(TelemetryStore&&) noexcept;
  ~TelemetryStore();

  /// Stores an update that came for an instance at `now` and answers it with `response`. 200: it is stored, for good if there is a
  /// database file; one that was seen before is answered in the same way and stored once. 400: the body is not what
  /// docs/wire_format.md says, and which member is wrong. 413: larger than what is kept. 503: try again later.
  TelemetryAnswer receive(const InstanceId& id, std::string_view body, const Response& response, Timestamp now);

  /// The one that was heard last comes first. Errors of these: the database cannot be read.
  Result<std::vector<TelemetryInstance>> instances(std::size_t limit, std::size_t offset = 0) const;
  Result<std::optional<TelemetryInstance>> instance(const InstanceId& id) const;
  /// The keys that there are series of, in order, from behind `after` on.
  Result<std::vector<std::string>> keys(const InstanceId& id, std::size_t limit, std::string_view after = {}) const;
  /// The JSON of the update that was received last; empty: none is kept.
  Result<std::string> last_update(const InstanceId& id) const;
  /// The first `limit` points from `since` on; without it the last `limit`.
  Result<TelemetrySeries> series(const InstanceId& id, std::string_view key, std::optional<Timestamp> since, std::size_t limit) const;
  TelemetryStoreStats stats() const;

 private:
  struct State;
  explicit TelemetryStore(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

}  // namespace weir::inline v0
