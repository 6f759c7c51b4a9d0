// The span store against its model: six bytes are a step. What both have told, counted and kept must be the same.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "collect/span_store.hpp"
#include "support/trace_model.hpp"

using namespace weir;
using namespace std::chrono_literals;
using weir::testing::Open;
using weir::testing::Outcome;
using weir::testing::Pair;
using weir::testing::Step;
using weir::testing::TraceModel;
using weir::testing::Whole;

namespace {

enum class Form : unsigned { start, end, whole, open, dead, pair, pause };

Timestamp at(unsigned nanoseconds) { return Timestamp{std::chrono::nanoseconds{nanoseconds}}; }
std::string span_name(unsigned n) { return SpanId{n + 1}.hex(); }

void compare(TraceModel& model, const detail::SpanStore& store, Outcome& got) {
  read(store, got);
  if (got == model.outcome()) return;
  std::fputs("the store is not as its model\n", stderr);
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t step_bytes = 6, max_steps = 256;  // the model is slow
  TraceStoreOptions options;
  options.settle = 500ms;
  options.trace_ttl = 5s;
  detail::SpanStore store(options);
  TraceModel model(options);
  Outcome got;
  store.on_span_complete([&](std::string_view, const Span& span) { got.spans.insert(to_json(span)); });
  store.on_trace_complete([&](const Trace& trace) { got.traces.insert(weir::testing::describe(trace.roots)); });
  TraceStore::TimePoint now{};
  for (std::size_t step = 0; step < max_steps && size >= step_bytes; ++step, data += step_bytes, size -= step_bytes) {
    const auto form = static_cast<Form>(data[0] % 7);
    const std::string trace = TraceId{7, data[0] / 7u % 4 + 1}.hex(), id = span_name(data[1] % 32);
    const std::string parent = data[2] < 64 ? "" : span_name(data[2] % 40);
    const Event start = Event::span_start(id, trace, parent, "n" + std::to_string(data[1] / 32), SpanKind{data[3] % 5}, at(data[4]));
    const StringAttributes attributes{{"k", std::to_string(data[3])}};
    const Event end = Event::span_end(id, trace, at(data[5]), data[3] % 2 == 0 ? attributes : StringAttributes{});
    if (form == Form::pause) {
      now += std::chrono::milliseconds{data[1] * 20u};
      store.advance(now);
      model.advance(now);
      continue;
    }
    const Step next = form == Form::start   ? Step(start)
                      : form == Form::end   ? Step(end)
                      : form == Form::whole ? Step(Whole{start, end})
                      : form == Form::pair  ? Step(Pair{start, end})
                                            : Step(Open{start, form == Form::dead});
    apply(store, next, now);
    model.apply(next, now);
    if (step % 16 == 15) compare(model, store, got);
  }
  compare(model, store, got);
  store.complete_all(now);
  model.complete_all(now);
  compare(model, store, got);
  return 0;
}
