// Lets listeners forbid a call: they write to an event, and the one who emitted it reads it back.

#include <cstdio>
#include <optional>
#include <string_view>
#include <utility>

#include "service.hpp"

struct CheckQuery {  // a data event: any type
  std::string_view statement;
  std::string_view forbidden_because{};
};

std::optional<std::size_t> run_query(std::string_view statement) {
  weir::Op<QuerySql> query{{statement}};
  CheckQuery check{statement};
  query.emit(check);
  if (!check.forbidden_because.empty()) {
    std::printf("forbidden: %s (%s)\n", std::string(statement).c_str(), std::string(check.forbidden_because).c_str());
    return std::nullopt;  // the operation finishes with Result{}
  }
  query.finish({.rows = 1});
  return 1;
}

void handle(std::string_view route, std::string_view statement) {
  weir::Op<HandleRequest> request{{route}};
  request.finish({.status = run_query(statement) ? 200 : 403});
}

void forbid_writes_of_readers(weir::Root& root) {
  root.on_start<HandleRequest>([](weir::Op<HandleRequest>& request, const HandleRequest::Args& args) {
    if (!args.route.starts_with("GET ")) return;
    request.on_data<CheckQuery>([](CheckQuery& check) {
      if (!check.statement.starts_with("SELECT ")) check.forbidden_because = "a GET only reads";
    });
  });
}

int main() {
  weir::Root root;
  forbid_writes_of_readers(root);
  root.on_finish<HandleRequest>([](const HandleRequest::Result& result) { std::printf("status %d\n", result.status); });
  weir::RootScope installed{std::move(root)};

  handle("GET /items", "SELECT name FROM items");
  handle("GET /items", "DELETE FROM items");
  handle("POST /reset", "DELETE FROM items");
}
