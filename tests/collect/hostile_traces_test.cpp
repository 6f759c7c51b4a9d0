// Streams of events and native spans that are made to hurt the store, on a stack of 256 KiB: whatever walks spans must not recurse.
#include <pthread.h>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <string>

#include "collect/span_store.hpp"
#include "support/catch.hpp"
#include "support/packed_spans.hpp"
#include "support/sanitizers.hpp"

using namespace weir;
using namespace std::chrono_literals;
using weir::detail::SpanStore;
using weir::testing::PackedSpanMaker;

namespace {

constexpr std::uint64_t million = weir::testing::sanitized ? 100'000 : 1'000'000;
constexpr std::uint64_t deep = 100'000;
constexpr TraceId some_trace{0xabc, 0xdef};

Timestamp at(std::uint64_t nanoseconds) { return Timestamp{std::chrono::nanoseconds{nanoseconds}}; }

/// Runs `body` where a recursion of 100,000 levels cannot end well. (Sanitizers make frames larger, and so is the stack.)
void on_a_small_stack(std::function<void()> body) {
  struct Job {
    std::function<void()> body;
    std::exception_ptr problem;
  } job{std::move(body), nullptr};
  pthread_attr_t attributes;
  REQUIRE(pthread_attr_init(&attributes) == 0);
  REQUIRE(pthread_attr_setstacksize(&attributes, weir::testing::sanitized ? 1u << 20 : 256u << 10) == 0);
  pthread_t thread{};
  const auto run = [](void* given) -> void* {
    auto& own = *static_cast<Job*>(given);
    try {
      own.body();
    } catch (...) {
      own.problem = std::current_exception();
    }
    return nullptr;
  };
  const int error = pthread_create(&thread, &attributes, run, &job);  // from here on the assertions are the thread's
  if (error == 0) pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  REQUIRE(error == 0);
  if (job.problem) std::rethrow_exception(job.problem);
}

/// A store that is fed either way, and asked for its account after each step.
struct Load {
  explicit Load(bool speaks_native, TraceStoreOptions store_options = {}) : native(speaks_native), options(store_options), store(options) {
    service = store.intern_service("shop");
  }

  void start(TraceId trace, std::uint64_t id, std::uint64_t parent) {
    if (native) {
      store.apply_open(maker.ids(trace, {id}, {parent}).named("name").times(at(1), at(1)).span(), service, now += 1us);
    } else {
      store.apply(Event::span_start(SpanId{id}.hex(), trace.hex(), parent == 0 ? "" : SpanId{parent}.hex(), "name", {}, at(1)), "shop",
                  now += 1us);
    }
    check();
  }
  void span(TraceId trace, std::uint64_t id, std::uint64_t parent) {
    if (native) {
      store.apply(maker.ids(trace, {id}, {parent}).named("name").times(at(id), at(id + 1)).span(), service, now += 1us);
    } else {
      store.apply(Event::span_start(SpanId{id}.hex(), trace.hex(), parent == 0 ? "" : SpanId{parent}.hex(), "name", {}, at(id)), "shop",
                  now += 1us);
      store.apply(Event::span_end(SpanId{id}.hex(), trace.hex(), at(id + 1)), "shop", now);
    }
    check();
  }
  void check() {
    const std::size_t bytes = store.stats().bytes;
    if (bytes > options.max_bytes) FAIL("the store has " << bytes << " bytes");
  }
  /// Everything leaves, and takes its bytes along.
  void end() {
    store.complete_all(now);
    store.advance(now + 2h);
    const TraceStoreStats stats = store.stats();
    CHECK(stats.pending == 0);
    CHECK(stats.open_traces + stats.kept_traces == 0);
    CHECK(stats.bytes == 0);
  }

  bool native;
  TraceStoreOptions options;
  SpanStore store;
  PackedSpanMaker maker{store};
  std::uint32_t service = 0;
  SpanStore::TimePoint now{};
};

TraceStoreOptions small() {
  TraceStoreOptions options;
  options.max_bytes = 4u << 20;
  options.max_traces = 1'000'000'000;
  options.max_pending = 1'000'000'000;
  return options;
}

std::size_t spans_of(const Span& root) {  // trees have at most max_span_depth levels
  std::size_t count = 1;
  for (const Span& child : root.children) count += spans_of(child);
  return count;
}

}  // namespace

TEST_CASE("a million trace ids stay within the byte budget, and each trace is accounted for") {
  const bool native = GENERATE(false, true);
  on_a_small_stack([&] {
    Load load(native, small());
    std::uint64_t completed = 0;
    load.store.on_trace_complete([&](const Trace& trace) { completed += trace.spans; });
    for (std::uint64_t i = 1; i <= million; ++i) load.span({i, ~i}, i, i % 3 == 0 ? i + 1 : 0);  // some await a root for ever
    load.end();
    const TraceStoreStats stats = load.store.stats();
    CHECK(stats.spans == million);
    CHECK(stats.traces == million);
    CHECK(stats.evicted_traces == million);
    CHECK(completed == million);
  });
}

TEST_CASE("a million spans that never end stay within the byte budget, and each is handed on as unfinished") {
  const bool native = GENERATE(false, true), one_trace = GENERATE(false, true);
  on_a_small_stack([&] {
    Load load(native, small());
    std::uint64_t unfinished = 0;
    load.store.on_span_complete([&](std::string_view, const Span& span) { unfinished += span.unfinished(); });
    for (std::uint64_t i = 1; i <= million; ++i) load.start(one_trace ? some_trace : TraceId{i, ~i}, i, i - 1);
    CHECK(load.store.stats().given_up_early > 0);
    load.end();
    CHECK(unfinished == million);
    CHECK(load.store.stats().unfinished == million);
  });
}

TEST_CASE("a chain of 100,000 spans is kept, shown, replayed and let go without recursion") {
  const bool native = GENERATE(false, true), leaf_first = GENERATE(false, true);
  on_a_small_stack([&] {
    Load load(native);
    std::size_t seen = 0;
    load.store.on_trace_complete([&](const Trace& trace) {
      for (const Span& root : trace.roots) seen += spans_of(root);
    });
    for (std::uint64_t i = 1; i <= deep; ++i) {
      const std::uint64_t id = leaf_first ? deep + 1 - i : i;
      load.span(some_trace, id, id - 1);
    }
    load.store.advance(load.now += 1s);
    CHECK(seen == deep);
    CHECK(load.store.stats().flattened == deep - max_span_depth);
    CHECK(load.store.traces().at(some_trace.hex()).size() == 1);
    CHECK(load.store.last_traces(1, 1u << 30).spans.size() == deep);
    load.end();
  });
}

TEST_CASE("cycles of 100,000 spans, and many small ones, are cut open without recursion") {
  const bool native = GENERATE(false, true);
  const std::uint64_t length = GENERATE(std::uint64_t{1}, 2u, 7u, deep);
  on_a_small_stack([&] {
    Load load(native);
    std::size_t seen = 0, roots = 0;
    load.store.on_trace_complete([&](const Trace& trace) {
      roots += trace.roots.size();
      for (const Span& root : trace.roots) seen += spans_of(root);
    });
    const std::uint64_t cycles = deep / length, total = cycles * length;
    for (std::uint64_t i = 0; i < total; ++i) {
      const std::uint64_t first = i / length * length;
      load.span(some_trace, i + 1, first + (i - first + length - 1) % length + 1);
    }
    load.store.advance(load.now += 2min);
    CHECK(seen == total);
    CHECK(roots == cycles);
    CHECK(load.store.stats().cycles == cycles);
    CHECK(load.store.traces().at(some_trace.hex()).size() == cycles);
    load.end();
  });
}
