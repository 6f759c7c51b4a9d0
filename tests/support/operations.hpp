#pragma once
// What the tests of the operation tree share: operation types, a counter of what is alive, threads that meet.

#include <pthread.h>

#include <atomic>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "support/eventually.hpp"
#include "support/sanitizers.hpp"
#include "weir/operation/operation.hpp"

namespace weir::testing {

using Log = std::vector<std::string>;

struct Request {
  static constexpr std::string_view name = "http.request";
  static constexpr SpanKind kind = SpanKind::http;
  struct Args {
    int number = 0;
  };
  struct Result {
    int status = 0;
  };
  std::string user;
};

struct Query {
  struct Args {
    int number = 0;
  };
  struct Result {
    int rows = 0;
  };
};

/// A data event.
struct Tick {
  int value = 0;
};

/// Counts the copies of itself that are alive; a listener holds one to show how long it lives.
class Life {
 public:
  explicit Life(std::atomic<int>& alive) : alive_(&alive) { ++*alive_; }
  Life(const Life& other) noexcept : alive_(other.alive_) {
    if (alive_ != nullptr) ++*alive_;
  }
  Life(Life&& other) noexcept : alive_(std::exchange(other.alive_, nullptr)) {}
  Life& operator=(Life) = delete;
  ~Life() {
    if (alive_ != nullptr) --*alive_;
  }

 private:
  std::atomic<int>* alive_;
};

/// A POSIX thread: unlike std::thread it may end by pthread_exit and by cancellation.
class PosixThread {
 public:
  explicit PosixThread(std::function<void()> body) : body_(std::move(body)) { pthread_create(&thread_, nullptr, &run, this); }
  ~PosixThread() { join(); }
  PosixThread(const PosixThread&) = delete;
  PosixThread& operator=(const PosixThread&) = delete;

  void cancel() { pthread_cancel(thread_); }
  void join() {
    if (!std::exchange(joined_, true)) pthread_join(thread_, &result_);
  }
  /// After join(): the thread ran to its end. (False after pthread_exit and cancellation.)
  bool returned() const { return result_ == this; }

 private:
  static void* run(void* self) {
    static_cast<PosixThread*>(self)->body_();
    return self;
  }
  std::function<void()> body_;
  pthread_t thread_{};
  void* result_ = nullptr;
  bool joined_ = false;
};

}  // namespace weir::testing
