// A service or a collector to be killed at any moment. What was done is marked in a file that both map.
//
//   native_program emit SOCKET MARKS       emits numbered spans until it is killed
//   native_program collect SOCKET MARKS    marks the numbers it gets, until it is killed
#include <csignal>
#include <cstdlib>
#include <string>

#include "trace/native_marks.hpp"
#include "weir/collect/collector.hpp"
#include "weir/trace/socket_sender.hpp"
#include "weir/trace/tracer.hpp"

using weir::testing::MarkedSpans;
using weir::testing::Marks;

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const std::string what = argv[1], socket = argv[2];
  Marks& marks = weir::testing::map_marks(argv[3]);
  if (what == "collect") {
    weir::Collector collector{socket};
    collector.on_span_complete([&](std::string_view, const weir::Span& span) { MarkedSpans::receive(marks, span); });
    const weir::Result<void> listening = collector.listen();
    if (!listening) return 1;
    marks.ready.fetch_add(1);
    weir::StopSource never;
    return collector.serve(never.token()) ? 0 : 1;
  }
  weir::SocketSenderOptions options;
  options.wire = weir::Wire::native;
  options.ring_bytes = 16u << 20;  // nothing is dropped
  weir::Tracer tracer{weir::SocketSender{socket, options}, {.service_name = "killed"}};
  weir::ScopedSpan root = tracer.enter("root");
  { weir::ScopedSpan first = tracer.enter("first"); }
  if (tracer.flush(std::chrono::seconds{60}).pending != 0) return 1;
  marks.ready.fetch_add(1);
  for (std::uint64_t i = 0; i < Marks::most; ++i) {
    MarkedSpans::emit(tracer, i);
    marks.emitted.store(i + 1);
  }
  for (;;) ::pause();
}
