// Many connections: storm_program SOCKET COUNT KEPT. Makes COUNT of them as fast as they are let in. When there is no room for more it
// gives the oldest up, but keeps at least KEPT; then it says "held", and keeps what it has until its input ends.
#include <unistd.h>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <thread>

#include "net/unix_socket.hpp"

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const auto kept = std::strtoul(argv[3], nullptr, 10);
  std::deque<weir::net::Fd> held;
  for (long left = std::strtol(argv[2], nullptr, 10); left > 0;) {
    auto connected = weir::net::connect_unix(argv[1]);
    if (connected) {
      held.push_back(std::move(*connected));
      --left;
    } else if (connected.error().code != std::errc::resource_unavailable_try_again) {
      std::fprintf(stderr, "%s\n", connected.error().message.c_str());
      return 1;
    } else {
      if (held.size() > kept) held.pop_front();
      std::this_thread::yield();
    }
  }
  std::puts("held");
  std::fflush(stdout);
  for (char byte = 0; ::read(0, &byte, 1) > 0;) {}
  return 0;
}
