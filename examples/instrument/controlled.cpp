// A service that can be changed while it runs.
//
//   instrument_controlled            makes ten spans, one in 100 ms
//   instrument_controlled N          N of them

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <weir/control.hpp>
#include <weir/init.hpp>

int main(int count, char** arguments) {
  const auto weir_session = weir::init({.service = "controlled"});
  // WEIR_CONTROL=1 in the environment makes weir::init do the same.
  if (const auto listening = weir::enable_control(); !listening) std::fprintf(stderr, "%s\n", listening.error().message.c_str());
  std::printf("control socket: %s\n", weir::control_socket().c_str());

  for (int left = count > 1 ? std::atoi(arguments[1]) : 10; left > 0; --left) {
    const weir::ScopedSpan span = weir::tracer().enter("work");
    std::this_thread::sleep_for(std::chrono::milliseconds{100});
  }
}
