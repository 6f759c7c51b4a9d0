// Signal handlers that use operations, whatever the library was doing on the interrupted thread: nothing waits, what cannot be
// done is refused, and every event is either heard or counted as refused.
#include "weir/operation/operation.hpp"

#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <memory>
#include <optional>
#include <thread>

#include "support/catch.hpp"
#include "support/operations.hpp"

#if !defined(WEIR_TESTS_TSAN)  // it reports every allocation in a signal handler, and runs handlers when it likes

using namespace weir;
using namespace weir::testing;

namespace {

/// What handlers start and emit: types of their own, so that what they made can be told from the rest.
struct Interruption {
  struct Args {};
  struct Result {};
};
struct Blip {};

// Events, counted where they are made and where they are heard: by atomics only, as a handler must.
std::atomic<std::uint64_t> made{0}, heard{0}, signals{0};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
std::atomic<int> alive{0};

/// Kills the test when it hangs.
class HangGuard {
 public:
  HangGuard() { ::alarm(60); }
  ~HangGuard() { ::alarm(0); }
};

/// A root that hears all events that are counted in `made`.
Root hearing_root() {
  Root root;
  const auto hear = [life = Life(alive)] { heard.fetch_add(1, std::memory_order_relaxed); };
  root.on_start<Interruption>(hear);
  root.on_finish<Interruption>(hear);
  root.on_data<Blip>(hear);
  root.on_start<Request>(hear);
  root.on_finish<Request>(hear);
  return root;
}

/// What a handler does: three events, and a registration, which is refused where the library was interrupted. (Elsewhere it
/// allocates, so that the interrupted code of these tests does so inside the library only.)
void use_operations_in_a_handler(int) {
  const int saved = errno;
  signals.fetch_add(1, std::memory_order_relaxed);
  made.fetch_add(3, std::memory_order_relaxed);
  {
    Op<Interruption> op{{}};
    op.on_data<int>([] {});
    op.emit(Blip{});
    op.finish();
    if (!op.finished()) std::abort();
  }
  errno = saved;
}

/// Handles `signal` until the end of the scope.
class Handling {
 public:
  explicit Handling(int signal, void (*handler)(int) = use_operations_in_a_handler) : signal_(signal) {
    struct sigaction action {};
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;
    sigaction(signal_, &action, &previous_);
  }
  ~Handling() { sigaction(signal_, &previous_, nullptr); }
  Handling(const Handling&) = delete;
  Handling& operator=(const Handling&) = delete;

 private:
  int signal_;
  struct sigaction previous_ {};
};

/// SIGPROF a thousand times a second, to the thread that made it.
class Timer {
 public:
  Timer() {
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGPROF;
    event._sigev_un._tid = static_cast<pid_t>(::syscall(SYS_gettid));
    made_ = ::timer_create(CLOCK_MONOTONIC, &event, &timer_) == 0;
    const itimerspec every{{0, 1'000'000}, {0, 1'000'000}};
    if (made_) ::timer_settime(timer_, 0, &every, nullptr);
  }
  ~Timer() {
    if (made_) ::timer_delete(timer_);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  explicit operator bool() const { return made_; }

 private:
  timer_t timer_{};
  bool made_;
};

/// Heard or refused: counted from its construction.
struct Balance {
  Balance() { made = heard = signals = 0; }
  std::uint64_t accounted_for() const { return heard + (refused_emissions() - refused_before); }
  std::uint64_t refused_before = refused_emissions();
};

/// A closure that raises a signal wherever it is copied, moved, called and destroyed.
struct Raising {
  Life life{alive};
  std::array<char, 1> small{};

  Raising() = default;
  Raising(const Raising& other) : life(other.life) { std::raise(SIGUSR1); }
  Raising(Raising&& other) noexcept : life(std::move(other.life)) { std::raise(SIGUSR1); }
  Raising& operator=(const Raising&) = delete;
  ~Raising() { std::raise(SIGUSR1); }
  void operator()() const { std::raise(SIGUSR1); }
};
struct LargeRaising : Raising {
  std::array<char, 100> large{};
};

}  // namespace

TEMPLATE_TEST_CASE("a signal in the copy, move, call and destruction of a listener: no deadlock, heard or refused", "", Raising,
                   LargeRaising) {
  const HangGuard guard;
  const Handling handling(SIGUSR1);
  Balance balance;
  swap_root(hearing_root());
  SECTION("registered, heard and dropped by the finish of a stack operation") {
    {
      made += 2;
      Op<Request> op{{}};
      op.on_data<Tick>(TestType{});
      const TestType copied;
      op.on_data<Tick>(copied);
      op.on_finish<Request>(copied);
      op.emit(Tick{});
      op.finish();
    }
    CHECK(signals >= 10);
  }
  SECTION("of a shared operation") {
    made += 2;
    Handle<Request> op = start<Request>({});
    op->on_data<Tick>(TestType{});
    op->emit(Tick{});
    op->finish();
    op = {};
    CHECK(signals >= 4);
  }
  SECTION("of an operation that another thread finishes") {
    made += 2;
    Op<Request> op{{}};
    op.on_data<Tick>(TestType{});
    std::thread([&] { op.finish(); }).join();
    CHECK(signals >= 3);
  }
  SECTION("removed, outside listeners and inside") {
    made += 2;
    Op<Request> op{{}};
    CHECK(op.on_data<Tick>(TestType{}).remove());
    Listener listener = op.on_data<Tick>(TestType{});
    op.on_data<Tick>([&] { CHECK(listener.remove()); });
    op.emit(Tick{});
    CHECK(signals >= 6);
  }
  SECTION("on a root that is swapped out") {
    Root root = hearing_root();
    root.on_data<Tick>(TestType{});
    root.on_start<Request>(TestType{});
    swap_root(std::move(root));
    {
      made += 2;
      Op<Request> op{{}};
      op.emit(Tick{});
    }
    swap_root(hearing_root());
    CHECK(signals >= 8);
  }
  SECTION("refused by an operation that has finished") {
    made += 2;
    Op<Request> op{{}};
    op.finish();
    CHECK_FALSE(op.on_data<Tick>(TestType{}).remove());
    CHECK(signals >= 2);
  }
  CHECK(balance.accounted_for() == made);
  swap_root(Root{});
  CHECK(alive == 0);
}

TEST_CASE("a signal inside an observer and inside the error handler") {
  const HangGuard guard;
  const Handling handling(SIGUSR1);
  Balance balance;
  struct Signalling : Observer {
    void started(Operation& op, const EventView&) override { raise_at(op); }
    void finished(Operation& op, const EventView&) override { raise_at(op); }
    void data(Operation& op, const EventView&) override { raise_at(op); }
    static void raise_at(Operation& op) {
      if (op.name() != "Interruption") std::raise(SIGUSR1);
    }
  };
  Root root = hearing_root();
  root.observe(std::make_shared<Signalling>());
  swap_root(std::move(root));
  int errors = 0;
  set_error_handler([&](const ListenerError&) {
    ++errors;
    std::raise(SIGUSR1);
  });
  {
    made += 2;
    Op<Request> op{{}};
    op.on_data<Tick>([] { throw 1; });
    op.emit(Tick{});
    op.emit(Tick{});
  }
  CHECK(errors == 2);
  CHECK(signals == 6);
  CHECK(balance.accounted_for() == made);
  set_error_handler(nullptr);
  swap_root(Root{});
  CHECK(alive == 0);
}

TEST_CASE("a signal handler at the depth limit is refused and counted") {
  const HangGuard guard;
  const Handling handling(SIGUSR1);
  Balance balance;
  swap_root(hearing_root());
  {
    made += 2;
    Op<Request> op{{}};
    op.on_data<Tick>([&](const Tick& tick) {
      if (tick.value < 16) return op.emit(Tick{tick.value + 1});
      std::raise(SIGUSR1);
    });
    op.emit(Tick{1});
    CHECK(signals == 1);
    CHECK(refused_emissions() == balance.refused_before + 3);
  }
  CHECK(balance.accounted_for() == made);
  swap_root(Root{});
}

TEST_CASE("a signal handler on a thread that has not used operations") {
  const HangGuard guard;
  const Handling handling(SIGUSR1);
  Balance balance;
  swap_root(hearing_root());
  std::thread([] {
    std::raise(SIGUSR1);
    std::raise(SIGUSR1);
    made += 2;
    Op<Request> op{{}};  // the thread itself is not affected
  }).join();
  CHECK(signals == 2);
  CHECK(heard >= 2);
  CHECK(balance.accounted_for() == made);
  swap_root(Root{});
  CHECK(alive == 0);
}

TEST_CASE("a signal handler just after the root was swapped") {
  const HangGuard guard;
  const Handling handling(SIGUSR1);
  Balance balance;
  for (int i = 0; i < 10; ++i) {
    swap_root(hearing_root());
    std::raise(SIGUSR1);
  }
  CHECK(signals == 10);
  CHECK(balance.accounted_for() == made);
  swap_root(Root{});
  CHECK(alive == 0);
}

namespace {
std::atomic<Operation*> interrupted{nullptr};
void register_and_emit_on_the_interrupted(int) {
  signals.fetch_add(1, std::memory_order_relaxed);
  Operation& op = *interrupted.load();
  op.on_data<int>([] {});
  if (!op.finished()) made.fetch_add(1, std::memory_order_relaxed);
  op.emit(Blip{});
}
}  // namespace

TEST_CASE("a signal handler that registers and emits on the operation at which it interrupts") {
  const HangGuard guard;
  const Handling handling(SIGUSR1, register_and_emit_on_the_interrupted);
  Balance balance;
  swap_root(hearing_root());
  {
    made += 2;
    Op<Request> op{{}};
    interrupted = &op;
    op.on_data<Tick>(Raising{});
    op.emit(Tick{});
    interrupted = op.parent();
    Listener listener = op.parent()->on_data<Tick>(Raising{});
    op.emit(Tick{});
    CHECK(listener.remove());
  }
  CHECK(balance.accounted_for() == made);
  swap_root(Root{});
}

namespace {
Handle<Request>* interrupted_shared = nullptr;

void finish_a_shared_operation(int) {
  if (interrupted_shared != nullptr) (*interrupted_shared)->finish();
}
}  // namespace

TEST_CASE("a signal handler that finishes a shared operation of the thread, wherever it interrupts") {
  const HangGuard guard;
  const Handling handling(SIGUSR1, finish_a_shared_operation);
  swap_root(Root{});
  for (int round = 0; round < 10; ++round) {
    Handle<Request> shared = start<Request>({});
    Handle<Request> other = start<Request>({});
    shared->on_data<Tick>([life = Life(alive)] {});
    interrupted_shared = &shared;
    Listener listener = other->on_data<Tick>(Raising{});  // its closure raises while the list is locked
    other->emit(Tick{});
    CHECK(listener.remove());
    CHECK(shared->finished());
    interrupted_shared = nullptr;
  }
  CHECK(alive == 0);
}

TEST_CASE("SIGPROF a thousand times a second while the thread starts, finishes, registers, removes and swaps") {
  const HangGuard guard;
  constexpr std::uint64_t wanted = 2'000;
  Balance balance;
  swap_root(hearing_root());
  std::uint64_t rounds = 0, removed = 0;
  {
    const Handling handling(SIGPROF);
    const Timer timer;
    REQUIRE(timer);
    while (signals < wanted) {
      ++rounds;
      made += 4;
      Op<Request> op{{}};
      Listener there = op.parent()->on_data<Tick>([life = Life(alive)] {});
      Listener here = op.on_data<Tick>([life = Life(alive), large = std::array<char, 100>{}] { (void)large; });
      op.on_finish<Request>([life = Life(alive)] {});
      op.emit(Tick{});
      Handle<Request> shared = start<Request>({});
      shared->on_data<Tick>([life = Life(alive)] {});
      removed += here.remove() + there.remove();
      shared->finish();
      op.finish();
      if (rounds % 4 == 0) swap_root(hearing_root());
    }
  }
  CHECK(removed == 2 * rounds);
  CHECK(balance.accounted_for() == made);
  CHECK(heard > 4 * rounds);
  swap_root(Root{});
  CHECK(alive == 0);
}

TEST_CASE("SIGPROF into several threads under one root") {
  const HangGuard guard;
  constexpr std::uint64_t wanted = 1'000;
  Balance balance;
  swap_root(hearing_root());
  std::atomic<int> without_timer{0};
  {
    const Handling handling(SIGPROF);
    std::thread threads[3];
    for (std::thread& thread : threads)
      thread = std::thread([&] {
        const Timer timer;
        if (!timer) ++without_timer;
        while (timer && signals < wanted) {
          made += 2;
          Op<Request> op{{}};
          Listener listener = op.parent()->on_data<Tick>([life = Life(alive)] {});
          op.on_data<Tick>([life = Life(alive)] {});
          op.emit(Tick{});
          listener.remove();
          op.finish();
          if (made % 16 == 0) swap_root(hearing_root());
        }
      });
    for (std::thread& thread : threads) thread.join();
  }
  CHECK(without_timer == 0);
  CHECK(balance.accounted_for() == made);
  swap_root(Root{});
  CHECK(alive == 0);
}

#endif
