// What is kept, and in which orders it is walked:
//
//   traces_  id ─▶ TraceState ─ spans: id ─▶ Entry (started | ended | complete | unfinished)
//   pending_    entries with one half, by arrival         front + trace_ttl: given up
//   open_       traces not completed, by first event      front + trace_ttl: completed
//   settling_   of those: root ended, by last event       front + settle:    completed
//   completed_  by completion                             front + max_age:   evicted
//
// Each order is a list whose front is due first, because what is added to an order is always due last; so nothing is searched.
#include "collect/span_store.hpp"

#include <algorithm>
#include <cstring>
#include <list>
#include <unordered_map>
#include <utility>

#include "collect/forest.hpp"
#include "trace/record.hpp"
#include "weir/core/detail/exceptions.hpp"

namespace weir::inline v0::detail {

namespace {

using TimePoint = SpanStore::TimePoint;

struct TraceState;

enum class State : std::uint8_t {
  started,    // pending: waits for its end
  ended,      // pending: waits for its start
  complete,   // has both
  unfinished  // given up without its end, which may still come
};

struct Entry {
  Span span;  // without children
  TraceState* trace = nullptr;
  TimePoint arrived{};
  std::size_t bytes = 0;
  State state = State::started;
  std::list<Entry*>::iterator place{};  // in pending_, while pending

  bool pending() const { return state == State::started || state == State::ended; }
};

struct TraceState {
  std::string id, service;
  std::unordered_map<std::string_view, std::unique_ptr<Entry>> spans;  // keys: their ids
  TimePoint first{}, last{};                                           // of events; completed: last is when that was
  Timestamp latest{};                                                  // of all times in its events
  std::size_t bytes = 0;
  std::uint32_t published = 0, unfinished = 0, late = 0;  // spans kept that were handed on; of those without an end; …
  std::uint32_t open_roots = 0;
  bool root_ended = false, completed = false, settling = false;
  std::list<TraceState*>::iterator place{}, settling_place{};  // in open_ or completed_; in settling_
};

std::size_t heap_bytes(const std::string& text) { return text.capacity() <= std::string().capacity() ? 0 : text.capacity() + 1; }

constexpr std::size_t node_bytes = 48;  // links, key and allocator overhead of a node in a map or list

std::size_t memory_of(const Span& span) {
  std::size_t bytes =
      sizeof(Entry) + 2 * node_bytes + heap_bytes(span.id) + heap_bytes(span.trace_id) + heap_bytes(span.parent_id) + heap_bytes(span.name);
  for (const auto& [key, value] : span.attrs) bytes += 2 * sizeof(std::string) + node_bytes + heap_bytes(key) + heap_bytes(value);
  return bytes;
}

/// Cuts `text` to at most `limit` bytes, between characters.
bool cut(std::string& text, std::size_t limit) {
  if (text.size() <= limit) return false;
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xc0) == 0x80) --limit;
  text.resize(limit);
  text.shrink_to_fit();
  return true;
}

/// Not more than its JSON line takes.
std::size_t text_bytes(const Span& span) {
  std::size_t bytes = 100 + span.id.size() + span.trace_id.size() + span.parent_id.size() + span.name.size();
  for (const auto& [key, value] : span.attrs) bytes += key.size() + value.size() + 5;
  return bytes;
}

void mark_unfinished(Span& span, Timestamp latest) {
  span.end_time = std::max(span.start_time, latest);
  span.attrs.insert_or_assign(std::string(unfinished_attribute), "true");
}

}  // namespace

struct SpanStore::Impl {
  TraceStoreOptions options;
  TraceStoreStats stats;
  std::function<void(std::string_view, const Span&)> on_span;
  std::function<void(const Trace&)> on_trace;
  std::function<bool()> span_wanted, trace_wanted;
  std::vector<std::string> texts{"\xe2\x80\xa6overflow"};
  std::map<std::string, std::uint32_t, std::less<>> text_ids;
  TimePoint now = TimePoint::min();
  std::unordered_map<std::string_view, std::unique_ptr<TraceState>> traces_;  // keys: their ids
  std::list<Entry*> pending_;
  std::list<TraceState*> open_, settling_, completed_;

  void apply(Event event, std::string_view service) {
    ++stats.events;
    if (event.type != EventType::span_start && event.type != EventType::span_end) return;
    limit(event);
    TraceState& trace = trace_of(event, service);
    trace.latest = std::max(trace.latest, event.time);
    if (!trace.completed) trace.last = now;
    const auto found = trace.spans.find(event.span_id);
    Entry* const known = found == trace.spans.end() ? nullptr : found->second.get();
    if (event.type == EventType::span_start) {
      apply_start(trace, known, std::move(event));
    } else {
      apply_end(trace, known, std::move(event));
    }
    update_settling(trace);
    enforce_bounds();
  }

  void advance() {
    while (!settling_.empty() && settling_.front()->last + options.settle <= now) complete(*settling_.front());
    while (!pending_.empty() && pending_.front()->arrived + options.trace_ttl <= now) give_up(*pending_.front());
    while (!open_.empty() && open_.front()->first + options.trace_ttl <= now) complete(*open_.front());
    while (!completed_.empty() && completed_.front()->last + options.max_age <= now) evict(*completed_.front());
    enforce_bounds();
  }

  TimePoint next_deadline() const {
    TimePoint due = TimePoint::max();
    if (!pending_.empty()) due = std::min(due, pending_.front()->arrived + options.trace_ttl);
    if (!settling_.empty()) due = std::min(due, settling_.front()->last + options.settle);
    if (!open_.empty()) due = std::min(due, open_.front()->first + options.trace_ttl);
    if (!completed_.empty()) due = std::min(due, completed_.front()->last + options.max_age);
    return due;
  }

  void complete_all() {
    while (!pending_.empty()) give_up(*pending_.front());
    while (!open_.empty()) complete(*open_.front());
    enforce_bounds();
  }

  const State* state_of(const PackedSpan& span) const {
    const auto trace = traces_.find(span.trace_id.hex());
    if (trace == traces_.end()) return nullptr;
    const auto entry = trace->second->spans.find(span.span_id.hex());
    return entry == trace->second->spans.end() ? nullptr : &entry->second->state;
  }
  Event start_of(const PackedSpan& span) const {
    return Event::span_start(span.span_id.hex(), span.trace_id.hex(), span.parent_id.valid() ? span.parent_id.hex() : "", texts[span.name],
                             span.kind, span.start_time);
  }
  Event end_of(const PackedSpan& span) const {
    Event end = Event::span_end(span.span_id.hex(), span.trace_id.hex(), span.end_time);
    const std::byte* at = span.attributes.data();
    for (unsigned left = span.attribute_count; left > 0; --left) {
      std::uint64_t word = 0;
      std::memcpy(&word, at, sizeof word);
      const RecordAttribute attribute{attribute_key(word),
                                      static_cast<AttributeValue::Type>(attribute_type(word)),
                                      {reinterpret_cast<const char*>(at) + 8, attribute_bytes(word)}};
      std::string& value = end.attrs[texts[attribute.key]];
      value.clear();
      append_value(value, attribute);
      at += 8 + (attribute_bytes(word) + 7) / 8 * 8;
    }
    return end;
  }

  Trace snapshot(const TraceState& trace, Forest* forest_out = nullptr) const {
    std::vector<Span> spans;
    spans.reserve(trace.spans.size());
    Trace result;
    result.unfinished = trace.unfinished;
    for (const auto& [id, entry] : trace.spans) {
      if (entry->state == State::ended || (entry->state == State::started && !trace.completed)) continue;
      spans.push_back(entry->span);
      if (entry->state != State::started) continue;
      mark_unfinished(spans.back(), trace.latest);
      ++result.unfinished;
    }
    result.trace_id = trace.id;
    result.service = trace.service;
    result.spans = static_cast<std::uint32_t>(spans.size());
    result.late = trace.late;
    Forest forest = build_forest(std::move(spans));
    result.roots = std::move(forest.roots);
    if (forest_out != nullptr) *forest_out = std::move(forest);
    return result;
  }

  Replay last_traces(std::size_t count, std::size_t max_bytes) const {
    Replay replay;
    std::vector<const TraceState*> chosen;  // newest first
    std::size_t bytes = 0;
    const auto choose_from = [&](const std::list<TraceState*>& order) {
      for (auto at = order.rbegin(); at != order.rend() && count > 0; ++at) {
        const TraceState& trace = **at;
        if (trace.published == 0) continue;
        --count;
        if (bytes >= max_bytes) {
          replay.left_out += trace.published;
          continue;
        }
        chosen.push_back(&trace);
        for (const auto& [id, entry] : trace.spans) bytes += entry->pending() ? 0 : text_bytes(entry->span);
      }
    };
    choose_from(settling_);
    choose_from(completed_);
    for (auto trace = chosen.rbegin(); trace != chosen.rend(); ++trace) append_spans(**trace, replay.spans);
    return replay;
  }

 private:
  /// Appends what was handed on of `trace`, children before their parents.
  static void append_spans(const TraceState& trace, std::vector<Span>& out) {
    std::vector<Span> spans;
    spans.reserve(trace.published);
    for (const auto& [id, entry] : trace.spans) {
      if (!entry->pending()) spans.push_back(entry->span);
    }
    const auto first = static_cast<std::ptrdiff_t>(out.size());
    std::vector<Span> stack = build_forest(std::move(spans)).roots;
    while (!stack.empty()) {
      Span span = std::move(stack.back());
      stack.pop_back();
      for (Span& child : std::exchange(span.children, {})) stack.push_back(std::move(child));
      out.push_back(std::move(span));
    }
    std::reverse(out.begin() + first, out.end());
  }

  void limit(Event& event) {
    if (cut(event.name, options.max_attribute_bytes)) ++stats.cut_attributes;
    for (auto at = event.attrs.begin(); at != event.attrs.end();) {
      const auto attribute = at++;
      if (cut(attribute->second, options.max_attribute_bytes)) ++stats.cut_attributes;
      if (attribute->first.size() <= options.max_attribute_bytes) continue;
      auto node = event.attrs.extract(attribute);
      cut(node.key(), options.max_attribute_bytes);
      ++stats.cut_attributes;
      if (!event.attrs.insert(std::move(node)).inserted) ++stats.dropped_attributes;
    }
  }
  /// Adds `attrs` to those of the span; of equal keys the ones it has stay.
  void merge_attributes(Span& span, StringAttributes attrs) {
    span.attrs.merge(attrs);
    while (span.attrs.size() > options.max_attributes) {
      span.attrs.erase(std::prev(span.attrs.end()));
      ++stats.dropped_attributes;
    }
  }

  TraceState& trace_of(Event& event, std::string_view service) {
    if (const auto found = traces_.find(event.trace_id); found != traces_.end()) return *found->second;
    auto made = std::make_unique<TraceState>();
    TraceState& trace = *made;
    trace.id = event.trace_id;
    trace.service = service;
    trace.first = now;
    trace.latest = event.time;
    trace.place = open_.insert(open_.end(), &trace);
    traces_.emplace(trace.id, std::move(made));
    charge(trace, sizeof(TraceState) + 3 * node_bytes + heap_bytes(trace.id) + heap_bytes(trace.service));
    return trace;
  }
  Entry& add_pending(TraceState& trace, std::string span_id, State state) {
    auto made = std::make_unique<Entry>();
    Entry& entry = *made;
    entry.span.id = std::move(span_id);
    entry.span.trace_id = trace.id;
    entry.trace = &trace;
    entry.arrived = now;
    entry.state = state;
    entry.place = pending_.insert(pending_.end(), &entry);
    trace.spans.emplace(entry.span.id, std::move(made));
    return entry;
  }

  void apply_start(TraceState& trace, Entry* known, Event event) {
    if (known != nullptr && known->state != State::ended) {
      ++stats.duplicates;
      return;
    }
    Entry& entry = known != nullptr ? *known : add_pending(trace, std::move(event.span_id), State::started);
    Span& span = entry.span;
    if (event.parent_id == span.id) {
      event.parent_id.clear();
      ++stats.cycles;
    }
    span.parent_id = std::move(event.parent_id);
    span.name = std::move(event.name);
    span.kind = event.kind;
    span.start_time = event.time;
    merge_attributes(span, std::move(event.attrs));
    if (span.parent_id.empty()) ++trace.open_roots;
    if (known != nullptr) {
      finish(entry);
    } else {
      recharge(entry);
    }
  }
  void apply_end(TraceState& trace, Entry* known, Event event) {
    if (known != nullptr && (known->state == State::ended || known->state == State::complete)) {
      ++stats.duplicates;
      return;
    }
    Entry& entry = known != nullptr ? *known : add_pending(trace, std::move(event.span_id), State::ended);
    Span& span = entry.span;
    span.end_time = event.time;
    event.attrs.merge(std::exchange(span.attrs, {}));  // the end knows better than the start
    merge_attributes(span, std::move(event.attrs));
    if (entry.state == State::started) {
      finish(entry);
    } else if (entry.state == State::unfinished) {
      correct(entry);
    } else {
      recharge(entry);
    }
  }

  /// Both halves are there.
  void finish(Entry& entry) {
    TraceState& trace = *entry.trace;
    pending_.erase(entry.place);
    entry.state = State::complete;
    clamp_duration(entry.span);
    count_late(trace);
    publish(entry);
  }
  /// The end of a span that was given up: it is known already, and now as it was.
  void correct(Entry& entry) {
    entry.span.attrs.erase(std::string(unfinished_attribute));
    entry.state = State::complete;
    clamp_duration(entry.span);
    --entry.trace->unfinished;
    count_late(*entry.trace);
    recharge(entry);
  }
  /// Ends the wait for the other half. An end alone is forgotten, and its trace too when nothing else is in it.
  void give_up(Entry& entry) {
    TraceState& trace = *entry.trace;
    pending_.erase(entry.place);
    if (entry.state == State::ended) {
      ++stats.ends_without_start;
      forget(entry);
      if (trace.spans.empty() && !trace.completed) erase(trace);
      return;
    }
    entry.state = State::unfinished;
    mark_unfinished(entry.span, trace.latest);
    ++stats.unfinished;
    ++trace.unfinished;
    if (!trace.completed) trace.last = now;
    publish(entry);
    update_settling(trace);
  }
  void publish(Entry& entry) {
    TraceState& trace = *entry.trace;
    if (entry.span.parent_id.empty()) {
      --trace.open_roots;
      trace.root_ended = true;
    }
    ++stats.spans;
    ++trace.published;
    recharge(entry);
    if (on_span && (!span_wanted || span_wanted()) && !call_guarded(on_span, std::string_view(trace.id), entry.span))
      ++stats.failed_callbacks;
    if (trace.bytes > options.max_trace_bytes) {
      ++stats.dropped_spans;
      --trace.published;
      if (entry.state == State::unfinished) --trace.unfinished;
      forget(entry);
    }
  }
  void clamp_duration(Span& span) {
    if (span.end_time >= span.start_time) return;
    span.end_time = span.start_time;
    ++stats.negative_durations;
  }
  void count_late(TraceState& trace) {
    if (!trace.completed) return;
    ++stats.late;
    ++trace.late;
  }

  /// Puts the trace last among those that wait for quiet, if it does.
  void update_settling(TraceState& trace) {
    stop_settling(trace);
    trace.settling = !trace.completed && trace.root_ended && trace.open_roots == 0;
    if (trace.settling) trace.settling_place = settling_.insert(settling_.end(), &trace);
  }
  void stop_settling(TraceState& trace) {
    if (std::exchange(trace.settling, false)) settling_.erase(trace.settling_place);
  }
  void complete(TraceState& trace) {
    stop_settling(trace);
    if (trace.published == 0) {  // nothing to show; what still waits gets its time
      wait_again(trace);
      return;
    }
    trace.completed = true;
    trace.last = now;
    completed_.splice(completed_.end(), open_, trace.place);
    ++stats.traces;
    Forest forest;
    const Trace whole = snapshot(trace, &forest);
    stats.orphans += forest.orphans;
    stats.cycles += forest.cycles;
    stats.flattened += forest.flattened;
    if (on_trace && (!trace_wanted || trace_wanted()) && !call_guarded(on_trace, whole)) ++stats.failed_callbacks;
  }
  void wait_again(TraceState& trace) {
    if (trace.spans.empty()) {
      erase(trace);
      return;
    }
    trace.first = now;
    open_.splice(open_.end(), open_, trace.place);
  }
  /// Hands on what the trace still has, and forgets it.
  void evict(TraceState& trace) {
    ++stats.evicted_traces;
    give_up_pending(trace);
    erase(trace);
  }
  void give_up_pending(TraceState& trace) {
    std::vector<Entry*> waiting;
    for (const auto& [id, entry] : trace.spans) {
      if (entry->pending()) waiting.push_back(entry.get());
    }
    std::sort(waiting.begin(), waiting.end(), [](const Entry* a, const Entry* b) { return a->arrived < b->arrived; });
    for (Entry* const entry : waiting) {
      ++stats.given_up_early;
      give_up(*entry);
    }
  }
  void enforce_bounds() {
    while (pending_.size() > options.max_pending) {
      ++stats.given_up_early;
      give_up(*pending_.front());
    }
    while (completed_.size() > options.max_traces) evict(*completed_.front());
    while (stats.bytes > options.max_bytes) {
      if (!completed_.empty()) {
        evict(*completed_.front());
      } else if (!open_.empty()) {
        complete_early(*open_.front());
      } else {
        break;
      }
    }
  }
  /// Requires: the trace is the first of open_.
  void complete_early(TraceState& trace) {
    give_up_pending(trace);
    if (open_.empty() || open_.front() != &trace) return;  // gone with its last pending end
    if (trace.published > 0) {
      ++stats.completed_early;
      complete(trace);
      evict(trace);
    } else {
      erase(trace);
    }
  }

  void charge(TraceState& trace, std::size_t bytes) {
    trace.bytes += bytes;
    stats.bytes += bytes;
  }
  void release(TraceState& trace, std::size_t bytes) {
    trace.bytes -= bytes;
    stats.bytes -= bytes;
  }
  void recharge(Entry& entry) {
    release(*entry.trace, std::exchange(entry.bytes, memory_of(entry.span)));
    charge(*entry.trace, entry.bytes);
  }
  void forget(Entry& entry) {
    TraceState& trace = *entry.trace;
    release(trace, entry.bytes);
    trace.spans.erase(trace.spans.find(entry.span.id));
  }
  void erase(TraceState& trace) {
    stop_settling(trace);
    (trace.completed ? completed_ : open_).erase(trace.place);
    stats.bytes -= trace.bytes;
    traces_.erase(traces_.find(trace.id));
  }
};

SpanStore::SpanStore(TraceStoreOptions options) : impl_(std::make_unique<Impl>()) {
  const auto representable = [](auto duration) {
    return std::clamp(duration, decltype(duration){0}, std::chrono::duration_cast<decltype(duration)>(std::chrono::hours{24 * 3650}));
  };
  options.settle = representable(options.settle);
  options.trace_ttl = representable(options.trace_ttl);
  options.max_age = representable(options.max_age);
  impl_->options = options;
}
SpanStore::~SpanStore() = default;
SpanStore::SpanStore(SpanStore&&) noexcept = default;
SpanStore& SpanStore::operator=(SpanStore&&) noexcept = default;

void SpanStore::on_span_complete(std::function<void(std::string_view trace_id, const Span&)> callback, std::function<bool()> wanted) {
  impl_->on_span = std::move(callback);
  impl_->span_wanted = std::move(wanted);
}
void SpanStore::on_trace_complete(std::function<void(const Trace&)> callback, std::function<bool()> wanted) {
  impl_->on_trace = std::move(callback);
  impl_->trace_wanted = std::move(wanted);
}

std::uint32_t SpanStore::intern(std::string_view text) {
  if (const auto known = impl_->text_ids.find(text); known != impl_->text_ids.end()) return known->second;
  if (impl_->texts.size() >= 65'536) return 0;
  const auto id = static_cast<std::uint32_t>(impl_->texts.size());
  impl_->texts.emplace_back(text);
  impl_->text_ids.emplace(text, id);
  return id;
}
std::uint32_t SpanStore::intern_service(std::string_view service) { return intern(service); }

void SpanStore::apply(const PackedSpan& span, std::uint32_t service, TimePoint now) {
  advance(now);
  const State* const known = impl_->state_of(span);
  if (known != nullptr && *known == State::complete) {
    ++impl_->stats.duplicates;
    return;
  }
  if (known == nullptr || *known == State::ended) impl_->apply(impl_->start_of(span), impl_->texts[service]);
  impl_->apply(impl_->end_of(span), impl_->texts[service]);
}

void SpanStore::apply_open(const PackedSpan& span, std::uint32_t service, TimePoint now) {
  advance(now);
  const State* const known = impl_->state_of(span);
  if (known == nullptr || *known == State::ended) impl_->apply(impl_->start_of(span), impl_->texts[service]);
}

void SpanStore::apply(Event event, std::string_view service, TimePoint now) {
  advance(now);
  impl_->apply(std::move(event), service);
}

void SpanStore::advance(TimePoint now) {
  impl_->now = std::max(impl_->now, now);
  impl_->advance();
}

SpanStore::TimePoint SpanStore::next_deadline() const { return impl_->next_deadline(); }

void SpanStore::complete_all(TimePoint now) {
  impl_->now = std::max(impl_->now, now);
  impl_->complete_all();
}

std::map<std::string, std::vector<Span>> SpanStore::traces() const {
  std::map<std::string, std::vector<Span>> all;
  for (const auto& [id, trace] : impl_->traces_) {
    if (Trace known = impl_->snapshot(*trace); !known.roots.empty()) all.emplace(id, std::move(known.roots));
  }
  return all;
}

Replay SpanStore::last_traces(std::size_t count, std::size_t max_bytes) const { return impl_->last_traces(count, max_bytes); }

TraceStoreStats SpanStore::stats() const {
  TraceStoreStats stats = impl_->stats;
  stats.pending = impl_->pending_.size();
  stats.open_traces = impl_->open_.size();
  stats.kept_traces = impl_->completed_.size();
  return stats;
}

}  // namespace weir::inline v0::detail
