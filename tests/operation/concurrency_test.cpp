// The guarantees of the operation tree with several threads. Every check is made on the main thread; threads meet at
// flags, never by the clock. ThreadSanitizer does not know membarrier, so that plain builds run these tests too.
#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/operations.hpp"
#include "weir/operation/operation.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

#if defined(WEIR_TESTS_WITHOUT_MEMBARRIER)
// As on a kernel that has no membarrier: every thread publishes with full barriers.
const bool without_membarrier = [] {
  detail::start_process_locked();
  detail::process_state.has_membarrier = false;
  return true;
}();
#endif

constexpr int scale = sanitized ? 4 : 1;

void await(const std::atomic<bool>& flag) {
  while (!flag.load(std::memory_order_acquire)) sched_yield();
}

/// Lets a little time pass, so that rounds differ.
void delay(int turns) {
  for (int i = 0; i < turns; ++i) asm volatile("");
}

/// Runs work(0) ... work(count - 1), each on a thread of its own, all beginning together.
template <class Work>
void together(int count, Work work) {
  std::atomic<int> ready{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i)
    threads.emplace_back([&, i] {
      ++ready;
      while (ready.load() < count) sched_yield();
      work(i);
    });
  for (std::thread& thread : threads) thread.join();
}

/// What a listener refers to. Once its owner may rely on nobody running the listener, it is poisoned.
struct State {
  static constexpr std::uint64_t good = 0x600d600d600d600d;
  volatile std::uint64_t value = good;
  std::uint64_t padding[7] = {};
};

std::size_t roots_alive() {
  detail::ProcessLock lock;
  std::size_t count = 0;
  for (const detail::RootNode* root = detail::process_state.roots; root != nullptr; root = root->next) ++count;
  return count;
}

/// Access to a private member: explicit instantiation may name it.
std::atomic<std::uint8_t>& state_of(Operation& operation);
template <auto Member>
struct Expose {
  friend std::atomic<std::uint8_t>& state_of(Operation& operation) { return operation.*Member; }
};
template struct Expose<&Operation::state_>;

/// The node of the installed root.
Operation& installed_root() {
  Op<Request> op{{}};
  return *op.parent();
}

}  // namespace

TEST_CASE("1,000 concurrent registrations, then 1,000 concurrent operations: exactly 2,000,000 calls") {
  std::atomic<std::uint64_t> calls{0};
  RootScope installed{Root{}};
  Operation& root = installed_root();
  together(8, [&](int) {
    for (int i = 0; i < 125; ++i) {
      root.on_start<Request>([&] { calls.fetch_add(1, std::memory_order_relaxed); });
      root.on_finish<Request>([&] { calls.fetch_add(1, std::memory_order_relaxed); });
    }
  });
  together(8, [&](int) {
    for (int i = 0; i < 125; ++i) Op<Request> op{{}};
  });
  CHECK(calls == 2'000'000);
}

TEST_CASE("registration, removal, emission and swap overlap, with exact counts") {
  constexpr int operations = 1'000'000 / scale, swaps = 20'000 / scale;
  std::atomic<std::uint64_t> starts{0}, finishes{0}, ticks{0};
  std::atomic<int> alive{0}, running{3};
  std::uint64_t removed = 0;
  const auto make = [&] {
    Root root;
    root.on_start<Request>([&, life = Life(alive)] { starts.fetch_add(1, std::memory_order_relaxed); });
    root.on_finish<Request>([&, life = Life(alive)] { finishes.fetch_add(1, std::memory_order_relaxed); });
    root.on_data<Tick>([&, life = Life(alive)] { ticks.fetch_add(1, std::memory_order_relaxed); });
    return root;
  };
  swap_root(make());
  together(5, [&](int thread) {
    if (thread < 3) {
      for (int i = 0; i < operations; ++i) {
        Op<Request> op{{i}};
        op.emit(Tick{});
        if (i % 3 == 0) op.finish({i});
      }
      --running;
    } else if (thread == 3) {
      while (running != 0) {  // comes and goes on whatever root is installed
        Op<Query> query{{}};
        Operation& root = *query.parent();
        Listener listener = root.on_data<Tick>([life = Life(alive), large = std::array<int, 20>{}] { (void)large; });
        Listener other = root.on_start<Request>([life = Life(alive)] {});
        removed += listener.remove() + other.remove();
      }
    } else {
      for (int i = 0; i < swaps || running != 0; ++i) swap_root(make());
    }
  });
  CHECK(starts == 3 * operations);
  CHECK(finishes == 3 * operations);
  CHECK(ticks == 3 * operations);
  CHECK(removed % 2 == 0);
  CHECK(alive == 3);
  swap_root(Root{});
  CHECK(alive == 0);
  CHECK(roots_alive() == 1);
}

TEST_CASE("once finish() has returned no listener of the operation runs: foreign children, emitters, registrars and finishers") {
  const bool shared = GENERATE(false, true);
  std::atomic<std::uint64_t> heard{0};
  std::atomic<int> bad{0}, alive{0};
  std::uint64_t delivered = 0;
  constexpr int rounds = 3'000 / scale;
  for (int round = 0; round < rounds; ++round) {
    auto state = std::make_unique<State>();
    std::optional<Op<Request>> on_stack;
    Handle<Request> handle;
    if (shared)
      handle = start<Request>({});
    else
      on_stack.emplace(Request::Args{});
    Op<Request>& op = shared ? *handle : *on_stack;
    const auto use = [&, s = state.get(), life = Life(alive)] {
      for (int i = 0; i < 3; ++i)
        if (s->value != State::good) bad.fetch_add(1, std::memory_order_relaxed);
      heard.fetch_add(1, std::memory_order_relaxed);
    };
    std::atomic<int> finishes{0};
    op.on_finish<Query>(use);
    op.on_data<Tick>(use);
    op.on_finish<Request>([&finishes] { ++finishes; });
    std::atomic<int> begun{0};
    std::atomic<bool> poisoned{false};
    std::thread others[2];
    for (int id = 0; id < 2; ++id)
      others[id] = std::thread([&, id] {
        ++begun;
        for (int i = 0; i < 20; ++i) {
          { Op<Query> child{under(op), {}}; }
          op.emit(Tick{});
          if (i % 5 == 2 && !poisoned) {
            auto own = std::make_shared<State>();
            op.on_finish<Query>([own, &bad] {
              if (own->value != State::good) ++bad;
            });
          }
          if (id == 1 && round % 3 == 0 && i == round % 20) {
            op.finish();
            if (finishes != 1) ++bad;
          }
        }
      });
    while (begun < 2) sched_yield();
    for (int i = 0; i < round % 50; ++i) Op<Query> child{under(op), {}};
    op.finish();
    state->value = 0xdead;
    if (alive != 1) ++bad;  // only `use` itself: the listeners are destroyed
    state.reset();
    poisoned = true;
    delivered += static_cast<std::uint64_t>(finishes.load());
    for (std::thread& other : others) other.join();
  }
  CHECK(bad == 0);
  CHECK(delivered == rounds);
  CHECK(alive == 0);
  CHECK(heard > 0);
}

TEST_CASE("a listener that another thread registers while the operation finishes never runs after finish() returned") {
  constexpr int rounds = 4'000 / scale;
  std::atomic<Op<Request>*> target{nullptr};
  std::atomic<int> open{-1}, registered{-1}, returned{-1}, closing{-1}, idle{-1}, late{0};
  const auto until = [&](int round) {  // hot at first, so that the threads really meet
    for (int i = 0; open < round; ++i)
      if (i > 2000) sched_yield();
  };
  std::thread registrar([&] {
    for (int round = 0; round < rounds; ++round) {
      until(round);
      target.load()->on_finish<Query>([&, round] {
        if (returned >= round) ++late;
      });
      registered = round;
    }
  });
  std::thread children([&] {
    for (int round = 0; round < rounds; ++round) {
      until(round);
      while (closing < round) {
        for (int i = 0; i < 20; ++i) Op<Query> child{under(*target.load()), {}};
        sched_yield();
      }
      idle = round;
    }
  });
  for (int round = 0; round < rounds; ++round) {
    Op<Request> op{{}};
    target = &op;
    open = round;
    delay(round * 7 % 1000);
    op.finish();
    returned = round;
    while (registered < round) sched_yield();
    closing = round;
    while (idle < round) sched_yield();
  }
  registrar.join();
  children.join();
  CHECK(late == 0);
}

TEST_CASE("of two finishes at once one delivers, and the other returns after it: owner and foreign thread") {
  constexpr int rounds = 8'000 / scale;
  std::atomic<int> finishes{0}, early{0};
  std::atomic<bool> over{false};
  std::atomic<Op<Request>*> target{nullptr};
  std::atomic<int> turn{0};
  RootScope installed{Root{}};
  installed_root().on_finish<Request>([&] { finishes.fetch_add(1); });
  std::thread foreign([&] {
    while (!over) {
      Op<Request>* op = target.exchange(nullptr);
      if (op == nullptr) {
        sched_yield();
        continue;
      }
      op->finish();
      if (finishes.load() <= turn.load()) ++early;
      turn.fetch_add(1);
    }
  });
  for (int round = 0; round < rounds; ++round) {
    Op<Request> op{{}};
    target = &op;
    while (round % 2 == 0 && target.load(std::memory_order_relaxed) != nullptr) sched_yield();
    delay(round % 64);
    op.finish();
    if (finishes.load() != round + 1) ++early;
    while (turn.load() != round + 1) sched_yield();
  }
  over = true;
  foreign.join();
  CHECK(finishes == rounds);
  CHECK(early == 0);
}

TEST_CASE("an owner that claims its finish after a foreign one has come and gone does not wait for ever") {
  // The owner looks at the state, sleeps, and stores its own: played out by hand, since no scheduler can be asked to.
  Op<Request> op{{}};
  int finishes = 0;
  op.on_finish<Request>([&] { ++finishes; });
  std::thread([&] { op.finish(); }).join();
  CHECK(finishes == 1);
  state_of(op) = 1;  // finishing
  CHECK_FALSE(detail::Dispatch::settle(op, detail::this_slot()));
  CHECK(op.finished());
  op.finish();
  CHECK(finishes == 1);
}

TEST_CASE("cross finishes from inside listeners do not deadlock, and closures live until their listeners have returned") {
  const bool shared = GENERATE(false, true);
  std::atomic<int> alive{0}, bad{0};
  for (int round = 0; round < 500 / scale; ++round) {
    std::optional<Op<Request>> first_on_stack, second_on_stack;
    Handle<Request> first_shared, second_shared;
    if (shared) {
      first_shared = start<Request>({});
      second_shared = start<Request>({});
    } else {
      first_on_stack.emplace(Request::Args{});
      second_on_stack.emplace(under(*first_on_stack), Request::Args{});
    }
    Op<Request>& first = shared ? *first_shared : *first_on_stack;
    Op<Request>& second = shared ? *second_shared : *second_on_stack;
    std::atomic<int> inside{0}, finished{0};
    const auto cross = [&](Op<Request>& other) {
      return [&, other = &other, state = std::make_shared<State>(), life = Life(alive)](const Tick& tick) {
        if (tick.value == 0) return;
        ++inside;
        while (inside < 2) sched_yield();
        other->finish();
        ++finished;
        while (finished < 2) sched_yield();
        if (state->value != State::good || alive != 2) ++bad;
      };
    };
    first.on_data<Tick>(cross(second));
    second.on_data<int>([listener = cross(first)](int) { listener(Tick{1}); });
    together(2, [&](int thread) {
      if (thread == 0)
        first.emit(Tick{1});
      else
        second.emit(1);
    });
    if (!first.finished() || !second.finished()) ++bad;
    second_on_stack.reset();
    first_on_stack.reset();
    first_shared = {};
    second_shared = {};
    if (alive != 0) ++bad;
  }
  CHECK(bad == 0);
}

TEST_CASE("finish() outside listeners waits for a listener that is in progress on another thread; inside it does not") {
  std::atomic<bool> inside{false}, go{false}, left{false};
  Op<Request> op{{}};
  op.on_data<Tick>([&] {
    inside = true;
    await(go);
    left = true;
  });
  std::thread emitter([&] { op.emit(Tick{}); });
  await(inside);
  SECTION("outside") {
    std::thread releaser([&] {
      for (int i = 0; i < 1000; ++i) sched_yield();
      go = true;
    });
    op.finish();
    CHECK(left);
    releaser.join();
  }
  SECTION("inside, then outside") {
    Op<Query> query{under(op), {}};
    query.on_data<int>([&] { op.finish(); });
    query.emit(1);
    CHECK(op.finished());
    CHECK_FALSE(left);
    std::thread releaser([&] {
      for (int i = 0; i < 1000; ++i) sched_yield();
      go = true;
    });
    op.finish();  // a no-op, but it is outside listeners: afterwards nobody runs any
    CHECK(left);
    releaser.join();
  }
  emitter.join();
}

TEST_CASE("remove() outside listeners waits for a listener that is in progress on another thread; inside it does not") {
  std::atomic<bool> inside{false}, go{false}, left{false};
  std::atomic<int> alive{0};
  Op<Request> op{{}};
  Listener listener = op.on_data<Tick>([&, life = Life(alive)] {
    inside = true;
    await(go);
    left = true;
  });
  std::thread emitter([&] { op.emit(Tick{}); });
  await(inside);
  SECTION("outside") {
    std::thread releaser([&] {
      for (int i = 0; i < 1000; ++i) sched_yield();
      go = true;
    });
    CHECK(listener.remove());
    CHECK(left);
    CHECK(alive == 0);
    releaser.join();
  }
  SECTION("inside") {
    op.on_data<int>([&] { CHECK(listener.remove()); });
    op.emit(1);
    CHECK_FALSE(left);
    CHECK(alive == 1);  // its closure lives until it has returned
    go = true;
  }
  emitter.join();
  CHECK(left);
  op.on_data<long>([] {}).remove();  // what was removed inside a listener is destroyed by its thread's next removal
  CHECK(alive == 0);
}

TEST_CASE("once remove() has returned the listener runs nowhere and is destroyed") {
  enum class Node { root, own, foreign, shared };
  const Node node = GENERATE(Node::root, Node::own, Node::foreign, Node::shared);
  constexpr int rounds = 2'000 / scale;
  std::atomic<int> bad{0}, alive{0};
  std::atomic<bool> over{false};
  std::atomic<std::uint64_t> heard{0};
  int removed = 0;
  RootScope installed{Root{}};
  Op<Request> mine{{}};
  Handle<Request> shared = start<Request>(under(mine), {});
  std::atomic<Op<Request>*> theirs{nullptr};
  std::thread others[2];
  std::atomic<int> begun{0};
  for (int id = 0; id < 2; ++id)
    others[id] = std::thread([&, id] {
      Op<Request> foreign{under(mine), {}};
      if (id == 0) theirs = &foreign;
      ++begun;
      while (begun < 2) sched_yield();
      Operation& from = node == Node::root || node == Node::own ? mine
                        : node == Node::foreign                 ? *theirs.load()
                                                                : static_cast<Operation&>(*shared);
      while (!over) {
        for (int i = 0; i < 20; ++i) from.emit(Tick{});
        sched_yield();
      }
      --begun;
      while (begun > 0) sched_yield();
    });
  while (begun < 2) sched_yield();
  Operation& target = node == Node::root      ? *mine.parent()
                      : node == Node::own     ? mine
                      : node == Node::foreign ? *theirs.load()
                                              : static_cast<Operation&>(*shared);
  target.on_data<Tick>([&] { heard.fetch_add(1, std::memory_order_relaxed); });
  for (int round = 0; round < rounds; ++round) {
    auto state = std::make_unique<State>();
    Listener first = target.on_data<Tick>([&bad, s = state.get(), life = Life(alive)] {
      if (s->value != State::good) ++bad;
      sched_yield();  // so that it is often running when it is removed
      if (s->value != State::good) ++bad;
    });
    Listener second = target.on_data<Tick>([life = Life(alive)] {});
    for (int i = 0; i < round % 20; ++i) sched_yield();
    removed += first.remove();
    state->value = 0xdead;
    if (alive != 1) ++bad;
    state.reset();
    removed += second.remove();
  }
  while (heard == 0) sched_yield();
  over = true;
  for (std::thread& other : others) other.join();
  CHECK(bad == 0);
  CHECK(alive == 0);
  CHECK(removed == 2 * rounds);
}

TEST_CASE("once remove() has returned the listener does not run on a thread that was just entering the root") {
  // The other thread's stores queue up behind one that misses all caches, so that what it publishes is long under way, and
  // only the barrier in all threads waits for it. (Without it, this fails or crashes in most runs.)
  constexpr int rounds = 200'000 / scale;
  struct alignas(64) Line {
    volatile int value = 0;
  };
  const auto far_away = std::make_unique<std::array<Line, 1 << 19>>();
  RootScope installed{Root{}};
  Operation& root = installed_root();
  State state;
  std::atomic<int> bad{0};
  std::atomic<bool> over{false}, begun{false};
  std::thread other([&] {
    Op<Request> op{{}};
    begun = true;
    for (std::uint32_t i = 0; !over.load(std::memory_order_relaxed); ++i) {
      (*far_away)[i * 4 * 2654435761u >> 13].value = 1;
      op.emit(Tick{});
    }
  });
  await(begun);
  for (int round = 0; round < rounds; ++round) {
    state.value = State::good;
    Listener listener = root.on_data<Tick>([&] {
      delay(20);
      if (state.value != State::good) bad.fetch_add(1, std::memory_order_relaxed);
    });
    delay(round % 1000);
    listener.remove();
    state.value = 0;
  }
  over = true;
  other.join();
  CHECK(bad == 0);
}

TEST_CASE("once remove() has returned the listener does not begin on a thread that is just entering a stack operation") {
  constexpr int rounds = 8'000 / scale;
  std::atomic<Op<Request>*> target{nullptr};
  std::atomic<int> entered{-1}, bad{0};
  std::thread other([&] {
    for (int round = 0; round < rounds; ++round) {
      Op<Request>* op;
      for (int i = 0; (op = target.exchange(nullptr)) == nullptr; ++i)
        if (i > 2000) sched_yield();
      op->emit(Tick{});
      entered = round;
    }
  });
  for (int round = 0; round < rounds; ++round) {
    std::atomic<bool> poisoned{false};
    Op<Request> op{{}};
    op.on_data<Tick>([] {});  // so that its lane stays
    Listener listener = op.on_data<Tick>([&] {
      if (poisoned.load()) ++bad;
    });
    target = &op;
    delay(round % 128);
    listener.remove();
    poisoned = true;
    for (int i = 0; entered < round; ++i)
      if (i > 2000) sched_yield();
  }
  other.join();
  CHECK(bad == 0);
}

TEST_CASE("several threads remove the same listeners: each is removed once") {
  std::atomic<int> removed{0}, alive{0};
  Op<Request> op{{}};
  for (int round = 0; round < 200 / scale; ++round) {
    std::vector<Listener> handles;
    for (int i = 0; i < 50; ++i) handles.push_back(op.on_data<Tick>([life = Life(alive)] {}));
    together(3, [&](int thread) {
      if (thread == 2) {
        for (int i = 0; i < 20; ++i) op.emit(Tick{});
      } else {
        for (Listener handle : handles) removed += handle.remove();
      }
    });
    if (alive != 0) break;
  }
  CHECK(removed == 200 / scale * 50);
  CHECK(alive == 0);
}

TEST_CASE("removal races with the finish of the operation: each closure is destroyed once") {
  std::atomic<int> alive{0};
  std::atomic<bool> over{false};
  std::atomic<Listener*> offered{nullptr};
  std::atomic<int> taken{0};
  std::thread remover([&] {
    for (; !over; sched_yield())
      if (Listener* listener = offered.exchange(nullptr)) {
        listener->remove();
        delete listener;
        ++taken;
      }
  });
  for (int round = 0; round < 20'000 / scale || taken < 200 / scale; ++round) {
    Op<Request> op{{}};
    delete offered.exchange(new Listener(op.on_data<Tick>([life = Life(alive)] {})));
    op.on_data<Tick>([life = Life(alive)] {});
    delay(round % 128);
    op.finish();
  }
  over = true;
  remover.join();
  delete offered.load();
  CHECK(alive == 0);
}

TEST_CASE("a slow listener blocks nobody: others register, emit, remove and finish meanwhile") {
  std::atomic<bool> inside{false}, go{false};
  RootScope installed{Root{}};
  Op<Request> op{{}};
  Operation& root = *op.parent();
  root.on_data<Tick>([&](const Tick& tick) {
    if (tick.value != 1) return;
    inside = true;
    await(go);
  });
  std::thread slow([&] {
    Op<Request> mine{{}};
    mine.emit(Tick{1});
  });
  await(inside);
  int heard = 0;
  root.on_data<Tick>([&] { ++heard; });
  op.on_finish<Query>([&] { ++heard; });
  op.emit(Tick{0});
  { Op<Query> query{{}}; }
  op.finish();
  CHECK(heard == 2);
  CHECK_FALSE(go);
  go = true;
  slow.join();
}

TEST_CASE("swaps while threads run and operations end on other threads: all roots are freed") {
  constexpr int swaps = 10'000 / scale;
  std::atomic<bool> over{false};
  std::atomic<int> alive{0}, bad{0}, made{0};
  std::mutex mutex;
  std::vector<std::unique_ptr<Op<Request>>> bag;
  std::vector<Handle<Request>> handles;
  {
    std::vector<std::thread> threads;
    for (int id = 0; id < 4; ++id)
      threads.emplace_back([&, id] {
        for (int i = 0; !over; ++i) {
          { Op<Request> op{{i}}; }
          ++made;
          auto left = std::make_unique<Op<Request>>(Request::Args{i});
          left->finish();
          Handle<Request> handle = start<Request>({i});
          std::unique_ptr<Op<Request>> taken;
          {
            std::lock_guard lock(mutex);
            bag.push_back(std::move(left));
            if (bag.size() > 5) {
              taken = std::move(bag.front());
              bag.erase(bag.begin());
            }
            handles.push_back(handle);
            if (handles.size() > 5) {
              std::swap(handle, handles.front());
              handles.erase(handles.begin());
            }
          }
          if (id == 3 && i % 50 == 0) std::thread([taken = std::move(taken), handle] { Op<Query> op{{}}; }).join();
        }
      });
    for (int i = 0; i < swaps || made < swaps; ++i) {
      if (i % 64 == 0) sched_yield();
      Root root;
      auto state = std::make_shared<State>();
      root.on_start<Request>([&, state, life = Life(alive)] {
        if (state->value != State::good) ++bad;
      });
      Root previous = swap_root(std::move(root));
    }
    over = true;
    for (std::thread& thread : threads) thread.join();
  }
  bag.clear();
  handles.clear();
  CHECK(alive == 1);
  CHECK(roots_alive() == 1);
  swap_root(Root{});
  CHECK(alive == 0);
  CHECK(bad == 0);
}

TEST_CASE("threads come and go under one root, with exact counts") {
  std::atomic<std::uint64_t> finishes{0};
  std::atomic<int> alive{0};
  Root root;
  root.on_finish<Request>([&, life = Life(alive)] { finishes.fetch_add(1, std::memory_order_relaxed); });
  swap_root(std::move(root));
  together(3, [](int) {
    for (int i = 0; i < 300 / scale; ++i)
      std::thread([] {
        Op<Request> op{{}};
        Op<Request> inner{{}};
      }).join();
  });
  CHECK(finishes == 3 * 2 * (300 / scale));
  swap_root(Root{});
  CHECK(alive == 0);
}

TEST_CASE("children of a stack operation on several threads, in debug builds under the lifetime check") {
  std::atomic<int> heard{0};
  Op<Request> op{{}};
  op.on_finish<Query>([&] { heard.fetch_add(1, std::memory_order_relaxed); });
  together(4, [&](int) {
    for (int i = 0; i < 1000; ++i) Op<Query> child{under(op), {}};
  });
  CHECK(heard == 4000);
}

TEST_CASE("a listener that throws on several threads at once is disabled once; one that recovers goes on") {
  std::atomic<int> disabled{0}, calls{0}, others{0};
  set_error_handler([&](const ListenerError& error) { disabled += error.disabled; });
  RootScope installed{Root{}};
  Operation& root = installed_root();
  root.on_data<Tick>([&]() {
    ++calls;
    throw std::runtime_error("again");
  });
  root.on_data<Tick>([&] { ++others; });
  together(4, [&](int) {
    Op<Request> op{{}};
    for (int i = 0; i < 100; ++i) op.emit(Tick{});
  });
  set_error_handler(nullptr);
  CHECK(disabled == 1);
  CHECK(calls >= 100);
  CHECK(calls <= 104);
  CHECK(others == 400);
}

TEST_CASE("a listener is removed although other threads are always in some listener of its node") {
  RootScope installed{Root{}};
  Operation& root = installed_root();
  root.on_data<Tick>([] { delay(20'000); });
  std::atomic<bool> over{false};
  std::atomic<int> begun{0}, alive{0};
  std::vector<std::thread> others;
  for (int i = 0; i < 4; ++i)
    others.emplace_back([&] {
      Op<Request> op{{}};
      ++begun;
      while (!over.load(std::memory_order_relaxed)) op.emit(Tick{});
    });
  while (begun < 4) sched_yield();
  CHECK(root.on_data<Tick>([life = Life(alive)] {}).remove());  // waits for each of them once
  CHECK(alive == 0);
  std::thread([&] {
    Listener listener = root.on_data<Tick>([life = Life(alive)] {});
    Op<Request> op{{}};
    op.on_data<int>([&] { listener.remove(); });
    op.emit(1);
  }).join();  // the thread does not end before its closure does
  CHECK(alive == 0);
  over = true;
  for (std::thread& other : others) other.join();
}

TEST_CASE("an operation may finish and go while another thread removes its last listener") {
  constexpr int rounds = 5'000 / scale;
  std::atomic<const Listener*> last{nullptr};
  std::atomic<int> removed{0};
  std::atomic<bool> over{false};
  std::thread other([&] {
    for (int i = 0; !over.load(std::memory_order_relaxed); ++i) {
      const Listener* listener = last.exchange(nullptr);
      if (listener == nullptr) {
        if (i % 2000 == 0) sched_yield();
        continue;
      }
      Listener copy = *listener;
      ++removed;
      copy.remove();
    }
  });
  Listener listener;
  for (int round = 0; round < rounds; ++round) {
    const int before = removed;
    {
      Op<Request> op{{}};
      listener = op.on_data<Tick>([] {});
      last = &listener;
      for (int i = 1; removed == before; ++i)
        if (i % 2000 == 0) sched_yield();
      delay(round % 200);
      op.finish();
    }
    Op<Query> in_its_place{{}};
    in_its_place.on_data<Tick>([] {});
  }
  over = true;
  other.join();
  CHECK(removed == rounds);
}
