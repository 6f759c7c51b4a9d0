// Hears the calls of a program while they happen, without changing them: counts the queries of each request.

#include <atomic>
#include <cstdio>
#include <memory>
#include <weir/operation/operation.hpp>

struct HandleRequest {
  struct Args {
    const char* route;
  };
  struct Result {
    int status = 200;
  };
};
struct QuerySql {
  struct Args {
    const char* statement;
  };
  struct Result {
    std::size_t rows = 0;
  };
};

void count_queries(weir::Root& root) {
  root.on_start<HandleRequest>([](weir::Op<HandleRequest>& request, const HandleRequest::Args& args) {
    auto queries = std::make_shared<std::atomic<int>>(0);  // lives as long as the request
    request.on_finish<QuerySql>([queries] { ++*queries; });
    request.on_finish<HandleRequest>([queries, route = args.route] { std::printf("%s: %d queries\n", route, queries->load()); });
  });
}

int main() {
  weir::Root root;
  count_queries(root);
  weir::RootScope installed{std::move(root)};

  weir::Op<HandleRequest> request{{"GET /orders"}};
  for (int i = 0; i < 3; ++i) {
    weir::Op<QuerySql> query{{"SELECT name FROM items WHERE order_id = ?"}};  // a child of the request
    query.finish({.rows = 2});
  }
  request.finish({.status = 200});
}
