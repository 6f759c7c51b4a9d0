// Correlates calls of one request with each other: a query that is repeated, a query that follows a refused login.

#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "service.hpp"

struct LogIn {
  struct Args {
    std::string_view user;
  };
  struct Result {
    bool accepted = false;
  };
};

void report_repeated_queries(weir::Root& root) {
  root.on_start<HandleRequest>([](weir::Op<HandleRequest>& request) {
    struct Seen {
      std::mutex mutex;  // queries may run on several threads at once
      std::map<std::string, int> statements;
    };
    request.on_start<QuerySql>([seen = std::make_shared<Seen>()](const QuerySql::Args& args) {
      std::lock_guard lock(seen->mutex);
      std::string statement(args.statement);
      if (++seen->statements[statement] == 3) std::printf("three times in one request: %s\n", statement.c_str());
    });
  });
}

void report_queries_after_refusal(weir::Root& root) {
  root.on_finish<LogIn>([](weir::Op<LogIn>& login, const LogIn::Result& result) {
    if (result.accepted) return;
    if (auto* request = login.find<HandleRequest>())
      request->on_start<QuerySql>(
          [](const QuerySql::Args& args) { std::printf("after a refused login: %s\n", std::string(args.statement).c_str()); });
  });
}

void handle(const char* route, bool accepted) {
  weir::Op<HandleRequest> request{{route}};
  weir::Op<QuerySql>{{"SELECT password_hash FROM users"}};
  {
    weir::Op<LogIn> login{{"ada"}};
    login.finish({.accepted = accepted});
  }
  for (int i = 0; i < 3; ++i) weir::Op<QuerySql>{{accepted ? "SELECT name FROM items" : "INSERT INTO failures"}};
}

int main() {
  weir::Root root;
  report_repeated_queries(root);
  report_queries_after_refusal(root);
  weir::RootScope installed{std::move(root)};

  handle("POST /login", true);
  handle("POST /login", false);
}
