// A collector in one page: receives spans from any number of services, shows each finished trace as a tree, and passes
// spans on to viewers (weir::ViewClient). Ends on SIGINT or SIGTERM, after handing on what it still holds.
//
//   collector [SOCKET]

#include <signal.h>
#include <unistd.h>
#include <iostream>
#include <string>
#include <thread>

#include "weir/collect/collector.hpp"
#include "weir/trace/socket_path.hpp"
#include "weir/view/tree.hpp"
#include "weir/view/view_server.hpp"

int main(int argc, char** argv) {
  const std::string socket = argc > 1 ? argv[1] : weir::default_socket_path();
  if (argc > 2 || socket.starts_with('-')) {
    const bool asked = socket == "--help" || socket == "-h";
    (asked ? std::cout : std::cerr) << "Usage: collector [SOCKET]\nSOCKET is the one that services send to; default: "
                                    << weir::default_socket_path() << '\n';
    return asked ? 0 : 2;
  }

  sigset_t signals;  // blocked before any thread starts, so that only sigwait below sees them
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  weir::ViewServer view{weir::view_socket_path(socket)};
  weir::Collector collector{socket};
  collector.on_span_complete([&](std::string_view, const weir::Span& span) { view.broadcast(span); });
  view.on_replay([&](std::size_t traces, std::size_t max_bytes) { return collector.last_traces(traces, max_bytes); });
  collector.on_trace_complete([](const weir::Trace& trace) {
    std::cout << weir::printable(trace.service) << "  trace " << weir::printable(trace.trace_id) << '\n';
    for (const weir::Span& root : trace.roots) std::cout << weir::format_tree(root);
    std::cout << std::endl;
  });

  weir::StopSource stop;
  const auto serve = [](auto& server, const weir::StopToken& until) {
    if (const weir::Result<void> served = server.serve(until); !served) {
      std::cerr << "collector: " << served.error().message << '\n';
      ::kill(::getpid(), SIGTERM);
    }
  };
  for (const weir::Result<void>& bound : {collector.listen(), view.listen()}) {
    if (bound) continue;
    std::cerr << "collector: " << bound.error().message << '\n';
    return 1;
  }
  std::cerr << "listening socket=" << collector.socket_path() << " view=" << view.socket_path() << '\n';
  std::thread collecting([&] { serve(collector, stop.token()); });
  std::thread viewing([&] { serve(view, {}); });

  int signal = 0;
  sigwait(&signals, &signal);
  stop.request_stop();
  collecting.join();
  view.close();  // after the collector, whose last spans it passes on
  viewing.join();
  std::cerr << collector.stats().to_json() << '\n';
}
