// Operations of one request on several threads: helpers that it waits for, work that outlives a scope, and callbacks.

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "service.hpp"

// One thread that runs what is posted, in order, and everything that is left before it ends.
class Worker {
 public:
  ~Worker() {
    post({});
    thread_.join();
  }
  void post(std::function<void()> job) {
    std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
    filled_.notify_one();
  }

 private:
  void run() {
    for (;;) {
      std::unique_lock lock(mutex_);
      filled_.wait(lock, [&] { return !jobs_.empty(); });
      const std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      if (!job) return;
      job();
    }
  }

  std::mutex mutex_;
  std::condition_variable filled_;
  std::deque<std::function<void()>> jobs_;  // guarded by mutex_
  std::thread thread_{[this] { run(); }};
};

std::size_t run_query(std::string_view statement) {
  weir::Op<QuerySql> query{{statement}};  // under whatever is the thread's current operation
  query.finish({.rows = 1});
  return 1;
}

// The request waits for its helpers: it may stay on the stack, they name it.
void ask_in_parallel(std::string_view route) {
  weir::Op<HandleRequest> request{{route}};
  std::vector<std::thread> helpers;
  for (int i = 0; i < 4; ++i)
    helpers.emplace_back([&request] {
      weir::Op<QuerySql> query{weir::under(request), {"SELECT 1"}};
      query.finish({.rows = 1});
    });
  for (std::thread& helper : helpers) helper.join();
}

// Nobody waits: the request is on the heap, and goes where its work goes.
void answer_later(Worker& worker, std::string_view route) {
  weir::Handle<HandleRequest> request = weir::start<HandleRequest>({route});
  worker.post([request] {
    weir::OperationScope scope(request);  // from here on this thread works for the request
    run_query("SELECT 2");
    request->finish({.status = 202});
  });
}

// A client with callbacks. The query runs between the call and its callback, on whatever thread that comes.
void query_async(Worker& database, std::string_view statement, std::function<void(std::size_t rows)> done) {
  database.post([statement, done = std::move(done)] { done(statement.size()); });
}
void answer_by_callback(Worker& database, std::string_view route) {
  weir::Handle<HandleRequest> request = weir::start<HandleRequest>({route});
  weir::Handle<QuerySql> query = weir::start<QuerySql>(weir::under(request), {"SELECT 3"});
  query_async(database, "SELECT 3", [query](std::size_t rows) { query->finish({.rows = rows}); });
}  // the query keeps its parent: the request finishes after it

void count_queries(weir::Root& root) {
  root.on_start<HandleRequest>([](weir::Op<HandleRequest>& request, const HandleRequest::Args& args) {
    auto queries = std::make_shared<std::atomic<int>>(0);
    request.on_finish<QuerySql>([queries] { ++*queries; });
    request.on_finish<HandleRequest>(
        [queries, route = std::string(args.route)] { std::printf("%s: %d queries\n", route.c_str(), queries->load()); });
  });
}

int main() {
  weir::Root root;
  count_queries(root);
  weir::RootScope installed{std::move(root)};

  ask_in_parallel("GET /parallel");
  {
    Worker worker;
    answer_later(worker, "GET /later");
  }
  Worker database;
  answer_by_callback(database, "GET /callback");
}
