#pragma once
// What runs beside telemetry: counters and histograms of others, and the least that could do.

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#if WEIR_HAVE_PROMETHEUS_CPP
#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#endif
#if WEIR_HAVE_OPENTELEMETRY_CPP
#include <opentelemetry/context/runtime_context.h>
#include <opentelemetry/metrics/sync_instruments.h>
#include <opentelemetry/sdk/metrics/meter_provider.h>
#include <opentelemetry/sdk/metrics/metric_reader.h>
#endif

#include "support/bench.hpp"

namespace bench::peers {

/// Seconds, as latencies are spread, from 20 µs to 80 ms.
inline const std::array<double, 1024> latencies = [] {
  std::array<double, 1024> made{};
  for (std::size_t i = 0; i < made.size(); ++i) made[i] = 2e-5 * static_cast<double>(1 + i * 7919 % 4001);
  return made;
}();
inline double latency(std::uint64_t i) { return latencies[i % latencies.size()]; }

inline const std::array<std::string, 64> keys = [] {
  std::array<std::string, 64> made;
  for (std::size_t i = 0; i < made.size(); ++i) made[i] = "requests_" + std::to_string(i);
  return made;
}();
inline std::string_view key(std::uint64_t i) { return keys[i % keys.size()]; }

// ---- limits

inline void thread_local_add(benchmark::State& state) {
  static thread_local std::int64_t count = 0;
  measure(state, [](std::uint64_t) {
    ++count;
    escape(&count);
  });
}

/// A hash of the text, a look into a table that never changes, an addition.
inline void table_add(benchmark::State& state) {
  static thread_local std::unordered_map<std::string_view, std::int64_t> table;
  for (std::uint64_t i = 0; i < 64; ++i) table[key(i)] = 0;
  measure(state, [](std::uint64_t i) { ++table.find(key(i))->second; });
}

/// A bucket for each power of two, a count and a sum.
inline void bare_buckets(benchmark::State& state) {
  static thread_local std::uint64_t buckets[2048];
  static thread_local double sum = 0;
  measure(state, [](std::uint64_t i) {
    const double value = latency(i);
    ++buckets[std::bit_cast<std::uint64_t>(value) >> 52 & 2047];
    sum += value;
    escape(buckets);
  });
}

inline void set_under_mutex(benchmark::State& state) {
  std::mutex mutex;
  std::unordered_map<std::string, std::uint64_t> set;
  const std::string value = "curl/7.88.1";
  measure(state, [&](std::uint64_t) {
    const std::lock_guard lock(mutex);
    ++set[value];
  });
}

// ---- a shared atomic

inline void relaxed_atomic(benchmark::State& state) {
  static std::atomic<std::int64_t> count{0};
  measure(state, [](std::uint64_t) { count.fetch_add(1, std::memory_order_relaxed); });
}

// ---- prometheus-cpp

#if WEIR_HAVE_PROMETHEUS_CPP
inline void prometheus_counter(benchmark::State& state) {
  static prometheus::Registry registry;
  static auto& counter = prometheus::BuildCounter().Name("requests").Register(registry).Add({});
  measure(state, [](std::uint64_t) { counter.Increment(); });
}
inline void prometheus_by_label(benchmark::State& state) {
  static prometheus::Registry registry;
  static auto& family = prometheus::BuildCounter().Name("requests").Register(registry);
  measure(state, [](std::uint64_t i) { family.Add({{"key", std::string(key(i))}}).Increment(); });
}
inline void prometheus_histogram(benchmark::State& state) {
  static prometheus::Registry registry;
  static auto& histogram = prometheus::BuildHistogram().Name("latency").Register(registry).Add(
      {}, prometheus::Histogram::BucketBoundaries{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10});
  measure(state, [](std::uint64_t i) { histogram.Observe(latency(i)); });
}
inline void prometheus_payload(benchmark::State& state) {
  prometheus::Registry registry;
  auto& family = prometheus::BuildCounter().Name("requests").Register(registry);
  for (int i = 0; i < 1000; ++i) family.Add({{"key", std::to_string(i)}}).Increment();
  const prometheus::TextSerializer serializer;
  measure(state, [&](std::uint64_t) { escape(serializer.Serialize(registry.Collect()).data()); });
}
#else
inline constexpr void (*prometheus_counter)(benchmark::State&) = nullptr;
inline constexpr void (*prometheus_by_label)(benchmark::State&) = nullptr;
inline constexpr void (*prometheus_histogram)(benchmark::State&) = nullptr;
inline constexpr void (*prometheus_payload)(benchmark::State&) = nullptr;
#endif

// ---- OpenTelemetry

#if WEIR_HAVE_OPENTELEMETRY_CPP
/// Without a reader the SDK keeps nothing; this one is never asked.
class Reader final : public opentelemetry::sdk::metrics::MetricReader {
 public:
  opentelemetry::sdk::metrics::AggregationTemporality GetAggregationTemporality(
      opentelemetry::sdk::metrics::InstrumentType) const noexcept override {
    return opentelemetry::sdk::metrics::AggregationTemporality::kDelta;
  }

 private:
  bool OnForceFlush(std::chrono::microseconds) noexcept override { return true; }
  bool OnShutDown(std::chrono::microseconds) noexcept override { return true; }
};

inline opentelemetry::metrics::Meter& meter() {
  static opentelemetry::sdk::metrics::MeterProvider provider;
  static const auto meter = [] {
    provider.AddMetricReader(std::make_shared<Reader>());
    return provider.GetMeter("bench");
  }();
  return *meter;
}
inline void opentelemetry_counter(benchmark::State& state) {
  static const auto counter = meter().CreateUInt64Counter("requests");
  measure(state, [](std::uint64_t) { counter->Add(1); });
}
inline void opentelemetry_by_attribute(benchmark::State& state) {
  static const auto counter = meter().CreateUInt64Counter("requests_by_key");
  measure(state, [](std::uint64_t i) {
    const std::string_view text = key(i);
    counter->Add(1, {{"key", opentelemetry::nostd::string_view(text.data(), text.size())}});
  });
}
inline void opentelemetry_histogram(benchmark::State& state) {
  static const auto histogram = meter().CreateDoubleHistogram("latency");
  const opentelemetry::context::Context context;
  measure(state, [&](std::uint64_t i) { histogram->Record(latency(i), context); });
}
#else
inline constexpr void (*opentelemetry_counter)(benchmark::State&) = nullptr;
inline constexpr void (*opentelemetry_by_attribute)(benchmark::State&) = nullptr;
inline constexpr void (*opentelemetry_histogram)(benchmark::State&) = nullptr;
#endif

}  // namespace bench::peers
