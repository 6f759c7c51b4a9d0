#pragma once
// A model of the span store that is too simple to be wrong: it keeps everything in plain maps, scans all of it whenever time passes,
// and builds trees by recursion. It has no bounds.

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "collect/span_store.hpp"
#include "support/packed_spans.hpp"
#include "weir/collect/trace_store.hpp"

namespace weir::testing {

/// A finished span of the native format, as the events that say the same.
struct Whole {
  Event start, end;
};
/// One that was seen open; `dead`: its service is gone.
struct Open {
  Event start;
  bool dead = false;
};
/// A start with its end right behind it.
struct Pair {
  Event start, end;
};
using Step = std::variant<Event, Whole, Open, Pair>;

/// What a store has told and counted.
struct Outcome {
  std::multiset<std::string> spans;  // as JSON, so that failures read well
  std::multiset<std::string> traces;
  std::map<std::string, std::string> snapshot;
  std::uint64_t duplicates = 0, late = 0, unfinished = 0, ends_without_start = 0, negative = 0, orphans = 0, cycles = 0;
  std::size_t pending = 0;

  friend bool operator==(const Outcome&, const Outcome&) = default;
};

inline std::string describe(const std::vector<Span>& roots) {
  std::string text;
  for (const Span& root : roots) text += to_json(root) + "\n";
  return text;
}

class TraceModel {
 private:
  struct Halves {
    std::optional<Event> start, end;
    std::optional<Timestamp> given_up;  // its end time then
    TraceStore::TimePoint arrived{};
  };
  struct Known {
    std::map<std::string, Halves> halves;
    TraceStore::TimePoint first, last;
    Timestamp latest;
    bool completed = false, root_ended = false;
  };

 public:
  explicit TraceModel(TraceStoreOptions options) : options_(options) {}

  void apply(const Step& step, TraceStore::TimePoint now) {
    advance(now);
    if (const auto* event = std::get_if<Event>(&step)) {
      take(*event, now);
    } else if (const auto* pair = std::get_if<Pair>(&step)) {
      take(pair->start, now);
      take(pair->end, now);
    } else if (const auto* open = std::get_if<Open>(&step)) {
      if (!find(open->start).start) take(open->start, now);
      if (open->dead) give_up_open(open->start, now);
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

  void give_up_open(const Event& start, TraceStore::TimePoint now) {
    Known& trace = traces_.at(start.trace_id);
    Halves& halves = trace.halves.at(start.span_id);
    if (!halves.end && !halves.given_up) give_up(trace, halves, now);
  }

  void take(const Event& event, TraceStore::TimePoint now) {
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
  void advance(TraceStore::TimePoint now) {
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

  void complete_all(TraceStore::TimePoint now) {
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
    Span span{start.span_id, start.trace_id, start.parent_id, start.name, start.kind, start.time, {}, start.attrs, {}};
    if (halves.end) {
      span.end_time = halves.end->time;
      for (const auto& [key, value] : halves.end->attrs) span.attrs.insert_or_assign(key, value);
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
  void give_up(Known& trace, Halves& halves, TraceStore::TimePoint now) {
    halves.given_up = std::max(halves.start->time, trace.latest);
    ++out_.unfinished;
    out_.spans.insert(to_json(span_of(halves, trace)));
    trace.last = now;
  }
  template <class Due>
  void give_up(Due due, TraceStore::TimePoint now) {
    for (auto trace = traces_.begin(); trace != traces_.end();) {
      for (auto at = trace->second.halves.begin(); at != trace->second.halves.end();) {
        Halves& halves = at->second;
        if ((halves.start && halves.end) || halves.given_up || !due(halves)) {
          ++at;
        } else if (halves.start) {
          give_up(trace->second, halves, now);
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
inline void apply(detail::SpanStore& store, const Step& step, TraceStore::TimePoint now) {
  if (const auto* event = std::get_if<Event>(&step)) return store.apply(*event, "s", now);
  if (const auto* pair = std::get_if<Pair>(&step)) {
    std::vector<detail::AttributeView> attributes, end_attributes;
    const detail::EventView start = detail::view_of(pair->start, attributes), end = detail::view_of(pair->end, end_attributes);
    return store.apply(start, end, store.intern_service("s"), now);
  }
  const auto* whole = std::get_if<Whole>(&step);
  const Event& start = whole != nullptr ? whole->start : std::get<Open>(step).start;
  PackedSpanMaker maker(store);
  maker.ids(start.trace_id, start.span_id, start.parent_id).named(start.name, start.kind);
  if (whole == nullptr) {
    const bool dead = std::get<Open>(step).dead;
    return (store.*(dead ? &detail::SpanStore::apply_unfinished : &detail::SpanStore::apply_open))(maker.times(start.time, {}).span(),
                                                                                                   store.intern_service("s"), now);
  }
  for (const auto& [key, value] : whole->end.attrs) {  // a key twice: the last counts
    if (value.size() % 2 == 0) maker.set(key, "an earlier value");
    maker.set_text(key, value);
  }
  store.apply(maker.times(start.time, whole->end.time).span(), store.intern_service("s"), now);
}

/// What a store has told and counted, as the model says it. The callbacks of the store fill in `spans` and `traces`.
inline void read(const detail::SpanStore& store, Outcome& out) {
  const TraceStoreStats stats = store.stats();
  out.duplicates = stats.duplicates, out.late = stats.late, out.unfinished = stats.unfinished, out.negative = stats.negative_durations;
  out.ends_without_start = stats.ends_without_start, out.orphans = stats.orphans, out.cycles = stats.cycles;
  out.pending = stats.pending;
  out.snapshot.clear();
  for (const auto& [id, roots] : store.traces()) out.snapshot[id] = describe(roots);
}

}  // namespace weir::testing
