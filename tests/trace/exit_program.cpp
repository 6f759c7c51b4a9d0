// What exit_test runs: exit_program SCENARIO SOCKET. Every scenario ends by exit(0); wrong: another code.
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <thread>

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

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const std::string scenario = arguments[1], path = arguments[2];
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
  emit(tracer, 3);
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
