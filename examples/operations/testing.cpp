// Tests listeners without a service, and without touching what the process has installed.

#include <cstdio>
#include <vector>

#include "service.hpp"

// What is to be tested: reports requests that run more than `limit` queries.
template <class Report>
void report_many_queries(weir::Root& root, int limit, Report report) {
  root.on_start<HandleRequest>([=](weir::Op<HandleRequest>& request) {
    request.on_finish<QuerySql>([report, limit, queries = 0]() mutable {
      if (++queries == limit + 1) report();
    });
  });
}

// A service of two lines: its operations have an implicit parent, as those of real code.
void handle(int queries) {
  weir::Op<HandleRequest> request{{"GET /"}};
  for (int i = 0; i < queries; ++i) weir::Op<QuerySql>{{"SELECT 1"}};
}

struct Test {  // an operation to run tests under
  struct Args {};
  struct Result {};
};

int reports_for(int queries) {
  int reports = 0;
  weir::Root root;  // of this test alone, never installed: tests may run at the same time
  weir::Op<Test> test{weir::under(root), {}};
  weir::OperationScope scope(test);
  report_many_queries(root, 3, [&reports] { ++reports; });
  handle(queries);
  return reports;
}

int main() {
  const bool passed = reports_for(3) == 0 && reports_for(4) == 1 && reports_for(10) == 1;
  std::puts(passed ? "passed" : "failed");
  return passed ? 0 : 1;
}
