// Reacts to calls while they happen, and stops reacting.

#include <cstdio>
#include <utility>
#include <weir/operation/wrap.hpp>

#include "service.hpp"

std::size_t run_query(std::string_view statement) {
  const auto call = [&] { return QuerySql::Result{statement.size() % 10}; };  // here a database would be asked
  return weir::wrap<QuerySql>({statement}, call).rows;
}

void handle(std::string_view route) {
  weir::Op<HandleRequest> request{{route}};
  const std::size_t rows = run_query("SELECT name FROM items");  // a child of the request
  request.finish({.status = rows != 0 ? 200 : 404});
}

void print_calls(weir::Root& root) {
  root.on_start<HandleRequest>([](const HandleRequest::Args& args) { std::printf("> %s\n", std::string(args.route).c_str()); });
  root.on_finish<HandleRequest>([](const HandleRequest::Result& result) { std::printf("< %d\n", result.status); });
}

weir::Listener print_queries(weir::Root& root) {
  return root.on_finish<QuerySql>([](weir::Op<QuerySql>& query, const QuerySql::Result& result) {
    std::printf("  %zu rows, at depth %zu\n", result.rows, query.depth());
  });
}

int main() {
  weir::Root root;
  print_calls(root);
  weir::Listener queries = print_queries(root);
  weir::RootScope installed{std::move(root)};

  handle("GET /items");
  std::printf("removed: %s\n", queries.remove() ? "yes" : "no");
  handle("GET /items/2");
  std::printf("removed: %s\n", queries.remove() ? "yes" : "no");
}
