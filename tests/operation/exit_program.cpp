// What process_exit_test runs: exit_program SCENARIO. Ends with status 0; with another one where an event was lost.
#include <pthread.h>
#include <sched.h>
#include <unistd.h>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "weir/operation/operation.hpp"

namespace {

struct Work {
  struct Args {};
  struct Result {};
};
struct Tick {};

std::atomic<int> starts{0}, finishes{0}, ticks{0};

weir::Root counting_root() {
  weir::Root root;
  root.on_start<Work>([] { ++starts; });
  root.on_finish<Work>([] { ++finishes; });
  root.on_data<Tick>([kept = std::make_shared<int>(1)] { ticks += *kept; });
  return root;
}

[[noreturn]] void fail(int status) { ::_exit(status); }

/// Uses operations as any code may. `unheard`: somebody else may swap the root at this moment.
void use_operations(int status, bool unheard = false) {
  const int starts_before = starts, finishes_before = finishes, ticks_before = ticks;
  {
    weir::Op<Work> op{{}};
    std::atomic<int> mine{0};
    weir::Listener listener = op.on_data<Tick>([&mine, kept = std::make_shared<int>(1)] { mine += *kept; });
    op.emit(Tick{});
    if (mine != 1 || !listener.remove()) fail(status);
    if (weir::Operation* root = op.parent()) root->on_data<int>([kept = std::make_shared<int>(1)] {}).remove();
    weir::Handle<Work> shared = weir::start<Work>({});
    if (shared) shared->finish();
  }
  if (!unheard && (starts - starts_before < 2 || finishes - finishes_before < 2 || ticks == ticks_before)) fail(status + 1);
}

/// And swaps the root for another one.
void use_and_swap(int status) {
  use_operations(status);
  weir::Root previous = weir::swap_root(counting_root());
  use_operations(status + 2);
  weir::swap_root(std::move(previous));
  use_operations(status + 4);
}

template <int Status>
struct AtDestruction {
  bool on = false;
  ~AtDestruction() {
    if (on) use_and_swap(Status);
  }
};

// Made before the library is first used, destroyed last.
AtDestruction<20> early_static;

/// Goes on as long as the process lasts, and counts.
std::atomic<int> going_on{0};
[[noreturn]] void go_on() {
  for (;;) {
    use_operations(30, true);
    ++going_on;
  }
}

/// Destroyed after the others: until then, and for a while longer, the detached threads have gone on. (A state, not a
/// time: a use of something destroyed shows only if there is time for it.)
struct LastOfAll {
  bool on = false;
  ~LastOfAll() {
    if (!on) return;
    const int now = going_on;
    while (going_on < now + 1000) sched_yield();
  }
} last_of_all;

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  const std::string scenario = arguments[1];
  if (scenario == "static destructors, before and after") early_static.on = true;
  if (scenario.starts_with("detached")) last_of_all.on = true;

  if (scenario == "a static root scope") {
    static weir::RootScope installed{counting_root()};
    use_operations(10);
    return 0;
  }
  if (scenario == "detached threads and a static root scope") {
    static weir::RootScope installed{counting_root()};
    for (int i = 0; i < 3; ++i) std::thread(go_on).detach();
    while (going_on < 100) sched_yield();
    return 0;
  }
  weir::swap_root(counting_root());
  use_operations(10);
  if (scenario == "main returns") return 0;
  if (scenario == "inside an operation") {
    weir::Op<Work> op{{}};
    std::exit(0);
  }
  if (scenario == "inside a listener") {
    weir::Op<Work> op{{}};
    op.on_data<Tick>([] { std::exit(0); });
    op.emit(Tick{});
  }
  if (scenario == "inside a listener, with an atexit handler") {
    std::atexit([] { use_and_swap(40); });
    weir::Op<Work> op{{}};
    op.on_data<Tick>([] { std::exit(0); });
    op.emit(Tick{});
  }
  if (scenario == "an atexit handler") {
    std::atexit([] { use_and_swap(40); });
    return 0;
  }
  if (scenario == "static destructors, before and after") {
    static AtDestruction<50> late_static;
    late_static.on = true;
    return 0;
  }
  if (scenario == "static operations") {
    static std::optional<weir::Op<Work>> on_stack;
    on_stack.emplace(Work::Args{});
    on_stack->on_finish<Work>([kept = std::make_shared<int>(1)] { ++ticks; });
    static weir::Handle<Work> shared = weir::start<Work>({});
    shared->on_finish<Work>([kept = std::make_shared<int>(1)] { ++ticks; });
    static weir::Root root = counting_root();
    return 0;
  }
  if (scenario == "thread_local destructors") {
    thread_local AtDestruction<60> of_main;
    of_main.on = true;
    std::thread([] {
      thread_local AtDestruction<70> of_thread;
      of_thread.on = true;
      use_operations(15);
    }).join();
    return 0;
  }
  if (scenario == "quick_exit") {
    std::at_quick_exit([] { use_and_swap(80); });
    weir::Op<Work> op{{}};
    std::quick_exit(0);
  }
  if (scenario == "detached threads") {
    for (int i = 0; i < 3; ++i) std::thread(go_on).detach();
    while (going_on < 100) sched_yield();
    std::atexit([] { use_operations(40, true); });
    return 0;
  }
  if (scenario == "detached threads, and another one exits") {
    for (int i = 0; i < 2; ++i) std::thread(go_on).detach();
    std::thread([] {
      while (going_on < 100) sched_yield();
      weir::Op<Work> op{{}};
      std::exit(0);
    }).detach();
    go_on();
  }
  if (scenario == "detached threads, swapping") {
    std::thread(go_on).detach();
    std::thread(go_on).detach();
    std::thread([] {
      for (;;) weir::swap_root(counting_root());
    }).detach();
    while (going_on < 100) sched_yield();
    return 0;
  }
  if (scenario == "main ends by pthread_exit") {
    static std::atomic<bool> main_has_ended{false};
    pthread_key_t key;  // (thread_local objects of the main thread live until exit)
    pthread_key_create(&key, [](void*) { main_has_ended = true; });
    pthread_setspecific(key, &main_has_ended);
    std::thread([] {
      while (!main_has_ended) sched_yield();
      use_and_swap(90);
    }).detach();
    weir::Op<Work> op{{}};
    pthread_exit(nullptr);
  }
  return 3;
}
