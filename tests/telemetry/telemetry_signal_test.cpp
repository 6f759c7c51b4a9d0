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
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/telemetry.hpp"

#if !defined(WEIR_TESTS_TSAN)  // it runs handlers when it likes

using namespace weir;
using namespace weir::testing;

namespace {

/// Whether the thread is where handlers may not allocate, as other code may not, either.
thread_local volatile bool allocating = false;
/// Whether each allocation is a signal.
thread_local volatile bool raises = false;

void* allocate(std::size_t size, std::size_t alignment) noexcept {
  if (raises && !allocating) std::raise(SIGPROF);
  const bool before = allocating;
  allocating = true;
  void* const memory = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  allocating = before;
  return memory;
}
void release(void* memory) noexcept {
  if (raises && !allocating) std::raise(SIGPROF);
  const bool before = allocating;
  allocating = true;
  std::free(memory);
  allocating = before;
}

}  // namespace

// Not inlined: GCC would see malloc on one side and operator delete on the other.
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (void* const memory = allocate(size, alignof(std::max_align_t))) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  if (void* const memory = allocate(size, static_cast<std::size_t>(alignment))) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return allocate(size, alignof(std::max_align_t)); }
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return allocate(size, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { release(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { release(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept { release(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { release(memory); }
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept { release(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t, const std::nothrow_t&) noexcept { release(memory); }

namespace {

/// Kills the test when it hangs.
class HangGuard {
 public:
  HangGuard() { ::alarm(240); }
  ~HangGuard() { ::alarm(0); }
};

constexpr int handler_keys = 16;

/// What the handler uses. All of it is warm: the first use of something allocates, which handlers may not do everywhere.
struct Handled {
  explicit Handled(const Telemetry& t) : telemetry(t) {
    for (int i = 0; i < handler_keys; ++i) {
      keys.push_back("handled:" + std::to_string(i));
      kept.push_back(t.counter(keys.back()));  // so that the keys stay
    }
    for (int i = 0; i < 5'000; ++i) large.push_back(t.counter("large:" + std::to_string(i)));
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
  std::vector<Counter> kept{}, large{};
};

std::atomic<const Handled*> handled{nullptr};
std::atomic<std::int64_t> signals{0}, cold{0};

void count(int) {
  const int saved = errno;
  const Handled* const use = handled.load(std::memory_order_relaxed);
  const std::int64_t number = signals.fetch_add(1, std::memory_order_relaxed);
  use->counter.increment();
  use->latency.record(1.0);
  use->telemetry.increment(use->keys[static_cast<std::size_t>(number % handler_keys)]);
  if (!allocating) {
    // What is not warm.
    const std::int64_t other = cold.fetch_add(1, std::memory_order_relaxed);
    use->telemetry.increment("cold:" + std::to_string(other % 1'000));
    use->large[static_cast<std::size_t>(other) % use->large.size()].increment();
  }
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

/// Makes each allocation and each release of the thread a signal that count() handles.
class Raising {
 public:
  explicit Raising(const Handled& use) {
    handled = &use;
    use.warm();
    struct sigaction action {};
    action.sa_handler = count;
    sigaction(SIGPROF, &action, &previous_);
    raises = true;
  }
  ~Raising() {
    raises = false;
    sigaction(SIGPROF, &previous_, nullptr);
  }
  Raising(const Raising&) = delete;
  Raising& operator=(const Raising&) = delete;

 private:
  struct sigaction previous_ {};
};

/// What payloads held of what handlers made, added up.
struct Totals {
  std::int64_t counter = 0, keys = 0, others = 0, cold_keys = 0, large = 0;
  std::uint64_t recorded = 0;

  void add(const Payload& payload) {
    for (const Payload::Item& item : payload.items) {
      if (item.key == "counter")
        counter += std::get<TelemetryCounter>(item.data);
      else if (item.key == "latency")
        recorded += std::get<TelemetryHistogram>(item.data).data.count();
      else if (item.key.starts_with("handled:"))
        keys += std::get<TelemetryCounter>(item.data);
      else if (item.key.starts_with("cold:"))
        cold_keys += std::get<TelemetryCounter>(item.data);
      else if (item.key.starts_with("large:"))
        large += std::get<TelemetryCounter>(item.data);
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
  signals = cold = 0;
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
  CHECK(totals.large == cold);
  CHECK(totals.keys + totals.cold_keys + dropped == signals + cold);
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
  signals = cold = 0;
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
  CHECK(totals.large == cold);
  CHECK(totals.keys + totals.cold_keys + static_cast<std::int64_t>(telemetry.stats().dropped_items) == signals + cold);
}

TEST_CASE("handlers count while another thread takes payloads and keys come and go") {
  const HangGuard guard;
  const Telemetry telemetry = buffer();
  const Handled use(telemetry);
  Totals totals;
  signals = cold = 0;
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
  CHECK(totals.large == cold);
  CHECK(totals.keys + totals.cold_keys + static_cast<std::int64_t>(telemetry.stats().dropped_items) == signals + cold);
}

TEST_CASE("handlers count wherever the buffer allocates") {
  const HangGuard guard;
  const Telemetry telemetry = buffer({.logger = &silence()});
  const Handled use(telemetry);
  Totals totals;
  signals = cold = 0;
  std::int64_t keys = 0;
  for (int round = 0; round < 20; ++round) {
    // On a thread that has nothing yet.
    std::thread([&] {
      const Raising raising(use);
      for (int i = 0; i < 20; ++i) {
        telemetry.increment("key:" + std::to_string(round) + ":" + std::to_string(i));
        ++keys;
        telemetry.append("list", std::string(100, 'x'));
        telemetry.append_unique("set", std::string(100, 'x') + std::to_string(i));
        telemetry.set_nested("nested", std::string(100, 'x'), i);
        telemetry.set("value" + std::to_string(i), std::string(100, 'x'));
        telemetry.counter("made:" + std::to_string(i)).increment();
        telemetry.histogram("short:" + std::to_string(i)).record(i * 1000.0);
        Response response;
        response.disable_keys = {"other", "a key that is longer than strings are by themselves"};
        telemetry.apply(response);
        const std::uint64_t number =
            telemetry.at_emit([text = std::string(100, 'x')](const Telemetry& inner) { inner.set("collected", text); });
        Payload payload = telemetry.take();
        if (i % 3 == 0)
          telemetry.merge_back(std::move(payload));
        else
          totals.add(payload);
        telemetry.remove_at_emit(number);
      }
    }).join();
  }
  for (int i = 0; i < 3; ++i) totals.add(telemetry.take());
  const auto dropped = static_cast<std::int64_t>(telemetry.stats().dropped_items);
  CHECK(signals > 1'000);
  CHECK(totals.counter == signals);
  CHECK(totals.others == keys);
  CHECK(totals.large == cold);
  // A handler that comes while its thread records may find no row of its own.
  CHECK(totals.recorded == static_cast<std::uint64_t>(signals + 20));
  CHECK(totals.keys + totals.cold_keys + dropped == signals + cold);
}

TEST_CASE("handlers count while their thread adds up") {
  const HangGuard guard;
  const Telemetry telemetry = buffer();
  const Handled use(telemetry);
  std::vector<Counter> counters;
  for (int i = 0; i < 30'000; ++i) counters.push_back(telemetry.counter("many:" + std::to_string(i)));
  Totals totals;
  signals = cold = 0;
  {
    const Storm storm(use);
    for (int i = 0; i < 50 || signals < 500; ++i) totals.add(telemetry.take());
  }
  for (int i = 0; i < 3; ++i) totals.add(telemetry.take());
  CHECK(totals.counter == signals);
  CHECK(totals.large == cold);
  CHECK(totals.keys + totals.cold_keys + static_cast<std::int64_t>(telemetry.stats().dropped_items) == signals + cold);
}

#endif
