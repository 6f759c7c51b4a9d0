// Signal handlers that count, whatever the buffer was doing on the interrupted thread: nothing waits for ever, what is added by a
// handle is never lost, and what is added by a key is there or counted as dropped.
#include "weir/telemetry/telemetry.hpp"

#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/telemetry.hpp"

#if !defined(WEIR_TESTS_TSAN)  // it runs handlers when it likes

using namespace weir;
using namespace weir::testing;

namespace {

/// Kills the test when it hangs.
class HangGuard {
 public:
  HangGuard() { ::alarm(240); }
  ~HangGuard() { ::alarm(0); }
};

constexpr int handler_keys = 16;

/// What the handler uses. All of it is warm: elsewhere counting may allocate, which handlers may not.
struct Handled {
  explicit Handled(const Telemetry& t) : telemetry(t) {
    for (int i = 0; i < handler_keys; ++i) {
      keys.push_back("handled:" + std::to_string(i));
      kept.push_back(t.counter(keys.back()));  // so that the keys stay
    }
  }
  void warm() const {
    counter.add(0);
    latency.record(1.0);
    for (const std::string& key : keys) telemetry.add(key, 0);
    for (const Counter& each : kept) each.add(0);
  }

  const Telemetry& telemetry;
  const Counter counter = telemetry.counter("counter");
  const Histogram latency = telemetry.histogram("latency");
  std::vector<std::string> keys{};
  std::vector<Counter> kept{};
};

std::atomic<const Handled*> handled{nullptr};
std::atomic<std::int64_t> signals{0};

void count(int) {
  const int saved = errno;
  const Handled* const use = handled.load(std::memory_order_relaxed);
  const std::int64_t number = signals.fetch_add(1, std::memory_order_relaxed);
  use->counter.increment();
  use->latency.record(1.0);
  use->telemetry.increment(use->keys[static_cast<std::size_t>(number % handler_keys)]);
  errno = saved;
}

/// Handles SIGPROF by count(), and has it sent to the thread that made it, by a timer and, up to a number, by another thread as fast as
/// it goes: where handlers are slow, as with a sanitizer, the thread must get on with its work, too.
class Storm {
 public:
  explicit Storm(const Handled& use) {
    handled = &use;
    use.warm();
    struct sigaction action {};
    action.sa_handler = count;
    action.sa_flags = SA_RESTART;
    sigaction(SIGPROF, &action, &previous_);
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGPROF;
    event._sigev_un._tid = static_cast<pid_t>(::syscall(SYS_gettid));
    made_ = ::timer_create(CLOCK_MONOTONIC, &event, &timer_) == 0;
    const itimerspec every{{0, 200'000}, {0, 200'000}};
    if (made_) ::timer_settime(timer_, 0, &every, nullptr);
    sender_ = std::thread([this, target = pthread_self()] {
      int sent = 0;
      for (std::int64_t before = -1; !stop_ && sent < most_sent; std::this_thread::yield()) {
        if (const std::int64_t now = signals.load(std::memory_order_relaxed); now != before) {  // the last one was handled
          before = now;
          ++sent;
          pthread_kill(target, SIGPROF);
        }
      }
    });
  }
  ~Storm() {
    stop_ = true;
    sender_.join();
    if (made_) ::timer_delete(timer_);
    sigset_t pending;
    while (sigpending(&pending) == 0 && sigismember(&pending, SIGPROF) == 1) {}  // the last one comes before the old handler
    sigaction(SIGPROF, &previous_, nullptr);
  }
  Storm(const Storm&) = delete;
  Storm& operator=(const Storm&) = delete;

 private:
  static constexpr int most_sent = 50'000;

  timer_t timer_{};
  bool made_ = false;
  std::atomic<bool> stop_{false};
  std::thread sender_;
  struct sigaction previous_ {};
};

/// What payloads held of what handlers made, added up.
struct Totals {
  std::int64_t counter = 0, keys = 0, others = 0;
  std::uint64_t recorded = 0;

  void add(const Payload& payload) {
    for (const Payload::Item& item : payload.items) {
      if (item.key == "counter")
        counter += std::get<TelemetryCounter>(item.data);
      else if (item.key == "latency")
        recorded += std::get<TelemetryHistogram>(item.data).data.count();
      else if (item.key.starts_with("handled:"))
        keys += std::get<TelemetryCounter>(item.data);
      else if (item.key.starts_with("key:"))
        others += std::get<TelemetryCounter>(item.data);
    }
  }
};

}  // namespace

TEST_CASE("handlers count while their thread does everything") {
  const HangGuard guard;
  const Telemetry telemetry = buffer({.logger = &silence()});
  const Handled use(telemetry);
  Totals totals;
  signals = 0;
  std::int64_t keys = 0, used = 0;
  {
    const Storm storm(use);
    for (int i = 0; i < 2'000 || signals < 1'000; ++i) {
      for (int k = 0; k < 50; ++k) telemetry.increment("key:" + std::to_string((i * 50 + k) % 3'000));
      keys += 50;
      ++used;
      use.counter.increment();
      use.latency.record(1.0);
      telemetry.append("list", i);
      telemetry.append_unique("set", i % 100);
      telemetry.set_nested("nested", "sub", i);
      telemetry.set("counter", 1);  // a conflict
      const Counter counter = telemetry.counter("made:" + std::to_string(i % 500));
      counter.increment();
      telemetry.gauge("gauge").set(i);
      telemetry.histogram("short:" + std::to_string(i % 50)).record(i);
      Response response;
      response.disable_keys = {"other"};
      telemetry.apply(response);
      (void)telemetry.stats();
      const std::uint64_t number = telemetry.at_emit([](const Telemetry& inner) { inner.increment("collected"); });
      if (i % 8 == 0) {
        Payload payload = telemetry.take();
        if (i % 3 == 0)
          telemetry.merge_back(std::move(payload));
        else
          totals.add(payload);
      }
      telemetry.remove_at_emit(number);
      if (i % 100 == 0) {
        const Telemetry another = buffer();
        another.increment("a");
      }
    }
  }
  for (int i = 0; i < 3; ++i) totals.add(telemetry.take());
  const auto dropped = static_cast<std::int64_t>(telemetry.stats().dropped_items);
  CHECK(totals.counter == signals + used);
  CHECK(totals.others == keys);
  // A handler that interrupts the buffer is refused what needs its lock.
  CHECK(totals.recorded == static_cast<std::uint64_t>(signals + used + 1));
  CHECK(totals.keys + dropped == signals);
}

TEST_CASE("handlers count while the cells of their thread grow") {
  const HangGuard guard;
  const Telemetry telemetry = buffer();
  const Handled use(telemetry);
  std::vector<Counter> counters;
  for (int i = 0; i < 40'000; ++i) counters.push_back(telemetry.counter(std::to_string(i)));
  std::vector<Histogram> histograms;
  for (int i = 0; i < 2'000; ++i) histograms.push_back(telemetry.histogram("histogram:" + std::to_string(i)));
  Totals totals;
  signals = 0;
  constexpr int rounds = 200;
  for (int round = 0; round < rounds; ++round) {
    std::thread([&] {
      const Storm storm(use);
      for (std::size_t i = 100; i < counters.size(); i = i * 5 / 4) counters[i].increment();
      for (std::size_t i = 10; i < histograms.size(); i = i * 5 / 4) histograms[i].record(1.0);
    }).join();
  }
  const Payload payload = telemetry.take();
  totals.add(payload);
  for (std::size_t i = 100; i < counters.size(); i = i * 5 / 4) CHECK(payload.as_int(std::to_string(i)) == rounds);
  CHECK(signals > 0);
  CHECK(totals.counter == signals);
  CHECK(totals.recorded == static_cast<std::uint64_t>(signals + rounds));
  CHECK(totals.keys + static_cast<std::int64_t>(telemetry.stats().dropped_items) == signals);
}

TEST_CASE("handlers count while another thread takes payloads and keys come and go") {
  const HangGuard guard;
  const Telemetry telemetry = buffer();
  const Handled use(telemetry);
  Totals totals;
  signals = 0;
  std::atomic<bool> stop{false};
  std::thread taker([&] {
    while (!stop) totals.add(telemetry.take());
  });
  std::int64_t updates = 0;
  {
    const Storm storm(use);
    for (; updates < 300'000 || signals < 1'000; ++updates) telemetry.increment("key:" + std::to_string(updates / 3 % 20'000));
  }
  stop = true;
  taker.join();
  for (int i = 0; i < 3; ++i) totals.add(telemetry.take());
  CHECK(totals.others == updates);
  CHECK(totals.counter == signals);
  CHECK(totals.keys + static_cast<std::int64_t>(telemetry.stats().dropped_items) == signals);
}

#endif
