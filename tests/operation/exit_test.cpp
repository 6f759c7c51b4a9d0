// Threads that end by pthread_exit or cancellation inside listeners and inside scopes, and operations that are destroyed
// before their children. Nothing may abort (but for the latter, in debug builds), spin, or be left behind.
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/operations.hpp"
#include "weir/operation/operation.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

/// A root that counts starts and finishes, and whose listeners count themselves.
struct Counting {
  Counting() {
    root.on_start<Request>([this, life = Life(alive)] { ++starts; });
    root.on_finish<Request>([this, life = Life(alive)] { ++finishes; });
  }
  std::atomic<int> alive{0}, starts{0}, finishes{0};
  Root root;
};

/// Runs `body` on a thread that must not come back from it, then checks that everything was finished and released.
void leaves(Counting& counting, const std::function<void()>& body, const std::function<void(PosixThread&)>& meanwhile = {}) {
  swap_root(std::move(counting.root));
  {
    PosixThread thread(body);
    if (meanwhile) meanwhile(thread);
    thread.join();
    CHECK_FALSE(thread.returned());
  }
  CHECK(counting.starts == counting.finishes);
  swap_root(Root{});
  CHECK(counting.alive == 0);
}

/// Waits to be cancelled.
void wait_for_cancellation(std::atomic<bool>& waiting) {
  waiting = true;
  for (;;) pause();
}

}  // namespace

TEST_CASE("pthread_exit from a start listener: the operation is finished and released") {
  Counting counting;
  std::atomic<int> after{0};
  counting.root.on_start<Request>([] { pthread_exit(nullptr); });
  leaves(counting, [&] {
    Op<Request> op{{}};
    ++after;
  });
  CHECK(after == 0);
  CHECK(counting.finishes == 1);
}

TEST_CASE("pthread_exit from the start listener of a shared operation") {
  Counting counting;
  counting.root.on_start<Request>([] { pthread_exit(nullptr); });
  leaves(counting, [] { auto handle = start<Request>({}); });
  CHECK(counting.finishes == 1);
}

TEST_CASE("pthread_exit from a finish listener, in finish() and in the destructor") {
  Counting counting;
  counting.root.on_finish<Request>([] { pthread_exit(nullptr); });
  SECTION("finish()") {
    leaves(counting, [] {
      Op<Request> op{{}};
      op.finish();
    });
  }
  SECTION("the destructor") {
    leaves(counting, [] { Op<Request> op{{}}; });
  }
  SECTION("finish() of a shared operation") {
    leaves(counting, [] {
      auto handle = start<Request>({});
      handle->finish();
    });
  }
  SECTION("the finish of a shared parent by its last child") {
    leaves(counting, [] {
      auto handle = start<Request>({});
      Op<Query> child{under(handle), {}};
      handle = {};
    });
  }
  CHECK(counting.finishes == 1);
}

TEST_CASE("pthread_exit from a finish listener of the operation itself: the event goes no further, the listeners are dropped") {
  Counting counting;
  swap_root(std::move(counting.root));
  std::atomic<int> alive{0};
  PosixThread thread([&] {
    Op<Request> op{{}};
    op.on_finish<Request>([life = Life(alive)] { pthread_exit(nullptr); });
    op.finish();
  });
  thread.join();
  CHECK_FALSE(thread.returned());
  CHECK(alive == 0);
  CHECK(counting.finishes == 0);
  swap_root(Root{});
  CHECK(counting.alive == 0);
}

TEST_CASE("pthread_exit from a data listener") {
  Counting counting;
  counting.root.on_data<Tick>([] { pthread_exit(nullptr); });
  leaves(counting, [] {
    Op<Request> op{{}};
    Op<Request> inner{{}};
    inner.emit(Tick{});
  });
  CHECK(counting.finishes == 2);
}

TEST_CASE("pthread_exit in a scope: its operations are finished") {
  Counting counting;
  leaves(counting, [] {
    Op<Request> op{{}};
    Op<Request> inner{{}};
    OperationScope scope(op);
    pthread_exit(nullptr);
  });
  CHECK(counting.finishes == 2);
}

TEST_CASE("pthread_cancel in a listener and in a scope") {
  Counting counting;
  std::atomic<bool> waiting{false};
  const auto cancel = [&](PosixThread& thread) {
    CHECK(eventually([&] { return waiting.load(); }));
    thread.cancel();
  };
  SECTION("a start listener") {
    counting.root.on_start<Request>([&] { wait_for_cancellation(waiting); });
    leaves(
        counting, [] { Op<Request> op{{}}; }, cancel);
  }
  SECTION("a finish listener") {
    counting.root.on_finish<Request>([&] { wait_for_cancellation(waiting); });
    leaves(
        counting, [] { Op<Request> op{{}}; }, cancel);
  }
  SECTION("a data listener") {
    counting.root.on_data<Tick>([&] { wait_for_cancellation(waiting); });
    leaves(
        counting,
        [] {
          Op<Request> op{{}};
          op.emit(Tick{});
        },
        cancel);
  }
  SECTION("a scope") {
    leaves(
        counting,
        [&] {
          Op<Request> op{{}};
          wait_for_cancellation(waiting);
        },
        cancel);
  }
  CHECK(counting.finishes == 1);
}

TEST_CASE("pthread_cancel while finish() waits for a listener elsewhere: it waits on") {
  Counting counting;
  std::atomic<bool> inside{false}, finishing{false}, go{false}, emitted{false};
  std::unique_ptr<PosixThread> other;  // joined here: that is a cancellation point
  std::atomic<int> finished_waiting{0};
  leaves(
      counting,
      [&] {
        Op<Request> op{{}};
        op.on_data<Tick>([&] {
          inside = true;
          while (!go) sched_yield();
        });
        other = std::make_unique<PosixThread>([&] {
          op.emit(Tick{});
          emitted = true;
        });
        while (!inside) sched_yield();
        finishing = true;
        op.finish();
        ++finished_waiting;
        while (!emitted) sched_yield();
        pthread_testcancel();
      },
      [&](PosixThread& thread) {
        CHECK(eventually([&] { return finishing.load(); }));
        thread.cancel();
        for (int i = 0; i < 1000; ++i) sched_yield();
        go = true;
      });
  CHECK(finished_waiting == 1);
}

TEST_CASE("pthread_cancel while the last handle finishes its operation: the listeners run first") {
  Counting counting;
  std::atomic<bool> inside{false}, go{false};
  std::atomic<int> completed{0};
  counting.root.on_finish<Request>([&] {
    inside = true;
    while (!go) usleep(1);  // a cancellation point
    ++completed;
  });
  leaves(
      counting,
      [] {
        { auto handle = start<Request>({}); }
        for (;;) pause();
      },
      [&](PosixThread& thread) {
        CHECK(eventually([&] { return inside.load(); }));
        thread.cancel();
        go = true;
      });
  CHECK(completed == 1);
}

TEST_CASE("a listener that throws does not disturb one that leaves by pthread_exit") {
  Counting counting;
  std::atomic<int> reported{0};
  set_error_handler([&](const ListenerError&) { ++reported; });
  counting.root.on_data<Tick>([] { throw 1; });
  counting.root.on_data<Tick>([] { pthread_exit(nullptr); });
  leaves(counting, [] {
    Op<Request> op{{}};
    op.emit(Tick{});
  });
  set_error_handler(nullptr);
  CHECK(reported == 1);
}

#if !defined(WEIR_TESTS_SANITIZED) || defined(WEIR_TESTS_TSAN)  // AddressSanitizer loses track of stacks left by pthread_exit
TEST_CASE("many threads leave callbacks by exception, pthread_exit and cancellation at any moment, with exact counts") {
  constexpr int threads = 8, rounds = 250;
  struct Made {
    std::atomic<int> operations{0}, ticks{0};
  } made;
  std::atomic<int> alive{0}, starts{0}, finishes{0}, ticks{0}, errors{0}, bystanders{0};
  std::atomic<unsigned> dice{0};
  set_error_handler([&](const ListenerError&) { ++errors; });
  Root root;
  root.on_start<Request>([&, life = Life(alive)] { ++starts; });
  root.on_finish<Request>([&, life = Life(alive)] { ++finishes; });
  root.on_data<Tick>([&, life = Life(alive)] { ++ticks; });
  const auto leave = [&, life = Life(alive)] {
    static thread_local bool leaving;  // a second time, out of a destructor that the first one runs, C++ would not have
    switch (dice.fetch_add(1, std::memory_order_relaxed) * 2654435761u >> 28) {
      case 0: throw 1;
      case 1:
        if (std::exchange(leaving, true)) return;
        pthread_exit(nullptr);
      case 2:
      case 3:
        if (std::exchange(leaving, true)) return;
        pthread_testcancel();
        leaving = false;
        return;
      case 4: sched_yield(); return;
      default: return;
    }
  };
  root.on_start<Request>(leave);
  root.on_finish<Request>([leave](Op<Request>& op) {
    if (op.implicit()) leave();  // a handle cannot be left by pthread_exit
  });
  root.on_data<Tick>(leave);
  swap_root(std::move(root));
  for (int round = 0; round < rounds; ++round) {
    std::vector<std::unique_ptr<PosixThread>> running;
    std::atomic<int> begun{0};
    for (int i = 0; i < threads; ++i)
      running.push_back(std::make_unique<PosixThread>([&, i] {
        ++begun;
        for (int n = 0; n < 1000; ++n) {
          made.operations.fetch_add(1);
          Op<Request> op{{n}};
          op.on_data<Tick>([life = Life(alive)] {});
          Listener gone = op.on_data<Tick>([life = Life(alive)] {});
          made.ticks.fetch_add(1);
          op.emit(Tick{});
          gone.remove();
          if ((i + n) % 3 == 0) op.finish({n});
          if ((i + n) % 5 == 0) {
            made.operations.fetch_add(1);
            auto shared = start<Request>(under(op), {n});
            shared->finish();
          }
        }
      }));
    while (begun < threads) sched_yield();
    for (int i = 0; i < threads; i += 2) running[static_cast<std::size_t>(i)]->cancel();
    for (auto& thread : running) thread->join();
    bystanders += static_cast<int>(std::count_if(running.begin(), running.end(), [](auto& thread) { return thread->returned(); }));
  }
  set_error_handler(nullptr);
  CHECK(starts == made.operations);
  CHECK(finishes == made.operations);
  CHECK(ticks == made.ticks);
  CHECK(bystanders < threads * rounds);
  swap_root(Root{});
  CHECK(alive == 1);  // `leave` itself
}
#endif

TEST_CASE("operations may be used in destructors of thread_local objects") {
  Counting counting;
  swap_root(std::move(counting.root));
  std::thread([] {
    struct Late {
      ~Late() { Op<Request> op{{}}; }
    };
    static thread_local Late late;
    (void)&late;
    Op<Request> op{{}};
  }).join();
  CHECK(counting.finishes == 2);
  swap_root(Root{});
  CHECK(counting.alive == 0);
}

#if !defined(NDEBUG) && !defined(WEIR_TESTS_TSAN)  // fork and ThreadSanitizer do not mix

TEST_CASE("debug builds abort when an operation is destroyed before its child, naming both") {
  SECTION("a child on the stack") {
    const Child child = in_a_child([] {
      auto* parent = new Op<Request>{{}};
      Op<Query> query{under(*parent), {}};
      delete parent;
    });
    CHECK(WIFSIGNALED(child.status));
    CHECK(WTERMSIG(child.status) == SIGABRT);
    CHECK(child.text.find("'http.request' was destroyed before its child 'Query'") != std::string::npos);
  }
  SECTION("a parent that had listeners of its own") {
    const Child child = in_a_child([] {
      auto* parent = new Op<Request>{{}};
      parent->on_finish<Query>([] {});
      Op<Query> query{under(*parent), {}};
      delete parent;
    });
    CHECK(WTERMSIG(child.status) == SIGABRT);
    CHECK(child.text.find("'Query'") != std::string::npos);
  }
  SECTION("a shared child") {
    const Child child = in_a_child([] {
      auto* parent = new Op<Request>{{}};
      auto query = start<Query>({});
      delete parent;
    });
    CHECK(WTERMSIG(child.status) == SIGABRT);
    CHECK(child.text.find("'Query'") != std::string::npos);
  }
  SECTION("none when the order is right") {
    const Child child = in_a_child([] {
      Op<Request> parent{{}};
      { auto query = start<Query>({}); }
      Op<Query> query{{}};
    });
    CHECK(WIFEXITED(child.status));
    CHECK(child.text.empty());
  }
}

#endif
