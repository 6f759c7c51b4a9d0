// Operations in coroutines that go on on another thread than they began on.

#include <condition_variable>
#include <coroutine>
#include <cstdio>
#include <deque>
#include <exception>
#include <future>
#include <mutex>
#include <thread>
#include <utility>

#include "service.hpp"

// One thread that coroutines move to: co_await worker.here();
class Worker {
 public:
  explicit Worker(const char* name) : thread_([this, name] { run(name); }) {}
  ~Worker() {
    post(nullptr);
    thread_.join();
  }
  auto here() {
    struct Awaiter : std::suspend_always {
      void await_suspend(std::coroutine_handle<> waiting) { worker.post(waiting); }
      Worker& worker;
    };
    return Awaiter{{}, *this};
  }
  static const char* current() { return name_; }

 private:
  void post(std::coroutine_handle<> coroutine) {
    std::lock_guard lock(mutex_);
    ready_.push_back(coroutine);
    filled_.notify_one();
  }
  void run(const char* name) {
    name_ = name;
    for (;;) {
      std::unique_lock lock(mutex_);
      filled_.wait(lock, [&] { return !ready_.empty(); });
      const std::coroutine_handle<> coroutine = ready_.front();
      ready_.pop_front();
      lock.unlock();
      if (!coroutine) return;
      coroutine.resume();
    }
  }

  static inline thread_local const char* name_ = "main";
  std::mutex mutex_;
  std::condition_variable filled_;
  std::deque<std::coroutine_handle<>> ready_;  // guarded by mutex_
  std::thread thread_;
};

// A coroutine that returns a number of rows. It begins when it is awaited, and wakes the one that awaits it.
class [[nodiscard]] Task {
 public:
  struct promise_type {
    struct Wake : std::suspend_always {
      std::coroutine_handle<> await_suspend(std::coroutine_handle<promise_type> done) noexcept { return done.promise().waiting; }
    };
    Task get_return_object() { return Task(std::coroutine_handle<promise_type>::from_promise(*this)); }
    std::suspend_always initial_suspend() noexcept { return {}; }
    Wake final_suspend() noexcept { return {}; }
    void return_value(std::size_t value) { rows = value; }
    void unhandled_exception() { error = std::current_exception(); }

    std::coroutine_handle<> waiting = std::noop_coroutine();
    std::size_t rows = 0;
    std::exception_ptr error;
  };

  Task(Task&& other) noexcept : coroutine_(std::exchange(other.coroutine_, nullptr)) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (coroutine_) coroutine_.destroy();
  }
  bool await_ready() const { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> waiting) {
    coroutine_.promise().waiting = waiting;
    return coroutine_;
  }
  std::size_t await_resume() {
    if (coroutine_.promise().error) std::rethrow_exception(coroutine_.promise().error);
    return coroutine_.promise().rows;
  }

 private:
  explicit Task(std::coroutine_handle<promise_type> coroutine) : coroutine_(coroutine) {}
  std::coroutine_handle<promise_type> coroutine_;
};

// Runs a task from a function that is no coroutine, and waits for it.
std::size_t wait_for(Task task) {
  struct Waiter {
    struct promise_type {
      Waiter get_return_object() { return {}; }
      std::suspend_never initial_suspend() noexcept { return {}; }
      std::suspend_never final_suspend() noexcept { return {}; }
      void return_void() {}
      void unhandled_exception() { std::terminate(); }
    };
    static Waiter wait(Task awaited, std::promise<std::size_t> rows) {
      try {
        rows.set_value(co_await awaited);
      } catch (...) {
        rows.set_exception(std::current_exception());
      }
    }
  };
  std::promise<std::size_t> rows;
  std::future<std::size_t> result = rows.get_future();
  Waiter::wait(std::move(task), std::move(rows));
  return result.get();
}

struct ReadRow {
  struct Args {};
  struct Result {};
};

void read_row() {
  weir::Op<ReadRow> row{{}};  // plain code that knows nothing of coroutines
}

Task run_query(Worker& database, Worker& service, weir::Under parent, std::string_view statement) {
  weir::Handle<QuerySql> query = weir::start<QuerySql>(parent, {statement});
  co_await database.here();
  std::size_t rows = 0;
  {
    weir::OperationScope scope(query);  // ends before the next co_await
    for (; rows < 2; ++rows) read_row();
  }
  co_await service.here();
  query->finish({.rows = rows});
  co_return rows;
}

Task handle(Worker& database, Worker& service, std::string_view route) {
  co_await service.here();
  weir::Handle<HandleRequest> request = weir::start<HandleRequest>({route});
  std::size_t rows = 0;
  for (std::string_view statement : {"SELECT name FROM items", "SELECT name FROM users"})
    rows += co_await run_query(database, service, weir::under(request), statement);
  request->finish({.status = rows != 0 ? 200 : 404});
  co_return rows;
}

void print_order(weir::Root& root) {
  root.on_start<HandleRequest>([](weir::Op<HandleRequest>& request) {
    std::printf("%s: request starts\n", Worker::current());
    request.on_start<QuerySql>(
        [](const QuerySql::Args& args) { std::printf("%s: %s\n", Worker::current(), std::string(args.statement).c_str()); });
    request.on_finish<ReadRow>(
        [](weir::Op<ReadRow>& row) { std::printf("%s: a row, below %s\n", Worker::current(), std::string(row.parent()->name()).c_str()); });
    request.on_finish<QuerySql>([](const QuerySql::Result& result) { std::printf("%s: %zu rows\n", Worker::current(), result.rows); });
  });
  root.on_finish<HandleRequest>(
      [](const HandleRequest::Result& result) { std::printf("%s: request ends with %d\n", Worker::current(), result.status); });
}

int main() {
  weir::Root root;
  print_order(root);
  weir::RootScope installed{std::move(root)};

  Worker database("database"), service("service");
  std::printf("main: %zu rows\n", wait_for(handle(database, service, "GET /orders")));
}
