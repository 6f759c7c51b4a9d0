// Spans: what one costs the thread that makes it (span_peers.hpp: beside).

#include <time.h>

#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include "span_peers.hpp"
#include "support/bench.hpp"
#include "trace/ring_set.hpp"
#include "weir/trace/tracer.hpp"

namespace {

/// Empties a ring when it is half full, by saying that it is empty: what reads it in a service is on another processor.
class Sink final : public weir::Sender {
 public:
  void start(const weir::SenderSetup&) noexcept override {}
  weir::detail::ThreadRing* open_ring() noexcept override { return rings_->open(); }
  void wake() noexcept override {
    for (weir::detail::ReaderRing* ring : rings_->refresh()) ring->take(ring->head(), 0);
    rings_->reap();
  }
  weir::FlushResult flush(Deadline) noexcept override { return {}; }
  weir::FlushResult stop(Deadline) noexcept override { return {}; }
  weir::TracerStats stats() const noexcept override {
    const weir::detail::RingSet::Totals totals = rings_->totals();
    weir::TracerStats stats;
    stats.dropped_full = totals.dropped_full;
    stats.dropped_too_large = totals.dropped_too_large;
    stats.emitted = totals.written + stats.dropped();
    return stats;
  }

 private:
  std::unique_ptr<weir::detail::RingSet> rings_ =
      std::make_unique<weir::detail::RingSet>(weir::detail::RingSet::Bounds{1 << 20, 64, SIZE_MAX});
};

/// The loop; then, whether as many spans were written as the row makes, and none dropped.
template <class F>
void measure_spans(benchmark::State& state, weir::Tracer& tracer, int spans_per_run, F&& run) {
  run(0);  // what a thread takes with its first span is not counted
  const weir::TracerStats before = tracer.stats();
  bench::measure(state, run);
  const weir::TracerStats after = tracer.stats();
  if (after.dropped() != before.dropped()) state.SkipWithError("spans were dropped");
  const auto least = static_cast<std::uint64_t>(state.iterations()) * static_cast<std::uint64_t>(spans_per_run);
  if (after.emitted - before.emitted < least) state.SkipWithError("spans are missing");
}

weir::Tracer& tracer() {
  static weir::Tracer instance{Sink{}};
  return instance;
}

void two_tsc_reads(benchmark::State& state) {
  bench::measure(state, [](std::uint64_t) {
    bench::use(weir::detail::read_tsc());
    bench::use(weir::detail::read_tsc());
  });
}

void two_clock_gettime(benchmark::State& state) {
  bench::measure(state, [](std::uint64_t) {
    timespec time{};
    for (int i = 0; i < 2; ++i) {
      ::clock_gettime(CLOCK_MONOTONIC, &time);
      bench::escape(&time);
    }
  });
}

void root(benchmark::State& state) {
  measure_spans(state, tracer(), 1, [](std::uint64_t) {
    const weir::ScopedSpan span = tracer().enter("UserRepository.FindByID");
    bench::escape(&span);
  });
}

void child(benchmark::State& state) {
  const weir::ScopedSpan above = tracer().enter("GET /api/users");
  weir::Tracer& here = tracer();
  measure_spans(state, here, 1, [&](std::uint64_t) {
    const weir::ScopedSpan span = here.enter("UserRepository.FindByID");
    bench::escape(&span);
  });
}

[[gnu::always_inline]] inline void set_attributes(weir::ScopedSpan& span, std::string_view method, std::string_view path,
                                                  std::string_view customer, std::uint64_t rows) {
  span.set("method", method);
  span.set("path", path);
  span.set("customer", customer);
  span.set("rows", static_cast<std::int64_t>(rows));
}

void child_with_attributes(benchmark::State& state) {
  const weir::ScopedSpan above = tracer().enter("GET /api/users");
  weir::Tracer& here = tracer();
  std::string_view method = bench::peers::method, path = bench::peers::path, customer = bench::peers::customer;
  bench::escape(&method), bench::escape(&path), bench::escape(&customer);
  measure_spans(state, here, 1, [&](std::uint64_t i) {
    weir::ScopedSpan span = here.enter("UserRepository.FindByID");
    set_attributes(span, method, path, customer, i);
    bench::escape(&span);
  });
}

/// New roots, of which this sampler takes next to none.
void with_sampler(benchmark::State& state, weir::Sampler sampler) {
  weir::Tracer here{Sink{}, {.sampler = std::move(sampler)}};
  {  // the few that are taken find their name known
    const weir::ContextScope scope(weir::Context(weir::TraceId{1, 2}, weir::SpanId{3}, true));
    const weir::ScopedSpan span = here.enter("UserRepository.FindByID");
  }
  measure_spans(state, here, 0, [&](std::uint64_t) {
    const weir::ScopedSpan span = here.enter("UserRepository.FindByID");
    bench::escape(&span);
  });
}
void not_sampled(benchmark::State& state) { with_sampler(state, weir::Sampler::parent_based(weir::Sampler::ratio(1e-6))); }
void not_sampled_by_limit(benchmark::State& state) { with_sampler(state, weir::Sampler::rate_limit(1)); }
void not_sampled_by_rule(benchmark::State& state) {
  with_sampler(state, weir::Sampler::rules({{.name = "GET *", .sampler = weir::Sampler::always()},
                                            {.name = "User*.Find*", .sampler = weir::Sampler::never()}},
                                           weir::Sampler::always()));
}

void child_of_one_not_sampled(benchmark::State& state) {
  const weir::ContextScope scope(weir::Context(weir::TraceId{1, 2}, weir::SpanId{3}, false));
  weir::Tracer& here = tracer();
  measure_spans(state, here, 0, [&](std::uint64_t) {
    const weir::ScopedSpan span = here.enter("UserRepository.FindByID");
    bench::escape(&span);
  });
}

void attributes_of_one_not_sampled(benchmark::State& state) {
  const weir::ContextScope scope(weir::Context(weir::TraceId{1, 2}, weir::SpanId{3}, false));
  weir::Tracer& here = tracer();
  std::string_view method = bench::peers::method, path = bench::peers::path, customer = bench::peers::customer;
  bench::escape(&method), bench::escape(&path), bench::escape(&customer);
  measure_spans(state, here, 0, [&](std::uint64_t i) {
    weir::ScopedSpan span = here.enter("UserRepository.FindByID");
    set_attributes(span, method, path, customer, i);
    bench::escape(&span);
  });
}

void off(benchmark::State& state) {
  static weir::Tracer nothing;
  weir::Tracer& here = *bench::hide(&nothing);
  measure_spans(state, here, 0, [&](std::uint64_t) { const weir::ScopedSpan span = here.enter("UserRepository.FindByID"); });
}

}  // namespace

std::vector<bench::Row> bench::rows() {
  using namespace bench::peers;
  const std::string limit = "two TSC reads";
  return {
      {.name = "span, new root", .run = root, .limit = limit, .goal_ratio = 1.1},
      {.name = "span, child", .run = child, .limit = limit, .peers = {"OpenTelemetry, child"}, .goal_ratio = 1.1},
      {.name = "span, child, 3 strings and an integer",
       .run = child_with_attributes,
       .limit = limit,
       .peers = {"OpenTelemetry, child with attributes", "LTTng-UST, recording"},
       .goal_ratio = 1.15},
      {.name = "span, child, 2 threads",
       .run = child,
       .limit = "two TSC reads, 2 threads",
       .threads = 2,
       .one_thread = "span, child",
       .goal_throughput = 1.9},
      {.name = "span, not sampled", .run = not_sampled, .limit = limit, .peers = {"OpenTelemetry, not sampled"}, .goal_ns = 3},
      {.name = "span, child of one not sampled", .run = child_of_one_not_sampled, .limit = limit, .goal_ns = 3},
      {.name = "span, child of one not sampled, 3 strings and an integer", .run = attributes_of_one_not_sampled, .limit = limit},
      {.name = "span, not sampled by a rate limit", .run = not_sampled_by_limit, .limit = limit},
      {.name = "span, not sampled by a rule", .run = not_sampled_by_rule, .limit = limit},
      {.name = "span, off",
       .run = off,
       .limit = "systemtap probes",
       .peers = {"OpenTelemetry, no provider", "LTTng-UST, off"},
       .goal_ns = 0.5},

      {.name = limit, .run = two_tsc_reads, .role = Role::limit},
      {.name = "two TSC reads, 2 threads", .run = two_tsc_reads, .role = Role::limit, .threads = 2, .one_thread = limit},
      {.name = "two clock_gettime", .run = two_clock_gettime, .role = Role::limit},
      {.name = "systemtap probes", .run = sdt_probes, .role = Role::limit},
      {.name = "OpenTelemetry, child", .run = otel_child, .role = Role::peer, .may_allocate = true},
      {.name = "OpenTelemetry, child with attributes", .run = otel_child_with_attributes, .role = Role::peer, .may_allocate = true},
      {.name = "OpenTelemetry, not sampled", .run = otel_not_sampled, .role = Role::peer, .may_allocate = true},
      {.name = "OpenTelemetry, no provider", .run = otel_no_provider, .role = Role::peer, .may_allocate = true},
      {.name = "LTTng-UST, off", .run = lttng_off, .role = Role::peer},
      {.name = "LTTng-UST, recording", .run = lttng_session() ? lttng_recording : nullptr, .role = Role::peer},
  };
}
