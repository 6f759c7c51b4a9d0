// Telemetry: what it costs to count, and to take a payload while others count (telemetry_peers.hpp: beside).

#include <atomic>
#include <bit>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "support/bench.hpp"
#include "telemetry_peers.hpp"
#include "weir/telemetry/payload.hpp"
#include "weir/telemetry/telemetry.hpp"

namespace {

const weir::Telemetry& buffer() {
  static const weir::Telemetry telemetry = *weir::Telemetry::create(weir::InstanceId::random());
  return telemetry;
}

void counter(benchmark::State& state) {
  static const weir::Counter requests = buffer().counter("requests");
  requests.increment();  // what a thread takes with its first use is not counted
  bench::measure(state, [](std::uint64_t) { requests.increment(); });
}

void by_key(benchmark::State& state) {
  for (std::uint64_t i = 0; i < 2 * 64; ++i) buffer().increment(bench::peers::key(i));  // known, and with cells of the thread's own
  bench::measure(state, [](std::uint64_t i) { buffer().increment(bench::peers::key(i)); });
}

void histogram(benchmark::State& state) {
  static const weir::Histogram latency = buffer().histogram("latency", "s");
  for (std::uint64_t i = 0; i < 1024; ++i) latency.record(bench::peers::latency(i));
  bench::measure(state, [](std::uint64_t i) { latency.record(bench::peers::latency(i)); });
}

void append_unique(benchmark::State& state) {
  buffer().append_unique("user_agent", "curl/7.88.1");
  bench::measure(state, [](std::uint64_t) { buffer().append_unique("user_agent", "curl/7.88.1"); });
}

void set(benchmark::State& state) {
  buffer().set("version", 0);
  bench::measure(state, [](std::uint64_t i) { buffer().set("version", i); });
}

/// A thread on the other processor that calls run() all the time.
template <class F>
class Meanwhile {
 public:
  explicit Meanwhile(F run)
      : thread_([this, run] {
          bench::pin(1);
          while (!stop_.load(std::memory_order_relaxed)) run();
        }) {}
  ~Meanwhile() {
    stop_.store(true);
    thread_.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

std::vector<weir::Counter> thousand_counters(const weir::Telemetry& telemetry) {
  std::vector<weir::Counter> counters;
  for (int i = 0; i < 1000; ++i) counters.push_back(telemetry.counter("counter_" + std::to_string(i)));
  return counters;
}

/// The payload and its JSON.
void payload(benchmark::State& state) {
  const weir::Telemetry telemetry = *weir::Telemetry::create(weir::InstanceId::random());
  const std::vector<weir::Counter> counters = thousand_counters(telemetry);
  const Meanwhile writer([&] {
    for (const weir::Counter& each : counters) each.increment();
  });
  bench::measure(state, [&](std::uint64_t) { bench::escape(telemetry.take().to_json().data()); });
}

void counter_while_payloads_are_taken(benchmark::State& state) {
  const weir::Telemetry telemetry = *weir::Telemetry::create(weir::InstanceId::random());
  const std::vector<weir::Counter> counters = thousand_counters(telemetry);
  counters[0].increment();
  const Meanwhile taker([&] { bench::escape(telemetry.take().to_json().data()); });
  bench::measure(state, [&](std::uint64_t) { counters[0].increment(); });
}

}  // namespace

std::vector<bench::Row> bench::rows() {
  using namespace bench::peers;
  return {
      {.name = "counter, handle",
       .run = counter,
       .limit = "thread-local add",
       .peers = {"relaxed atomic", "prometheus-cpp, counter", "OpenTelemetry, counter"},
       .goal_ns = 1},
      {.name = "counter, handle, 2 threads",
       .run = counter,
       .limit = "thread-local add, 2 threads",
       .peers = {"relaxed atomic, 2 threads", "prometheus-cpp, counter, 2 threads"},
       .threads = 2,
       .one_thread = "counter, handle",
       .goal_throughput = 1.9},
      {.name = "counter, handle, while payloads are taken",
       .run = counter_while_payloads_are_taken,
       .limit = "thread-local add",
       .goal_ns = 1},
      {.name = "counter, by key",
       .run = by_key,
       .limit = "table, 64 keys",
       .peers = {"prometheus-cpp, by label", "OpenTelemetry, by attribute"},
       .goal_ns = 15},
      {.name = "counter, by key, 2 threads",
       .run = by_key,
       .limit = "table, 64 keys, 2 threads",
       .threads = 2,
       .one_thread = "counter, by key",
       .goal_throughput = 1.9},
      {.name = "histogram",
       .run = histogram,
       .limit = "bare buckets",
       .peers = {"prometheus-cpp, histogram", "OpenTelemetry, histogram"},
       .goal_ns = 4},
      {.name = "histogram, 2 threads",
       .run = histogram,
       .limit = "bare buckets, 2 threads",
       .threads = 2,
       .one_thread = "histogram",
       .goal_throughput = 1.9},
      {.name = "append_unique", .run = append_unique, .limit = "unordered_map under a mutex"},
      {.name = "set", .run = set, .limit = "unordered_map under a mutex"},
      {.name = "payload of 1,000 keys as JSON, under writers",
       .run = payload,
       .peers = {"prometheus-cpp, text of 1,000 counters"},
       .goal_ns = 100'000,
       .may_allocate = true},

      {.name = "thread-local add", .run = thread_local_add, .role = Role::limit},
      {.name = "thread-local add, 2 threads", .run = thread_local_add, .role = Role::limit, .threads = 2, .one_thread = "thread-local add"},
      {.name = "table, 64 keys", .run = table_add, .role = Role::limit},
      {.name = "table, 64 keys, 2 threads", .run = table_add, .role = Role::limit, .threads = 2, .one_thread = "table, 64 keys"},
      {.name = "bare buckets", .run = bare_buckets, .role = Role::limit},
      {.name = "bare buckets, 2 threads", .run = bare_buckets, .role = Role::limit, .threads = 2, .one_thread = "bare buckets"},
      {.name = "unordered_map under a mutex", .run = set_under_mutex, .role = Role::limit},

      {.name = "relaxed atomic", .run = relaxed_atomic, .role = Role::peer},
      {.name = "relaxed atomic, 2 threads", .run = relaxed_atomic, .role = Role::peer, .threads = 2, .one_thread = "relaxed atomic"},
      {.name = "prometheus-cpp, counter", .run = prometheus_counter, .role = Role::peer},
      {.name = "prometheus-cpp, counter, 2 threads",
       .run = prometheus_counter,
       .role = Role::peer,
       .threads = 2,
       .one_thread = "prometheus-cpp, counter"},
      {.name = "prometheus-cpp, by label", .run = prometheus_by_label, .role = Role::peer},
      {.name = "prometheus-cpp, histogram", .run = prometheus_histogram, .role = Role::peer},
      {.name = "prometheus-cpp, text of 1,000 counters", .run = prometheus_payload, .role = Role::peer},
      {.name = "OpenTelemetry, counter", .run = opentelemetry_counter, .role = Role::peer},
      {.name = "OpenTelemetry, by attribute", .run = opentelemetry_by_attribute, .role = Role::peer},
      {.name = "OpenTelemetry, histogram", .run = opentelemetry_histogram, .role = Role::peer},
  };
}
