// A service that makes spans and is controlled meanwhile: control_program SOCKET [call], SOCKET: the collector's. `call`: it calls
// enable_control() itself; else weir::init does, if WEIR_CONTROL says so. Says "ready" and where it listens, then takes commands on
// its standard input, each answered with one line:
//
//   spans N       makes N spans       loop          makes spans on two threads until it ends
//   stats         its own figures     fork          a child says where it listens; it lives until the next command
//   off           disable_control()   quick         ends by quick_exit(0)
//
// It ends with its input, when all spans have been delivered.
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "support/fork_memory.hpp"
#include "weir/control.hpp"
#include "weir/init.hpp"

#if defined(__SANITIZE_ADDRESS__)
// In the child of a fork LeakSanitizer waits for its parent's threads, and takes what it does not see for leaks.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }
#endif

namespace {

void say(const std::string& line) {
  std::puts(line.c_str());
  std::fflush(stdout);
}

std::string figures() {
  const weir::TracerStats stats = weir::tracer().stats();
  return std::to_string(stats.emitted) + " " + std::to_string(stats.delivered) + " " + std::to_string(stats.dropped()) + " " +
         std::to_string(stats.not_sampled);
}

struct Child {
  pid_t pid = -1;
  int end = -1;  // it lives until this is closed

  void release() {
    if (pid < 0) return;
    ::close(end);
    ::waitpid(pid, nullptr, 0);
    pid = -1;
  }
};

/// Says where it listens, before and after it has asked for a socket, and lives on until its parent lets it go.
[[noreturn]] void be_a_child(int held) {
  const std::string before = weir::control_socket();
  const bool enabled = weir::enable_control({.socket = std::getenv("WEIR_CHILD_CONTROL")}).has_value();
  say("child '" + before + "' " + (enabled ? weir::control_socket() : std::string("refused")));
  char byte = 0;
  (void)!::read(held, &byte, 1);
  std::exit(0);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  if (argc > 2) {
    const auto enabled = weir::enable_control();
    if (!enabled) std::fprintf(stderr, "%s\n", enabled.error().message.c_str());
  }
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  {
    const auto session = weir::init({.service = "controlled", .socket = argv[1], .stop_timeout = std::chrono::seconds{30}});
    say("ready " + weir::control_socket());
    Child child;
    for (std::string command; std::getline(std::cin, command);) {
      if (command.starts_with("spans ")) {
        for (int left = std::stoi(command.substr(6)); left > 0; --left) (void)weir::tracer().enter("work");
        say("made");
      } else if (command == "loop") {
        for (int i = 0; i < 2; ++i) {
          threads.emplace_back([&stop] {
            while (!stop) (void)weir::tracer().enter("work"), std::this_thread::yield();
          });
        }
        say("looping");
      } else if (command == "stats") {
        say(figures());
      } else if (command == "off") {
        weir::disable_control();
        say("off");
      } else if (command == "fork") {
        int ends[2];
        if (::pipe(ends) != 0) return 3;
        child.pid = ::fork();
        if (child.pid == 0) {
          ::close(ends[1]);
          be_a_child(ends[0]);
        }
        ::close(ends[0]);
        child.end = ends[1];
      } else if (command == "release") {
        child.release();
        say("released");
      } else if (command == "quick") {
        std::quick_exit(0);
      }
    }
    stop = true;
    for (std::thread& each : threads) each.join();
    child.release();
    (void)weir::tracer().flush(std::chrono::seconds{30});
    say(figures());
  }
  return 0;
}
