#pragma once
// What runs beside spans: tracers of others, and probes that are off.

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#if WEIR_HAVE_OPENTELEMETRY_CPP
#include <opentelemetry/sdk/trace/batch_span_processor_factory.h>
#include <opentelemetry/sdk/trace/batch_span_processor_options.h>
#include <opentelemetry/sdk/trace/exporter.h>
#include <opentelemetry/sdk/trace/recordable.h>
#include <opentelemetry/sdk/trace/samplers/always_off.h>
#include <opentelemetry/sdk/trace/span_data.h>
#include <opentelemetry/sdk/trace/tracer_provider.h>
#include <opentelemetry/trace/provider.h>
#include <opentelemetry/trace/scope.h>
#endif
#if WEIR_HAVE_LTTNG_UST
#include "span_tracepoints.hpp"
#endif
#if WEIR_HAVE_SYSTEMTAP_SDT
#include <sys/sdt.h>
#endif

#include "support/bench.hpp"

namespace bench::peers {

inline std::string_view method = "GET", path = "/api/users/42", customer = "c-12345678";

// ---- OpenTelemetry: a batch processor that has room for all of a burst, and an exporter that throws spans away.

#if WEIR_HAVE_OPENTELEMETRY_CPP
namespace otel {

namespace api = opentelemetry::trace;
namespace sdk = opentelemetry::sdk::trace;

class NullExporter final : public sdk::SpanExporter {
 public:
  std::unique_ptr<sdk::Recordable> MakeRecordable() noexcept override { return std::make_unique<sdk::SpanData>(); }
  opentelemetry::sdk::common::ExportResult Export(const opentelemetry::nostd::span<std::unique_ptr<sdk::Recordable>>&) noexcept override {
    return opentelemetry::sdk::common::ExportResult::kSuccess;
  }
  bool ForceFlush(std::chrono::microseconds) noexcept override { return true; }
  bool Shutdown(std::chrono::microseconds) noexcept override { return true; }
};

inline std::unique_ptr<sdk::SpanProcessor> processor() {
  sdk::BatchSpanProcessorOptions options;
  options.max_queue_size = 8192;
  return sdk::BatchSpanProcessorFactory::Create(std::make_unique<NullExporter>(), options);
}
inline std::shared_ptr<sdk::TracerProvider> recording() {
  static const auto provider = std::make_shared<sdk::TracerProvider>(processor());
  return provider;
}
inline std::shared_ptr<sdk::TracerProvider> sampling_nothing() {
  static const auto provider = std::make_shared<sdk::TracerProvider>(processor(), opentelemetry::sdk::resource::Resource::Create({}),
                                                                     std::make_unique<sdk::AlwaysOffSampler>());
  return provider;
}

inline void child(const opentelemetry::nostd::shared_ptr<api::Tracer>& tracer) {
  const auto span = tracer->StartSpan("UserRepository.FindByID");
  const api::Scope scope(span);
  escape(span.get());
}

}  // namespace otel

inline void otel_child(benchmark::State& state) {
  const auto tracer = otel::recording()->GetTracer("bench");
  const auto above = tracer->StartSpan("GET /api/users");
  const otel::api::Scope scope(above);
  measure_bursts(
      state, [&](std::uint64_t) { otel::child(tracer); }, [] { otel::recording()->ForceFlush(); });
}
inline void otel_child_with_attributes(benchmark::State& state) {
  const auto tracer = otel::recording()->GetTracer("bench");
  const auto above = tracer->StartSpan("GET /api/users");
  const otel::api::Scope scope(above);
  const auto view = [](std::string_view text) { return opentelemetry::nostd::string_view(text.data(), text.size()); };
  measure_bursts(
      state,
      [&](std::uint64_t i) {
        const auto span = tracer->StartSpan("UserRepository.FindByID");
        const otel::api::Scope current(span);
        span->SetAttribute("method", view(method));
        span->SetAttribute("path", view(path));
        span->SetAttribute("customer", view(customer));
        span->SetAttribute("rows", static_cast<std::int64_t>(i));
      },
      [] { otel::recording()->ForceFlush(); });
}
inline void otel_not_sampled(benchmark::State& state) {
  const auto tracer = otel::sampling_nothing()->GetTracer("bench");
  measure(state, [&](std::uint64_t) { otel::child(tracer); });
}
inline void otel_no_provider(benchmark::State& state) {
  const auto tracer = otel::api::Provider::GetTracerProvider()->GetTracer("bench");
  measure(state, [&](std::uint64_t) { otel::child(tracer); });
}
#else
inline constexpr void (*otel_child)(benchmark::State&) = nullptr;
inline constexpr void (*otel_child_with_attributes)(benchmark::State&) = nullptr;
inline constexpr void (*otel_not_sampled)(benchmark::State&) = nullptr;
inline constexpr void (*otel_no_provider)(benchmark::State&) = nullptr;
#endif

// ---- LTTng-UST: two tracepoints, one of them with what the attributes say. They record while the session is started that
// WEIR_BENCH_LTTNG names (script/bench makes it): into buffers in memory, the oldest records overwritten.

#if WEIR_HAVE_LTTNG_UST
inline void lttng_pair(std::uint64_t i) {
  lttng_ust_tracepoint(weir_bench, begin, "UserRepository.FindByID");
  lttng_ust_tracepoint(weir_bench, end, method.data(), path.data(), customer.data(), static_cast<long>(i));
}
inline void lttng_off(benchmark::State& state) { measure(state, lttng_pair); }
inline bool lttng_session() { return std::getenv("WEIR_BENCH_LTTNG") != nullptr; }
inline bool lttng(const char* verb) {
  return std::system((std::string("lttng --quiet ") + verb + " \"$WEIR_BENCH_LTTNG\" >/dev/null").c_str()) == 0;
}
inline void lttng_recording(benchmark::State& state) {
  if (!lttng("start") || !lttng_ust_tracepoint_enabled(weir_bench, begin)) {
    state.SkipWithError("the LTTng session does not record");
    return;
  }
  measure(state, lttng_pair);
  lttng("stop");
}
#else
inline constexpr void (*lttng_off)(benchmark::State&) = nullptr;
inline constexpr void (*lttng_recording)(benchmark::State&) = nullptr;
inline bool lttng_session() { return false; }
#endif

// ---- systemtap's probes: a no-operation each, and a note in the program that says where.

#if WEIR_HAVE_SYSTEMTAP_SDT
inline void sdt_probes(benchmark::State& state) {
  measure(state, [](std::uint64_t i) {
    DTRACE_PROBE1(weir_bench, begin, i);
    DTRACE_PROBE1(weir_bench, end, i);
  });
}
#else
inline constexpr void (*sdt_probes)(benchmark::State&) = nullptr;
#endif

}  // namespace bench::peers
