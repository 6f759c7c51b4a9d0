#pragma once
// TelemetryBackend: where a TelemetryStore keeps updates, in memory or in SQLite (private to src). A backend keeps the bounds; what
// an update is, and what is said of it, is the store's. Thread-safety: Distinct objects: safe. Shared: unsafe.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "weir/collect/telemetry_store.hpp"

namespace weir::inline v0::detail {

/// An update that has been checked.
struct TelemetryUpdate {
  struct Number {
    std::string key;  // each once
    TelemetryNumber number;
  };

  InstanceId instance;
  std::string update_id;  // empty: it has none, and is never seen before
  Timestamp received{}, time{}, expect_next{};
  std::string json;
  std::vector<Number> numbers;

  /// Against the bounds.
  std::uint64_t bytes() const {
    std::uint64_t bytes = json.size() + update_id.size();
    for (const Number& number : numbers) bytes += number.key.size() + 64;
    return bytes;
  }
};

/// What a backend did with an update.
struct TelemetryAdded {
  bool duplicate = false;  // then nothing was done
  std::uint64_t evicted_instances = 0, evicted_updates = 0;
};

struct TelemetryTotals {
  std::uint64_t instances = 0, updates = 0, bytes = 0;
};

class TelemetryBackend {
 public:
  virtual ~TelemetryBackend() = default;
  /// All of it or nothing. Requires: bytes() is within each bound.
  virtual Result<TelemetryAdded> add(const TelemetryUpdate& update) = 0;
  virtual Result<TelemetryTotals> totals() = 0;
  virtual Result<std::vector<TelemetryInstance>> instances(std::size_t limit, std::size_t offset) = 0;
  virtual Result<std::optional<TelemetryInstance>> instance(const InstanceId& id) = 0;
  virtual Result<std::vector<std::string>> keys(const InstanceId& id, std::size_t limit, std::string_view after) = 0;
  virtual Result<std::string> last_update(const InstanceId& id) = 0;
  virtual Result<TelemetrySeries> series(const InstanceId& id, std::string_view key, std::optional<Timestamp> since, std::size_t limit) = 0;
};

std::unique_ptr<TelemetryBackend> make_memory_backend(const TelemetryStoreOptions& options);
/// Errors: as TelemetryStore::open.
Result<std::unique_ptr<TelemetryBackend>> open_sqlite_backend(const TelemetryStoreOptions& options);

}  // namespace weir::inline v0::detail
