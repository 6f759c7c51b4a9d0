#include "collect/sqlite.hpp"

#include <fcntl.h>
#include <cerrno>
#include <utility>

#include "net/fd.hpp"

namespace weir::inline v0::detail::sqlite {

namespace {

constexpr int busy_milliseconds = 2000;

/// Ours, or a new one that becomes ours.
Result<void> recognize(const Database& database, const std::string& doing, const Format& format) {
  const auto pragma = [&](const char* sql) {
    Statement statement(database, sql);
    return statement.step() ? statement.integer(0) : 0;
  };
  Transaction transaction(database);  // another process may be making it
  const std::int64_t application = pragma("PRAGMA application_id"), version = pragma("PRAGMA user_version");
  const std::int64_t tables = pragma("SELECT count(*) FROM sqlite_schema");
  if (application == 0 && version == 0 && tables == 0) {
    database.run(format.schema);
    database.run(("PRAGMA application_id = " + std::to_string(format.application_id)).c_str());
    database.run(("PRAGMA user_version = " + std::to_string(format.version)).c_str());
    transaction.commit();
    return {};
  }
  if (application != format.application_id) {
    const bool other = application == telemetry_application || application == traces_application;
    return failure(doing +
                   (other ? ": it is another database of weir's. Name another file" : ": it is another program's. Name another file"));
  }
  if (version != format.version) {
    return failure(doing + ": its schema is version " + std::to_string(version) + ", and this weir knows " +
                   std::to_string(format.version) + ". Name another file, or use the weir that made it");
  }
  Statement check(database, "PRAGMA quick_check(1)");
  if (check.step() && check.text(0) != "ok") {
    return failure(doing + ": it is damaged (" + check.text(0) + "). Move it away, and a new one is made");
  }
  return {};
}

}  // namespace

Error failure(std::string message) { return Error{std::make_error_code(std::errc::io_error), std::move(message)}; }

Error explain(const std::string& doing, const Refused& refused) {
  switch (refused.code & 0xff) {
    case SQLITE_NOTADB: return failure(doing + ": it is no SQLite database. Name another file, or move this one away");
    case SQLITE_CORRUPT: return failure(doing + ": it is damaged (" + refused.message + "). Move it away, and a new one is made");
    case SQLITE_BUSY: return failure(doing + ": another process is using it");
    default: return failure(doing + ": " + refused.message);
  }
}

Result<void> open_database(Database& database, const std::string& path, const std::string& doing, const Format& format) {
  {
    const net::Fd made(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0600));
    if (!made) return system_error(errno, doing);
  }
  try {
    // A name of SQLite's own, as ":memory:", is a file's here.
    database.open(path.starts_with('/') ? path : "./" + path);
    database.check(::sqlite3_busy_timeout(database.handle(), busy_milliseconds));
    // Until it is known to be ours and whole, nothing is written to it, the log of who had it last included.
    database.check(::sqlite3_db_config(database.handle(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr));
    if (auto ours = recognize(database, doing, format); !ours) return ours;
    database.check(::sqlite3_db_config(database.handle(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, nullptr));
    database.run("PRAGMA journal_mode = WAL");
    return {};
  } catch (const Refused& refused) {
    return explain(doing, refused);
  }
}

}  // namespace weir::inline v0::detail::sqlite
