// Collects something for each request: three places where it can live.

#include <atomic>
#include <cstdio>
#include <memory>
#include <utility>

#include "service.hpp"

// In the listeners' closures: whoever listens needs to change nothing in the service. Queries may run on several threads.
void count_in_closures(weir::Root& root) {
  root.on_start<HandleRequest>([](weir::Op<HandleRequest>& request, const HandleRequest::Args& args) {
    auto queries = std::make_shared<std::atomic<int>>(0);
    request.on_finish<QuerySql>([queries] { ++*queries; });
    request.on_finish<HandleRequest>(
        [queries, route = std::string(args.route)] { std::printf("%s: %d queries\n", route.c_str(), queries->load()); });
  });
}

// In the operation: the service declares a place, listeners and the service share it.
void sum_in_the_operation(weir::Root& root) {
  root.on_finish<QuerySql>([](weir::Op<QuerySql>& query, const QuerySql::Result& result) {
    if (auto* request = query.find<HandleRequest>()) (*request)->rows += result.rows;
  });
  root.on_finish<HandleRequest>(
      [](weir::Op<HandleRequest>& request) { std::printf("%zu rows for %s\n", request->rows, request->user.c_str()); });
}

// From anywhere below: code that has no request at hand finds the one it runs for.
void log_line(const char* text) {
  weir::Operation* current = weir::Operation::current();
  auto* request = current != nullptr ? current->find<HandleRequest>() : nullptr;
  std::printf("%s: %s\n", request != nullptr ? (*request)->user.c_str() : "nobody", text);
}

int main() {
  weir::Root root;
  count_in_closures(root);
  sum_in_the_operation(root);
  weir::RootScope installed{std::move(root)};

  for (const char* user : {"ada", "grace"}) {
    weir::Op<HandleRequest> request{{"GET /orders"}, {.user = user}};
    for (std::size_t rows : {3, 4}) {
      weir::Op<QuerySql> query{{"SELECT name FROM items"}};
      log_line("asks");
      query.finish({.rows = rows});
    }
  }
  log_line("done");
}
