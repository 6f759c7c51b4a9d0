// The life of a tracer with a native collector: threads that come and go, flushes, stops, collectors that come and go.
#include <algorithm>
#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/eventually.hpp"
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

SocketSenderOptions natively(std::size_t ring_bytes = 64 << 10) {
  SocketSenderOptions options;
  options.wire = Wire::native;
  options.logger = &silent;
  options.ring_bytes = ring_bytes;
  return options;
}

void check_invariant(const TracerStats& stats) { CHECK(stats.emitted == stats.delivered + stats.dropped() + stats.in_flight); }

}  // namespace

TEST_CASE("5,000 threads are born and die, and every span of theirs is accounted for") {
  ScratchDir dir;
  RunningCollector collector(dir / "s");
  Tracer tracer{SocketSender{dir / "s", natively(4096)}};
  std::atomic<std::uint64_t> emitted{0};
  for (int batch = 0; batch < 625; ++batch) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i <= t; ++i, ++emitted) {
          ScopedSpan span = tracer.enter("of a thread");
          span.set("t", t);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  CHECK(tracer.stop(60s).pending == 0);
  const TracerStats stats = tracer.stats();
  CHECK(stats.emitted == emitted);
  CHECK(stats.in_flight == 0);
  CHECK(stats.dropped_no_ring == 0);
  check_invariant(stats);
  CHECK(eventually([&] { return collector.stats().native_spans == stats.delivered; }));
  CHECK(collector.stats().broken_rings == 0);
}

TEST_CASE("10,000 flushes bring what was written before them, beside threads that go on") {
  ScratchDir dir;
  RunningCollector collector(dir / "s");
  Tracer tracer{SocketSender{dir / "s", natively(1 << 20)}};
  { ScopedSpan first = tracer.enter("x"); }
  REQUIRE(tracer.flush(60s).pending == 0);
  std::atomic<bool> done{false};
  std::atomic<int> flushes{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      std::uint64_t before = 0;
      while (flushes.fetch_add(1) < 10'000) {
        for (int i = 0; i < 3; ++i) ScopedSpan span = tracer.enter("x");
        (void)tracer.flush(60s);
        const std::uint64_t delivered = tracer.stats().delivered;
        if (delivered < before + 3) std::terminate();  // those of this thread were written before its flush
        before = delivered;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(tracer.stop(60s).pending == 0);
  check_invariant(tracer.stats());
  CHECK(tracer.stats().dropped() == 0);
}

TEST_CASE("tracers are made and stopped, in and out of time, beside threads that write") {
  ScratchDir dir;
  RunningCollector collector(dir / "s");
  std::mt19937 random(1);
  std::uint64_t delivered = 0, unsettled = 0;
  for (int round = 0; round < 300; ++round) {
    Tracer tracer{SocketSender{dir / "s", natively(4096)}};
    std::atomic<bool> done{false};
    std::thread writer([&] {
      while (!done) ScopedSpan span = tracer.enter("x");
    });
    for (unsigned i = random() % 200; i > 0; --i) ScopedSpan span = tracer.enter("y");
    const auto timeout = std::chrono::milliseconds{random() % 3 == 0 ? 0 : 20'000};
    std::thread other([&] { (void)tracer.flush(timeout); });
    const FlushResult stopped = tracer.stop(timeout);
    if (timeout > 1s) CHECK(stopped.pending <= 1);  // a span that the writer was in
    other.join();
    done = true;
    writer.join();
    CHECK(eventually([&] { return tracer.stats().in_flight == 0; }));  // what was left in its memory is read there
    const TracerStats stats = tracer.stats();
    check_invariant(stats);
    delivered += stats.delivered;
    unsettled += timeout <= 1s;
  }
  CHECK(unsettled > 0);
  CHECK(eventually([&] { return collector.stats().native_spans == delivered; }));
}

TEST_CASE("collectors come and go under load, and what they get adds up") {
  ScratchDir dir;
  Tracer tracer{SocketSender{dir / "s", natively()}};
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      while (!done) {
        for (int i = 0; i < 100; ++i) ScopedSpan span = tracer.enter("x");
        std::this_thread::yield();
      }
    });
  }
  std::uint64_t received = 0;
  for (int life = 0; life < 15; ++life) {
    RunningCollector collector(dir / "s");
    REQUIRE(eventually([&] { return collector.stats().native_spans > 1000; }));
    if (life == 14) {
      done = true;
      for (std::thread& thread : threads) thread.join();
      CHECK(tracer.stop(60s).pending == 0);
    }
    (void)collector.stop();
    received += collector.stats().native_spans;
  }
  const TracerStats stats = tracer.stats();
  CHECK(received == stats.delivered);
  CHECK(stats.connects >= 15);
  CHECK(stats.in_flight == 0);
  check_invariant(stats);
}
