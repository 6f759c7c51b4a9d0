// Listeners that throw: the call goes on, the others hear, and a handler is told.

#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>

#include "service.hpp"

void report_errors() {
  weir::set_error_handler([](const weir::ListenerError& error) {
    std::printf("%s, %s: %s%s\n", std::string(error.operation).c_str(), std::string(error.event).c_str(), std::string(error.what).c_str(),
                error.disabled ? " (disabled)" : "");
  });
}

int main() {
  report_errors();
  int heard = 0;
  weir::Root root;
  root.on_finish<QuerySql>([](const QuerySql::Result& result) {
    if (result.rows == 0) throw std::runtime_error("no rows");
  });
  root.on_finish<QuerySql>([&heard] { ++heard; });
  weir::RootScope installed{std::move(root)};

  for (std::size_t rows : {0, 1, 0}) {
    weir::Op<QuerySql> query{{"SELECT 1"}};
    query.finish({.rows = rows});  // throws nothing
  }
  std::printf("the other one heard %d queries\n", heard);
}
