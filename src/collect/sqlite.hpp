#pragma once
// What weir's databases share: a connection to SQLite, its statements and transactions, and how a file becomes one of ours (private to
// src, and there only where SQLite is). What SQLite refuses is thrown as Refused, which never leaves a backend: each of its methods
// catches it. Thread-safety: Distinct objects: safe. Shared: unsafe.

#include <sqlite3.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "weir/core/clock.hpp"
#include "weir/core/result.hpp"

namespace weir::inline v0::detail::sqlite {

struct Refused {
  int code;
  std::string message;
};

class Database {
 public:
  Database() = default;
  ~Database() { ::sqlite3_close_v2(handle_); }
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  void open(const std::string& path) {
    check(::sqlite3_open_v2(path.c_str(), &handle_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr));
  }
  sqlite3* handle() const { return handle_; }
  void check(int code) const {
    if (code != SQLITE_OK) throw Refused{code, handle_ != nullptr ? ::sqlite3_errmsg(handle_) : ::sqlite3_errstr(code)};
  }
  void run(const char* sql) const { check(::sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr)); }

 private:
  sqlite3* handle_ = nullptr;
};

inline std::int64_t nanos(Timestamp time) { return time.time_since_epoch().count(); }
inline std::int64_t whole(std::uint64_t number) { return static_cast<std::int64_t>(number); }

/// One statement. Bound texts must outlive it, or the next bind().
class Statement {
 public:
  Statement(const Database& database, std::string_view sql) : database_(database) {
    database.check(::sqlite3_prepare_v2(database.handle(), sql.data(), static_cast<int>(sql.size()), &statement_, nullptr));
  }
  template <class... Values>
  Statement(const Database& database, std::string_view sql, const Values&... values) : Statement(database, sql) {
    bind(values...);
  }
  ~Statement() { ::sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  template <class... Values>
  void bind(const Values&... values) {
    int index = 0;
    (bind_one(++index, values), ...);
  }
  /// False: there are no more rows.
  bool step() {
    const int code = ::sqlite3_step(statement_);
    if (code == SQLITE_ROW) return true;
    if (code != SQLITE_DONE) database_.check(code);
    return false;
  }
  void run() {
    while (step()) {}
    reset();
  }
  /// So that it can be bound and stepped through again.
  void reset() { ::sqlite3_reset(statement_); }

  std::int64_t integer(int column) const { return ::sqlite3_column_int64(statement_, column); }
  std::uint64_t count(int column) const { return static_cast<std::uint64_t>(integer(column)); }
  Timestamp time(int column) const { return Timestamp{std::chrono::nanoseconds{integer(column)}}; }
  std::variant<std::int64_t, double> number(int column) const {
    if (::sqlite3_column_type(statement_, column) == SQLITE_INTEGER) return integer(column);
    return ::sqlite3_column_double(statement_, column);
  }
  std::string text(int column) const {
    const void* const bytes = ::sqlite3_column_blob(statement_, column);
    return bytes == nullptr
               ? std::string()
               : std::string(static_cast<const char*>(bytes), static_cast<std::size_t>(::sqlite3_column_bytes(statement_, column)));
  }

 private:
  void bind_one(int index, std::int64_t value) { database_.check(::sqlite3_bind_int64(statement_, index, value)); }
  void bind_one(int index, double value) { database_.check(::sqlite3_bind_double(statement_, index, value)); }
  void bind_one(int index, std::string_view text) {
    database_.check(::sqlite3_bind_text64(statement_, index, text.data(), text.size(), SQLITE_STATIC, SQLITE_UTF8));
  }
  void bind_one(int index, const std::variant<std::int64_t, double>& number) {
    std::visit([&](auto value) { bind_one(index, value); }, number);
  }

  const Database& database_;
  sqlite3_stmt* statement_ = nullptr;
};

/// Undone unless it was committed.
class Transaction {
 public:
  explicit Transaction(const Database& database) : database_(database) { database.run("BEGIN IMMEDIATE"); }
  ~Transaction() {
    if (!committed_ && ::sqlite3_get_autocommit(database_.handle()) == 0)
      (void)::sqlite3_exec(database_.handle(), "ROLLBACK", nullptr, nullptr, nullptr);
  }
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  void commit() {
    database_.run("COMMIT");
    committed_ = true;
  }

 private:
  const Database& database_;
  bool committed_ = false;
};

/// Which of weir's databases a file is.
struct Format {
  int application_id;
  std::int64_t version;
  const char* schema;  // of an empty file
};
inline constexpr int telemetry_application = 0x77656972;  // "weir"
inline constexpr int traces_application = 0x77656974;     // "weit"

/// std::errc::io_error.
Error failure(std::string message);
/// "<doing>: " and why, for people.
Error explain(const std::string& doing, const Refused& refused);

/// What the call returns. Refused: std::errc::no_space_on_device or io_error, "<doing>: " and why.
template <class T, class Call>
Result<T> attempt(const std::string& doing, Call call) {
  try {
    return call();
  } catch (const Refused& refused) {
    const bool full = (refused.code & 0xff) == SQLITE_FULL;
    return Error{std::make_error_code(full ? std::errc::no_space_on_device : std::errc::io_error), doing + ": " + refused.message};
  }
}

/// Opens the file, or makes it with mode 0600, in WAL mode. One that is not of this format is an error that begins with `doing`, and
/// is left as it is.
Result<void> open_database(Database& database, const std::string& path, const std::string& doing, const Format& format);

}  // namespace weir::inline v0::detail::sqlite
