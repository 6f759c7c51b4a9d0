// agent_program: a service that makes a span a millisecond until its stdin ends. It listens to an agent if WEIR_CONTROL says so.
#include <poll.h>
#include <unistd.h>
#include <cstdio>

#include "weir/init.hpp"

int main() {
  auto session = weir::init({.service = "program"});
  std::printf("ready\n");
  std::fflush(stdout);
  for (pollfd input{STDIN_FILENO, POLLIN, 0}; ::poll(&input, 1, 1) == 0;) weir::ScopedSpan span = weir::tracer().enter("work");
}
