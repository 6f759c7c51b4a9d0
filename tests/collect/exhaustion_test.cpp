// More connections than there are descriptors for. That nobody spins is measured in system calls: those of the serving threads are
// counted while nothing happens.
#include "support/catch.hpp"
#include "support/sanitizers.hpp"

#if !defined(WEIR_TESTS_TSAN)  // which stands in the place of these calls itself
#include <dlfcn.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "net/unix_socket.hpp"
#include "support/eventually.hpp"
#include "support/line_socket.hpp"
#include "support/process.hpp"
#include "support/running_collector.hpp"
#include "support/scratch_dir.hpp"
#include "weir/collect/collector.hpp"
#include "weir/trace/event.hpp"
#include "weir/view/view_server.hpp"

using namespace weir;
using namespace std::chrono_literals;
using weir::testing::eventually;
using weir::testing::LineSocket;
using weir::testing::Process;
using weir::testing::ScratchDir;
using weir::testing::silent;

namespace {

constexpr long storm = 10'000;  // connections

thread_local bool is_counted = false;
std::atomic<std::uint64_t> calls{0};

template <class F>
F* next(const char* name) {
  return reinterpret_cast<F*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

#define WEIR_COUNTED(result, name, parameters, arguments)     \
  extern "C" result name parameters {                         \
    static auto* const real = next<result parameters>(#name); \
    if (is_counted) calls.fetch_add(1);                       \
    return real arguments;                                    \
  }
WEIR_COUNTED(int, accept4, (int fd, sockaddr* address, socklen_t* size, int flags), (fd, address, size, flags))
WEIR_COUNTED(int, epoll_wait, (int fd, epoll_event* events, int size, int timeout), (fd, events, size, timeout))
WEIR_COUNTED(int, poll, (pollfd * entries, nfds_t count, int timeout), (entries, count, timeout))
WEIR_COUNTED(int, ppoll, (pollfd * entries, nfds_t count, const timespec* timeout, const sigset_t* mask), (entries, count, timeout, mask))

namespace {

/// Fewer descriptors for this process, as long as it lives.
class FewDescriptors {
 public:
  explicit FewDescriptors(rlim_t limit) {
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &before_) == 0);
    const rlimit low{limit, before_.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &low) == 0);
  }
  ~FewDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  FewDescriptors(const FewDescriptors&) = delete;
  FewDescriptors& operator=(const FewDescriptors&) = delete;
  /// As many as it had, for a process that is to have them.
  template <class Body>
  auto suspended(Body body) {
    rlimit low{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &low) == 0);
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &before_) == 0);
    auto result = body();
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &low) == 0);
    return result;
  }

 private:
  rlimit before_{};
};

std::string span_lines(const std::string& id) {
  return to_json(Event::span_start(id, id, "", "name", SpanKind::http, Timestamp{1s})) + "\n" +
         to_json(Event::span_end(id, id, Timestamp{2s})) + "\n";
}

}  // namespace

TEST_CASE("10,000 connections at 256 descriptors: the collector waits without spinning, and serves who is left") {
  FewDescriptors few(256);
  ScratchDir dir;
  CollectorOptions options;
  options.store.settle = 300ms;
  options.max_connections = 1'000'000;
  options.logger = &silent;
  Collector collector(dir / "s", options);
  std::atomic<std::uint64_t> traces{0};
  collector.on_trace_complete([&](const Trace&) { ++traces; });
  REQUIRE(collector.listen());
  StopSource stop;
  std::thread server([&] {
    is_counted = true;
    (void)collector.serve(stop.token());
  });
  // While one trace settles nothing else happens. Returns how many calls that took.
  const auto calls_meanwhile = [&](LineSocket& service, const std::string& id) {
    const std::uint64_t traces_before = traces, calls_before = calls;
    REQUIRE(service.send(span_lines(id)));
    REQUIRE(eventually([&] { return traces > traces_before; }));
    return calls - calls_before;
  };
  LineSocket honest = LineSocket::connect(dir / "s");
  CHECK(calls_meanwhile(honest, "alone") < 50);
  {
    const auto crowd = few.suspended([&] {
      return std::make_unique<Process>(std::vector<std::string>{WEIR_STORM_PROGRAM, dir / "s", std::to_string(storm), "250"});
    });
    REQUIRE(crowd->line(1) == "held");
    REQUIRE(eventually([&] { return collector.stats().open_connections == 256 - 64; }));
    CHECK(collector.stats().listener_pauses > 0);
    CHECK(calls_meanwhile(honest, "in the crowd") < 50);
    crowd->close(0);
    REQUIRE(crowd->wait() == 0);
  }
  REQUIRE(eventually([&] { return collector.stats().open_connections == 1; }));
  CHECK(collector.stats().connections >= static_cast<std::uint64_t>(storm));
  CHECK(calls_meanwhile(honest, "alone again") < 50);

  if (!weir::testing::sanitized) {  // UBSan takes a descriptor when it meets a type for the first time
    // Others have the descriptors: fewer connections than allowed, and yet none can be let in.
    LineSocket late = [&] {
      std::vector<net::Fd> hoard;
      for (net::Fd fd(::dup(0)); fd; fd = net::Fd(::dup(0))) hoard.push_back(std::move(fd));
      hoard.pop_back();
      LineSocket waiting = LineSocket::connect(dir / "s");  // with the last one
      const std::uint64_t pauses = collector.stats().listener_pauses;
      REQUIRE(eventually([&] { return collector.stats().listener_pauses > pauses; }));
      CHECK(calls_meanwhile(honest, "nothing left") < 100);
      return waiting;
    }();
    const std::uint64_t before = traces;
    REQUIRE(late.send(span_lines("late")));
    CHECK(eventually([&] { return traces > before; }));
  }
  stop.request_stop();
  server.join();
}

TEST_CASE("10,000 viewers at 64 descriptors: the view server waits without spinning, and the first one misses nothing") {
  if (weir::testing::sanitized) return;  // as above
  FewDescriptors few(64);
  ScratchDir dir;
  ViewServer view(dir / "v", {.max_queued_bytes = 64u << 10, .stall_limit = 300ms, .logger = &silent});
  REQUIRE(view.listen());
  StopSource stop;
  std::thread server([&] {
    is_counted = true;
    (void)view.serve(stop.token());
  });
  const auto viewer = [&] {
    const std::uint64_t clients = view.stats().clients;
    LineSocket socket = LineSocket::connect(dir / "v");
    REQUIRE(eventually([&] { return view.stats().clients > clients; }));
    return socket;
  };
  LineSocket good = viewer(), stalled = viewer();
  const auto crowd = few.suspended([&] {
    return std::make_unique<Process>(std::vector<std::string>{WEIR_STORM_PROGRAM, dir / "v", std::to_string(storm), "100"});
  });
  REQUIRE(crowd->line(1) == "held");
  Span span;
  span.id = span.trace_id = "1";
  span.name = std::string(4000, 'x');
  const std::string line = to_json(span);
  do {  // until nobody of the others takes any more
    view.broadcast(span);
    REQUIRE(good.line() == line);
  } while (view.stats().dropped == 0);
  const std::uint64_t before = calls;
  REQUIRE(eventually([&] { return view.stats().stalled > 0; }));  // the limit has passed
  CHECK(calls - before < 500);
  crowd->close(0);
  REQUIRE(crowd->wait() == 0);
  REQUIRE(eventually([&] { return view.conn_count() == 1; }));
  LineSocket last = viewer();
  span.name = "last";
  view.broadcast(span);
  CHECK(good.line() == to_json(span));
  CHECK(last.line() == to_json(span));
  stop.request_stop();
  server.join();
}
#endif
