// The backend of a TelemetryStore that keeps updates in an SQLite database. Each update is a transaction in the write-ahead log, on the
// disk before add() returns.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "collect/sqlite.hpp"
#include "collect/telemetry_backend.hpp"

namespace weir::inline v0::detail {

namespace {

using namespace sqlite;

/// Times are nanoseconds since 1970. `updates` and `totals` are counts of what is there; instances.updates counts what came.
constexpr const char* telemetry_schema = R"(
CREATE TABLE totals(instances INTEGER NOT NULL, updates INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO totals VALUES(0, 0, 0);
CREATE TABLE instances(id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, first_seen INTEGER NOT NULL, last_seen INTEGER NOT NULL,
  expect_next INTEGER NOT NULL, updates INTEGER NOT NULL, kept INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE INDEX instances_by_time ON instances(last_seen, uuid);
CREATE TABLE updates(id INTEGER PRIMARY KEY AUTOINCREMENT, instance INTEGER NOT NULL, update_id TEXT, received INTEGER NOT NULL,
  bytes INTEGER NOT NULL, json TEXT NOT NULL);
CREATE INDEX updates_by_instance ON updates(instance, id);
CREATE UNIQUE INDEX updates_once ON updates(instance, update_id) WHERE update_id IS NOT NULL;
CREATE TABLE numbers(instance INTEGER NOT NULL, key TEXT NOT NULL, time INTEGER NOT NULL, update_row INTEGER NOT NULL, number NOT NULL,
  PRIMARY KEY(instance, key, time, update_row)) WITHOUT ROWID;
CREATE INDEX numbers_by_update ON numbers(update_row);
)";

class SqliteBackend final : public TelemetryBackend {
 public:
  explicit SqliteBackend(const TelemetryStoreOptions& options) : options_(options) {}

  Result<void> open() {
    const std::string doing = "cannot open the telemetry database '" + options_.path + "'";
    if (auto opened = open_database(database_, options_.path, doing, {telemetry_application, 1, telemetry_schema}); !opened) return opened;
    try {
      database_.run("PRAGMA synchronous = FULL");
      Statement totals(database_, "SELECT instances, updates, bytes FROM totals");
      if (!totals.step()) return failure(doing + ": it is damaged: a table is empty. Move it away, and a new one is made");
      return {};
    } catch (const Refused& refused) {
      return explain(doing, refused);
    }
  }

  Result<TelemetryAdded> add(const TelemetryUpdate& update) override {
    return guarded<TelemetryAdded>("write to", [&] {
      TelemetryAdded added;
      Transaction transaction(database_);
      const std::int64_t instance = instance_row(update);
      if (!update.update_id.empty()) {
        Statement seen(database_, "SELECT 1 FROM updates WHERE instance = ? AND update_id = ?", instance,
                       std::string_view(update.update_id));
        if (seen.step()) return TelemetryAdded{.duplicate = true};  // and what instance_row() made is undone
      }
      const std::int64_t bytes = whole(update.bytes());
      if (update.update_id.empty()) {
        Statement(database_, "INSERT INTO updates(instance, received, bytes, json) VALUES(?, ?, ?, ?)", instance, nanos(update.received),
                  bytes, std::string_view(update.json))
            .run();
      } else {
        Statement(database_, "INSERT INTO updates(instance, received, bytes, json, update_id) VALUES(?, ?, ?, ?, ?)", instance,
                  nanos(update.received), bytes, std::string_view(update.json), std::string_view(update.update_id))
            .run();
      }
      const std::int64_t row = ::sqlite3_last_insert_rowid(database_.handle());
      Statement number(database_, "INSERT INTO numbers VALUES(?, ?, ?, ?, ?)");
      for (const auto& [key, value] : update.numbers) {
        number.bind(instance, std::string_view(key), nanos(update.time), row, value);
        number.run();
      }
      Statement(
          database_,
          "UPDATE instances SET last_seen = max(last_seen, ?), expect_next = ?, updates = updates + 1, kept = kept + 1, bytes = bytes + ? "
          "WHERE id = ?",
          nanos(update.received), nanos(update.expect_next), bytes, instance)
          .run();
      Statement(database_, "UPDATE totals SET updates = updates + 1, bytes = bytes + ?", bytes).run();
      evict(instance, update.received, added);
      transaction.commit();
      return added;
    });
  }

  Result<TelemetryTotals> totals() override {
    return guarded<TelemetryTotals>("read", [&] { return current_totals(); });
  }

  Result<std::vector<TelemetryInstance>> instances(std::size_t limit, std::size_t offset) override {
    return guarded<std::vector<TelemetryInstance>>("read", [&] {
      std::vector<TelemetryInstance> all;
      Statement rows(database_, std::string(columns_) + " ORDER BY last_seen DESC, uuid LIMIT ? OFFSET ?", whole(limit), whole(offset));
      while (rows.step()) all.push_back(instance_of(rows));
      return all;
    });
  }

  Result<std::optional<TelemetryInstance>> instance(const InstanceId& id) override {
    return guarded<std::optional<TelemetryInstance>>("read", [&]() -> std::optional<TelemetryInstance> {
      const std::string uuid = id.to_string();
      Statement rows(database_, std::string(columns_) + " WHERE uuid = ?", std::string_view(uuid));
      if (!rows.step()) return std::nullopt;
      return instance_of(rows);
    });
  }

  Result<std::vector<std::string>> keys(const InstanceId& id, std::size_t limit, std::string_view after) override {
    return guarded<std::vector<std::string>>("read", [&] {
      std::vector<std::string> keys;
      const std::int64_t instance = row_of(id);
      std::string last(after);
      // From one key to the next by the index, and not through all numbers of each.
      while (keys.size() < limit) {
        Statement next(database_, "SELECT key FROM numbers WHERE instance = ? AND key > ? ORDER BY key LIMIT 1", instance,
                       std::string_view(last));
        if (!next.step()) break;
        keys.push_back(next.text(0));
        last = keys.back();
      }
      return keys;
    });
  }

  Result<std::string> last_update(const InstanceId& id) override {
    return guarded<std::string>("read", [&] {
      Statement rows(database_, "SELECT json FROM updates WHERE instance = ? ORDER BY id DESC LIMIT 1", row_of(id));
      return rows.step() ? rows.text(0) : std::string();
    });
  }

  Result<TelemetrySeries> series(const InstanceId& id, std::string_view key, std::optional<Timestamp> since, std::size_t limit) override {
    return guarded<TelemetrySeries>("read", [&] {
      TelemetrySeries series;
      constexpr std::string_view first =
          "SELECT time, number FROM numbers WHERE instance = ? AND key = ? AND time >= ? ORDER BY time, update_row LIMIT ?";
      constexpr std::string_view last =
          "SELECT time, number FROM numbers WHERE instance = ? AND key = ? AND time >= ? ORDER BY time DESC, update_row DESC LIMIT ?";
      Statement rows(database_, since ? first : last, row_of(id), key, since ? nanos(*since) : INT64_MIN, whole(limit) + 1);
      while (rows.step()) {
        if (series.points.size() == limit) {
          series.more = true;
          break;
        }
        series.points.push_back({rows.time(0), rows.number(1)});
      }
      if (!since) std::reverse(series.points.begin(), series.points.end());
      return series;
    });
  }

 private:
  static constexpr std::string_view columns_ = "SELECT uuid, first_seen, last_seen, expect_next, updates, kept, bytes FROM instances";

  template <class T, class Call>
  Result<T> guarded(const char* doing, Call call) {
    return attempt<T>(std::string("cannot ") + doing + " the telemetry database '" + options_.path + "'", call);
  }

  TelemetryTotals current_totals() {
    Statement rows(database_, "SELECT instances, updates, bytes FROM totals");
    if (!rows.step()) throw Refused{SQLITE_CORRUPT, "a table is empty"};
    return {rows.count(0), rows.count(1), rows.count(2)};
  }

  /// -1: there is none.
  std::int64_t row_of(const InstanceId& id) {
    const std::string uuid = id.to_string();
    Statement rows(database_, "SELECT id FROM instances WHERE uuid = ?", std::string_view(uuid));
    return rows.step() ? rows.integer(0) : -1;
  }

  std::int64_t instance_row(const TelemetryUpdate& update) {
    if (const std::int64_t known = row_of(update.instance); known >= 0) return known;
    const std::string uuid = update.instance.to_string();
    Statement(database_,
              "INSERT INTO instances(uuid, first_seen, last_seen, expect_next, updates, kept, bytes) VALUES(?, ?, ?, 0, 0, 0, 0)",
              std::string_view(uuid), nanos(update.received), nanos(update.received))
        .run();
    const std::int64_t row = ::sqlite3_last_insert_rowid(database_.handle());
    database_.run("UPDATE totals SET instances = instances + 1");
    return row;
  }

  static TelemetryInstance instance_of(const Statement& row) {
    return {InstanceId::parse(row.text(0)), row.time(1), row.time(2), row.time(3), row.count(4), row.count(5), row.count(6)};
  }

  void remove_update(std::int64_t id, std::int64_t instance, std::int64_t bytes) {
    Statement(database_, "DELETE FROM numbers WHERE update_row = ?", id).run();
    Statement(database_, "DELETE FROM updates WHERE id = ?", id).run();
    Statement(database_, "UPDATE instances SET kept = kept - 1, bytes = bytes - ? WHERE id = ?", bytes, instance).run();
    Statement(database_, "UPDATE totals SET updates = updates - 1, bytes = bytes - ?", bytes).run();
  }

  void remove_instance(std::int64_t id, TelemetryAdded& added) {
    Statement about(database_, "SELECT kept, bytes FROM instances WHERE id = ?", id);
    if (!about.step()) return;
    Statement(database_, "DELETE FROM numbers WHERE instance = ?", id).run();
    Statement(database_, "DELETE FROM updates WHERE instance = ?", id).run();
    Statement(database_, "UPDATE totals SET instances = instances - 1, updates = updates - ?, bytes = bytes - ?", about.integer(0),
              about.integer(1))
        .run();
    Statement(database_, "DELETE FROM instances WHERE id = ?", id).run();
    added.evicted_updates += about.count(0);
    ++added.evicted_instances;
  }

  /// The oldest update that a statement finds leaves, for as long as `wanted` says so of it and there is one.
  template <class Wanted>
  void remove_oldest(std::string_view sql, std::int64_t parameter, Wanted wanted, TelemetryAdded& added) {
    for (;;) {
      Statement oldest(database_, sql, parameter);
      if (!oldest.step() || !wanted(oldest)) return;
      const std::int64_t id = oldest.integer(0), instance = oldest.integer(1), bytes = oldest.integer(2);
      remove_update(id, instance, bytes);
      ++added.evicted_updates;
    }
  }

  void evict(std::int64_t instance, Timestamp now, TelemetryAdded& added) {
    remove_oldest(
        "SELECT id, instance, bytes FROM updates WHERE instance = ? ORDER BY id LIMIT 1", instance,
        [&](const Statement&) {
          Statement about(database_, "SELECT kept, bytes FROM instances WHERE id = ?", instance);
          return about.step() && (about.count(0) > options_.max_updates || about.count(1) > options_.max_instance_bytes);
        },
        added);
    const Timestamp oldest = now - options_.max_age;
    remove_oldest(
        "SELECT id, instance, bytes, received FROM updates WHERE id >= ? ORDER BY id LIMIT 1", 0,
        [&](const Statement& row) { return row.time(3) < oldest || current_totals().bytes > options_.max_bytes; }, added);
    for (;;) {
      Statement silent(database_, "SELECT id, last_seen FROM instances WHERE id <> ? ORDER BY last_seen LIMIT 1", instance);
      if (!silent.step() || (silent.time(1) >= oldest && current_totals().instances <= options_.max_instances)) return;
      const std::int64_t id = silent.integer(0);
      remove_instance(id, added);
    }
  }

  const TelemetryStoreOptions options_;
  Database database_;
};

}  // namespace

Result<std::unique_ptr<TelemetryBackend>> open_sqlite_backend(const TelemetryStoreOptions& options) {
  auto backend = std::make_unique<SqliteBackend>(options);
  if (auto opened = backend->open(); !opened) return opened.error();
  return std::unique_ptr<TelemetryBackend>(std::move(backend));
}

}  // namespace weir::inline v0::detail
