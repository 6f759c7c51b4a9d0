#include "database.hpp"

#include "operations.hpp"

namespace checkout {

Database::Database(const std::string& path) {
  sqlite3* db = nullptr;
  const int opened = sqlite3_open(path.c_str(), &db);
  db_.reset(db);
  if (opened != SQLITE_OK) throw SqlError("cannot open " + path + ": " + sqlite3_errmsg(db));
  sqlite3_busy_timeout(db, 5000);
  run("PRAGMA journal_mode = WAL");
  run("PRAGMA synchronous = NORMAL");
}

std::size_t Database::run(std::string_view sql, std::initializer_list<Value> parameters, const std::function<void(const Row&)>& each) {
  weir::Op<QuerySql> query{{sql}};
  std::size_t rows = 0;
  sqlite3_stmt* prepared = nullptr;
  int state = sqlite3_prepare_v2(db_.get(), sql.data(), static_cast<int>(sql.size()), &prepared, nullptr);
  const std::unique_ptr<sqlite3_stmt, Close> statement(prepared);
  if (state == SQLITE_OK) {
    int index = 0;
    for (const Value& value : parameters) {
      ++index;
      if (const auto* number = std::get_if<std::int64_t>(&value))
        sqlite3_bind_int64(prepared, index, *number);
      else if (const auto* text = std::get_if<std::string_view>(&value))
        sqlite3_bind_text(prepared, index, text->data(), static_cast<int>(text->size()), SQLITE_TRANSIENT);
    }
    while ((state = sqlite3_step(prepared)) == SQLITE_ROW) {
      ++rows;
      if (each) each(Row(prepared));
    }
  }
  if (state != SQLITE_DONE) {
    const std::string message = sqlite3_errmsg(db_.get());
    query.finish({.rows = rows, .error = message});
    throw SqlError(message);
  }
  query.finish({.rows = rows, .error = {}});
  return rows;
}

void create_schema(Database& db) {
  db.run(
      "CREATE TABLE IF NOT EXISTS products (id INTEGER PRIMARY KEY, name TEXT NOT NULL, price INTEGER NOT NULL, stock INTEGER NOT NULL "
      "CHECK (stock >= 0))");
  db.run("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, customer TEXT NOT NULL)");
  db.run(
      "CREATE TABLE IF NOT EXISTS items (order_id INTEGER NOT NULL REFERENCES orders, product_id INTEGER NOT NULL REFERENCES products, "
      "quantity INTEGER NOT NULL)");
  db.run("CREATE INDEX IF NOT EXISTS items_by_order ON items (order_id)");
  if (db.run("SELECT 1 FROM products LIMIT 1") != 0) return;
  db.run("INSERT INTO products (name, price, stock) VALUES ('tea', 450, 1000000), ('kettle', 3900, 1000000), ('last cup', 1200, 3)");
  db.run("INSERT INTO orders (customer) VALUES ('ada'), ('grace'), ('edsger'), ('barbara'), ('donald'), ('tony')");
  db.run(
      "INSERT INTO items (order_id, product_id, quantity) SELECT orders.id, products.id, 1 + (orders.id + products.id) % 3 FROM orders, "
      "products WHERE products.id < 3");
}

}  // namespace checkout
