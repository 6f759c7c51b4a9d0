// The native path between a tracer and a collector, over a real socket and real shared memory.
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <latch>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/eventually.hpp"
#include "support/fork_memory.hpp"
#include "support/running_collector.hpp"
#include "support/scratch_dir.hpp"
#include "weir/collect/collector.hpp"
#include "weir/trace/socket_sender.hpp"
#include "weir/trace/tracer.hpp"

using namespace std::chrono_literals;
using namespace weir;
using weir::testing::eventually;
using weir::testing::RunningCollector;
using weir::testing::ScratchDir;
using weir::testing::silent;

namespace {

SocketSenderOptions natively() {
  SocketSenderOptions options;
  options.wire = Wire::native;
  options.logger = &silent;
  return options;
}

void check_invariant(const TracerStats& stats) { CHECK(stats.emitted == stats.delivered + stats.dropped() + stats.in_flight); }

}  // namespace

TEST_CASE("what a service traces is read out of its memory, with all that it says") {
  const bool memory = GENERATE(true, false);
  CAPTURE(memory);
  ScratchDir dir;
  CollectorOptions options;
  options.shared_memory = memory;
  RunningCollector collector(dir / "s", options);
  Tracer tracer{SocketSender{dir / "s", natively()}, {.service_name = "checkout"}};
  const Timestamp before = std::chrono::system_clock::now();
  std::string trace, root;
  {
    ScopedSpan span = tracer.enter("GET /orders", SpanKind::http);
    trace = span.context().trace_id().hex();
    root = span.context().span_id().hex();
    ScopedSpan child = tracer.enter(std::string("a name ") + "made at run time", static_cast<SpanKind>(17));
    child.set("text", "caf\xc3\xa9 \xff");
    child.set("empty", "");
    child.set("number", -42);
    child.set("ratio", 0.125);
    child.set("truth", true);
    child.set("number", 43);
    child.set(std::string("key ") + "made at run time", std::string(3000, 'x'));
  }
  const FlushResult flushed = tracer.flush(10s);
  CHECK(flushed.sent == 2);
  CHECK(flushed.pending == 0);
  REQUIRE(eventually([&] { return collector.count() == 2; }));
  const Timestamp after = std::chrono::system_clock::now();
  const std::vector<Span> spans = collector.spans();
  CHECK(spans[0].name == "a name made at run time");
  CHECK(spans[0].kind == static_cast<SpanKind>(17));
  CHECK(spans[0].trace_id == trace);
  CHECK(spans[0].parent_id == root);
  CHECK(spans[0].attrs.size() == 6);
  CHECK(spans[0].attrs.at("number") == "43");
  CHECK(spans[0].attrs.at("ratio") == "0.125");
  CHECK(spans[0].attrs.at("truth") == "true");
  CHECK(spans[0].attrs.at("empty").empty());
  CHECK(spans[0].attrs.at("text").find("caf\xc3\xa9") == 0);
  CHECK(spans[0].attrs.at("key made at run time") == std::string(3000, 'x'));
  CHECK(spans[1].id == root);
  CHECK(spans[1].parent_id.empty());
  for (const Span& span : spans) {
    CHECK(span.start_time >= before - 1ms);
    CHECK(span.end_time <= after + 1ms);
    CHECK(span.start_time <= span.end_time);
  }
  const CollectorStats stats = collector.stats();
  CHECK(stats.native_spans == 2);
  CHECK(stats.store.events == 4);
  CHECK(stats.rejected_malformed + stats.rejected_records + stats.broken_rings == 0);
  CHECK(tracer.stats().delivered == 2);
  CHECK(tracer.stop(10s).pending == 0);
  check_invariant(tracer.stats());
}

TEST_CASE("a tracer that is told to sends lines, and so does one whose collector knows nothing else") {
  ScratchDir dir;
  const bool asked = GENERATE(true, false);
  CollectorOptions options;
  options.native = asked;
  RunningCollector collector(dir / "s", options);
  SocketSenderOptions sending;
  if (asked) sending.wire = Wire::json;
  Tracer tracer{SocketSender{dir / "s", sending}};
  for (int i = 0; i < 100; ++i) ScopedSpan span = tracer.enter("x");
  CHECK(tracer.stop(10s).pending == 0);
  REQUIRE(eventually([&] { return collector.count() == 100; }));
  CHECK(collector.stats().native_spans == 0);
  CHECK(tracer.stats().delivered == 100);
}

TEST_CASE("without memory that can be shared records travel over the socket") {
  ScratchDir dir;
  RunningCollector collector(dir / "s");
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const rlimit small{1 << 20, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);  // a memfd of 256 MiB would be SIGXFSZ
  {
    Tracer tracer{SocketSender{dir / "s", natively()}};
    for (int i = 0; i < 100; ++i) ScopedSpan span = tracer.enter("x");
    CHECK(tracer.stop(10s).pending == 0);
    CHECK(tracer.stats().delivered == 100);
  }
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  REQUIRE(eventually([&] { return collector.count() == 100; }));
  CHECK(collector.stats().native_spans == 100);
}

TEST_CASE("a collector that can read no more rings gets the records over the socket") {
  ScratchDir dir;
  CollectorOptions options;
  options.max_rings = 2;
  RunningCollector collector(dir / "s", options);
  Tracer tracer{SocketSender{dir / "s", natively()}};
  for (int i = 0; i < 100; ++i) ScopedSpan span = tracer.enter("x");
  REQUIRE(tracer.flush(10s).pending == 0);
  std::vector<std::thread> threads;
  std::atomic<int> there{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) ScopedSpan span = tracer.enter("y");
      for (++there; there < 4;) std::this_thread::yield();  // four rings
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(tracer.stop(10s).pending == 0);
  CHECK(tracer.stats().delivered == 500);
  CHECK(eventually([&] { return collector.stats().native_spans == 500; }));
  CHECK(collector.stats().store.duplicates == 0);
}

TEST_CASE("everything that four threads emit arrives once, natively") {
  const bool memory = GENERATE(true, false);
  CAPTURE(memory);
  ScratchDir dir;
  CollectorOptions options;
  options.shared_memory = memory;
  RunningCollector collector(dir / "s", options);
  SocketSenderOptions sending = natively();
  sending.ring_bytes = 64 << 10;
  Tracer tracer{SocketSender{dir / "s", sending}};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 5000; ++i) {
        ScopedSpan span = tracer.enter("work " + std::to_string(i % 50));
        span.set("thread", t);
        span.set("i", i);
        span.set("text", std::string(static_cast<std::size_t>(i % 100), 'y'));
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(tracer.stop(20s).pending == 0);
  const TracerStats stats = tracer.stats();
  check_invariant(stats);
  CHECK(stats.emitted == 20'000);
  REQUIRE(eventually([&] { return collector.count() >= stats.delivered; }));
  std::set<std::pair<std::string, std::string>> seen;
  for (const Span& span : collector.spans()) {
    seen.insert({span.attrs.at("thread"), span.attrs.at("i")});
    const int i = std::stoi(span.attrs.at("i"));
    CHECK(span.name == "work " + std::to_string(i % 50));
    CHECK(span.attrs.at("text").size() == static_cast<std::size_t>(i % 100));
  }
  CHECK(seen.size() == stats.delivered);
  CHECK(collector.count() == stats.delivered);
}

TEST_CASE("more full rings than are read in one turn are read to their ends") {
  constexpr int threads = 24, spans = 3000;  // 20 MB
  ScratchDir dir;
  Collector collector(dir / "s", {.logger = &silent});
  std::atomic<bool> full{false};
  std::atomic<std::uint64_t> count{0};
  collector.on_span_complete([&](std::string_view, const Span&) {
    full.wait(false);
    ++count;
  });
  REQUIRE(collector.listen());
  StopSource stop;
  std::thread serving([&] { (void)collector.serve(stop.token()); });
  Tracer tracer{SocketSender{dir / "s", natively()}};
  std::latch writing{threads};  // a thread that has ended leaves its ring to the next
  std::vector<std::thread> writers;
  for (int t = 0; t < threads; ++t) {
    writers.emplace_back([&] {
      { const ScopedSpan first = tracer.enter("first"); }
      writing.arrive_and_wait();
      for (int i = 0; i < spans; ++i) tracer.enter("x").set("text", std::string(200, 'y'));
    });
  }
  for (std::thread& writer : writers) writer.join();
  full = true;
  full.notify_all();
  CHECK(tracer.stop(20s).pending == 0);
  CHECK(tracer.stats().delivered == threads * (spans + 1));
  CHECK(eventually([&] { return count == threads * (spans + 1); }));
  stop.request_stop();
  serving.join();
}

TEST_CASE("a collector that comes later, and each that follows, finds what was not read") {
  const bool memory = GENERATE(true, false);
  CAPTURE(memory);
  ScratchDir dir;
  Tracer tracer{SocketSender{dir / "s", natively()}};
  std::uint64_t emitted = 0, seen = 0;
  for (int life = 0; life < 5; ++life) {
    for (int i = 0; i < 200; ++i, ++emitted) ScopedSpan span = tracer.enter("between");  // nobody is there
    CollectorOptions options;
    options.shared_memory = memory;
    RunningCollector collector(dir / "s", options);
    for (int i = 0; i < 200; ++i, ++emitted) ScopedSpan span = tracer.enter("while it is there");
    CHECK(tracer.flush(20s).pending == 0);
    collector.stop();
    seen += collector.count();
  }
  CHECK(seen == emitted);
  CHECK(tracer.stats().delivered == emitted);
  if (memory) CHECK(tracer.stats().unacknowledged == 0);
  check_invariant(tracer.stats());
}

TEST_CASE("a tracer goes from a native collector to one of lines and back, and each gets what is its own") {
  ScratchDir dir;
  Tracer tracer{SocketSender{dir / "s", {.logger = &silent}}};
  std::uint64_t emitted = 0, seen = 0;
  for (int life = 0; life < 6; ++life) {
    CollectorOptions options;
    options.native = life % 2 == 0;
    RunningCollector collector(dir / "s", options);
    for (int i = 0; i < 300; ++i, ++emitted) ScopedSpan span = tracer.enter("x");
    CHECK(tracer.flush(20s).pending == 0);
    collector.stop();
    seen += collector.count();
    CHECK((collector.stats().native_spans > 0) == options.native);
  }
  CHECK(seen == emitted);
}

TEST_CASE("a span that is open for a while is known before it ends, once") {
  ScratchDir dir;
  RunningCollector collector(dir / "s");
  Tracer tracer{SocketSender{dir / "s", natively()}};
  {
    ScopedSpan span = tracer.enter("long");
    REQUIRE(eventually([&] { return collector.stats().store.pending == 1; }));
  }
  CHECK(tracer.flush(10s).pending == 0);
  REQUIRE(eventually([&] { return collector.count() == 1; }));
  CHECK(collector.stats().store.pending == 0);
  CHECK(collector.stats().store.duplicates == 0);
}

#if !defined(__SANITIZE_THREAD__)
TEST_CASE("a service that is killed leaves what it wrote, and what was open is unfinished") {
  ScratchDir dir;
  RunningCollector collector(dir / "s");
  for (int round = 0; round < 3; ++round) {
    const pid_t service = ::fork();
    if (service == 0) {
      Tracer tracer{SocketSender{dir / "s", natively()}, {.service_name = "killed"}};
      ScopedSpan root = tracer.enter("root");
      { ScopedSpan ready = tracer.enter("ready"); }
      if (tracer.flush(20s).pending != 0) ::_exit(1);
      ScopedSpan open = tracer.enter("open");
      for (int i = 0; i < 500; ++i) {
        ScopedSpan span = tracer.enter("done");
        span.set("i", i);
      }
      ::kill(::getpid(), SIGKILL);
    }
    int status = 0;
    ::waitpid(service, &status, 0);
    CHECK(WIFSIGNALED(status));
  }
  REQUIRE(eventually([&] { return collector.count() == 3 * 503; }));
  std::map<std::string, int> names;
  for (const Span& span : collector.spans()) {
    ++names[span.name];
    CHECK(span.attrs.count(std::string(unfinished_attribute)) == (span.name == "root" || span.name == "open" ? 1 : 0));
  }
  CHECK(names == std::map<std::string, int>{{"root", 3}, {"ready", 3}, {"open", 3}, {"done", 1500}});
  CHECK(collector.stats().broken_rings == 0);
}

TEST_CASE("a stopped collector costs the service nothing, and gets what was written when it goes on") {
  ScratchDir dir;
  int told[2];
  REQUIRE(::pipe(told) == 0);
  const pid_t other = ::fork();
  if (other == 0) {
    RunningCollector collector(dir / "s");
    char byte = 'r';
    (void)!::write(told[1], &byte, 1);
    ::_exit(eventually([&] { return collector.count() >= 1001; }) && collector.count() == 1001 ? 0 : 1);
  }
  char byte = 0;
  REQUIRE(::read(told[0], &byte, 1) == 1);
  Tracer tracer{SocketSender{dir / "s", natively()}};
  { ScopedSpan span = tracer.enter("x"); }
  REQUIRE(tracer.flush(20s).pending == 0);
  ::kill(other, SIGSTOP);
  int status = 0;
  REQUIRE(::waitpid(other, &status, WUNTRACED) == other);  // from here on it is
  for (int i = 0; i < 1000; ++i) ScopedSpan span = tracer.enter("x");
  const auto begin = std::chrono::steady_clock::now();
  const FlushResult stopped = tracer.stop(100ms);
  CHECK(std::chrono::steady_clock::now() - begin < 10s);
  CHECK(stopped.pending == 1000);  // in its memory; not dropped
  CHECK(tracer.stats().dropped() == 0);
  check_invariant(tracer.stats());
  ::kill(other, SIGCONT);
  ::waitpid(other, &status, 0);
  CHECK(status == 0);
  CHECK(eventually([&] { return tracer.stats().in_flight == 0; }));
  CHECK(tracer.stats().delivered == 1001);
}

TEST_CASE("the child of a fork has rings of its own, and leaves those of its parent alone") {
  ScratchDir dir;
  RunningCollector collector(dir / "s");
  Tracer tracer{SocketSender{dir / "s", natively()}};
  { ScopedSpan first = tracer.enter("first"); }
  REQUIRE(tracer.flush(20s).pending == 0);  // no thread starts any more, which would hold what AddressSanitizer's allocator needs
  ScopedSpan around = tracer.enter("around the fork");
  for (int i = 0; i < 20; ++i) {
    ScopedSpan before = tracer.enter("of the parent");
    const pid_t child = ::fork();
    if (child == 0) {
      weir::testing::become_a_child(60);
      { ScopedSpan span = tracer.enter("of the child"); }
      ::_exit(tracer.stop(20s).pending == 0 && tracer.stats().delivered == 1 ? 0 : 1);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    CHECK(status == 0);
  }
  around.end();
  CHECK(tracer.stop(20s).pending == 0);
  REQUIRE(eventually([&] { return collector.count() == 42; }));
  std::map<std::string, int> names;
  for (const Span& span : collector.spans()) ++names[span.name];
  CHECK(names == std::map<std::string, int>{{"first", 1}, {"around the fork", 1}, {"of the parent", 20}, {"of the child", 20}});
}
#endif
