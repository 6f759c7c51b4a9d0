// Which traces are recorded: by rules, and changed while the program runs.
//
//   tracing_sampling

#include <cstdio>
#include <weir/trace/in_memory_sender.hpp>
#include <weir/trace/sampler.hpp>
#include <weir/trace/tracer.hpp>

using weir::Sampler;

// Health checks never; of one tenant everything; of the rest at most five traces a second.
Sampler usual_sampler() {
  return Sampler::parent_based(Sampler::rules(
      {{.name = "GET /health*", .sampler = Sampler::never()}, {.key = "tenant", .value = "acme-*", .sampler = Sampler::always()}},
      Sampler::rate_limit(5)));
}

void serve(weir::Tracer& tracer, weir::Name path, const char* tenant) {
  weir::ScopedSpan request = tracer.enter(path, weir::SpanKind::http, {{"tenant", tenant}});  // what rules may look at
  weir::ScopedSpan query = tracer.enter("SELECT 1", weir::SpanKind::sql);                     // as its parent
}

int main() {
  weir::InMemorySender sink;
  weir::Tracer tracer{sink, {.sampler = usual_sampler()}};
  const auto traces_of = [&](weir::Name path, const char* tenant) {
    sink.clear();
    for (int i = 0; i < 100; ++i) serve(tracer, path, tenant);
    return sink.spans().size() / 2;
  };
  std::printf("health checks: %zu of 100\n", traces_of("GET /health/live", "other"));
  std::printf("acme-1: %zu of 100\n", traces_of("GET /orders", "acme-1"));
  std::printf("others: %zu of 100\n", traces_of("GET /orders", "other"));
  tracer.set_sampler(Sampler::always());  // any thread, at any time
  std::printf("others, while we look: %zu of 100\n", traces_of("GET /orders", "other"));
  std::printf("not recorded: %llu\n", static_cast<unsigned long long>(tracer.stats().not_sampled));
}
