// Spans in signal handlers, whatever their thread was doing: each is recorded or counted as dropped, and nothing else is harmed.
// And spans of a thread that is cancelled, or left by an exception.
#include <pthread.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <optional>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/sanitizers.hpp"
#include "weir/trace/in_memory_sender.hpp"
#include "weir/trace/tracer.hpp"

using weir::Context;
using weir::InMemorySender;
using weir::ScopedSpan;
using weir::Span;
using weir::Tracer;

namespace {

void check_invariant(const weir::TracerStats& stats) { CHECK(stats.emitted == stats.delivered + stats.dropped() + stats.in_flight); }

#if !defined(WEIR_TESTS_TSAN)  // it runs handlers when it likes

Tracer* handled = nullptr;
std::atomic<std::uint64_t> made{0};
std::atomic<std::uint64_t> signals{0};
pthread_t worker;

/// Two spans, one in the other, with an attribute; on the thread under test only.
void make_spans(int) {
  const int saved = errno;
  if (pthread_equal(pthread_self(), worker) != 0) {
    signals.fetch_add(1, std::memory_order_relaxed);
    ScopedSpan outer = handled->enter("handler");
    outer.set("from", "a handler");
    made.fetch_add(outer.recording() ? 2 : 1, std::memory_order_relaxed);  // nothing is known of what one that is dropped is under
    const ScopedSpan inner = handled->enter(outer.context(), "in the handler");
  }
  errno = saved;
}

/// SIGPROF at 1 kHz of processor time, and whenever another thread finds that the last one was handled.
class Storm {
 public:
  explicit Storm(Tracer& tracer) {
    handled = &tracer;
    worker = pthread_self();
    struct sigaction action {};
    action.sa_handler = make_spans;
    action.sa_flags = SA_RESTART;
    sigaction(SIGPROF, &action, &previous_);
    const itimerval every{{0, 1000}, {0, 1000}};
    setitimer(ITIMER_PROF, &every, nullptr);
    sender_ = std::thread([this] {
      for (std::uint64_t before = UINT64_MAX; !stop_; std::this_thread::yield()) {
        if (const std::uint64_t now = signals.load(std::memory_order_relaxed); now != before) {
          before = now;
          pthread_kill(worker, SIGPROF);
        }
        ::usleep(weir::testing::sanitized ? 200 : 20);  // without a pause nothing but handlers runs where they are slow
      }
    });
  }
  ~Storm() {
    stop_ = true;
    if (sender_.joinable()) sender_.join();
    const itimerval none{};
    setitimer(ITIMER_PROF, &none, nullptr);
    sigset_t pending;
    while (sigpending(&pending) == 0 && sigismember(&pending, SIGPROF) == 1) {}
    sigaction(SIGPROF, &previous_, nullptr);
  }
  Storm(const Storm&) = delete;
  Storm& operator=(const Storm&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::thread sender_;
  struct sigaction previous_ {};
};

#endif

}  // namespace

#if !defined(WEIR_TESTS_TSAN)

TEST_CASE("spans in signal handlers are recorded or counted as dropped, and those they interrupt are whole") {
  InMemorySender sink({.ring_bytes = 1u << 26});  // nothing is emptied in between: that would allocate, which handlers must not
  Tracer tracer{sink};
  { const ScopedSpan first = tracer.enter("first"); }  // as a thread's first span does
  std::uint64_t own = 1, kept = 0, own_kept = 0;
  std::set<std::string> ids;
  const auto check_spans = [&] {
    for (const Span& span : sink.spans()) {
      const bool main = span.name == "main" && span.attrs.size() == 2 && span.attrs.at("text") == "some text of the main flow";
      const bool child = span.name.rfind("name ", 0) == 0 && span.attrs.size() == 1;
      const bool outer = span.name == "handler" && span.attrs == weir::StringAttributes{{"from", "a handler"}};
      const bool inner = span.name == "in the handler" && span.attrs.empty() && !span.parent_id.empty();
      if (!(main || child || outer || inner || span.name == "first")) FAIL_CHECK(span.name);
      own_kept += main || child || span.name == "first";
      ids.insert(span.id);
      ++kept;
    }
    sink.clear();
  };
  for (int round = 0; round < 100; ++round) {
    std::string names[64];  // new ones are added to the table while signals come
    for (int i = 0; i < 64; ++i) names[i] = "name " + std::to_string(round) + "." + std::to_string(i);
    {
      const Storm storm(tracer);
      for (int i = 0; i < 2'000; ++i) {
        ScopedSpan span = tracer.enter("main");
        span.set("i", i);
        span.set("text", "some text of the main flow");
        ScopedSpan child = tracer.enter(names[i % 64]);
        child.set(names[i % 64], i);
        own += 2;
        if (i % 100 == 0) (void)tracer.stats();
        if (i == 1'000) std::raise(SIGPROF);  // one that comes between two spans, whenever the others come
      }
    }
    check_spans();
  }
  CHECK(Context::current() == Context());
  const weir::TracerStats stats = tracer.stats();
  CHECK(stats.emitted == own + made);
  CHECK(stats.delivered == kept);
  check_invariant(stats);
  CHECK(stats.dropped() == stats.dropped_reentrant);
  CHECK(own_kept == own);  // the main flow loses nothing
  CHECK(ids.size() == kept);
  CHECK(signals > 0);
  CHECK(stats.dropped_reentrant < made);
}

TEST_CASE("signal handlers whose spans find the ring full drop them") {
  InMemorySender sink({.ring_bytes = 4096, .max_spans = 0});
  Tracer tracer{sink};
  std::uint64_t own = 0;
  made = 0;
  {
    const ScopedSpan first = tracer.enter("first");
    const Storm storm(tracer);
    for (; own < 100'000; ++own) ScopedSpan span = tracer.enter("main");
  }
  const weir::TracerStats stats = tracer.stats();
  CHECK(stats.emitted == own + 1 + made);
  CHECK(stats.dropped_full > 0);
  check_invariant(stats);
}

#if defined(__x86_64__)

/// Calls a handler after one instruction of what runs: the processor traps after each.
class Stepping {
 public:
  explicit Stepping(void (*handler)()) {
    handler_ = handler;
    struct sigaction action {};
    action.sa_flags = SA_SIGINFO;
    action.sa_sigaction = [](int, siginfo_t*, void* context) {
      if (step_++ != at_) return;
      static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] &= ~trap_flag;
      handler_();
    };
    sigaction(SIGTRAP, &action, &previous_);
  }
  ~Stepping() { sigaction(SIGTRAP, &previous_, nullptr); }
  Stepping(const Stepping&) = delete;
  Stepping& operator=(const Stepping&) = delete;

  /// False: `run` has no instruction of that number.
  template <class F>
  static bool interrupt(std::uint64_t at, F&& run) {
    at_ = at;
    step_ = 0;
    asm volatile("sub $128, %%rsp\n pushfq\n orq $0x100, (%%rsp)\n popfq\n add $128, %%rsp" ::: "cc", "memory");
    run();
    asm volatile("sub $128, %%rsp\n pushfq\n andq $~0x100, (%%rsp)\n popfq\n add $128, %%rsp" ::: "cc", "memory");
    return step_ > at_;
  }

  // A trap takes microseconds: some instructions each time the test runs, and others the next time.
  static constexpr std::uint64_t stride = weir::testing::sanitized ? 101 : 3;
  static std::uint64_t first() { return std::random_device{}() % stride; }

 private:
  static constexpr greg_t trap_flag = 0x100;
  static inline void (*handler_)() = nullptr;
  static inline std::uint64_t at_ = 0, step_ = 0;
  struct sigaction previous_ {};
};

TEST_CASE("after whichever instruction a signal handler makes spans of another tracer, they stay apart") {
  InMemorySender sink, other_sink;
  Tracer tracer{sink}, other{other_sink};
  handled = &other;
  worker = pthread_self();
  const auto enter = [](Tracer& from) { return from.enter("main"); };
  enter(other).end();  // both know the name
  other_sink.clear();
  made = 1;
  std::uint64_t own = 0, strange = 0, kept = 0;
  const auto run = [&] {
    const ScopedSpan root = enter(tracer);
    const ScopedSpan child = enter(tracer);
    enter(tracer).end();
  };
  const bool recorded = GENERATE(true, false);
  if (!recorded) tracer.set_sampler(weir::Sampler::never());
  const Stepping stepping([] { make_spans(0); });
  make_spans(0);
  bool more = true;
  for (std::uint64_t at = Stepping::first(); more; at += Stepping::stride) {
    run();
    const std::uint64_t before = tracer.stats().emitted;
    more = Stepping::interrupt(at, run);
    if (tracer.stats().emitted - before != (recorded ? 3 : 0)) FAIL("after instruction " << at);
    run();
    own += 9;
    if (at % 8 != 0 && more) continue;
    for (const Span& span : sink.spans()) strange += span.name != "main";
    for (const Span& span : other_sink.spans()) strange += span.name == "main";
    kept += sink.spans().size();
    sink.clear();
    other_sink.clear();
  }
  CHECK(own > 9 * 20);
  CHECK(strange == 0);
  CHECK(Context::current() == Context());
  CHECK(tracer.stats().emitted == (recorded ? own : 0));
  CHECK(tracer.stats().not_sampled == (recorded ? 0 : own / 3));
  CHECK(kept == tracer.stats().emitted);
  if (recorded) CHECK(other.stats().emitted == made);  // else some of them were in a trace that is not sampled
  check_invariant(other.stats());
}

TEST_CASE("after whichever instruction a signal handler writes spans, they take no room from under the one it interrupts") {
  InMemorySender sink({.ring_bytes = 4096});
  Tracer tracer{sink};
  handled = &tracer;
  worker = pthread_self();
  const std::string text(400, 'x');
  std::uint64_t kept = 0, broken = 0;
  const Stepping stepping([] { make_spans(0); });
  { const ScopedSpan first = tracer.enter("small"); }
  const weir::detail::ThreadRing& ring = *weir::detail::thread_state.ring;
  bool more = true;
  for (std::uint64_t at = Stepping::first(); more; at += Stepping::stride) {
    constexpr std::uint64_t largest = 64 + 448 + 16;  // for which the usual way wants room
    while (!ring.has_room(largest) || ring.has_room(largest + 64)) tracer.enter("small").end();
    more = Stepping::interrupt(at, [&] { tracer.enter("main").set("text", text); });
    for (int i = 0; i < 3; ++i) tracer.enter("main").set("text", text);
    for (const Span& span : sink.spans()) {
      ++kept;
      if (span.name == "main") broken += span.attrs != weir::StringAttributes{{"text", text}};
    }
    sink.clear();
  }
  const weir::TracerStats stats = tracer.stats();
  CHECK(broken == 0);
  CHECK(kept == stats.delivered);
  CHECK(stats.dropped() == stats.dropped_reentrant);
  check_invariant(stats);
}

#endif

TEST_CASE("a span that a handler makes in the middle of another's begin is dropped, and says nothing of where it is") {
  InMemorySender sink;
  Tracer tracer{sink};
  const ScopedSpan around = tracer.enter("around");
  {
    const weir::detail::SpanSection busy(weir::detail::thread_state);
    ScopedSpan ambient = tracer.enter("ambient");
    ambient.set("key", "value");
    CHECK_FALSE(ambient.recording());
    CHECK_FALSE(ambient.context().valid());
    const ScopedSpan given = tracer.enter(around.context(), "explicit");
    CHECK(given.context() == around.context());
  }
  CHECK(tracer.stats().dropped_reentrant == 2);
  CHECK(tracer.stats().emitted == 2);
  CHECK(Context::current() == around.context());
  CHECK(tracer.enter("again").recording());
}

TEST_CASE("a signal handler that ends a span of the interrupted thread frees its place, too") {
  static Tracer* tracer = nullptr;
  static std::optional<ScopedSpan>* open = nullptr;
  InMemorySender sink;
  Tracer its_tracer{sink};
  tracer = &its_tracer;
  std::optional<ScopedSpan> span;
  open = &span;
  struct sigaction action {
  }, previous{};
  action.sa_handler = [](int) { open->reset(); };
  sigaction(SIGUSR1, &action, &previous);
  for (int i = 0; i < 100; ++i) {
    span.emplace(*tracer, Context{}, weir::Name("ended by a handler"));
    const weir::detail::SpanSection busy(weir::detail::thread_state);
    std::raise(SIGUSR1);
  }
  sigaction(SIGUSR1, &previous, nullptr);
  const weir::TracerStats stats = tracer->stats();
  CHECK(stats.dropped_reentrant == 100);
  CHECK(stats.emitted == 100);
  std::size_t taken = 0;
  for (const auto& slot : weir::detail::thread_state.ring->page().open) taken += slot.span.load() != 0;
  CHECK(taken == 0);
}

#endif

TEST_CASE("a thread that is cancelled with open spans ends them, and one that is to be cancelled is not while it ends one") {
  InMemorySender sink({.ring_bytes = 4096});
  Tracer tracer{sink};
  std::atomic<bool> go{false};
  struct Arguments {
    Tracer& tracer;
    std::atomic<bool>& go;
  } arguments{tracer, go};
  pthread_t thread;
  REQUIRE(pthread_create(
              &thread, nullptr,
              [](void* pointer) -> void* {
                auto& [its_tracer, may_go] = *static_cast<Arguments*>(pointer);
                const ScopedSpan outer = its_tracer.enter("outer");
                const ScopedSpan inner = its_tracer.enter("inner");
                while (!may_go) std::this_thread::yield();
                for (int i = 0; i < 1000; ++i) ScopedSpan span = its_tracer.enter("cancelled soon");  // wakes the sender, too
                for (;;) pthread_testcancel();
              },
              &arguments) == 0);
  pthread_cancel(thread);
  go = true;
  void* result = nullptr;
  pthread_join(thread, &result);
  CHECK(result == PTHREAD_CANCELED);
  const weir::TracerStats stats = tracer.stats();
  CHECK(stats.emitted == 1002);
  check_invariant(stats);
  std::set<std::string> names;
  for (const Span& span : sink.spans()) names.insert(span.name);
  CHECK(names == std::set<std::string>{"cancelled soon", "inner", "outer"});
}

TEST_CASE("an exception ends the spans that it leaves") {
  InMemorySender sink;
  Tracer tracer{sink};
  try {
    ScopedSpan outer = tracer.enter("outer");
    ScopedSpan inner = tracer.enter("inner");
    inner.set("text", std::string(5000, 'x'));  // on the heap
    throw std::runtime_error("out of here");
  } catch (const std::runtime_error&) {}
  CHECK(Context::current() == Context());
  CHECK(sink.spans().size() == 2);
  CHECK(tracer.stats().emitted == 2);
}
