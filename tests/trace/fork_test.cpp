// fork() in every state of a traced process. The collector is a process of its own, so that only the tracer is inherited.
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/eventually.hpp"
#include "support/fork_memory.hpp"
#include "support/process.hpp"
#include "support/running_collector.hpp"
#include "support/sanitizers.hpp"
#include "support/scratch_dir.hpp"
#include "trace/native_marks.hpp"
#include "weir/trace/socket_sender.hpp"
#include "weir/trace/tracer.hpp"

using namespace std::chrono_literals;
using namespace weir;
using weir::testing::eventually;
using weir::testing::map_marks;
using weir::testing::MarkedSpans;
using weir::testing::Marks;
using weir::testing::Process;
using weir::testing::ScratchDir;
using weir::testing::silent;

namespace {

struct Setup {
  explicit Setup(Wire wire) : marks(map_marks(dir / "marks")), collector({WEIR_NATIVE_PROGRAM, "collect", dir / "s", dir / "marks"}) {
    REQUIRE(eventually([&] { return marks.ready == 1; }));
    SocketSenderOptions options;
    options.wire = wire;
    options.logger = &silent;
    options.ring_bytes = 4u << 20;
    tracer = std::make_unique<Tracer>(SocketSender{dir / "s", options});
  }
  ~Setup() { ::munmap(&marks, sizeof(Marks)); }
  /// A child that emits `count` spans from `first` on, `threads` at a time, and ends.
  pid_t fork_one(std::uint64_t first, std::uint64_t count, int threads = 1) {
    const pid_t child = ::fork();
    if (child != 0) return child;
    weir::testing::become_a_child(60);
    std::vector<std::thread> others;
    for (int t = 0; t < threads; ++t) {
      const auto emit = [this, first, count, t, threads] {
        for (std::uint64_t i = static_cast<std::uint64_t>(t); i < count; i += static_cast<std::uint64_t>(threads))
          MarkedSpans::emit(*tracer, first + i);
      };
      threads == 1 ? emit() : static_cast<void>(others.emplace_back(emit));
    }
    for (std::thread& other : others) other.join();
    const FlushResult stopped = tracer->stop(50s);
    const TracerStats stats = tracer->stats();
    ::_exit(stopped.pending == 0 && stats.delivered == count && stats.emitted == count ? 0 : 1);
  }
  static bool ended_well(pid_t child) {
    int status = 1;
    return ::waitpid(child, &status, 0) == child && status == 0;
  }
  /// Everything that was emitted, once.
  void check(std::uint64_t emitted) {
    CHECK(tracer->stop(60s).pending == 0);
    CHECK(eventually([&] { return marks.received >= emitted; }));
    CHECK(marks.received == emitted);
    CHECK(marks.distinct() == emitted);
    CHECK(marks.misread == 0);
  }

  ScratchDir dir;
  Marks& marks;
  Process collector;
  std::unique_ptr<Tracer> tracer;
};

}  // namespace

#if !defined(WEIR_TESTS_TSAN)  // which does not mix with fork
TEST_CASE("a thousand forks beside threads that emit: each process sends its own spans, once") {
  Setup setup(Wire::native);
  constexpr std::uint64_t children = 1000, each = 3, parent_first = children * each;
  std::atomic<bool> done{false};
  std::atomic<std::uint64_t> next{parent_first};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      while (!done) {
        for (int i = 0; i < 10; ++i) MarkedSpans::emit(*setup.tracer, next++);
        (void)setup.tracer->flush(1s);  // a pace
      }
    });
  }
  // Threads that are just starting allocate: see MarkedSpans.
  REQUIRE(eventually([&] { return setup.tracer->stats().delivered > 100; }));
  std::vector<pid_t> running;
  for (std::uint64_t i = 0; i < children; ++i) {
    running.push_back(setup.fork_one(i * each, each));
    if (running.size() < 4) continue;
    for (const pid_t child : running) CHECK(Setup::ended_well(child));
    running.clear();
  }
  for (const pid_t child : running) CHECK(Setup::ended_well(child));
  done = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(setup.tracer->stats().dropped() == 0);
  setup.check(next);
}

TEST_CASE("a process may fork before its first span, within spans, again and again, from any thread") {
  Setup setup(GENERATE(Wire::native, Wire::json));
  Tracer& tracer = *setup.tracer;
  std::uint64_t next = 0;
  const auto child = [&](std::uint64_t count = 5, int threads = 1) {
    CHECK(Setup::ended_well(setup.fork_one(next, count, threads)));
    next += count;
  };
  child();  // before any span
  MarkedSpans::emit(tracer, next++);
  child();
  child(100, 4);  // which makes threads of its own
  child(0);       // which has nothing to say
  {
    std::vector<std::unique_ptr<ScopedSpan>> many;  // more than the table of open spans holds
    for (int i = 0; i < 100; ++i) many.push_back(std::make_unique<ScopedSpan>(tracer, Name("root")));
    const pid_t other = ::fork();
    if (other == 0) {
      weir::testing::become_a_child(60);
      many.clear();  // its parent tells of them
      ::_exit(tracer.stop(50s).pending == 0 && tracer.stats().emitted == 0 ? 0 : 1);
    }
    CHECK(Setup::ended_well(other));
    child();
  }
  std::thread([&] {
    child();
    MarkedSpans::emit(tracer, next++);
    child();
  }).join();
  const pid_t generation = ::fork();  // the child of a child
  if (generation == 0) {
    weir::testing::become_a_child(60);
    MarkedSpans::emit(tracer, next);
    const bool good = Setup::ended_well(setup.fork_one(next + 1, 5));
    ::_exit(good && tracer.stop(50s).pending == 0 && tracer.stats().delivered == 1 ? 0 : 1);
  }
  CHECK(Setup::ended_well(generation));
  next += 6;
  MarkedSpans::emit(tracer, next++);
  setup.check(next);
}

TEST_CASE("a program that is started has none of our descriptors") {
  Setup setup(Wire::native);
  MarkedSpans::emit(*setup.tracer, 0);
  REQUIRE(setup.tracer->flush(60s).pending == 0);
  Process listing({"/bin/ls", "-l", "/proc/self/fd"});
  CHECK(listing.wait() == 0);
  CHECK(listing.out().find("memfd") == std::string::npos);
  setup.check(1);
}

TEST_CASE("a child that only lives keeps nothing of its parent's") {
  Setup setup(Wire::native);
  MarkedSpans::emit(*setup.tracer, 0);
  REQUIRE(setup.tracer->flush(60s).pending == 0);
  int back[2];
  REQUIRE(::pipe(back) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    weir::testing::become_a_child(120);
    (void)!::write(back[1], "b", 1);
    for (;;) ::pause();
  }
  char byte = 0;
  REQUIRE(::read(back[0], &byte, 1) == 1);
  for (const int fd : back) ::close(fd);
  Process listing({"/bin/ls", "-l", "/proc/" + std::to_string(child) + "/fd"});
  CHECK(listing.wait() == 0);
  CHECK(listing.out().find("memfd:weir") == std::string::npos);
  setup.check(1);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}
#endif
