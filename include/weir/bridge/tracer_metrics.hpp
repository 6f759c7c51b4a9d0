#pragma once
// tracer_metrics(): what becomes of a tracer's spans, as a part of every payload: a collector for Telemetry::at_emit. weir::init
// has it for weir::tracer().
//
//   telemetry.at_emit(weir::tracer_metrics(tracer));
//
//   otel.sdk.processor.span.processed              spans that ended, delivered or dropped
//   otel.sdk.processor.span.processed:queue_full   of those: dropped, by reason (also no_ring, shutdown, too_large, reentrant)
//   otel.sdk.exporter.span.exported                delivered
//   otel.sdk.processor.span.queue.size             written and not yet delivered, now
//   weir.traces.not_sampled                        traces that began here and are not recorded
//
// The names are those of OpenTelemetry's semantic conventions for SDKs, with the error.type behind the ':'. All but the size of the
// queue are counters: a payload has what they grew by.

#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>

#include "weir/telemetry/telemetry.hpp"
#include "weir/trace/tracer.hpp"

namespace weir::inline v0 {

/// Thread-safety: shared: safe. Copies are one. A tracer that is stopped and begun anew is counted on from there.
class TracerMetrics {
 public:
  explicit TracerMetrics(const Tracer& tracer) : tracer_(&tracer), told_(std::make_shared<Told>()) {}

  void operator()(const Telemetry& telemetry) const {
    std::lock_guard lock(told_->mutex);
    const TracerStats now = tracer_->stats();
    const TracerStats before = std::exchange(told_->stats, now);
    const auto grown = [&](std::uint64_t TracerStats::*counter) {
      return static_cast<std::int64_t>(now.*counter >= before.*counter ? now.*counter - before.*counter : now.*counter);
    };
    std::int64_t dropped = 0;
    const auto drop = [&](std::string_view key, std::uint64_t TracerStats::*counter) {
      const std::int64_t amount = grown(counter);
      dropped += amount;
      if (amount != 0) telemetry.add(key, amount);
    };
    drop("otel.sdk.processor.span.processed:queue_full", &TracerStats::dropped_full);
    drop("otel.sdk.processor.span.processed:no_ring", &TracerStats::dropped_no_ring);
    drop("otel.sdk.processor.span.processed:shutdown", &TracerStats::dropped_stopped);
    drop("otel.sdk.processor.span.processed:too_large", &TracerStats::dropped_too_large);
    drop("otel.sdk.processor.span.processed:reentrant", &TracerStats::dropped_reentrant);
    const std::int64_t delivered = grown(&TracerStats::delivered);
    telemetry.add("otel.sdk.processor.span.processed", delivered + dropped);
    telemetry.add("otel.sdk.exporter.span.exported", delivered);
    telemetry.set("otel.sdk.processor.span.queue.size", now.in_flight);
    if (const std::int64_t declined = grown(&TracerStats::not_sampled); declined != 0) telemetry.add("weir.traces.not_sampled", declined);
  }

 private:
  struct Told {
    std::mutex mutex;
    TracerStats stats;  // guarded by mutex: of the last payload
  };
  const Tracer* tracer_;
  std::shared_ptr<Told> told_;
};

/// `tracer` must outlive the telemetry, or be taken out by Telemetry::remove_at_emit.
inline TracerMetrics tracer_metrics(const Tracer& tracer) { return TracerMetrics(tracer); }

}  // namespace weir::inline v0
