// Which completed traces are kept: each condition by itself, what comes later, and random rules and traces against a model.
#include "weir/collect/keep_rules.hpp"

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "collect/span_store.hpp"
#include "support/catch.hpp"
#include "support/packed_spans.hpp"
#include "weir/collect/trace_store.hpp"
#include "weir/trace/sampler.hpp"

using namespace weir;
using namespace std::chrono_literals;

namespace {

Timestamp at(std::int64_t nanoseconds) { return Timestamp{std::chrono::nanoseconds{nanoseconds}}; }

TraceStoreOptions keeping(std::vector<KeepRule> rules, double ratio = 1) {
  TraceStoreOptions options;
  options.keep = std::move(rules);
  options.keep_ratio = ratio;
  return options;
}

/// A store with a clock of its own, and the ids of what it handed on.
struct Bench {
  explicit Bench(TraceStoreOptions options) : store(options) {
    store.on_span_complete([this](std::string_view trace, const Span& span) { spans.push_back(std::string(trace) + "." + span.id); });
    store.on_trace_complete([this](const Trace& trace) { traces.push_back(trace.trace_id); });
  }
  void start(const std::string& trace, const std::string& id, const std::string& parent, std::int64_t time, const std::string& name = "n",
             const std::string& service = "shop") {
    store.apply(Event::span_start(id, trace, parent, name, SpanKind::http, at(time)), service, now);
  }
  void end(const std::string& trace, const std::string& id, std::int64_t time, StringAttributes attributes = {}) {
    store.apply(Event::span_end(id, trace, at(time), std::move(attributes)), "shop", now);
  }
  /// A root with a child that has these attributes.
  void trace(const std::string& trace, const std::string& name, std::int64_t duration, const StringAttributes& attributes = {},
             const std::string& service = "shop") {
    start(trace, "root", "", 0, name, service);
    start(trace, "child", "root", 0, "child of " + name);
    end(trace, "child", duration / 2, attributes);
    end(trace, "root", duration);
  }
  void pass(std::chrono::milliseconds time) { store.advance(now += time); }
  std::string kept() {
    pass(500ms);
    std::string text;
    for (const std::string& trace : traces) text += trace;
    std::string stored;
    for (const auto& [trace, roots] : store.traces()) stored += trace;
    std::string sorted = text;
    std::sort(sorted.begin(), sorted.end());
    CHECK(stored == sorted);
    std::set<std::string> replayed;
    for (const Span& span : store.last_traces(1000).spans) replayed.insert(span.trace_id);
    CHECK(replayed == std::set<std::string>(traces.begin(), traces.end()));
    return text;
  }

  TraceStore::TimePoint now{};
  TraceStore store;
  std::vector<std::string> spans, traces;
};

KeepRule parsed(std::string_view text) {
  const auto rule = KeepRule::parse(text);
  INFO(text);
  REQUIRE(rule);
  return *rule;
}

bool naive_glob(std::string_view pattern, std::string_view text) {
  if (pattern.empty()) return text.empty();
  if (pattern[0] == '*') return naive_glob(pattern.substr(1), text) || (!text.empty() && naive_glob(pattern, text.substr(1)));
  return !text.empty() && (pattern[0] == '?' || pattern[0] == text[0]) && naive_glob(pattern.substr(1), text.substr(1));
}

}  // namespace

TEST_CASE("without rules all is kept, and nothing is counted") {
  Bench bench({});
  bench.trace("a", "GET /", 10);
  bench.trace("b", "GET /", 10, {{"error", "true"}});
  CHECK(bench.kept() == "ab");
  const TraceStoreStats stats = bench.store.stats();
  CHECK(stats.kept_by_rule + stats.dropped_by_rule + stats.dropped_by_ratio + stats.unkept_spans == 0);
}

TEST_CASE("a failed span keeps its trace, however it says that it failed") {
  Bench bench(keeping({parsed("error")}, 0));
  bench.trace("a", "GET /", 10);
  bench.trace("b", "GET /", 10, {{"error", "true"}});
  bench.trace("c", "GET /", 10, {{"otel.status_code", "ERROR"}});
  bench.trace("d", "GET /", 10, {{"error", "false"}, {"otel.status_code", "OK"}, {"error.message", "true"}});
  bench.trace("e", "GET /", 10, {{"status", "ERROR"}});
  CHECK(bench.kept() == "bc");
  const TraceStoreStats stats = bench.store.stats();
  CHECK(stats.traces == 2);
  CHECK(stats.kept_by_rule == 2);
  CHECK(stats.dropped_by_rule == 0);
  CHECK(stats.dropped_by_ratio == 3);
  CHECK(stats.unkept_spans == 6);
  CHECK(stats.spans == 10);
  CHECK(bench.spans.size() == 10);  // viewers saw them all
}

TEST_CASE("a span that has not ended keeps its trace as a failed one does") {
  Bench bench(keeping({{.error = true}}, 0));
  bench.start("a", "root", "", 0);
  bench.start("a", "child", "root", 1);
  bench.end("a", "root", 10);
  bench.trace("b", "GET /", 10);
  CHECK(bench.kept() == "a");
  SECTION("given up before the trace completes, too") {
    bench.start("c", "child", "missing", 1);
    bench.pass(61s);
    CHECK(bench.kept() == "ac");
  }
}

TEST_CASE("duration is from the first start to the last end") {
  Bench bench(keeping({{.min_duration = 100ns}}, 0));
  bench.trace("a", "GET /", 99);
  bench.trace("b", "GET /", 100);
  bench.start("c", "root", "", 50);
  bench.start("c", "early", "root", 10);
  bench.start("c", "late", "root", 60);
  bench.end("c", "early", 20);
  bench.end("c", "root", 70);
  bench.end("c", "late", 110);
  CHECK(bench.kept() == "bc");
}

TEST_CASE("names are those of roots, services those of senders, attributes those of any span") {
  Bench names(keeping({{.name = "GET /health*", .part = 0}}));
  names.trace("a", "GET /healthz", 10);
  names.trace("b", "POST /orders", 10);
  names.start("c", "root", "", 5, "POST /orders");  // a child called so is no root
  names.start("c", "child", "root", 1, "GET /health");
  names.end("c", "child", 9);
  names.end("c", "root", 9);
  CHECK(names.kept() == "bc");
  CHECK(names.store.stats().dropped_by_rule == 1);

  Bench services(keeping({{.service = "sh?p"}}, 0));
  services.trace("a", "GET /", 10, {}, "shop");
  services.trace("b", "GET /", 10, {}, "ship");
  services.trace("c", "GET /", 10, {}, "shops");
  CHECK(services.kept() == "ab");

  Bench attributes(keeping({{.key = "tenant", .value = "acme-*"}}, 0));
  attributes.trace("a", "GET /", 10, {{"tenant", "acme-1"}});
  attributes.trace("b", "GET /", 10, {{"tenant", "other"}});
  attributes.trace("c", "GET /", 10, {{"tenants", "acme-1"}});
  CHECK(attributes.kept() == "a");
}

TEST_CASE("of several roots the one that started first gives the name, and one without a parent goes before one whose parent is missing") {
  const auto kept = [](const std::string& name) {
    Bench bench(keeping({{.name = name}}, 0));
    bench.start("a", "x", "elsewhere", 1, "orphan, first");
    bench.start("a", "y", "", 3, "root, later");
    bench.start("a", "z", "", 2, "root, first");
    for (const char* id : {"x", "y", "z"}) bench.end("a", id, 10);
    return bench.kept() == "a";
  };
  CHECK(kept("root, first"));
  CHECK_FALSE(kept("root, later"));
  CHECK_FALSE(kept("orphan, first"));
  Bench orphans(keeping({{.name = "orphan"}}, 0));
  orphans.start("a", "x", "elsewhere", 2, "orphan");
  orphans.start("a", "y", "x", 1, "its child");
  for (const char* id : {"x", "y"}) orphans.end("a", id, 10);
  orphans.pass(60s);
  CHECK(orphans.kept() == "a");
}

TEST_CASE("the first rule that matches decides, and all that it says must hold") {
  Bench bench(keeping({parsed("error"), {.name = "GET /health*", .part = 0}, parsed("duration>=1ms && name=GET *")}, 0));
  bench.trace("a", "GET /health", 10);
  bench.trace("b", "GET /health", 10, {{"error", "true"}});
  bench.trace("c", "GET /health", 2'000'000);
  bench.trace("d", "GET /orders", 2'000'000);
  bench.trace("e", "PUT /orders", 2'000'000);
  bench.trace("f", "GET /orders", 10);
  CHECK(bench.kept() == "bd");
  const TraceStoreStats stats = bench.store.stats();
  CHECK(stats.kept_by_rule == 2);
  CHECK(stats.dropped_by_rule == 2);
  CHECK(stats.dropped_by_ratio == 2);
}

TEST_CASE("a ratio keeps the traces that a sampler with this ratio records, whatever form their ids have") {
  const double part = 0.3;
  const Sampler sampler = Sampler::ratio(part);
  Bench by_ratio(keeping({}, part)), by_rule(keeping({{.part = part}})), elsewhere(keeping({}, part));
  std::mt19937_64 random(7);
  std::vector<std::string> expected;
  for (int i = 0; i < 500; ++i) {
    const TraceId id{random(), random()};
    for (Bench* bench : {&by_ratio, &by_rule}) bench->trace(id.hex(), "n", 10);
    if (Sampler::below(id, sampler.word())) expected.push_back(id.hex());
    const TraceId shorter{0, random()};
    for (Bench* bench : {&by_ratio, &by_rule}) bench->trace(shorter.hex().substr(16), "n", 10);
    if (Sampler::below(shorter, sampler.word())) expected.push_back(shorter.hex().substr(16));
  }
  for (Bench* bench : {&by_ratio, &by_rule}) {
    bench->pass(500ms);
    CHECK(bench->traces == expected);
  }
  CHECK(by_ratio.store.stats().dropped_by_ratio == 1000 - expected.size());
  CHECK(by_rule.store.stats().dropped_by_rule == 1000 - expected.size());
  CHECK(by_rule.store.stats().kept_by_rule == expected.size());

  Bench text(keeping({}, part));
  for (int i = 0; i < 2000; ++i) {
    for (Bench* bench : {&text, &elsewhere}) bench->trace("trace " + std::to_string(i), "n", 10);
  }
  for (Bench* bench : {&text, &elsewhere}) bench->pass(500ms);
  CHECK(text.traces == elsewhere.traces);
  CHECK(text.traces.size() > 450);
  CHECK(text.traces.size() < 750);
}

TEST_CASE("what comes late for a trace that is not kept is handed on, counted, and makes no trace of its own") {
  Bench bench(keeping({{.name = "GET /health", .part = 0}}));
  int changed = 0;
  bench.store.on_trace_changed([&](const Trace&) { ++changed; });
  bench.trace("a", "GET /health", 10);
  bench.start("a", "open", "root", 1);
  CHECK(bench.kept().empty());
  CHECK(bench.store.stats().unkept_spans == 2);
  bench.end("a", "open", 20, {{"error", "true"}});
  bench.start("a", "late", "root", 1);
  bench.end("a", "late", 20);
  CHECK(bench.spans.size() == 4);
  bench.start("a", "never ends", "root", 1);
  bench.pass(59s);  // beyond it the span is given up, which also changes nothing
  bench.pass(10min);
  CHECK(bench.spans.size() == 5);
  CHECK(bench.kept().empty());
  const TraceStoreStats stats = bench.store.stats();
  CHECK(stats.late == 2);
  CHECK(stats.unkept_spans == 5);
  CHECK(stats.dropped_by_rule == 1);
  CHECK(stats.traces == 0);
  CHECK(stats.kept_traces == 0);
  CHECK(stats.evicted_traces == 0);
  CHECK(changed == 0);

  bench.pass(60min);  // forgotten
  CHECK(bench.store.stats().bytes == 0);
  bench.trace("a", "GET /orders", 10);
  CHECK(bench.kept() == "a");
}

TEST_CASE("a span that was shown as unfinished, and ends when its trace has been dropped, is handed on once") {
  Bench bench(keeping({}, 0));
  bench.start("a", "child", "missing", 1);
  bench.start("a", "other", "missing", 1);
  bench.end("a", "other", 2);
  bench.pass(60s);  // given up, and the trace with it
  CHECK(bench.kept().empty());
  CHECK(bench.spans.size() == 2);
  bench.end("a", "child", 9);
  CHECK(bench.spans.size() == 2);
  CHECK(bench.store.stats().unkept_spans == 2);
  CHECK(bench.store.stats().dropped_by_ratio == 1);
}

TEST_CASE("traces that are not kept push out none that are, and are bounded themselves") {
  TraceStoreOptions options = keeping({{.error = true}}, 0);
  options.max_traces = 3;
  Bench bench(options);
  for (const std::string trace : {"a", "b", "c"}) bench.trace(trace, "n", 10, {{"error", "true"}});
  CHECK(bench.kept() == "abc");
  const std::size_t bytes = bench.store.stats().bytes;
  for (int i = 0; i < 1000; ++i) {
    bench.trace("t" + std::to_string(i), "n", 10, {{"text", std::string(1000, 'x')}});
    bench.pass(500ms);
  }
  CHECK(bench.store.stats().kept_traces == 3);
  CHECK(bench.store.stats().bytes < bytes + 3000);
  CHECK(bench.store.stats().dropped_by_ratio == 1000);
  CHECK(bench.store.stats().evicted_traces == 0);
  CHECK(bench.kept() == "abc");
}

TEST_CASE("a trace that only has to settle is replayed if it would be kept as it is") {
  Bench bench(keeping({{.name = "GET /health", .part = 0}}));
  bench.trace("a", "GET /health", 10);
  bench.trace("b", "GET /orders", 10);
  std::set<std::string> replayed;
  for (const Span& span : bench.store.last_traces(1).spans) replayed.insert(span.trace_id);
  CHECK(replayed == std::set<std::string>{"b"});
  bench.trace("c", "GET /health", 10);
  replayed.clear();
  for (const Span& span : bench.store.last_traces(1).spans) replayed.insert(span.trace_id);
  CHECK(replayed == std::set<std::string>{"b"});  // one that is left out is not counted
}

TEST_CASE("rules are written as on the command line") {
  CHECK(parsed("error").error);
  CHECK(parsed(" duration >= 250ms ").min_duration == 250ms);
  CHECK(parsed("name=GET /health*").name == "GET /health*");
  CHECK(parsed("service = shop").service == "shop");
  const KeepRule all = parsed("error && duration>=2s&&name=a=b && tenant=acme-?");
  CHECK(all.error);
  CHECK(all.min_duration == 2s);
  CHECK(all.name == "a=b");
  CHECK(all.key == "tenant");
  CHECK(all.value == "acme-?");
  CHECK(all.service == "*");
  CHECK(all.part == 1);
  const auto [text, hint] = GENERATE(table<std::string, std::string>({{"", "''"},
                                                                      {"slow", "'slow'"},
                                                                      {"duration=250ms", "duration>=250ms"},
                                                                      {"duration>250ms", "duration>=250ms"},
                                                                      {"duration>=fast", "'fast'"},
                                                                      {"error && ", "''"},
                                                                      {"=x", "'=x'"},
                                                                      {"a=1 && b=2", "one"},
                                                                      {"name=" + std::string(256, 'x'), "255"}}));
  INFO(text);
  const auto wrong = KeepRule::parse(text);
  REQUIRE_FALSE(wrong);
  CHECK(wrong.error().code == std::errc::invalid_argument);
  CHECK(wrong.error().message.find(hint) != std::string::npos);
}

namespace {

struct Made {
  std::string trace, id, parent, name;
  std::int64_t start = 0, end = 0;
  StringAttributes attributes;
  std::string service;
  unsigned form = 0;  // 0: native, 1: events, 2: a start alone
};

/// Spans with ids of their own, some with their parent missing, in cycles, without an end.
std::vector<Made> random_spans(std::mt19937& random) {
  const bool native = random() % 2 == 0, in_order = random() % 2 == 0;
  const auto span_name = [&](std::uint64_t n) { return native ? SpanId{n + 1}.hex() : "s" + std::to_string(n); };
  const auto traces = 1 + random() % 6, count = random() % 40;
  const auto pick = [&](auto... words) { return std::vector<std::string>{words...}[random() % sizeof...(words)]; };
  std::vector<Made> spans;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t trace = random() % traces;
    Made span;
    span.trace = native ? TraceId{trace * 0x9E3779B97F4A7C15u, (trace + 1) * 0xBF58476D1CE4E5B9u}.hex() : "t" + std::to_string(trace);
    span.id = span_name(i);
    const std::uint64_t after = in_order ? i + 1 : 0;  // children before parents, as natively
    if (random() % 3 != 0) span.parent = span_name(after + random() % (count + 2 - after));
    span.name = pick("GET /", "GET /health", "POST /", "work");
    span.service = pick("shop", "ship", "bank");
    span.start = static_cast<std::int64_t>(random() % 50);
    span.end = static_cast<std::int64_t>(random() % 100);
    if (random() % 8 == 0) span.attributes["error"] = pick("true", "false");
    if (random() % 8 == 0) span.attributes["otel.status_code"] = pick("ERROR", "OK");
    if (random() % 3 == 0) span.attributes["rows"] = pick("0", "1", "17", "-0.5", "true", "many");
    span.form = random() % 12 == 0 ? 2 : native && random() % 4 != 0 ? 0 : 1;
    spans.push_back(span);
  }
  if (!in_order) std::shuffle(spans.begin(), spans.end(), random);
  return spans;
}

std::vector<KeepRule> random_rules(std::mt19937& random) {
  const auto pick = [&](auto... words) { return std::vector<std::string>{words...}[random() % sizeof...(words)]; };
  std::vector<KeepRule> rules(random() % 5);
  for (KeepRule& rule : rules) {
    rule.error = random() % 4 == 0;
    if (random() % 4 == 0) rule.min_duration = std::chrono::nanoseconds{random() % 120};
    if (random() % 3 == 0) rule.name = pick("GET *", "*", "GET /", "w?rk", "POST /");
    if (random() % 4 == 0) rule.service = pick("sh?p", "bank", "*");
    if (random() % 3 == 0) rule.key = pick("rows", "error", "none");
    if (random() % 2 == 0) rule.value = pick("*", "1*", "-*", "true");
    rule.part = std::vector<double>{1, 0, 0.5}[random() % 3];
  }
  return rules;
}

void apply(detail::SpanStore& store, const Made& span, TraceStore::TimePoint now) {
  if (span.form == 0) {
    weir::testing::PackedSpanMaker maker(store);
    maker.ids(span.trace, span.id, span.parent).named(span.name).times(at(span.start), at(span.end));
    for (const auto& [key, value] : span.attributes) maker.set_text(key, value);
    store.apply(maker.span(), store.intern_service(span.service), now);
    return;
  }
  store.apply(Event::span_start(span.id, span.trace, span.parent, span.name, SpanKind::function, at(span.start)), span.service, now);
  if (span.form == 1) store.apply(Event::span_end(span.id, span.trace, at(span.end), span.attributes), span.service, now);
}

void flatten(const std::vector<Span>& spans, std::vector<Span>& out) {
  for (const Span& span : spans) {
    out.push_back(span);
    flatten(span.children, out);
  }
}

/// What the rules say, too simple to be wrong. Parents as they were sent: trees have none where they were cut.
std::pair<bool, bool> naive_verdict(const Trace& trace, const std::vector<KeepRule>& rules, double ratio,
                                    const std::map<std::string, Made>& sent) {
  std::vector<Span> spans;
  flatten(trace.roots, spans);
  const auto is_there = [&](const std::string& id) {
    return std::any_of(spans.begin(), spans.end(), [&](const Span& span) { return span.id == id; });
  };
  const auto rank = [&](const Span& span) {
    const std::string& parent = sent.at(span.id).parent;
    return std::tuple(parent.empty() || parent == span.id ? 0 : is_there(parent) ? 2 : 1, span.start_time, span.id);
  };
  const Span root = *std::min_element(spans.begin(), spans.end(), [&](const Span& a, const Span& b) { return rank(a) < rank(b); });
  bool error = false;
  Timestamp first = root.start_time, last = root.end_time;
  for (const Span& span : spans) {
    const auto has = [&](const char* key, const char* value) { return span.attrs.count(key) != 0 && span.attrs.at(key) == value; };
    error = error || has("error", "true") || has("otel.status_code", "ERROR") || span.unfinished();
    first = std::min(first, span.start_time), last = std::max(last, span.end_time);
  }
  TraceId id = TraceId::from_hex(trace.trace_id);
  const auto within = [&](double part) { return part == 1 || (part > 0 && Sampler::below(id, Sampler::ratio(part).word())); };
  for (const KeepRule& rule : rules) {
    if (rule.error && !error) continue;
    if (last - first < rule.min_duration) continue;
    if (!naive_glob(rule.name, root.name) || !naive_glob(rule.service, trace.service)) continue;
    const bool has = std::any_of(spans.begin(), spans.end(), [&](const Span& span) {
      return span.attrs.count(rule.key) != 0 && naive_glob(rule.value, span.attrs.at(rule.key));
    });
    if (!rule.key.empty() && !has) continue;
    return {within(rule.part), true};
  }
  return {within(ratio), false};
}

std::string describe(const Trace& trace) {
  std::string text = trace.service + "\n";
  for (const Span& root : trace.roots) text += to_json(root) + "\n";
  return text;
}

}  // namespace

TEST_CASE("whatever the rules and the traces, what is kept is what the model keeps of all") {
  std::uint64_t kept = 0, dropped = 0, by_rule = 0;
  for (unsigned seed = 0; seed < 3000; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(seed);
    const std::vector<Made> spans = random_spans(random);
    TraceStoreOptions options = keeping(random_rules(random));
    options.keep_ratio = std::vector<double>{1, 0, 0.5}[random() % 3];
    for (const Made& span : spans) {
      if (span.trace.size() < 32) {  // the model knows no part of ids that are text
        for (KeepRule& rule : options.keep) rule.part = rule.part < 1 ? 0 : 1;
        options.keep_ratio = options.keep_ratio < 1 ? 0 : 1;
      }
    }
    std::map<std::string, Made> sent;
    for (const Made& span : spans) sent[span.id] = span;

    detail::SpanStore all{TraceStoreOptions{}}, some(options);
    const bool watched = seed % 3 != 0;  // else nothing is made for callbacks, and is judged all the same
    std::multiset<std::string> all_spans, some_spans, expected, got;
    std::map<std::string, std::uint64_t> spans_of;
    std::set<std::string> unkept;
    std::uint64_t kept_by_rule = 0, dropped_by_rule = 0, dropped_by_ratio = 0;
    all.on_span_complete([&](std::string_view trace, const Span& span) {
      all_spans.insert(to_json(span));
      ++spans_of[std::string(trace)];
    });
    some.on_span_complete([&](std::string_view, const Span& span) { some_spans.insert(to_json(span)); });
    all.on_trace_complete([&](const Trace& trace) {
      const auto [keep, rule] = naive_verdict(trace, options.keep, options.keep_ratio, sent);
      if (keep) expected.insert(describe(trace));
      if (!keep) unkept.insert(trace.trace_id);
      kept_by_rule += keep && rule, dropped_by_rule += !keep && rule, dropped_by_ratio += !keep && !rule;
    });
    some.on_trace_complete([&](const Trace& trace) { got.insert(describe(trace)); }, [&] { return watched; });

    TraceStore::TimePoint now{};
    for (const Made& span : spans) {
      const unsigned most = random() % 4 == 0 ? 90'000 : 600;
      if (random() % 6 == 0) now += std::chrono::milliseconds{random() % most};
      for (detail::SpanStore* store : {&all, &some}) apply(*store, span, now);
    }
    for (detail::SpanStore* store : {&all, &some}) store->complete_all(now);

    if (watched) REQUIRE(got == expected);
    REQUIRE(some_spans == all_spans);
    const TraceStoreStats stats = some.stats();
    REQUIRE(stats.traces == expected.size());
    REQUIRE(stats.traces + stats.dropped_by_rule + stats.dropped_by_ratio == all.stats().traces);
    REQUIRE(stats.kept_by_rule == kept_by_rule);
    REQUIRE(stats.dropped_by_rule == dropped_by_rule);
    REQUIRE(stats.dropped_by_ratio == dropped_by_ratio);
    REQUIRE(stats.late == all.stats().late);
    std::uint64_t unkept_spans = 0;
    for (const std::string& trace : unkept) unkept_spans += spans_of[trace];
    REQUIRE(stats.unkept_spans == unkept_spans);
    std::map<std::string, std::vector<Span>> snapshot = all.traces();
    for (const std::string& trace : unkept) snapshot.erase(trace);
    REQUIRE(some.traces() == snapshot);
    std::set<std::string> replayed;
    for (const Span& span : some.last_traces(1000).spans) replayed.insert(span.trace_id);
    REQUIRE(replayed.size() == snapshot.size());
    for (const auto& [trace, roots] : snapshot) REQUIRE(replayed.count(trace) == 1);
    some.advance(now + 61min);
    REQUIRE(some.stats().bytes == 0);
    kept += expected.size(), dropped += unkept.size(), by_rule += kept_by_rule + dropped_by_rule;
  }
  CHECK(kept > 1000);
  CHECK(dropped > 1000);
  CHECK(by_rule > 1000);
}
