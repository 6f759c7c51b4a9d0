// kill -9 of the service and of the collector, at random moments of a native connection.
#include <csignal>
#include <random>
#include <thread>

#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/process.hpp"
#include "support/running_collector.hpp"
#include "support/sanitizers.hpp"
#include "support/scratch_dir.hpp"
#include "trace/native_marks.hpp"
#include "weir/collect/collector.hpp"
#include "weir/trace/socket_sender.hpp"

using namespace std::chrono_literals;
using namespace weir;
using weir::testing::eventually;
using weir::testing::map_marks;
using weir::testing::MarkedSpans;
using weir::testing::Marks;
using weir::testing::Process;
using weir::testing::ScratchDir;
using weir::testing::silent;

TEST_CASE("what a service wrote before it was killed arrives, and nothing is misread, 200 times") {
  std::mt19937 random(3);
  ScratchDir dir;
  CollectorOptions options;
  options.logger = &silent;
  Collector collector{dir / "s", options};
  std::atomic<Marks*> marks{nullptr};
  collector.on_span_complete([&](std::string_view, const Span& span) { MarkedSpans::receive(*marks.load(), span); });
  REQUIRE(collector.listen());
  StopSource stop;
  std::thread serving([&] { (void)collector.serve(stop.token()); });
  std::uint64_t killed_amid = 0;
  for (int round = 0; round < 200; ++round) {
    const std::string path = dir / ("marks" + std::to_string(round));
    marks = &map_marks(path);
    Marks& now = *marks.load();
    const std::uint64_t enough = random() % 4000;
    {
      Process service({WEIR_NATIVE_PROGRAM, "emit", dir / "s", path});
      REQUIRE(eventually([&] { return now.ready == 1 && now.emitted >= enough; }));
      service.signal(SIGKILL);
      CHECK(service.wait() == 1000 + SIGKILL);
    }
    REQUIRE(eventually([&] { return collector.stats().open_connections == 0; }));
    const std::uint64_t emitted = now.emitted;
    bool all = true;
    for (std::uint64_t i = 0; i < emitted; ++i) all = all && now.seen[i] == 1;
    CHECK(all);
    CHECK(now.received >= emitted);
    CHECK(now.received <= emitted + 1);
    CHECK(now.misread == 0);
    CHECK(now.unfinished >= 1);  // the root, and at most the one it was in
    CHECK(now.unfinished <= 2);
    killed_amid += now.unfinished == 2;
    ::munmap(&now, sizeof(Marks));
    ::unlink(path.c_str());
  }
  stop.request_stop();
  serving.join();
  const CollectorStats stats = collector.stats();
  CHECK(stats.broken_rings + stats.rejected_records + stats.rejected_malformed == 0);
  CHECK(killed_amid > 0);
}

TEST_CASE("whatever a killed collector had not acknowledged comes to the next, and nothing is misread, 50 times") {
  std::mt19937 random(4);
  ScratchDir dir;
  Marks& marks = map_marks(dir / "marks");
  SocketSenderOptions options;
  options.wire = Wire::native;
  options.logger = &silent;
  options.ring_bytes = 256 << 10;
  Tracer tracer{SocketSender{dir / "s", options}};
  std::atomic<std::uint64_t> next{0};
  std::atomic<std::uint64_t> goal{0};
  std::atomic<bool> done{false};
  std::vector<std::thread> emitters;
  for (int t = 0; t < 2; ++t) {
    emitters.emplace_back([&] {
      while (!done) {
        if (next >= goal) {
          std::this_thread::yield();
          continue;
        }
        if (const std::uint64_t i = next++; i < Marks::most) MarkedSpans::emit(tracer, i);
      }
    });
  }
  for (int round = 0; round < 50; ++round) {
    Process collector({WEIR_NATIVE_PROGRAM, "collect", dir / "s", dir / "marks"});
    const std::uint64_t enough = marks.received + random() % 2000;
    REQUIRE(eventually([&] {
      goal = std::max<std::uint64_t>(goal, next + 100);  // about as fast as it is read
      return marks.received > enough;
    }));
    collector.signal(SIGKILL);
    CHECK(collector.wait() == 1000 + SIGKILL);
  }
  done = true;
  for (auto& emitter : emitters) emitter.join();
  Process collector({WEIR_NATIVE_PROGRAM, "collect", dir / "s", dir / "marks"});
  CHECK(tracer.stop(60s).pending == 0);
  const TracerStats stats = tracer.stats();
  CHECK(stats.emitted == next);
  CHECK(stats.emitted == stats.delivered + stats.dropped());
  CHECK(stats.connects >= 40);
  // What was acknowledged has been seen by one of them; what was seen and not acknowledged was seen again.
  CHECK(marks.distinct() + stats.dropped() == stats.emitted);
  CHECK(marks.misread == 0);
  CHECK(marks.received >= stats.delivered);
}
