// fork: the child goes on to use operations, whatever its parent's threads were doing with them. Every child has a guard
// against hanging.
#include "weir/operation/operation.hpp"

#include <pthread.h>
#include <sched.h>
#include <array>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/fork_memory.hpp"
#include "support/operations.hpp"

#if !defined(WEIR_TESTS_TSAN)  // fork and ThreadSanitizer do not mix

using namespace weir;
using namespace weir::testing;

namespace {

constexpr unsigned guard_seconds = 20;

/// Where a thread stays until it is let go. In a child, where that thread is not, nothing does.
class Gate {
 public:
  void stay() {
    inside_ = true;
    while (!open_) sched_yield();
  }
  void await() const {
    while (!inside_) sched_yield();
  }
  void open() { open_ = true; }

 private:
  std::atomic<bool> inside_{false}, open_{false};
};

/// A closure that does something when it is copied, and when it is destroyed.
struct Acting {
  std::function<void()>* when_copied = nullptr;
  std::function<void()>* when_destroyed = nullptr;

  Acting(std::function<void()>* copied, std::function<void()>* destroyed) : when_copied(copied), when_destroyed(destroyed) {}
  Acting(const Acting& other) : when_copied(other.when_copied), when_destroyed(other.when_destroyed) {
    if (when_copied != nullptr) (*when_copied)();
  }
  Acting(Acting&& other) noexcept
      : when_copied(std::exchange(other.when_copied, nullptr)), when_destroyed(std::exchange(other.when_destroyed, nullptr)) {}
  Acting& operator=(const Acting&) = delete;
  ~Acting() {
    if (when_destroyed != nullptr) (*when_destroyed)();
  }
  void operator()() const {}
};

// What use_operations() counts. Static: what was removed inside a listener is destroyed after it.
std::atomic<int> alive{0}, starts{0}, finishes{0}, ticks{0};

/// Catch2 is not for children: the number of the first check that fails is the exit code.
struct Checks {
  int failed = 0;
  void operator()(bool right, int number) {
    if (!right && failed == 0) failed = number;
  }
};

/// Some of everything, below a root of its own. 0, or the number of what went wrong.
int use_operations(bool inside_a_listener = false) {
  Checks check;
  alive = starts = finishes = ticks = 0;
  const auto work = [&] {
    for (int i = 0; i < 5; ++i) {
      Op<Request> inner{{i}};
      Listener listener = inner.on_data<Tick>([life = Life(alive)] { ++ticks; });
      inner.emit(Tick{});  // heard twice
      check(listener.remove(), 1);
      check(!listener.remove(), 2);
      inner.emit(Tick{});
      inner.on_data<Tick>([life = Life(alive)] {});
      inner.finish({i});
      check(inner.finished(), 3);
    }
  };
  Root root;
  root.on_start<Request>([life = Life(alive)] { ++starts; });
  root.on_finish<Request>([life = Life(alive)] { ++finishes; });
  root.on_data<Tick>([life = Life(alive), large = std::array<int, 20>{}] { ticks += 1 + large[0]; });
  {
    Handle<Request> around = start<Request>(under(root), {});
    OperationScope scope(*around);
    work();
  }
  check(starts == 6 && finishes == 6 && ticks == 15, 4);
  Root previous = swap_root(std::move(root));
  if (Operation::current() == nullptr) {
    work();
    check(starts == 11 && finishes == 11 && ticks == 30, 5);
  }
  root = swap_root(std::move(previous));
  check(static_cast<bool>(root), 6);
  root = Root{};
  if (!inside_a_listener) check(alive == 0, 7);
  return check.failed;
}

/// The same on threads that the child starts, all under one root.
int use_operations_on_threads() {
  Checks check;
  std::atomic<int> heard{0};
  Root previous;
  {
    Root root;
    root.on_finish<Request>([&] { ++heard; });
    previous = swap_root(std::move(root));
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([] {
      for (int n = 0; n < 20; ++n) Op<Request> op{{n}};
    });
  for (std::thread& thread : threads) thread.join();
  check(heard == 60, 11);
  swap_root(std::move(previous));
  return check.failed;
}

/// Forks; the child does what is special, then what any program does, and exits as programs do.
template <class Special>
void fork_and_go_on(Special special) {
  const Child child = in_a_child(
      [&] {
        int failed = special();
        if (failed == 0) failed = use_operations();
        if (failed == 0) failed = use_operations_on_threads();
        std::exit(failed);
      },
      guard_seconds);
  CHECK_FALSE(child.hung());
  CHECK(child.code() == 0);
}

/// What `thread` does until `gate` is open: the child of a fork made meanwhile does `special`, and goes on.
template <class Body, class Special>
void fork_meanwhile(Gate& gate, Body body, Special special) {
  std::thread thread(body);
  gate.await();
  fork_and_go_on(special);
  gate.open();
  thread.join();
}

/// 0, or the number of what went wrong: the operation can be finished, and is silent then.
int finish_and_emit(Op<Request>& op) {
  op.finish();
  if (!op.finished()) return 21;
  op.emit(Tick{});
  if (op.on_data<Tick>([] {}).remove()) return 22;
  return 0;
}

}  // namespace

TEST_CASE("fork while another thread is inside a listener: the child removes it, finishes its operation, and goes on") {
  Gate gate;
  RootScope installed{Root{}};
  Listener listener;
  SECTION("of an operation of that thread, which the child has not") {
    fork_meanwhile(
        gate,
        [&] {
          Op<Request> op{{}};
          listener = op.on_data<Tick>([&] { gate.stay(); });
          op.emit(Tick{});
        },
        [&] {
          listener.remove();
          return 0;
        });
  }
  SECTION("of an operation of the thread that forks") {
    Op<Request> mine{{}};
    listener = mine.on_data<Tick>([&] { gate.stay(); });
    fork_meanwhile(
        gate, [&] { mine.emit(Tick{}); }, [&] { return listener.remove() ? finish_and_emit(mine) : 20; });
  }
  SECTION("of an operation of the thread that forks, which ends in the child") {
    auto mine = std::make_unique<Op<Request>>(Request::Args{});
    mine->on_data<Tick>([&] { gate.stay(); });
    fork_meanwhile(
        gate, [&] { mine->emit(Tick{}); },
        [&] {
          mine.reset();
          return 0;
        });
  }
  SECTION("of a shared operation") {
    Handle<Request> shared = start<Request>({});
    listener = shared->on_data<Tick>([&] { gate.stay(); });
    fork_meanwhile(
        gate, [&] { shared->emit(Tick{}); }, [&] { return listener.remove() ? finish_and_emit(*shared) : 20; });
  }
  SECTION("of the installed root, which the child swaps out") {
    Op<Request> mine{{}};
    listener = mine.parent()->on_data<Tick>([&] { gate.stay(); });
    fork_meanwhile(
        gate,
        [] {
          Op<Request> op{{}};
          op.emit(Tick{});
        },
        [&] {
          const bool removed = listener.remove();
          swap_root(Root{});
          return removed ? 0 : 20;
        });
  }
  SECTION("deep inside listeners") {
    Op<Request> mine{{}};
    listener = mine.on_data<Tick>([&](const Tick& tick) {
      if (tick.value == 15)
        gate.stay();
      else
        mine.emit(Tick{tick.value + 1});
    });
    fork_meanwhile(
        gate, [&] { mine.emit(Tick{}); }, [&] { return listener.remove() ? finish_and_emit(mine) : 20; });
  }
}

TEST_CASE("fork while another thread registers: the child registers there too") {
  Gate gate;
  RootScope installed{Root{}};
  Op<Request> mine{{}};
  Handle<Request> shared = start<Request>(under(mine), {});
  Operation* const targets[] = {mine.parent(), &mine, &*shared};
  Operation* const target = targets[GENERATE(0, 1, 2)];
  std::function<void()> stay = [&] { gate.stay(); };
  const Acting acting(&stay, nullptr);
  fork_meanwhile(
      gate, [&] { target->on_data<Tick>(acting); },
      [&] {
        int heard = 0;
        Listener listener = target->on_data<Tick>([&] { ++heard; });
        shared->emit(Tick{});
        return heard == 1 && listener.remove() ? 0 : 20;
      });
}

TEST_CASE("fork while another thread is inside finish(): the child can finish the operation too, and waits for nobody") {
  Gate gate;
  RootScope installed{Root{}};
  SECTION("in its finish listener") {
    std::optional<Op<Request>> mine;
    mine.emplace(Request::Args{});
    mine->on_finish<Request>([&] { gate.stay(); });
    fork_meanwhile(
        gate, [&] { mine->finish(); },
        [&] {
          const int failed = finish_and_emit(*mine);
          mine.reset();
          return failed;
        });
  }
  SECTION("of its own operation, which the child has not") {
    fork_meanwhile(
        gate,
        [&] {
          Op<Request> op{{}};
          op.on_finish<Request>([&] { gate.stay(); });
          op.finish();
        },
        [] { return 0; });
  }
  SECTION("in the finish listener of a shared operation") {
    Handle<Request> shared = start<Request>({});
    shared->on_finish<Request>([&] { gate.stay(); });
    fork_meanwhile(
        gate, [&] { shared->finish(); },
        [&] {
          const int failed = finish_and_emit(*shared);
          shared = {};
          return failed;
        });
  }
  SECTION("in the destructor of a listener that it drops") {
    Op<Request> mine{{}};
    std::function<void()> stay = [&] { gate.stay(); };
    mine.on_data<Tick>(Acting(nullptr, &stay));
    fork_meanwhile(
        gate, [&] { mine.finish(); }, [&] { return finish_and_emit(mine); });
  }
  SECTION("while it waits for a listener on a third thread") {
    Op<Request> mine{{}};
    Gate listening;
    mine.on_data<Tick>([&] { listening.stay(); });
    std::thread emitter([&] { mine.emit(Tick{}); });
    listening.await();
    std::thread finisher([&] { mine.finish(); });
    while (!mine.finished()) sched_yield();
    for (int i = 0; i < 100; ++i) sched_yield();
    fork_and_go_on([&] { return finish_and_emit(mine); });
    listening.open();
    emitter.join();
    finisher.join();
  }
}

TEST_CASE("fork while another thread removes a listener") {
  Gate listening;
  RootScope installed{Root{}};
  Op<Request> mine{{}};
  std::atomic<bool> removing{false};
  Listener listener = mine.on_data<Tick>([&] { listening.stay(); });
  std::thread emitter([&] { mine.emit(Tick{}); });
  listening.await();
  std::thread remover([&] {
    removing = true;
    listener.remove();
  });
  while (!removing) sched_yield();
  for (int i = 0; i < 100; ++i) sched_yield();
  fork_and_go_on([&] {
    listener.remove();  // or it was
    return finish_and_emit(mine);
  });
  listening.open();
  remover.join();
  emitter.join();
}

TEST_CASE("fork while another thread swaps the root and destroys the old one's listeners") {
  Gate gate;
  std::function<void()> stay = [&] { gate.stay(); };
  Root old;
  old.on_data<Tick>(Acting(nullptr, &stay));
  swap_root(std::move(old));
  fork_meanwhile(
      gate, [] { swap_root(Root{}); },
      [] {
        swap_root(Root{});
        return 0;
      });
  swap_root(Root{});
}

TEST_CASE("fork while another thread is inside the error handler") {
  Gate gate;
  RootScope installed{Root{}};
  Op<Request> mine{{}};
  Listener throwing = mine.on_data<Tick>([] { throw 1; });
  set_error_handler([&](const ListenerError&) { gate.stay(); });
  fork_meanwhile(
      gate, [&] { mine.emit(Tick{}); },
      [&] {
        int errors = 0;
        set_error_handler([&](const ListenerError&) { ++errors; });
        mine.emit(Tick{});
        set_error_handler(nullptr);
        return errors == 1 && throwing.remove() ? 0 : 20;
      });
  set_error_handler(nullptr);
}

TEST_CASE("fork by a thread that is inside a callback itself: the child goes on inside it, and after it") {
  RootScope installed{Root{}};
  enum { in_parent = -1 };
  pid_t pid = in_parent;
  int status = in_parent, failed = 0;
  const auto fork_here = [&] {
    pid = ::fork();
    if (pid != 0) {
      ::waitpid(pid, &status, 0);
    } else {
      become_a_child(guard_seconds);
      failed = use_operations(true);
    }
  };
  std::function<void()> forking = fork_here;
  std::atomic<int> living{0};
  SECTION("a data listener, which removes itself and finishes its operation") {
    Op<Request> op{{}};
    Listener self;
    self = op.on_data<Tick>([&, life = Life(living)] {
      fork_here();
      if (pid != 0) return;
      if (!self.remove()) failed = 30;
      op.finish();
    });
    op.emit(Tick{});
    if (pid == 0 && failed == 0 && living != 0) failed = 31;
  }
  SECTION("a start listener, of a shared operation too") {
    Op<Request> around{{}};
    around.on_start<Query>([&](Op<Query>&) {
      if (pid == in_parent) fork_here();
    });
    { Op<Query> op{{}}; }
    auto handle = start<Query>({});
  }
  SECTION("a finish listener") {
    Op<Request> op{{}};
    op.on_finish<Request>([&, life = Life(living)] { fork_here(); });
    op.finish();
    if (pid == 0 && failed == 0 && living != 0) failed = 32;
  }
  SECTION("a listener of the root, which the child swaps out from inside it") {
    Op<Request> op{{}};
    op.parent()->on_data<Tick>([&] {
      fork_here();
      if (pid == 0) swap_root(Root{});
    });
    op.emit(Tick{});
  }
  SECTION("a listener fourteen emissions deep") {
    Op<Request> op{{}};
    op.on_data<Tick>([&](const Tick& tick) {
      if (tick.value < 14)
        op.emit(Tick{tick.value + 1});
      else
        fork_here();
    });
    op.emit(Tick{1});
  }
  SECTION("the copy of a closure that is being registered") {
    Op<Request> op{{}};
    const Acting acting(&forking, nullptr);
    op.on_data<Tick>(acting);
    if (pid == 0 && failed == 0) failed = use_operations();
  }
  SECTION("the destructor of a closure that a finish drops") {
    Op<Request> op{{}};
    op.on_data<Tick>(Acting(nullptr, &forking));
    op.finish();
  }
  SECTION("the destructor of a listener of an old root") {
    Root root;
    root.on_data<Tick>(Acting(nullptr, &forking));
    Root previous = swap_root(std::move(root));
    swap_root(std::move(previous));
  }
  SECTION("the error handler") {
    set_error_handler([&](const ListenerError&) { fork_here(); });
    Op<Request> op{{}};
    op.on_data<Tick>([] { throw 1; });
    op.emit(Tick{});
    set_error_handler(nullptr);
  }
  if (pid == 0) {  // no longer inside anything
    if (failed == 0) failed = use_operations();
    if (failed == 0) failed = use_operations_on_threads();
    ::_exit(failed);
  }
  REQUIRE(pid > 0);
  CHECK_FALSE((WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM));
  CHECK(status == 0);
  CHECK(use_operations() == 0);  // and so does the parent
}

TEST_CASE("a thousand forks while threads register, remove, emit, finish and swap") {
  std::atomic<bool> over{false};
  std::atomic<std::uint64_t> heard{0}, made{0};
  std::atomic<int> living{0};
  const auto make = [&] {
    Root root;
    root.on_finish<Query>([&, life = Life(living)] { heard.fetch_add(1, std::memory_order_relaxed); });
    return root;
  };
  swap_root(make());
  Handle<Request> hub = start<Request>({});
  const auto again_and_again = [&](auto work) {
    return std::thread([&over, work] {
      while (!over) work();
    });
  };
  std::vector<std::thread> threads;
  threads.push_back(again_and_again([&] {
    Op<Query> op{{}};
    Op<Query> below{under(hub), {}};
    below.emit(Tick{});
    made += 2;
  }));
  threads.push_back(again_and_again([&] {
    Op<Query> op{{}};
    Listener there = op.parent()->on_data<Tick>([life = Life(living)] {});
    Listener here = hub->on_data<Tick>([life = Life(living), large = std::array<int, 20>{}] { (void)large; });
    op.on_data<Tick>([] {});
    op.emit(Tick{});
    here.remove();
    there.remove();
    ++made;
  }));
  threads.push_back(again_and_again([&] { swap_root(make()); }));
  threads.push_back(again_and_again([&] {
    Handle<Query> shared = start<Query>(under(hub), {});
    shared->on_finish<Query>([life = Life(living)] {});
    if (sanitized)
      shared->finish();
    else  // (AddressSanitizer's own locks do not survive a fork while a thread starts)
      std::thread([shared] { shared->finish(); }).join();
    ++made;
  }));
  int forks = 0;
  std::vector<int> codes;
  for (; forks < 1000 && codes.empty(); ++forks) {
    const Child child = in_a_child(
        [&] {
          int failed = use_operations();
          if (failed == 0 && !sanitized && forks % 20 == 0) failed = use_operations_on_threads();
          if (failed == 0 && forks % 2 == 0) failed = finish_and_emit(*hub);
          swap_root(Root{});
          return failed;
        },
        guard_seconds);
    if (child.code() != 0) codes.push_back(child.code());
  }
  over = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(codes == std::vector<int>{});
  CHECK(forks == 1000);
  CHECK(heard == made);
  hub = {};
  swap_root(Root{});
  CHECK(living == 0);
}

#endif
