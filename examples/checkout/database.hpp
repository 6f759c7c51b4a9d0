#pragma once
// A connection to SQLite whose every statement is an operation.

#include <sqlite3.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>

namespace checkout {

struct SqlError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Row {
 public:
  explicit Row(sqlite3_stmt* statement) : statement_(statement) {}
  std::int64_t integer(int column) const { return sqlite3_column_int64(statement_, column); }
  std::string text(int column) const { return reinterpret_cast<const char*>(sqlite3_column_text(statement_, column)); }

 private:
  sqlite3_stmt* statement_;
};

class Database {
 public:
  using Value = std::variant<std::int64_t, std::string_view>;

  /// Opens or creates the file. Throws SqlError.
  explicit Database(const std::string& path);

  /// Runs one statement with its parameters bound and calls `each` for every row. Returns the number of rows. Throws SqlError.
  std::size_t run(std::string_view sql, std::initializer_list<Value> parameters = {}, const std::function<void(const Row&)>& each = {});

 private:
  struct Close {
    void operator()(sqlite3* db) const { sqlite3_close(db); }
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
  };
  std::unique_ptr<sqlite3, Close> db_;
};

/// Creates the tables and fills them if they are empty.
void create_schema(Database& db);

}  // namespace checkout
