#pragma once
// Sql: another program's look into a database, as the sqlite3 shell has it.

#include <sqlite3.h>

#include <string>
#include <vector>

#include "support/catch.hpp"

namespace weir::testing {

class Sql {
 public:
  explicit Sql(const std::string& path) { REQUIRE(::sqlite3_open_v2(path.c_str(), &handle_, SQLITE_OPEN_READWRITE, nullptr) == SQLITE_OK); }
  ~Sql() { ::sqlite3_close(handle_); }
  Sql(const Sql&) = delete;
  Sql& operator=(const Sql&) = delete;

  /// The first column of all rows, as text.
  std::vector<std::string> column(const std::string& sql) const {
    std::vector<std::string> rows;
    const auto take = [](void* out, int, char** values, char**) {
      static_cast<std::vector<std::string>*>(out)->push_back(values[0] != nullptr ? values[0] : "");
      return 0;
    };
    INFO(sql);
    const int code = ::sqlite3_exec(handle_, sql.c_str(), take, &rows, nullptr);
    INFO(::sqlite3_errmsg(handle_));
    REQUIRE(code == SQLITE_OK);
    return rows;
  }
  std::string value(const std::string& sql) const {
    const std::vector<std::string> rows = column(sql);
    REQUIRE(rows.size() == 1);
    return rows.front();
  }
  long number(const std::string& sql) const { return std::stol(value(sql)); }

 private:
  sqlite3* handle_ = nullptr;
};

}  // namespace weir::testing
