// What exit_test runs: exit_program SCENARIO SOCKET [native]. Scenarios end by exit(0) or as their name says; wrong: another code.
// With "native" the collector has the rings before the scenario begins.
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "support/fork_memory.hpp"
#include "weir/trace/socket_sender.hpp"
#include "weir/trace/tracer.hpp"

using namespace std::chrono_literals;
using weir::ScopedSpan;
using weir::SocketSender;
using weir::Tracer;

namespace {

void emit(Tracer& tracer, int spans, std::string_view name = "x") {
  for (int i = 0; i < spans; ++i) ScopedSpan span(tracer, weir::Name(name));
}

/// Made before the first tracer, destroyed after the tracers were stopped.
struct Late {
  ~Late() {
    if (!tracer) return;
    emit(*tracer, 2);
    const weir::TracerStats stats = tracer->stats();
    const bool good = stats.delivered == 3 && stats.dropped_stopped == 2 && stats.in_flight == 0;
    tracer.reset();
    if (!good) ::_exit(11);
  }
  std::optional<Tracer> tracer;
} late;

int in_child_of_fork(Tracer& tracer, int spans) {
  const pid_t child = ::fork();
  if (child == 0) {
    emit(tracer, spans, "of the child");
    std::exit(0);
  }
  int status = 1;
  ::waitpid(child, &status, 0);
  return status;
}

Tracer* global = nullptr;

/// Traces in its destructor: as a thread_local object, as a static one.
struct Last {
  ~Last() {
    if (global != nullptr) emit(*global, 2, "last");
  }
  void touch() {}
};
thread_local Last last_of_thread;

/// Destroyed after everything that main made: leaves other threads time to do what they must not.
struct Slow {
  ~Slow() {
    if (slow) ::usleep(50'000);
  }
  bool slow = false;
} slow;

void emit_until_the_end(Tracer& tracer) {
  std::atomic<int> running{0};
  for (int i = 0; i < 3; ++i) {
    std::thread([&] {
      for (++running;;) emit(tracer, 1, "goes on");
    }).detach();
  }
  while (running < 3) std::this_thread::yield();
}

/// Ends the process in the way that `scenario` names; comes back if it names none.
void end_as_named(const std::string& scenario, Tracer& tracer) {
  if (scenario == "atexit") {  // registered after the first tracer: runs before the tracers are stopped
    (void)std::atexit([] { emit(*global, 2, "last"); });
    std::exit(0);
  }
  if (scenario == "thread_local") {
    std::thread([&] {
      last_of_thread.touch();
      emit(tracer, 1, "x");
    }).join();
    std::exit(0);
  }
  if (scenario == "static destructor") {  // runs before the tracers are stopped, as it was made after the first
    static Last of_the_program;
    of_the_program.touch();
    std::exit(0);
  }
  if (scenario == "pthread_exit") {  // main ends, another thread ends the process
    std::thread([&] {
      emit(tracer, 2, "last");
      std::exit(0);
    }).detach();
    ::pthread_exit(nullptr);
  }
  if (scenario == "detached") {
    slow.slow = true;
    emit_until_the_end(tracer);
    std::exit(0);
  }
  if (scenario == "quick_exit detached") {
    emit_until_the_end(tracer);
    std::quick_exit(0);
  }
  if (scenario == "quick_exit") std::quick_exit(0);
  if (scenario == "_exit") ::_exit(0);
  if (scenario == "abort") std::abort();
  if (scenario == "exec") ::execl("/bin/true", "true", nullptr);
  if (scenario == "segmentation fault") {
    std::signal(SIGSEGV, SIG_DFL);
    ::raise(SIGSEGV);
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3 && count != 4) return 2;
  const std::string scenario = arguments[1], path = arguments[2];
  if (count == 4) {
    weir::SocketSenderOptions natively;
    natively.wire = weir::Wire::native;
    global = new Tracer{SocketSender{path, natively}, {.stop_timeout = 20s}};
    emit(*global, 1, "first");
    if (global->flush(60s).pending != 0) return 14;
    emit(*global, 3);
    end_as_named(scenario, *global);
    return 2;
  }
  if (scenario == "static") {
    static Tracer tracer{SocketSender{path}};
    emit(tracer, 3);
    std::exit(0);
  }
  if (scenario == "late") {
    late.tracer.emplace(SocketSender{path});
    emit(*late.tracer, 3);
    std::exit(0);
  }
  if (scenario == "heap") {
    static Tracer* const tracer = new Tracer{SocketSender{path}};
    emit(*tracer, 3);
    return 0;
  }
  Tracer tracer{SocketSender{path}, {.stop_timeout = scenario == "stalled" ? 100ms : 20s}};
  if (scenario == "stalled") emit(tracer, 8000);
  emit(tracer, 1);
  // A thread that only just starts may hold what AddressSanitizer's allocator does not let go at a fork.
  if (scenario.starts_with("child") && tracer.flush(60s).pending != 0) return 15;
  emit(tracer, 2);
  if (scenario == "several") {
    Tracer second{SocketSender{path}}, third{SocketSender{path}};
    emit(second, 3);
    emit(third, 3);
    std::exit(0);
  }
  if (scenario == "thread") {
    std::thread([] { std::exit(0); }).detach();
    for (;;) ::pause();
  }
  if (scenario == "emitting") {  // main and two others go on while a fourth exits
    std::atomic<int> running{0};
    const auto go_on = [&] {
      for (++running;;) emit(tracer, 1, "goes on");
    };
    std::thread(go_on).detach();
    std::thread(go_on).detach();
    std::thread([&] {
      while (running < 3) std::this_thread::yield();
      std::exit(0);
    }).detach();
    go_on();
  }
  if (scenario == "destroying") {  // one thread exits while another destroys what is being stopped
    auto second = std::make_unique<Tracer>(SocketSender{path});
    emit(*second, 3);
    std::atomic<bool> go{false};
    std::thread([&] {
      go = true;
      std::exit(0);
    }).detach();
    while (!go) std::this_thread::yield();
    second.reset();
    for (;;) ::pause();
  }
  if (scenario == "child without spans" && in_child_of_fork(tracer, 0) != 0) return 12;
  if (scenario == "child with spans" && in_child_of_fork(tracer, 2) != 0) return 13;
  std::exit(0);  // main's tracer is not destroyed
}
