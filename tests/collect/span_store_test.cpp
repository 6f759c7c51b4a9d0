// The store's native entry, and what packing may not change. What it shares with TraceStore is tested there.
#include "collect/span_store.hpp"

#include <malloc.h>
#include <unistd.h>
#include <chrono>
#include <fstream>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/packed_spans.hpp"
#include "support/sanitizers.hpp"

using namespace weir;
using namespace std::chrono_literals;
using weir::detail::SpanStore;
using weir::testing::PackedSpanMaker;

namespace {

Timestamp at(std::int64_t nanoseconds) { return Timestamp{std::chrono::nanoseconds{nanoseconds}}; }

constexpr TraceId some_trace{0xabc, 0xdef};

/// A store with a clock of its own, and everything it handed on.
struct Bench {
  explicit Bench(TraceStoreOptions options = {}) : store(options) {
    store.on_span_complete([this](std::string_view, const Span& span) { spans.push_back(span); });
    store.on_trace_complete([this](const Trace& trace) { traces.push_back(trace); });
  }
  PackedSpanMaker span(std::uint64_t id, std::uint64_t parent, std::int64_t from, std::int64_t to, TraceId trace = some_trace) {
    PackedSpanMaker maker(store);
    maker.ids(trace, SpanId{id}, SpanId{parent}).named("name", SpanKind::sql).times(at(from), at(to));
    return maker;
  }
  void apply(PackedSpanMaker maker) { store.apply(maker.span(), store.intern_service("shop"), now); }
  void open(PackedSpanMaker maker) { store.apply_open(maker.span(), store.intern_service("shop"), now); }
  void pass(std::chrono::milliseconds time) { store.advance(now += time); }

  SpanStore::TimePoint now{};
  SpanStore store;
  std::vector<Span> spans;
  std::vector<Trace> traces;
};

std::size_t count(const std::vector<Span>& roots) {
  std::size_t spans = 0;
  for (const Span& root : roots) spans += 1 + count(root.children);
  return spans;
}

/// Bytes of this process in memory.
std::size_t resident() {
  std::ifstream file("/proc/self/statm");
  std::size_t all = 0, pages = 0;
  file >> all >> pages;
  return pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

/// Traces of ten spans one after another, children before their root, each with two short texts of its own and a number.
class Load {
 public:
  explicit Load(SpanStore& store) : store_(store), service_(store.intern_service("shop")) {}
  void run(std::uint64_t spans, SpanStore::TimePoint& now) {
    for (const std::uint64_t end = at_ + spans; at_ < end; ++at_) {
      const std::uint64_t trace = at_ / 10, root = trace * 10 + 10;
      const bool is_root = at_ % 10 == 9;
      PackedSpanMaker maker(store_);
      maker.ids({mixed(trace), mixed(~trace)}, {mixed(is_root ? root : at_ + 1)}, {is_root ? 0 : mixed(root)});
      maker.named("SELECT orders", SpanKind::sql).times(at(1'700'000'000'000'000'000 + std::int64_t(at_) * 1000), at(0));
      maker.times(maker.span().start_time, maker.span().start_time + 250us);
      maker.set("user", "user-" + std::to_string(10'000'000 + at_ % 10'000'000))
          .set("order", "order-" + std::to_string(100'000 + at_ % 99'991));
      maker.set("rows", at_ % 5000);
      store_.apply(maker.span(), service_, now += 1us);
    }
  }

 private:
  static std::uint64_t mixed(std::uint64_t number) { return detail::split_mix(number); }

  SpanStore& store_;
  const std::uint32_t service_;
  std::uint64_t at_ = 0;
};

}  // namespace

TEST_CASE("a native span is handed on and kept with what it says, values as text") {
  Bench bench;
  bench.apply(bench.span(0x1f, 0x2e, 10, 30)
                  .set("text", "caf\u00e9")
                  .set("empty", "")
                  .set("negative", -17)
                  .set("least", INT64_MIN)
                  .set("zero", 0)
                  .set("half", 0.5)
                  .set("third", 1.0 / 3)
                  .set("yes", true)
                  .set("no", false));
  const Span expected{"000000000000001f",
                      "0000000000000abc0000000000000def",
                      "000000000000002e",
                      "name",
                      SpanKind::sql,
                      at(10),
                      at(30),
                      {{"text", "caf\u00e9"},
                       {"empty", ""},
                       {"negative", "-17"},
                       {"least", "-9223372036854775808"},
                       {"zero", "0"},
                       {"half", "0.5"},
                       {"third", "0.3333333333333333"},
                       {"yes", "true"},
                       {"no", "false"}},
                      {}};
  REQUIRE(bench.spans.size() == 1);
  CHECK(bench.spans[0] == expected);
  CHECK(bench.store.traces().at(expected.trace_id) == std::vector<Span>{expected});
  CHECK(bench.store.stats().events == 2);
  CHECK(bench.store.stats().pending == 0);
}

TEST_CASE("a native trace completes as any other, with who sent it") {
  Bench bench;
  bench.apply(bench.span(2, 1, 2, 3));
  bench.apply(bench.span(3, 1, 4, 5));
  bench.apply(bench.span(1, 0, 1, 9));
  bench.pass(499ms);
  CHECK(bench.traces.empty());
  bench.pass(1ms);
  REQUIRE(bench.traces.size() == 1);
  CHECK(bench.traces[0].service == "shop");
  CHECK(bench.traces[0].spans == 3);
  REQUIRE(bench.traces[0].roots.size() == 1);
  CHECK(bench.traces[0].roots[0].children.size() == 2);
  CHECK(bench.store.last_traces(1).spans == bench.spans);
}

TEST_CASE("of equal keys of a native span the last wins") {
  Bench bench;
  bench.apply(bench.span(1, 0, 1, 2).set("a", "first").set("b", 1).set("a", 2.5).set("b", "last"));
  REQUIRE(bench.spans.size() == 1);
  CHECK(bench.spans[0].attrs == StringAttributes{{"a", "2.5"}, {"b", "last"}});
}

TEST_CASE("an event whose ids are hex speaks of the native span with those ids") {
  const std::string trace = some_trace.hex(), id = SpanId{7}.hex();
  SECTION("a start before: the native span completes it") {
    Bench bench;
    bench.store.apply(Event::span_start(id, trace, "", "as started", SpanKind::http, at(1)), "other", bench.now);
    bench.apply(bench.span(7, 0, 5, 9).set("k", 1));
    REQUIRE(bench.spans.size() == 1);
    CHECK(bench.spans[0] == Span{id, trace, "", "as started", SpanKind::http, at(1), at(9), {{"k", "1"}}, {}});
    CHECK(bench.store.stats().duplicates == 0);
  }
  SECTION("an end before: it stays") {
    Bench bench;
    bench.store.apply(Event::span_end(id, trace, at(4), {{"k", "first"}}), "other", bench.now);
    bench.apply(bench.span(7, 0, 3, 9).set("k", 1));
    REQUIRE(bench.spans.size() == 1);
    CHECK(bench.spans[0].end_time == at(4));
    CHECK(bench.spans[0].attrs == StringAttributes{{"k", "first"}});
    CHECK(bench.store.stats().duplicates == 1);
  }
  SECTION("both after: two duplicates") {
    Bench bench;
    bench.apply(bench.span(7, 0, 3, 9));
    bench.store.apply(Event::span_start(id, trace, "", "n", SpanKind::http, at(1)), "other", bench.now);
    bench.store.apply(Event::span_end(id, trace, at(2)), "other", bench.now);
    CHECK(bench.spans.size() == 1);
    CHECK(bench.store.stats().duplicates == 2);
  }
}

TEST_CASE("a native span that comes again is one duplicate, and changes nothing") {
  Bench bench;
  bench.apply(bench.span(1, 0, 3, 9));
  bench.apply(bench.span(1, 2, 4, 10).set("k", 1));
  REQUIRE(bench.spans.size() == 1);
  CHECK(bench.store.stats().duplicates == 1);
  CHECK(bench.store.traces().at(some_trace.hex()) == bench.spans);
}

TEST_CASE("a span seen open waits for its record; seen again, as open or after its end, it is nothing new") {
  Bench bench;
  bench.open(bench.span(1, 0, 3, 0));
  CHECK(bench.store.stats().pending == 1);
  bench.pass(100ms);
  const auto due = bench.store.next_deadline();
  for (int i = 0; i < 3; ++i) bench.open(bench.span(1, 0, 3, 0));
  CHECK(bench.store.next_deadline() == due);
  CHECK(bench.spans.empty());
  bench.apply(bench.span(1, 0, 3, 9).set("k", "v"));
  bench.open(bench.span(1, 0, 3, 0));
  REQUIRE(bench.spans.size() == 1);
  CHECK(bench.spans[0].attrs == StringAttributes{{"k", "v"}});
  CHECK(bench.store.stats().duplicates == 0);
  CHECK(bench.store.stats().events == 2);
  CHECK(bench.store.stats().pending == 0);
  bench.pass(400ms);
  bench.open(bench.span(1, 0, 3, 0));  // does not keep the trace from settling
  bench.pass(100ms);
  CHECK(bench.traces.size() == 1);
}

TEST_CASE("a span seen open that never ends is given up, and corrected when it ends after all") {
  Bench bench;
  bench.open(bench.span(1, 0, 3, 0).set("since", 5));
  bench.pass(60s);
  REQUIRE(bench.spans.size() == 1);
  CHECK(bench.spans[0].attrs == StringAttributes{{"since", "5"}, {"weir.unfinished", "true"}});
  bench.apply(bench.span(1, 0, 3, 9).set("k", "v"));
  CHECK(bench.spans.size() == 1);
  CHECK(bench.store.traces().at(some_trace.hex())[0].attrs == StringAttributes{{"k", "v"}, {"since", "5"}});
}

TEST_CASE("bounds on attributes hold for native spans") {
  TraceStoreOptions options;
  options.max_attributes = 3;
  options.max_attribute_bytes = 4;
  Bench bench(options);
  auto maker = bench.span(1, 0, 1, 2);
  maker.named("na\u20ac").set("m", "12345").set("k", "\u20ac\u20ac").set("long key", "v").set("long", 7).set("z", 1);
  bench.apply(maker);
  REQUIRE(bench.spans.size() == 1);
  CHECK(bench.spans[0].name == "na");
  CHECK(bench.spans[0].attrs == StringAttributes{{"k", "\u20ac"}, {"long", "7"}, {"m", "1234"}});
  CHECK(bench.store.stats().cut_attributes == 4);      // the name, m, k, the long key
  CHECK(bench.store.stats().dropped_attributes == 2);  // the cut key that is taken, z
}

TEST_CASE("spans of every length are kept as they are") {
  TraceStoreOptions options;
  options.max_attribute_bytes = 1u << 20;
  Bench bench(options);
  std::uint64_t id = 1;
  const auto add = [&](std::size_t length) {
    std::string text(length, '\0');
    for (std::size_t i = 0; i < length; ++i) text[i] = static_cast<char>('a' + (i + id) % 26);
    bench.apply(
        bench.span(id, id % 3, static_cast<std::int64_t>(id * id * id), static_cast<std::int64_t>(id << 40)).set("k", text).set("n", id));
    ++id;
  };
  for (std::size_t length = 0; length < 600; ++length) add(length);
  for (const std::size_t length : {16'383u, 16'384u, 100'000u, 1u << 20}) add(length);
  for (std::size_t length = 0; length < 300; ++length) add(length);
  bench.apply(bench.span(id, 0, INT64_MIN, INT64_MAX));
  CHECK(bench.spans.back().start_time == at(INT64_MIN));
  CHECK(bench.spans.back().end_time == at(INT64_MAX));
  std::map<std::string, Span> kept;
  std::vector<Span> stack = bench.store.traces().at(some_trace.hex());
  while (!stack.empty()) {
    Span span = std::move(stack.back());
    stack.pop_back();
    for (Span& child : std::exchange(span.children, {})) stack.push_back(std::move(child));
    kept.emplace(span.id, std::move(span));
  }
  REQUIRE(kept.size() == bench.spans.size());
  for (const Span& span : bench.spans) REQUIRE(kept.at(span.id) == span);
}

TEST_CASE("a trace of few long spans knows them, too, and goes on knowing when the long ones are gone") {
  Bench bench;
  const std::string text(60'000, 'x');
  bench.store.apply(Event::span_end("no start", some_trace.hex(), at(1), {{"k", text}}), "s", bench.now);
  bench.apply(bench.span(1, 100, 1, 2));
  bench.pass(60s);
  CHECK(bench.store.stats().ends_without_start == 1);
  for (std::uint64_t id = 2; id <= 10; ++id) bench.apply(bench.span(id, 100, 1, 2));
  for (std::uint64_t id = 11; id <= 20; ++id) bench.apply(bench.span(id, 100, 1, 2).set("k", text));
  for (std::uint64_t id = 1; id <= 20; ++id) bench.apply(bench.span(id, 100, 1, 2));
  CHECK(bench.spans.size() == 20);
  CHECK(bench.store.stats().duplicates == 20);
}

TEST_CASE("ids of any form are kept apart and as they came") {
  Bench bench;
  const std::string ids[] = {"0000000000000001",
                             "00000000000000000000000000000001",
                             "1",
                             "ABCDEF0123456789",
                             "0000000000000000",
                             "00000000000000000000000000000000",
                             "g000000000000001",
                             "000000000000000:",
                             "000000000000000@",
                             "p0000000000000\xe1\xb1",
                             "00000000000000A1",
                             "00000000000000a1",
                             std::string(500, 'x'),
                             std::string(500, 'x') + "y",
                             std::string("\0a", 2)};
  for (const std::string& trace : ids) {
    for (const std::string& id : ids) {
      bench.store.apply(Event::span_end(id, trace, at(9)), "s", bench.now);
      bench.store.apply(Event::span_start(id, trace, ids[0], "n", SpanKind::http, at(1)), "s", bench.now);
    }
  }
  CHECK(bench.spans.size() == std::size(ids) * std::size(ids));
  CHECK(bench.store.stats().duplicates == 0);
  const auto traces = bench.store.traces();
  REQUIRE(traces.size() == std::size(ids));
  for (const std::string& trace : ids) {
    CHECK(count(traces.at(trace)) == std::size(ids));
    for (const std::string& id : ids) bench.store.apply(Event::span_start(id, trace, "", "n", SpanKind::http, at(1)), "s", bench.now);
  }
  CHECK(bench.store.stats().duplicates == std::size(ids) * std::size(ids));
}

TEST_CASE("a start and its end that are taken at once are what they are one by one, at every bound") {
  TraceStoreOptions options;
  options.max_attributes = 3;
  options.max_attribute_bytes = 8;
  std::vector<std::pair<Event, Event>> pairs;
  const auto add = [&](const std::string& name, StringAttributes before, StringAttributes after, std::int64_t end = 9, bool own = false) {
    const std::string id = SpanId{pairs.size() + 1}.hex(), parent = own ? id : pairs.size() % 2 == 0 ? "" : "any text";
    pairs.emplace_back(Event::span_start(id, some_trace.hex(), parent, name, SpanKind::sql, at(5)),
                       Event::span_end(id, some_trace.hex(), at(end), std::move(after)));
    pairs.back().first.attrs = std::move(before);
  };
  for (const std::string& text : {std::string(), std::string("12345678"), std::string("123456789"), std::string(40, 'x')}) {
    add(text, {}, {{"a", "b"}});
    add("n", {}, {{"a", text}, {"b", "c"}});
    add("n", {}, {{text, "a"}});
    add("n", {{"a", text}}, {{"a", "b"}, {text, "c"}});
  }
  add("n", {}, {{"a", "1"}, {"b", "2"}, {"c", "3"}});
  add("n", {}, {{"a", "1"}, {"b", "2"}, {"c", "3"}, {"d", "4"}});
  add("n", {}, {{"a", "1"}}, 4);
  add("n", {}, {{"a", "1"}}, 9, true);
  pairs.push_back(pairs.front());  // comes again

  Bench at_once(options), one_by_one(options);
  std::vector<detail::AttributeView> before, after;
  for (const auto& [start, end] : pairs) {
    const std::uint32_t service = at_once.store.intern_service("shop");
    at_once.store.apply(detail::view_of(start, before), detail::view_of(end, after), service, at_once.now);
    one_by_one.store.apply(start, "shop", one_by_one.now);
    one_by_one.store.apply(end, "shop", one_by_one.now);
  }
  CHECK(at_once.spans == one_by_one.spans);
  const TraceStoreStats a = at_once.store.stats(), b = one_by_one.store.stats();
  CHECK(a.cut_attributes == b.cut_attributes);
  CHECK(a.dropped_attributes == b.dropped_attributes);
  CHECK(a.events == b.events);
  CHECK(a.duplicates == 2);
  CHECK(b.duplicates == 2);
  CHECK(a.cycles == b.cycles);
  CHECK(a.negative_durations == 1);
  CHECK(at_once.store.traces() == one_by_one.store.traces());
}

TEST_CASE("ids that are sixteen hex digits but for one byte come back as they came") {
  Bench bench;
  std::set<std::string> ids;
  for (std::size_t at = 0; at < 16; ++at) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string id = "0123456789abcdef";
      id[at] = static_cast<char>(byte);
      if (!ids.insert(id).second) continue;
      const Event start = Event::span_start(id, some_trace.hex(), "", "n", SpanKind::http, Timestamp{});
      bench.store.apply(start, "s", bench.now);
      bench.store.apply(Event::span_end(id, some_trace.hex(), Timestamp{}), "s", bench.now);
    }
  }
  std::set<std::string> came;
  for (const Span& span : bench.spans) came.insert(span.id);
  CHECK(came == ids);
  CHECK(bench.store.stats().duplicates == 0);
}

TEST_CASE("names have ids, and beyond the table's bound a common one that is counted") {
  Bench bench;
  const std::uint32_t known = bench.store.intern("known");
  CHECK(known != 0);
  CHECK(bench.store.intern("known") == known);
  CHECK(bench.store.intern_service("known") != 0);
  std::uint64_t named = 1;
  while (bench.store.intern("name " + std::to_string(named)) != 0) ++named;
  CHECK(named > 100'000);
  CHECK(bench.store.intern("known") == known);
  bench.apply(bench.span(1, 0, 1, 2).named("too much").set("known", 1).set("a new key", "v"));
  REQUIRE(bench.spans.size() == 1);
  CHECK(bench.spans[0].name == "\u2026overflow");
  CHECK(bench.spans[0].attrs == StringAttributes{{"known", "1"}, {"\u2026overflow", "v"}});
  CHECK(bench.store.stats().overflowed_texts >= 3);
  bench.store.apply(Event::span_start("a", "t", "", "a name in an event", SpanKind::http, at(1)), "s", bench.now);
  bench.store.apply(Event::span_end("a", "t", at(2), {{"a key in an event", "v"}}), "s", bench.now);
  REQUIRE(bench.spans.size() == 2);
  CHECK(bench.spans[1].name == "a name in an event");
  CHECK(bench.spans[1].attrs == StringAttributes{{"a key in an event", "v"}});
}

TEST_CASE("what nobody wants is not made, and is kept and counted all the same") {
  SpanStore store;
  int asked = 0, called = 0;
  bool wanted = false;
  const auto ask = [&] {
    ++asked;
    return wanted;
  };
  store.on_span_complete([&](std::string_view, const Span&) { ++called; }, ask);
  store.on_trace_complete([&](const Trace&) { ++called; }, ask);
  PackedSpanMaker maker(store);
  store.apply(maker.ids(some_trace, {1}).times(at(1), at(2)).span(), 0, {});
  store.complete_all({});
  CHECK(asked == 2);
  CHECK(called == 0);
  CHECK(store.stats().spans == 1);
  CHECK(store.stats().traces == 1);
  CHECK(store.traces().size() == 1);
  wanted = true;
  store.apply(maker.ids(some_trace, {2}).span(), 0, {});
  CHECK(called == 1);
}

TEST_CASE("a question that throws is counted, and counts as yes") {
  SpanStore store;
  int called = 0;
  store.on_span_complete([&](std::string_view, const Span&) { ++called; }, []() -> bool { throw std::runtime_error("wanted"); });
  PackedSpanMaker maker(store);
  store.apply(maker.ids(some_trace, {1}).times(at(1), at(2)).span(), 0, {});
  CHECK(called == 1);
  CHECK(store.stats().failed_callbacks == 1);
}

TEST_CASE("orphans, cycles and depth are counted the same whether somebody wants the trees or not") {
  const auto counted = [](bool wanted, auto fill) {
    SpanStore store;
    store.on_trace_complete([](const Trace&) {}, [=] { return wanted; });
    PackedSpanMaker maker(store);
    fill([&](std::uint64_t id, std::uint64_t parent, TraceId trace = some_trace) {
      store.apply(maker.ids(trace, {id}, {parent}).times(at(std::int64_t(id)), at(1000)).span(), 0, {});
    });
    store.complete_all({});
    const TraceStoreStats stats = store.stats();
    return std::array{stats.orphans, stats.cycles, stats.flattened};
  };
  const auto check = [&](std::array<std::uint64_t, 3> expected, auto fill) {
    CHECK(counted(true, fill) == expected);
    CHECK(counted(false, fill) == expected);
  };
  check({0, 0, 0}, [](auto add) { add(3, 2), add(2, 1), add(4, 1), add(1, 0); });
  check({1, 0, 0}, [](auto add) { add(3, 2), add(4, 1), add(1, 0); });
  check({1, 0, 0}, [](auto add) { add(1, 0), add(3, 2); });
  check({0, 1, 0}, [](auto add) { add(3, 2), add(2, 3), add(1, 0); });
  check({0, 1, 0}, [](auto add) { add(4, 3), add(3, 2), add(2, 4), add(5, 2), add(1, 0); });
  check({0, 1, 0}, [](auto add) { add(7, 7), add(1, 0); });
  check({0, 0, 0}, [](auto add) {  // other traces between
    add(3, 2), add(9, 0, {1, 1}), add(2, 1), add(8, 9, {1, 1}), add(1, 0);
  });
  check({1, 0, 0}, [](auto add) { add(3, 2), add(9, 0, {1, 1}), add(1, 0); });
  check({0, 0, 44}, [](auto add) {
    for (std::uint64_t id = 300; id > 0; --id) add(id, id - 1);
  });
  check({12, 0, 0}, [](auto add) {
    for (std::uint64_t id = 1; id <= 12; ++id) add(id, 100 + id);
  });
}

TEST_CASE("a trace of 200,000 spans is searched by an index: all of them come twice") {
  Bench bench;
  bench.store.on_span_complete({});
  constexpr std::uint64_t number = 200'000;
  PackedSpanMaker maker(bench.store);
  maker.times(at(1), at(2)).set("n", 1);
  for (int round = 0; round < 2; ++round) {
    for (std::uint64_t id = number; id > 0; --id) {
      bench.store.apply(maker.ids(some_trace, {id}, {id == 1 ? 0 : id / 2}).span(), 0, bench.now);
    }
  }
  CHECK(bench.store.stats().spans == number);
  CHECK(bench.store.stats().duplicates == number);
  bench.pass(500ms);
  REQUIRE(bench.traces.size() == 1);
  CHECK(bench.traces[0].spans == number);
  CHECK(bench.traces[0].roots.size() == 1);
}

TEST_CASE("spans that are open for ever stay within the bound on pending ones") {
  TraceStoreOptions options;
  options.max_pending = 1000;
  options.max_traces = 100;
  Bench bench(options);
  bench.store.on_span_complete({});
  bench.store.on_trace_complete({});
  PackedSpanMaker maker(bench.store);
  for (std::uint64_t i = 1; i <= 100'000; ++i) {
    bench.store.apply_open(maker.ids({i % 7 == 0 ? 1 : i, 5}, {i}, {i % 3}).span(), 0, bench.now += 1ms);
  }
  const TraceStoreStats stats = bench.store.stats();
  CHECK(stats.pending == 1000);
  CHECK(stats.unfinished == 99'000);
  CHECK(stats.given_up_early == 99'000);
  bench.store.complete_all(bench.now);
  bench.store.advance(bench.now + 2h);
  CHECK(bench.store.stats().bytes == 0);
}

TEST_CASE("a million spans take at most 110 MB, and five million more leave no trace of themselves") {
  constexpr std::uint64_t million = weir::testing::sanitized ? 100'000 : 1'000'000;
  TraceStoreOptions options;
  options.max_traces = million / 10;
  options.settle = 1ms;
  SpanStore store(options);
  SpanStore::TimePoint now{};
  Load load(store);
  load.run(10'000, now);  // what is there once
  const std::size_t heap_before = ::mallinfo2().uordblks, resident_before = resident();
  load.run(million, now);
  TraceStoreStats stats = store.stats();
  CHECK(stats.kept_traces == options.max_traces);
  const std::size_t bytes = stats.bytes;
  CHECK(bytes < 110 * million);
  CHECK(bytes > 60 * million);
  const std::size_t resident_full = resident();
  if (!weir::testing::sanitized) {
    CHECK(resident_full - resident_before < 110 * million);
    CHECK(::mallinfo2().uordblks + ::mallinfo2().hblkhd - heap_before < 10 * million);  // tables; spans are not on the heap
  }
  load.run(5 * million, now);
  stats = store.stats();
  CHECK(stats.kept_traces == options.max_traces);
  CHECK(stats.spans == 10'000 + 6 * million);
  CHECK(stats.orphans + stats.cycles + stats.flattened + stats.duplicates + stats.dropped_spans == 0);
  CHECK(stats.bytes < bytes + bytes / 100);
  if (!weir::testing::sanitized) CHECK(resident() < resident_full + 4'000'000);

  store.complete_all(now);
  store.advance(now + 2h);
  CHECK(store.stats().bytes == 0);
  if (!weir::testing::sanitized) CHECK(resident() < resident_before + 10'000'000);  // given back
}

TEST_CASE("the bound on bytes holds while more comes than fits") {
  TraceStoreOptions options;
  options.max_bytes = 8u << 20;
  options.settle = 1ms;
  SpanStore store(options);
  SpanStore::TimePoint now{};
  Load load(store);
  const std::size_t resident_before = resident();
  for (int i = 0; i < 100; ++i) {
    load.run(5'000, now);
    REQUIRE(store.stats().bytes <= options.max_bytes);
  }
  CHECK(store.stats().bytes > options.max_bytes - 10'000);
  CHECK(store.stats().evicted_traces > 10'000);
  if (!weir::testing::sanitized) CHECK(resident() < resident_before + 12'000'000);
}

namespace {

/// A span in two lines.
void apply_events(SpanStore& store, std::uint64_t id, const std::string& name, const std::string& key, SpanStore::TimePoint now,
                  TraceId trace = some_trace) {
  store.apply(Event::span_start(SpanId{id}.hex(), trace.hex(), "", name, SpanKind::sql, at(1)), "shop", now);
  store.apply(Event::span_end(SpanId{id}.hex(), trace.hex(), at(2), {{key, "v"}}), "shop", now);
}

}  // namespace

TEST_CASE("names and keys of lines that come again and again take no room in each span") {
  SpanStore store;
  const std::string name(100, 'n'), key(100, 'k');
  for (std::uint64_t id = 1; id <= 1000; ++id) apply_events(store, id, name, key, {});
  CHECK(store.stats().bytes < 1000 * 100);
  const Span span = store.traces().at(some_trace.hex()).at(500);
  CHECK(span.name == name);
  CHECK(span.attrs == StringAttributes{{key, "v"}});
}

TEST_CASE("names in lines that are alike but for their middle, and short ones, are told apart") {
  std::vector<std::string> names = {"a", "b", "ab", "ba", "aab", "abb", "aaaa", "aaaab", "aaaabaaaa", "aaaaabaaa"};
  for (const char middle : {'1', '2', '3'}) names.push_back("the front" + std::string(1, middle) + "the back");
  names.push_back(std::string(8, '\0'));
  names.push_back(std::string(9, '\0'));
  names.push_back(std::string(17, '\0'));
  SpanStore store;
  std::uint64_t id = 0;
  for (int round = 0; round < 4; ++round) {
    for (const std::string& name : names) apply_events(store, ++id, name, name, {});
  }
  const std::vector<Span> spans = store.traces().at(some_trace.hex());
  REQUIRE(spans.size() == id);
  for (const Span& span : spans) {
    const std::uint64_t number = std::stoull(span.id, nullptr, 16) - 1;
    const std::string& name = names[number % names.size()];
    CHECK(span.name == name);
    CHECK(span.attrs == StringAttributes{{name, "v"}});
  }
}

TEST_CASE("lines with ever new names take the table of texts from nobody, even if each comes twice") {
  const int times = GENERATE(1, 2);
  SpanStore store;
  std::uint64_t id = 0;
  Span last;
  store.on_span_complete([&](std::string_view, const Span& span) { last = span; }, [&] { return id >= 299'999; });
  for (int number = 0; number < 300'000; ++number) {  // more than the table has room for
    for (int time = 0; time < times; ++time) {
      const std::string name = "GET /users/" + std::to_string(number);
      ++id;
      apply_events(store, id, name, name, {}, {1, 1 + id / 10});
    }
  }
  CHECK(store.intern("a name that a native service sends") != 0);
  CHECK(store.stats().overflowed_texts == 0);
  CHECK(last.name == "GET /users/299999");
  CHECK(last.attrs == StringAttributes{{last.name, "v"}});
}

TEST_CASE("of keys that are the same once they are cut, the one that was so stays") {
  SpanStore store({.max_attribute_bytes = 4});
  const std::string id = SpanId{1}.hex();
  store.apply(Event::span_start(id, some_trace.hex(), "", "long name", SpanKind::sql, at(1)), "shop", {});
  store.apply(Event::span_end(id, some_trace.hex(), at(2),
                              {{"aaaab", "1"}, {"aaaa", "2"}, {"aaaac", "3"}, {"bbbbz", "4"}, {"bbbby", "long value"}}),
              "shop", {});
  const Span span = store.traces().at(some_trace.hex()).front();
  CHECK(span.name == "long");
  CHECK(span.attrs == StringAttributes{{"aaaa", "2"}, {"bbbb", "long"}});
  CHECK(store.stats().cut_attributes == 6);  // the name, four keys, a value
  CHECK(store.stats().dropped_attributes == 3);
}
