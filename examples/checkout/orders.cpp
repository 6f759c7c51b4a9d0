#include "orders.hpp"

#include <nlohmann/json.hpp>

namespace checkout {

using nlohmann::json;

std::variant<std::int64_t, Refused> place_order(Database& db, weir::ActivityTracker& tracker, const NewOrder& order) {
  weir::Activity activity = tracker.start("place", "order", {{"product", order.product}, {"quantity", order.quantity}});
  const auto refuse = [&](int status, const std::string& reason) {
    activity.report_error(reason);
    return Refused{status, reason};
  };

  if (db.run("SELECT 1 FROM products WHERE id = ?", {order.product}) == 0) return refuse(404, "no such product");
  db.run("BEGIN IMMEDIATE");
  try {
    db.run("UPDATE products SET stock = stock - ? WHERE id = ?", {order.quantity, order.product});  // CHECK (stock >= 0) may refuse it
    std::int64_t id = 0;
    db.run("INSERT INTO orders (customer) VALUES (?) RETURNING id", {order.customer}, [&](const Row& row) { id = row.integer(0); });
    db.run("INSERT INTO items (order_id, product_id, quantity) VALUES (?, ?, ?)", {id, order.product, order.quantity});
    db.run("COMMIT");
    activity.report_change(id, [&] {
      return json{{"customer", order.customer}, {"product", order.product}, {"quantity", order.quantity}}.dump();
    });
    return id;
  } catch (const SqlError& error) {
    db.run("ROLLBACK");
    return refuse(409, error.what());
  }
}

}  // namespace checkout
