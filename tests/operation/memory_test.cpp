// Out of memory: the n-th allocation fails, for every n, and from the n-th on all do. Nothing is thrown, nothing crashes,
// what is heard was made, and nothing is left behind.
#include "weir/operation/operation.hpp"

#include <pthread.h>
#include <array>
#include <cstdlib>
#include <new>
#include <string>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/operations.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

/// Which allocations fail. Numbers count from 1, over all threads.
struct Failing {
  std::atomic<bool> armed{false};
  std::atomic<int> count{0};
  std::atomic<int> first{0}, last{0};

  bool next() {
    if (!armed.load(std::memory_order_relaxed)) return false;
    const int number = ++count;
    return number >= first && number <= last;
  }
} failing;

void* allocate(std::size_t size, std::size_t alignment) noexcept {
  if (failing.next()) return nullptr;
  return alignment <= alignof(std::max_align_t) ? std::malloc(size)
                                                : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}
void* allocate_or_throw(std::size_t size, std::size_t alignment) {
  if (void* memory = allocate(size, alignment)) return memory;
  throw std::bad_alloc();
}

}  // namespace

// Not inlined: GCC would see malloc on one side and operator delete on the other.
[[gnu::noinline]] void* operator new(std::size_t size) { return allocate_or_throw(size, 1); }
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return allocate(size, 1); }
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return allocate(size, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t, const std::nothrow_t&) noexcept { std::free(memory); }

namespace {

struct Counts {
  std::atomic<int> starts{0}, finishes{0}, ticks{0}, observed{0}, errors{0}, below{0}, removed{0}, unfinished{0};
};

struct Counting : Observer {
  explicit Counting(Counts& c) : counts(&c) {}
  void started(Operation&, const EventView&) override { ++counts->observed; }
  Counts* counts;
};

/// A plain thread: std::thread allocates, and may throw.
template <class Work>
void on_a_thread(Work& work) {
  pthread_t thread;
  if (pthread_create(
          &thread, nullptr,
          [](void* w) -> void* {
            (*static_cast<Work*>(w))();
            return nullptr;
          },
          &work) == 0)
    pthread_join(thread, nullptr);
}

/// A bit of everything that allocates. What it refers to outlives it, and it allocates nothing itself.
void scenario(Counts& counts, Counting& observer, std::atomic<int>& alive) {
  set_error_handler([&counts](const ListenerError&) { ++counts.errors; });
  {
    Root root;
    root.on_start<Request>([&counts, life = Life(alive)] { ++counts.starts; });
    root.on_finish<Request>([&counts, life = Life(alive), large = std::array<char, 100>{}] { counts.finishes += 1 + large[0]; });
    root.on_data<Tick>([&counts, life = Life(alive)] { ++counts.ticks; });
    root.on_data<Tick>([life = Life(alive)] { throw 1; });
    root.observe(observer);
    RootScope installed(std::move(root));
    auto work = [&] {
      Op<Request> op{{1}, {}};
      Listener self;
      self = op.on_data<Tick>([&counts, &self, life = Life(alive), large = std::array<char, 100>{}] {
        (void)large;
        counts.removed += self.remove();
      });
      for (int i = 0; i < 9; ++i) op.on_finish<Query>([&counts, life = Life(alive)] { ++counts.below; });
      { Op<Query> query{{}}; }
      op.emit(Tick{});
      op.emit(Tick{});
      Handle<Request> shared = start<Request>({2});
      if (shared) {
        shared->on_finish<Query>([life = Life(alive), large = std::array<char, 100>{}] { (void)large; });
        Handle<Query> below = start<Query>(under(shared), {});
        shared->emit(Tick{});
        shared->finish();
        shared = {};
      }
      op.finish({200});
      if (!op.finished()) ++counts.unfinished;
    };
    work();
    on_a_thread(work);
    Root second;
    second.on_start<Request>([&counts, life = Life(alive)] { ++counts.starts; });
    second.on_finish<Request>([&counts, life = Life(alive)] { ++counts.finishes; });
    Root previous = swap_root(std::move(second));
    {
      Op<Request> op{{3}, {}};
      op.emit(Tick{});
      OperationScope scope(op);
      Op<Request> inner{{4}, {}};
    }
    swap_root(std::move(previous));
  }
  set_error_handler(nullptr);
}

enum Outcome { good = 0, not_reached = 1, threw = 2, left_behind = 3, too_much = 4, too_little_afterwards = 5, not_finished = 6 };

/// Runs the scenario while the allocations from `first` to `last` fail, and once more while none does.
int run(int first, int last) {
  std::atomic<int> alive{0};
  Counts poor, rich;
  Counting poor_observer(poor), rich_observer(rich);
  bool thrown = false;
  failing.count = 0;
  failing.first = first;
  failing.last = last;
  failing.armed = true;
  try {
    scenario(poor, poor_observer, alive);
  } catch (...) {
    thrown = true;
  }
  failing.armed = false;
  const bool reached = failing.count >= first;
  if (thrown) return threw;
  if (alive != 0) return left_behind;
  if (poor.unfinished != 0) return not_finished;
  scenario(rich, rich_observer, alive);
  const auto within = [](const std::atomic<int>& some, const std::atomic<int>& all) { return some >= 0 && some <= all; };
  if (!within(poor.starts, rich.starts) || !within(poor.finishes, rich.finishes) || !within(poor.ticks, rich.ticks) ||
      !within(poor.below, rich.below) || !within(poor.observed, rich.observed) || !within(poor.errors, rich.errors))
    return too_much;
  // Twice: two operations, two queries with nine listeners, three ticks; and two operations under the second root.
  if (alive != 0 || rich.starts != 6 || rich.finishes != 6 || rich.ticks != 6 || rich.below != 36 || rich.observed != 8 ||
      rich.errors != 6 || rich.removed != 2)
    return too_little_afterwards;
  return reached ? good : not_reached;
}

const char* describe(int outcome) {
  constexpr const char* texts[] = {"good",
                                   "not reached",
                                   "an exception came out",
                                   "listeners were left behind",
                                   "heard more than was made",
                                   "did not recover",
                                   "an operation did not finish"};
  return outcome >= 0 && outcome < 7 ? texts[outcome] : "killed, or hung";
}

}  // namespace

TEST_CASE("the scenario hears everything when memory suffices") { CHECK(describe(run(1 << 30, 1 << 30)) == std::string("not reached")); }

#if !defined(WEIR_TESTS_TSAN)  // fork and ThreadSanitizer do not mix

TEST_CASE("the n-th allocation of a process that has not used operations fails, for every n") {
  const bool all_that_follow = GENERATE(false, true);
  int n = 1;
  for (;; ++n) {
    const Child child = in_a_child([&] { return run(n, all_that_follow ? 1 << 30 : n); }, 20);
    if (child.code() == not_reached) break;
    INFO("allocation " << n << (all_that_follow ? " and all that follow" : "") << ": " << describe(child.code()) << ' ' << child.text);
    REQUIRE(child.code() == good);
  }
  CHECK(n > 20);
}

#endif

TEST_CASE("the n-th allocation of a process that uses operations fails, for every n") {
  const bool all_that_follow = GENERATE(false, true);
  int n = 1;
  for (;; ++n) {
    const int outcome = run(n, all_that_follow ? 1 << 30 : n);
    if (outcome == not_reached) break;
    INFO("allocation " << n << (all_that_follow ? " and all that follow" : "") << ": " << describe(outcome));
    REQUIRE(describe(outcome) == std::string("good"));
  }
  CHECK(n > 20);
}

TEST_CASE("without memory a root is an empty handle, a shared operation too, and a registration is refused") {
  swap_root(Root{});
  std::atomic<int> alive{0};
  Op<Request> op{{}, {}};
  const Life life(alive);
  failing.count = 0;
  failing.first = 1;
  failing.last = 1 << 30;
  failing.armed = true;
  Root root;
  const Handle<Request> shared = start<Request>({});
  Listener on_root = root.on_start<Request>([] {});
  Listener on_op = op.on_data<Tick>([life] {});
  Root previous = swap_root(std::move(root));
  { Op<Request> without_root{{}, {}}; }
  failing.armed = false;
  CHECK_FALSE(root);
  CHECK_FALSE(shared);
  CHECK_FALSE(on_root.remove());
  CHECK_FALSE(on_op.remove());
  CHECK(alive == 1);
  CHECK(failing.count >= 3);
  op.on_data<Tick>([life] {});  // and with memory again it is accepted
  CHECK(alive == 2);
  swap_root(std::move(previous));
}
