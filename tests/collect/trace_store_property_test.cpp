// Random streams of events and native spans against a model that is too simple to be wrong: it keeps everything in plain maps,
// scans all of it whenever time passes, and builds trees by recursion.
#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "collect/span_store.hpp"
#include "support/catch.hpp"
#include "support/packed_spans.hpp"
#include "weir/collect/trace_store.hpp"

using namespace weir;
using namespace std::chrono_literals;

namespace {

using TimePoint = TraceStore::TimePoint;

Timestamp at(std::int64_t nanoseconds) { return Timestamp{std::chrono::nanoseconds{nanoseconds}}; }

/// A finished span of the native format, as the events that say the same.
struct Whole {
  Event start, end;
};
/// One that was seen open.
struct Open {
  Event start;
};
using Step = std::variant<Event, Whole, Open>;

struct Outcome {
  std::multiset<std::string> spans;  // as JSON, so that failures read well
  std::multiset<std::string> traces;
  std::map<std::string, std::string> snapshot;
  std::uint64_t duplicates = 0, late = 0, unfinished = 0, ends_without_start = 0, negative = 0, orphans = 0, cycles = 0;
  std::size_t pending = 0;

  friend bool operator==(const Outcome&, const Outcome&) = default;
};

std::string describe(const std::vector<Span>& roots) {
  std::string text;
  for (const Span& root : roots) text += to_json(root) + "\n";
  return text;
}

class Model {
 private:
  struct Halves {
    std::optional<Event> start, end;
    std::optional<Timestamp> given_up;  // its end time then
    TimePoint arrived{};
  };
  struct Known {
    std::map<std::string, Halves> halves;
    TimePoint first, last;
    Timestamp latest;
    bool completed = false, root_ended = false;
  };

 public:
  explicit Model(TraceStoreOptions options) : options_(options) {}

  void apply(const Step& step, TimePoint now) {
    advance(now);
    if (const auto* event = std::get_if<Event>(&step)) {
      take(*event, now);
    } else if (const auto* open = std::get_if<Open>(&step)) {
      if (!find(open->start).start) take(open->start, now);
    } else {
      const Whole& whole = std::get<Whole>(step);
      const Halves before = find(whole.start);
      const auto trace = traces_.find(whole.start.trace_id);
      if (trace != traces_.end()) trace->second.latest = std::max(trace->second.latest, whole.start.time);
      if (!before.start) take(whole.start, now);
      take(whole.end, now);  // a duplicate, if its end is known
    }
  }

 private:
  Halves find(const Event& event) const {
    const auto trace = traces_.find(event.trace_id);
    if (trace == traces_.end()) return {};
    const auto halves = trace->second.halves.find(event.span_id);
    return halves == trace->second.halves.end() ? Halves{} : halves->second;
  }

  void take(const Event& event, TimePoint now) {
    Known& trace = traces_.try_emplace(event.trace_id, Known{{}, now, now, event.time, false, false}).first->second;
    trace.latest = std::max(trace.latest, event.time);
    trace.last = now;
    const auto [found, fresh] = trace.halves.try_emplace(event.span_id);
    Halves& halves = found->second;
    if (fresh) halves.arrived = now;
    std::optional<Event>& half = event.type == EventType::span_start ? halves.start : halves.end;
    if (half) {
      ++out_.duplicates;
      return;
    }
    half = event;
    if (event.type == EventType::span_start && event.parent_id == event.span_id) {
      half->parent_id.clear();
      ++out_.cycles;
    }
    if (!halves.start || !halves.end) return;
    if (halves.end->time < halves.start->time) {
      halves.end->time = halves.start->time;
      ++out_.negative;
    }
    if (trace.completed) ++out_.late;
    if (!halves.given_up) out_.spans.insert(to_json(span_of(halves, trace)));
    halves.given_up.reset();
  }

 public:
  void advance(TimePoint now) {
    for (auto& [id, trace] : traces_) {
      if (!trace.completed && settles(trace) && trace.last + options_.settle <= now) complete(trace);
    }
    give_up([&](const Halves& halves) { return halves.arrived + options_.trace_ttl <= now; }, now);
    for (auto& [id, trace] : traces_) {
      if (trace.completed || trace.first + options_.trace_ttl > now) continue;
      if (shown(trace).empty()) {
        trace.first = now;
      } else {
        complete(trace);
      }
    }
  }

  void complete_all(TimePoint now) {
    give_up([](const Halves&) { return true; }, now);
    for (auto& [id, trace] : traces_) {
      if (!trace.completed) complete(trace);
    }
  }

  Outcome outcome() {
    Outcome outcome = out_;
    for (auto& [id, trace] : traces_) {
      std::uint64_t ignored = 0;
      if (const auto spans = shown(trace); !spans.empty()) outcome.snapshot[id] = describe(trees(spans, ignored, ignored));
      for (const auto& [span, halves] : trace.halves)
        outcome.pending += halves.start.has_value() + halves.end.has_value() == 1 && !halves.given_up;
    }
    return outcome;
  }

 private:
  static Span span_of(const Halves& halves, const Known& trace) {
    const Event& start = *halves.start;
    Span span{start.span_id, start.trace_id, start.parent_id, start.name, start.kind, start.time, {}, {}, {}};
    if (halves.end) {
      span.end_time = halves.end->time;
      span.attrs = halves.end->attrs;
    } else {
      span.end_time = std::max(span.start_time, halves.given_up.value_or(trace.latest));
      span.attrs["weir.unfinished"] = "true";
    }
    return span;
  }
  static std::vector<Span> shown(const Known& trace) {
    std::vector<Span> spans;
    for (const auto& [id, halves] : trace.halves) {
      if (halves.start && (halves.end || halves.given_up || trace.completed)) spans.push_back(span_of(halves, trace));
    }
    return spans;
  }
  static bool settles(const Known& trace) {
    bool ended = false;
    for (const auto& [id, halves] : trace.halves) {
      if (!halves.start || !halves.start->parent_id.empty()) continue;
      if (!halves.end && !halves.given_up) return false;
      ended = true;
    }
    return ended;
  }
  template <class Due>
  void give_up(Due due, TimePoint now) {
    for (auto trace = traces_.begin(); trace != traces_.end();) {
      for (auto at = trace->second.halves.begin(); at != trace->second.halves.end();) {
        Halves& halves = at->second;
        if ((halves.start && halves.end) || halves.given_up || !due(halves)) {
          ++at;
        } else if (halves.start) {
          halves.given_up = std::max(halves.start->time, trace->second.latest);
          ++out_.unfinished;
          out_.spans.insert(to_json(span_of(halves, trace->second)));
          trace->second.last = now;
          ++at;
        } else {
          ++out_.ends_without_start;
          at = trace->second.halves.erase(at);
        }
      }
      trace = trace->second.halves.empty() ? traces_.erase(trace) : std::next(trace);
    }
  }
  void complete(Known& trace) {
    trace.completed = true;
    out_.traces.insert(describe(trees(shown(trace), out_.orphans, out_.cycles)));
  }

  static bool before(const Span& a, const Span& b) { return std::pair(a.start_time, a.id) < std::pair(b.start_time, b.id); }
  static Span tree(const Span& root, const std::vector<Span>& spans, std::set<std::string>& placed) {
    Span whole = root;
    placed.insert(root.id);
    for (const Span& span : spans) {
      if (span.parent_id == root.id && !placed.count(span.id)) whole.children.push_back(tree(span, spans, placed));
    }
    return whole;
  }
  static std::vector<Span> trees(std::vector<Span> spans, std::uint64_t& orphans, std::uint64_t& cycles) {
    std::sort(spans.begin(), spans.end(), before);
    const auto parent_of = [&](const Span& span) {
      return std::find_if(spans.begin(), spans.end(),
                          [&](const Span& other) { return other.id == span.parent_id && !span.parent_id.empty(); });
    };
    std::vector<Span> roots;
    std::set<std::string> placed;
    for (const Span& span : spans) {
      if (parent_of(span) != spans.end()) continue;
      orphans += span.parent_id.empty() ? 0 : 1;
      roots.push_back(tree(span, spans, placed));
    }
    for (Span& span : spans) {  // the first of a cycle that nothing leads to
      if (placed.count(span.id)) continue;
      auto up = parent_of(span);
      for (std::size_t steps = 0; steps < spans.size() && up->id != span.id; ++steps) up = parent_of(*up);
      if (up->id != span.id) continue;
      Span root = span;
      root.parent_id.clear();
      ++cycles;
      roots.push_back(tree(root, spans, placed));
    }
    std::sort(roots.begin(), roots.end(), before);
    return roots;
  }

  TraceStoreOptions options_;
  std::map<std::string, Known> traces_;
  Outcome out_;
};

/// A step into a store, in the form in which it would come.
void apply(detail::SpanStore& store, const Step& step, TimePoint now) {
  if (const auto* event = std::get_if<Event>(&step)) return store.apply(*event, "s", now);
  const auto* whole = std::get_if<Whole>(&step);
  const Event& start = whole != nullptr ? whole->start : std::get<Open>(step).start;
  weir::testing::PackedSpanMaker maker(store);
  maker.ids(start.trace_id, start.span_id, start.parent_id).named(start.name, start.kind);
  if (whole == nullptr) return store.apply_open(maker.times(start.time, {}).span(), store.intern_service("s"), now);
  for (const auto& [key, value] : whole->end.attrs) {  // a key twice: the last counts
    if (value.size() % 2 == 0) maker.set(key, "an earlier value");
    maker.set_text(key, value);
  }
  store.apply(maker.times(start.time, whole->end.time).span(), store.intern_service("s"), now);
}

/// How ids look: any text in events; 32 and 16 hex digits, where native spans are among them.
std::string trace_name(std::uint64_t n, bool native) { return native ? TraceId{n / 2, n + 1}.hex() : "t" + std::to_string(n); }
std::string span_name(std::uint64_t n, bool native) { return native ? SpanId{n + 1}.hex() : std::to_string(n); }

/// Starts and ends of random spans with random parents, some lost, some twice, in an order that is a bit or wholly random.
std::vector<Step> random_stream(std::mt19937& random) {
  std::vector<Step> steps;
  const bool native = random() % 3 != 0, large = random() % 16 == 0;
  const auto traces = 1 + random() % (large ? 2 : 4), ids = 1 + random() % (large ? 100 : 12);
  for (std::size_t span = 0, count = random() % (large ? 300 : 40); span < count; ++span) {
    const std::string trace = trace_name(random() % traces, native), id = span_name(random() % ids, native);
    const std::string parent = random() % 4 == 0 ? "" : span_name(random() % (ids + 2), native);
    const auto from = static_cast<std::int64_t>(random() % 50), to = static_cast<std::int64_t>(random() % 100);
    const Event start = Event::span_start(id, trace, parent, "n" + std::to_string(span), static_cast<SpanKind>(span % 5), at(from));
    StringAttributes attributes{{"n", std::to_string(span)}, {"flag", "true"}, {"half", "-0.5"}, {"text", std::string(span * 7, 'x')}};
    for (std::size_t left = random() % 5; left < 4; ++left) attributes.erase(attributes.begin());
    const Event end = Event::span_end(id, trace, at(to), attributes);
    const auto form = native ? random() % 4 : 3;
    if (form == 0) steps.emplace_back(Open{start});
    if (form <= 1) steps.emplace_back(Whole{start, end});
    if (form >= 2 && random() % 8 != 0) steps.emplace_back(start);
    if (form >= 2 && random() % 8 != 0) steps.emplace_back(end);
  }
  if (random() % 2 == 0) std::shuffle(steps.begin(), steps.end(), random);
  return steps;
}

}  // namespace

TEST_CASE("whatever the stream, the store does what the model does") {
  TraceStoreOptions options;
  options.settle = 500ms;
  options.trace_ttl = 5s;
  for (unsigned seed = 0; seed < 4000; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(seed);
    detail::SpanStore store(options);
    Model model(options);
    Outcome got;
    const bool watched = seed % 2 == 0;  // else nothing is made for callbacks, and all is counted just the same
    store.on_span_complete([&](std::string_view, const Span& span) { got.spans.insert(to_json(span)); }, [&] { return watched; });
    store.on_trace_complete([&](const Trace& trace) { got.traces.insert(describe(trace.roots)); }, [&] { return watched; });

    TimePoint now{};
    const unsigned hurry = 1 + random() % 6;
    const auto compare = [&] {
      Outcome expected = model.outcome();
      const TraceStoreStats stats = store.stats();
      got.duplicates = stats.duplicates, got.late = stats.late, got.unfinished = stats.unfinished, got.negative = stats.negative_durations;
      got.ends_without_start = stats.ends_without_start, got.orphans = stats.orphans, got.cycles = stats.cycles,
      got.pending = stats.pending;
      got.snapshot.clear();
      for (const auto& [id, roots] : store.traces()) got.snapshot[id] = describe(roots);
      REQUIRE(stats.spans == expected.spans.size());
      REQUIRE(stats.traces == expected.traces.size());
      if (!watched) {
        REQUIRE(got.spans.size() + got.traces.size() == 0);
        expected.spans = {}, expected.traces = {};
      }
      REQUIRE(got.spans == expected.spans);
      REQUIRE(got.traces == expected.traces);
      REQUIRE(got.snapshot == expected.snapshot);
      REQUIRE(got == expected);
      REQUIRE((store.next_deadline() > now));
    };
    for (const Step& step : random_stream(random)) {
      if (random() % hurry == 0) {
        now += std::chrono::milliseconds{random() % (random() % 4 == 0 ? 6000 : 600)};
        if (random() % 2 == 0) {
          store.advance(now);
          model.advance(now);
        }
      }
      apply(store, step, now);
      model.apply(step, now);
      if (random() % 16 == 0) compare();
    }
    compare();
    store.complete_all(now);
    model.complete_all(now);
    compare();
  }
}

TEST_CASE("trees do not depend on the order of arrival") {
  for (unsigned seed = 0; seed < 300; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(seed);
    std::vector<Event> events;
    for (int i = 0; i < 30; ++i) {
      const std::string id = std::to_string(i);
      events.push_back(
          Event::span_start(id, "t", random() % 5 == 0 ? "" : std::to_string(random() % 33), id, SpanKind::http, at(random() % 9)));
      events.push_back(Event::span_end(id, "t", at(10 + static_cast<std::int64_t>(random() % 9))));
    }
    std::string first;
    for (int order = 0; order < 5; ++order) {
      TraceStore store;
      for (const Event& event : events) store.apply(event, "s", {});
      const std::string trees = describe(store.traces().at("t"));
      if (order == 0) first = trees;
      REQUIRE(trees == first);
      std::shuffle(events.begin(), events.end(), random);
    }
  }
}

TEST_CASE("whatever the stream and the bounds, nothing is lost uncounted and the bounds hold") {
  for (unsigned seed = 0; seed < 2000; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(seed);
    TraceStoreOptions options;
    options.trace_ttl = 5s;
    options.max_traces = random() % 4;
    options.max_pending = random() % 6;
    options.max_bytes = random() % 2 == 0 ? random() % 20'000 : options.max_bytes;
    options.max_trace_bytes = random() % 2 == 0 ? random() % 10'000 : options.max_trace_bytes;
    options.max_age = std::chrono::minutes{random() % 2};
    options.max_attributes = random() % 2;
    detail::SpanStore store(options);
    std::uint64_t spans = 0, traces = 0;
    store.on_span_complete([&](std::string_view, const Span&) { ++spans; });
    store.on_trace_complete([&](const Trace&) { ++traces; });
    TimePoint now{};
    std::uint64_t corrected = 0;
    const auto check = [&] {
      const TraceStoreStats stats = store.stats();
      REQUIRE(stats.pending <= options.max_pending);
      REQUIRE(stats.kept_traces <= options.max_traces);
      REQUIRE(stats.bytes <= options.max_bytes);
      REQUIRE(stats.spans == spans);
      REQUIRE(stats.traces == traces);
      REQUIRE(stats.traces == stats.kept_traces + stats.evicted_traces);
      // A native span is two events, or one if a half is known. Every event is a half of a span handed on, a duplicate, given up, pending,
      // or the late end of an unfinished span.
      const std::uint64_t accounted =
          2 * (stats.spans - stats.unfinished) + stats.unfinished + stats.duplicates + stats.ends_without_start + stats.pending;
      REQUIRE(stats.events >= accounted);
      REQUIRE(stats.events - accounted >= corrected);
      REQUIRE(stats.events - accounted <= stats.unfinished);
      corrected = stats.events - accounted;
    };
    for (const Step& step : random_stream(random)) {
      now += std::chrono::milliseconds{random() % 300};
      apply(store, step, now);
      check();
    }
    store.complete_all(now);
    check();
    REQUIRE(store.stats().pending == 0);
    REQUIRE(store.stats().open_traces == 0);
    store.advance(now + 2min);
    REQUIRE(store.stats().kept_traces == 0);
    REQUIRE(store.stats().bytes == 0);
    REQUIRE((store.next_deadline() == TimePoint::max()));
  }
}
