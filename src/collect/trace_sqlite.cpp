// The rows of a TraceDatabase in SQLite. What is committed is in the write-ahead log, safe from a kill; the log goes to the disk when
// SQLite takes it into the database.
#include <fcntl.h>
#include <sys/file.h>
#include <cerrno>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "collect/sqlite.hpp"
#include "collect/trace_rows.hpp"
#include "net/fd.hpp"

namespace weir::inline v0::detail {

namespace {

using namespace sqlite;

/// Times are nanoseconds since 1970; ids are in the order of completion. `totals` is what is there.
constexpr const char* traces_schema = R"(
CREATE TABLE totals(traces INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO totals VALUES(0, 0);
CREATE TABLE traces(id INTEGER PRIMARY KEY, trace_id TEXT NOT NULL UNIQUE, service TEXT NOT NULL, name TEXT NOT NULL,
  start INTEGER NOT NULL, duration INTEGER NOT NULL, completed INTEGER NOT NULL, spans INTEGER NOT NULL, unfinished INTEGER NOT NULL,
  late INTEGER NOT NULL, failed INTEGER NOT NULL, bytes INTEGER NOT NULL, roots TEXT NOT NULL);
)";

class SqliteRows final : public TraceRows {
 public:
  SqliteRows(std::string path, const TraceDatabaseOptions& options) : path_(std::move(path)), options_(options) {}

  Result<void> open() {
    const std::string doing = "cannot open the trace database '" + path_ + "'";
    // SQLite's own locks are for a transaction. These are for as long as the collector runs, and of another kind, so that the two
    // do not meet, and readers are let in.
    lock_ = net::Fd(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0600));
    if (!lock_) return system_error(errno, doing);
    if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return system_error(errno, doing);
      return Error{std::make_error_code(std::errc::device_or_resource_busy),
                   doing + ": another collector is using it. Name another file, or end that collector"};
    }
    if (auto opened = open_database(database_, path_, doing, {traces_application, 1, traces_schema}); !opened) return opened;
    try {
      database_.run("PRAGMA synchronous = NORMAL");
      database_.run("PRAGMA journal_size_limit = 16777216");
      Statement totals(database_, "SELECT traces, bytes FROM totals");
      if (!totals.step()) return failure(doing + ": it is damaged: a table is empty. Move it away, and a new one is made");
      return {};
    } catch (const Refused& refused) {
      return explain(doing, refused);
    }
  }

  Result<TraceRowsWritten> write(std::span<const TraceRow> rows, Timestamp now) override {
    return guarded<TraceRowsWritten>("write to", [&] {
      TraceRowsWritten written;
      Transaction transaction(database_);
      {
        Statement totals(database_, "SELECT traces, bytes FROM totals");
        if (!totals.step()) throw Refused{SQLITE_CORRUPT, "a table is empty"};
        written.kept = totals.count(0);
        written.bytes = totals.count(1);
      }
      Statement insert(database_,
                       "INSERT INTO traces(service, name, start, duration, completed, spans, unfinished, late, failed, bytes, roots, "
                       "trace_id) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(trace_id) DO NOTHING");
      for (const TraceRow& row : rows) {
        bind(insert, row);
        insert.run();
        if (::sqlite3_changes(database_.handle()) == 0) {
          merge(row, written);
        } else {
          ++written.kept;
          written.bytes += row.bytes();
        }
      }
      evict(now, written);
      Statement(database_, "UPDATE totals SET traces = ?, bytes = ?", whole(written.kept), whole(written.bytes)).run();
      transaction.commit();
      return written;
    });
  }

  Result<void> load(const std::function<void(const TraceRow&)>& each) override {
    return guarded<void>("read", [&]() -> Result<void> {
      Statement rows(database_, "SELECT trace_id, service, completed, late, roots FROM traces ORDER BY id");
      while (rows.step()) {
        TraceRow row;
        row.trace_id = rows.text(0);
        row.service = rows.text(1);
        row.completed = rows.time(2);
        row.late = static_cast<std::uint32_t>(rows.integer(3));
        row.roots = rows.text(4);
        each(row);
      }
      return {};
    });
  }

 private:
  template <class T, class Call>
  Result<T> guarded(const char* doing, Call call) {
    return attempt<T>(std::string("cannot ") + doing + " the trace database '" + path_ + "'", call);
  }

  static void bind(Statement& statement, const TraceRow& row) {
    statement.bind(std::string_view(row.service), std::string_view(row.name), nanos(row.start), std::int64_t{row.duration.count()},
                   nanos(row.completed), std::int64_t{row.spans}, std::int64_t{row.unfinished}, std::int64_t{row.late},
                   std::int64_t{row.failed}, whole(row.bytes()), std::string_view(row.roots), std::string_view(row.trace_id));
  }

  void merge(const TraceRow& more, TraceRowsWritten& written) {
    TraceRow known;
    Statement row(database_, "SELECT service, completed, late, bytes, roots FROM traces WHERE trace_id = ?",
                  std::string_view(more.trace_id));
    if (!row.step()) throw Refused{SQLITE_CORRUPT, "a row is in the index only"};
    known.trace_id = more.trace_id;
    known.service = row.text(0);
    known.completed = row.time(1);
    known.late = static_cast<std::uint32_t>(row.integer(2));
    const std::uint64_t bytes = row.count(3);
    known.roots = row.text(4);
    row.reset();
    const TraceRow both = merged(known, more);
    if (both.roots.size() > options_.max_trace_bytes) {
      ++written.too_large;
      return;
    }
    Statement update(
        database_,
        "UPDATE traces SET service = ?, name = ?, start = ?, duration = ?, completed = ?, spans = ?, unfinished = ?, late = ?, "
        "failed = ?, bytes = ?, roots = ? WHERE trace_id = ?");
    bind(update, both);
    update.run();
    ++written.updated;
    written.bytes = written.bytes - bytes + both.bytes();
  }

  void evict(Timestamp now, TraceRowsWritten& written) {
    const Timestamp oldest = now - options_.max_age;
    Statement first(database_, "SELECT id, completed, bytes FROM traces ORDER BY id LIMIT 1");
    Statement remove(database_, "DELETE FROM traces WHERE id = ?");
    while (first.step()) {
      const bool leaves = written.kept > options_.max_traces || written.bytes > options_.max_bytes || first.time(1) < oldest;
      const std::int64_t id = first.integer(0);
      const std::uint64_t bytes = first.count(2);
      first.reset();
      if (!leaves) return;
      remove.bind(id);
      remove.run();
      --written.kept;
      written.bytes -= bytes;
      ++written.evicted;
    }
  }

  const std::string path_;
  const TraceDatabaseOptions options_;
  net::Fd lock_;  // outlives the connection: to close it lets go of SQLite's locks on the file
  Database database_;
};

}  // namespace

Result<std::unique_ptr<TraceRows>> open_trace_rows(const std::string& path, const TraceDatabaseOptions& options) {
  auto rows = std::make_unique<SqliteRows>(path, options);
  if (auto opened = rows->open(); !opened) return opened.error();
  return std::unique_ptr<TraceRows>(std::move(rows));
}

}  // namespace weir::inline v0::detail
