#include "weir/trace/sampler.hpp"

#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "weir/core/propagation.hpp"
#include "weir/trace/in_memory_sender.hpp"
#include "weir/trace/tracer.hpp"

using weir::Context;
using weir::ContextScope;
using weir::InMemorySender;
using weir::ManualClock;
using weir::Sampler;
using weir::SamplingRule;
using weir::ScopedSpan;
using weir::Span;
using weir::SpanKind;
using weir::TraceId;
using weir::Tracer;
using namespace std::chrono_literals;

namespace {

std::mt19937_64 random_engine{20240607};

bool samples_trace(const Sampler& sampler, TraceId trace) {
  weir::detail::SamplingQuestion question;
  question.trace = trace;
  return sampler.samples(question);
}

bool samples(const Sampler& sampler, std::string_view name, weir::Attributes attributes = {}) {
  weir::detail::SamplingQuestion question;
  question.trace = {1, 2};
  question.name = name;
  question.attributes = &attributes;
  return sampler.samples(question);
}

/// What a pattern means, as plainly as it can be said.
bool naive_match(std::string_view pattern, std::string_view text) {
  if (pattern.empty()) return text.empty();
  if (pattern[0] == '*') return naive_match(pattern.substr(1), text) || (!text.empty() && naive_match(pattern, text.substr(1)));
  return !text.empty() && (pattern[0] == '?' || pattern[0] == text[0]) && naive_match(pattern.substr(1), text.substr(1));
}

std::string random_text(std::string_view alphabet, std::size_t max_size) {
  std::string text(random_engine() % (max_size + 1), 'x');
  for (char& c : text) c = alphabet[random_engine() % alphabet.size()];
  return text;
}

constexpr const char* trace_part = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-";

}  // namespace

TEST_CASE("a ratio samples its part of random traces, and the same ones each time") {
  constexpr int traces = 100'000;
  for (const double part : {0.001, 0.01, 0.25, 0.5, 0.9, 0.999}) {
    const Sampler sampler = Sampler::ratio(part);
    int sampled = 0;
    for (int i = 0; i < traces; ++i) {
      const TraceId trace{random_engine(), random_engine()};
      const bool first = samples_trace(sampler, trace);
      sampled += first;
      CHECK(samples_trace(Sampler::ratio(part), {random_engine(), trace.low}) == first);
    }
    const double deviation = std::sqrt(traces * part * (1 - part));
    CHECK(std::abs(sampled - traces * part) < 6 * deviation);
  }
}

TEST_CASE("the tracer's own ids are sampled at the ratio, too") {
  constexpr int traces = 100'000;
  InMemorySender sink({.max_spans = 0});
  Tracer tracer{sink, {.sampler = Sampler::ratio(0.25)}};
  int sampled = 0;
  for (int i = 0; i < traces; ++i) sampled += tracer.enter("x").recording();
  CHECK(std::abs(sampled - traces * 0.25) < 6 * std::sqrt(traces * 0.25 * 0.75));
  CHECK(tracer.stats().not_sampled == static_cast<std::uint64_t>(traces - sampled));
  CHECK(tracer.stats().emitted == static_cast<std::uint64_t>(sampled));
}

TEST_CASE("what a smaller ratio samples a larger one samples, too") {
  for (int i = 0; i < 10'000; ++i) {
    const TraceId trace{random_engine(), random_engine()};
    bool before = false;
    for (const double part : {0.0, 1e-12, 0.1, 0.3, 0.5, 0.7, 0.99, 1.0}) {
      const bool now = samples_trace(Sampler::ratio(part), trace);
      CHECK((now || !before));
      before = now;
    }
    CHECK(before);
  }
}

TEST_CASE("ratios agree with OpenTelemetry's TraceIdRatioBased at its edges, and extremes are exact") {
  CHECK(samples_trace(Sampler::ratio(0.5), {0, 0x7fff'ffff'ffff'fff0}));
  CHECK_FALSE(samples_trace(Sampler::ratio(0.5), {0, 0x8000'0000'0000'0000}));
  CHECK(samples_trace(Sampler::ratio(0.25), {UINT64_MAX, 0x3fff'ffff'ffff'fff0}));
  CHECK_FALSE(samples_trace(Sampler::ratio(0.25), {0, 0x4000'0000'0000'0000}));
  for (const std::uint64_t low : {std::uint64_t{0}, std::uint64_t{1}, UINT64_MAX}) {
    CHECK(samples_trace(Sampler::always(), {0, low}));
    CHECK(samples_trace(Sampler::ratio(1), {0, low}));
    CHECK(samples_trace(Sampler::ratio(7), {0, low}));
    CHECK_FALSE(samples_trace(Sampler::never(), {0, low}));
    CHECK_FALSE(samples_trace(Sampler::parent_based(Sampler::never()), TraceId{0, low}));
    CHECK_FALSE(samples_trace(Sampler::ratio(0), {0, low}));
    CHECK_FALSE(samples_trace(Sampler::ratio(-1), {0, low}));
    CHECK_FALSE(samples_trace(Sampler::ratio(std::nan("")), {0, low}));
    CHECK_FALSE(samples_trace(Sampler::rate_limit(0), {0, low}));
  }
}

TEST_CASE("a rate limit lets a second's worth pass at once, then one at a time, exactly") {
  ManualClock clock{weir::Timestamp{std::chrono::seconds{1'700'000'000}}};
  InMemorySender sink;
  Tracer tracer{sink, {.clock = &clock, .sampler = Sampler::rate_limit(10)}};
  const auto sampled_of = [&](int tries) {
    int sampled = 0;
    for (int i = 0; i < tries; ++i) sampled += tracer.enter("x").recording();
    return sampled;
  };
  CHECK(sampled_of(100) == 10);
  clock.advance(99ms);
  CHECK(sampled_of(100) == 0);
  clock.advance(1ms);
  CHECK(sampled_of(100) == 1);
  clock.advance(250ms);
  CHECK(sampled_of(100) == 2);
  clock.advance(50ms);
  CHECK(sampled_of(100) == 1);
  clock.advance(1h);
  CHECK(sampled_of(100) == 10);
  clock.advance(-2h);
  CHECK(sampled_of(100) == 0);
  clock.advance(1s);
  CHECK(sampled_of(100) == 10);
  CHECK(tracer.stats().not_sampled == 800 - 34);

  tracer.set_sampler(Sampler::rate_limit(0.5));  // one in two seconds
  CHECK(sampled_of(10) == 1);
  clock.advance(1999ms);
  CHECK(sampled_of(10) == 0);
  clock.advance(1ms);
  CHECK(sampled_of(10) == 1);
}

TEST_CASE("threads share a rate limit, and only what the inner sampler takes uses it up") {
  ManualClock clock{weir::Timestamp{1s}};
  InMemorySender sink({.max_spans = 0});
  Tracer tracer{sink,
                {.clock = &clock,
                 .sampler = Sampler::rate_limit(1000, Sampler::rules({{.name = "no", .sampler = Sampler::never()}}, Sampler::always()))}};
  std::atomic<int> sampled{0}, wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        wrong += tracer.enter("no").recording();
        sampled += tracer.enter("yes").recording();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(sampled == 1000);
  CHECK(wrong == 0);
  CHECK(tracer.stats().not_sampled == 15'000);
}

TEST_CASE("patterns match what they mean") {
  for (int i = 0; i < 200'000; ++i) {
    const std::string pattern = random_text("ab*?", 9), text = random_text("ab", 10);
    if (weir::detail::Glob(pattern).matches(text) != naive_match(pattern, text)) FAIL_CHECK(pattern << " " << text);
  }
  const std::string long_text(60'000, 'a');
  CHECK(weir::detail::Glob("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*").matches(long_text));
  CHECK_FALSE(weir::detail::Glob("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b").matches(long_text));
  for (const std::size_t size : {63u, 64u, 65u, 127u, 128u, 129u, 255u}) {  // more than a word
    const std::string text(size, 'a');
    CHECK(weir::detail::Glob(text).matches(text));
    CHECK(weir::detail::Glob("*" + text).matches("aa" + text));
    CHECK_FALSE(weir::detail::Glob(text).matches(text + "a"));
    CHECK_FALSE(weir::detail::Glob(text).matches(text.substr(1)));
    CHECK_FALSE(weir::detail::Glob(text).matches(text.substr(1) + "b"));
  }
  CHECK_FALSE(weir::detail::Glob(std::string(256, 'a')).matches(std::string(256, 'a')));
  CHECK(weir::detail::Glob("caf\xc3\xa9*").matches("caf\xc3\xa9 noir"));
}

TEST_CASE("of rules the first that matches counts") {
  const Sampler sampler = Sampler::rules({{.name = "GET /health", .sampler = Sampler::never()},
                                          {.name = "GET *", .key = "tenant", .value = "big-?", .sampler = Sampler::never()},
                                          {.name = "GET *", .sampler = Sampler::always()},
                                          {.key = "retry", .value = "true", .sampler = Sampler::always()},
                                          {.key = "code", .value = "5*", .sampler = Sampler::always()},
                                          {.key = "share", .value = "0.5", .sampler = Sampler::always()},
                                          {.key = "any", .sampler = Sampler::always()}},
                                         Sampler::never());
  CHECK_FALSE(samples(sampler, "GET /health"));
  CHECK(samples(sampler, "GET /"));
  CHECK_FALSE(samples(sampler, "GET /", {{"tenant", "big-1"}}));
  CHECK(samples(sampler, "GET /", {{"tenant", "big-1"}, {"tenant", "small"}}));
  CHECK(samples(sampler, "GET /", {{"tenant", "big-12"}}));
  CHECK_FALSE(samples(sampler, "PUT /"));
  CHECK(samples(sampler, "PUT /", {{"retry", true}}));
  CHECK_FALSE(samples(sampler, "PUT /", {{"retry", false}}));
  CHECK(samples(sampler, "PUT /", {{"code", 503}}));
  CHECK_FALSE(samples(sampler, "PUT /", {{"code", -503}}));
  CHECK(samples(sampler, "PUT /", {{"share", 0.5}}));
  CHECK(samples(sampler, "PUT /", {{"any", ""}}));
}

TEST_CASE("rules see the attributes that a span begins with") {
  InMemorySender sink;
  Tracer tracer{sink, {.sampler = Sampler::rules({{.key = "tenant", .value = "a*", .sampler = Sampler::never()}}, Sampler::always())}};
  CHECK_FALSE(tracer.enter("x", SpanKind::http, {{"tenant", "acme"}}).recording());
  CHECK(tracer.enter("x", SpanKind::http, {{"tenant", "bcme"}}).recording());
  CHECK_FALSE(tracer.enter(Context(), "x", SpanKind::http, {{"tenant", "acme"}}).recording());
  CHECK(tracer.enter(Context(), "x", SpanKind::http, {{"tenant", "bcme"}}).recording());
  REQUIRE(sink.spans().size() == 2);
  for (const Span& span : sink.spans()) CHECK(span.attrs == weir::StringAttributes{{"tenant", "bcme"}});
}

TEST_CASE("the decision is made once per trace, and all below inherit it") {
  InMemorySender sink;
  Tracer tracer{sink, {.sampler = Sampler::rules({{.name = "unseen", .sampler = Sampler::never()}}, Sampler::always())}};
  const bool seen = GENERATE(true, false);
  {
    const ScopedSpan root = tracer.enter(seen ? "seen" : std::string("unseen"));
    CHECK(root.recording() == seen);
    CHECK(root.context().valid());
    CHECK(Context::current() == root.context());
    CHECK(root.context().sampled() == seen);
    CHECK(root.context().traceparent().substr(53) == (seen ? "03" : "02"));
    const ScopedSpan child = tracer.enter(seen ? "unseen" : "seen");
    CHECK(child.recording() == seen);
    CHECK(child.context().trace_id() == root.context().trace_id());
    CHECK(tracer.enter(root.context(), "explicit").recording() == seen);
    std::thread([&, context = root.context()] {
      const ContextScope scope(context);
      const ScopedSpan there = tracer.enter("there");
      CHECK(there.recording() == seen);
      CHECK(there.context().trace_id() == context.trace_id());
    }).join();
    std::string header;
    weir::inject(Context::current(), [&](std::string_view name, const std::string& value) {
      if (name == "traceparent") header = value;
    });
    const ContextScope called(Context::from_traceparent(header));
    Tracer second{InMemorySender()};  // in another process
    CHECK(second.enter("called").recording() == seen);
  }
  CHECK(Context::current() == Context());
  CHECK(Context::current().trace_flags() == 3);
  CHECK(sink.spans().size() == (seen ? 4 : 0));
  CHECK(tracer.stats().emitted == (seen ? 4 : 0));
  CHECK(tracer.stats().not_sampled == (seen ? 0 : 1));
  CHECK(tracer.enter("seen").recording());
}

TEST_CASE("parent_based follows who calls, other samplers decide anew, and nobody decides for what began here") {
  struct Case {
    const char* what;
    Sampler sampler;
    bool new_trace, called_sampled, called_not_sampled;
  };
  const Case cases[] = {{"default", Sampler(), true, true, false},
                        {"always", Sampler::always(), true, true, true},
                        {"never", Sampler::never(), false, false, false},
                        {"parent, always", Sampler::parent_based(Sampler::always()), true, true, false},
                        {"parent, never", Sampler::parent_based(Sampler::never()), false, true, false},
                        {"parent, ratio", Sampler::parent_based(Sampler::ratio(1e-9)), false, true, false},
                        {"ratio", Sampler::ratio(1e-9), false, false, false},
                        {"parent, rules", Sampler::parent_based(Sampler::rules({}, Sampler::never())), false, true, false},
                        {"rules, parent", Sampler::rules({}, Sampler::parent_based(Sampler::never())), false, true, false},
                        {"rules", Sampler::rules({}, Sampler::always()), true, true, true}};
  for (const Case& each : cases) {
    CAPTURE(each.what);
    InMemorySender sink;
    Tracer tracer{sink, {.sampler = each.sampler}};
    const auto check = [&](const Context& context, bool expected) {
      const ScopedSpan given = tracer.enter(context, "explicit");
      CHECK(given.recording() == expected);
      CHECK(given.context().sampled() == expected);
      {
        const ContextScope scope(context);
        {
          const ScopedSpan ambient = tracer.enter("ambient");
          CHECK(ambient.recording() == expected);
          CHECK(Context::current().sampled() == expected);
          if (context.valid()) CHECK(ambient.context().trace_id() == context.trace_id());
          const ScopedSpan child = tracer.enter("child");
          CHECK(child.recording() == expected);
        }
        CHECK(Context::current() == context);
        CHECK(tracer.enter("next").recording() == expected);
      }
      CHECK(Context::current() == Context());
    };
    check(Context(), each.new_trace);
    check(Context::from_traceparent(""), each.new_trace);
    check(Context::from_traceparent(trace_part + std::string("01")), each.called_sampled);
    check(Context::from_traceparent(trace_part + std::string("00")), each.called_not_sampled);
    check(Context(TraceId{1, 2}, weir::SpanId{3}), true);
    check(Context(TraceId{1, 2}, weir::SpanId{3}, false), false);
  }
}

TEST_CASE("spans of a trace that is not sampled may end in any order") {
  InMemorySender sink;
  Tracer tracer{sink, {.sampler = Sampler::never()}};
  auto first = std::make_unique<ScopedSpan>(tracer, weir::Name("first"));
  auto second = std::make_unique<ScopedSpan>(tracer, weir::Name("second"));
  const Context context = first->context();
  {
    const ContextScope scope{Context()};
    auto other = std::make_unique<ScopedSpan>(tracer, weir::Name("other"));
    CHECK(other->context().trace_id() != context.trace_id());
    first.reset();
    CHECK(Context::current() == other->context());
    other.reset();
    CHECK(Context::current() == Context());
  }
  CHECK(Context::current() == Context());
  second.reset();
  CHECK(Context::current() == Context());
  CHECK(Context::current().sampled());
}

TEST_CASE("a sampler may change while spans are made, and each trace is whole or absent") {
  InMemorySender sink({.ring_bytes = 1u << 24});
  Tracer tracer{sink};
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> roots{0}, wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20'000 || !stop; ++i) {
        if (i >= 20'000) {
          std::this_thread::yield();
          continue;
        }
        const ScopedSpan root = tracer.enter("root", SpanKind::function, {{"i", i}});
        const ScopedSpan child = tracer.enter("child");
        wrong += child.recording() != root.recording();
        ++roots;
      }
    });
  }
  const Sampler samplers[] = {Sampler(), Sampler::never(), Sampler::ratio(0.5), Sampler::rate_limit(1e6),
                              Sampler::rules({{.key = "i", .value = "*7", .sampler = Sampler::never()}}, Sampler::always())};
  for (int i = 0; i < 2'000; ++i) {
    tracer.set_sampler(samplers[i % 5]);
    CHECK(tracer.sampler().to_string() == samplers[i % 5].to_string());
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  const weir::TracerStats stats = tracer.stats();
  CHECK(wrong == 0);
  CHECK(stats.dropped() == 0);
  CHECK(stats.emitted == 2 * (roots - stats.not_sampled));
  std::set<std::string> with_root, with_child;
  for (const Span& span : sink.spans()) (span.name == "root" ? with_root : with_child).insert(span.trace_id);
  CHECK(with_root == with_child);
  CHECK(with_root.size() == roots - stats.not_sampled);
}

TEST_CASE("a thread lets go of a sampler that was replaced when it next asks") {
  InMemorySender sink;
  Tracer tracer{sink};
  const auto make = [] { return Sampler::rules({}, Sampler::always()); };
  tracer.set_sampler(make());
  { const ScopedSpan span = tracer.enter("x"); }
  tracer.set_sampler(Sampler::never());
  CHECK_FALSE(tracer.enter("x").recording());
  tracer.set_sampler(Sampler::rules({}, Sampler::never()));
  CHECK_FALSE(tracer.enter("x").recording());
  tracer.set_sampler(make());
  CHECK(tracer.enter("x").recording());
}

TEST_CASE("samplers are named as OpenTelemetry names them") {
  const auto parsed = [](std::string_view name, std::string_view argument = {}) {
    const weir::Result<Sampler> sampler = Sampler::parse(name, argument);
    return sampler ? sampler->to_string() : sampler.error().message;
  };
  CHECK(parsed("always_on") == "always");
  CHECK(parsed("always_off", "ignored") == "never");
  CHECK(parsed("traceidratio", "0.25") == "ratio(0.25)");
  CHECK(parsed("traceidratio") == "always");
  CHECK(parsed("parentbased_always_on") == "parent_based(always)");
  CHECK(parsed("parentbased_always_off") == "parent_based(never)");
  CHECK(parsed("parentbased_traceidratio", "0.5") == "parent_based(ratio(0.5))");
  CHECK(parsed("traceidratio", "1e-3").substr(0, 10) == "ratio(0.00");
  for (const char* wrong : {"1.5", "-0.1", "abc", "0.5x", "nan", " 0.5"}) {
    CHECK(parsed("parentbased_traceidratio", wrong) ==
          "the sampler parentbased_traceidratio takes a number from 0 to 1, not \"" + std::string(wrong) + "\"");
  }
  for (const char* wrong : {"", "Always_On", "parentbased_", "jaeger_remote", "parentbased_parentbased_always_on"}) {
    CHECK(parsed(wrong) == "there is no sampler \"" + std::string(wrong) +
                               "\"; it may be always_on, always_off or traceidratio, and each of them after parentbased_");
    CHECK(Sampler::parse(wrong).error().code == std::errc::invalid_argument);
  }
  CHECK(Sampler().to_string() == "parent_based(always)");
  CHECK(Sampler::rate_limit(100, Sampler::ratio(0.5)).to_string() == "rate_limit(100, ratio(0.5))");
  CHECK(Sampler::rules({{.name = "GET *", .key = "k", .value = "v?", .sampler = Sampler::never()}}, Sampler::always()).to_string() ==
        "rules(\"GET *\" k=\"v?\": never, else always)");
}

TEST_CASE("a tracer that is off stays off, whatever its sampler") {
  Tracer off;
  off.set_sampler(Sampler::always());
  CHECK_FALSE(off.enter("x").recording());
  CHECK(off.stats().not_sampled == 0);
}
