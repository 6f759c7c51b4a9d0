// What is kept, and in which orders it is walked:
//
//   traces_  id ─▶ KeptTrace ─ records of complete spans ─ halves (started | ended | unfinished)     kept_trace.hpp
//   pending_    halves that wait, by arrival              front + trace_ttl: given up
//   open_       traces not completed, by first event      front + trace_ttl: completed
//   settling_   of those: root ended, by last event       front + settle:    completed
//   completed_  by completion                             front + max_age:   evicted
//   changed_    of those: got late spans, by the first    front + settle:    handed on again
//   dropped_    by completion: those that are not kept    front + max_age:   forgotten
//
// Each order is a list whose front is due first, because what is added to an order is always due last; so nothing is searched.
// A native span goes the short way: its trace is that of the span before, two bits say that its id is new, its record is
// appended (trace_memory.hpp). So does a start with its end behind it (LineSpan). All else is taken apart (SpanParts), and costs more.
#include "collect/span_store.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <optional>
#include <tuple>
#include <utility>

#include "collect/forest.hpp"
#include "collect/keep_rules.hpp"
#include "collect/kept_trace.hpp"
#include "collect/packed_record.hpp"
#include "collect/recent_trace.hpp"
#include "collect/span_bounds.hpp"
#include "collect/text_table.hpp"
#include "collect/trace_memory.hpp"
#include "collect/trace_reader.hpp"
#include "weir/core/detail/exceptions.hpp"
#include "weir/core/ids.hpp"
#include "weir/trace/detail/name_table.hpp"

namespace weir::inline v0::detail {

namespace {

using TimePoint = SpanStore::TimePoint;
using State = Half::State;

constexpr std::size_t max_texts = 1u << 18, max_text_bytes = 32u << 20;       // names and keys
constexpr std::size_t max_services = 1u << 14, max_service_bytes = 4u << 20;  // who sends

}  // namespace

struct SpanStore::Impl : private TraceMemory {
  explicit Impl(const TraceStoreOptions& store_options) : options(store_options), keep_rules(store_options) {}
  ~Impl() {
    for (KeptTrace* trace = open_.front; trace != nullptr; trace = trace->next) free_index(*trace);
    for (KeptTrace* trace = completed_.front; trace != nullptr; trace = trace->next) free_index(*trace);  // what is dropped has none
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  using TraceMemory::bytes;

  const TraceStoreOptions options;
  const KeepRules keep_rules;
  const bool judges = keep_rules.any();
  TraceStoreStats stats;
  std::function<void(std::string_view, const Span&)> on_span;
  std::function<void(const Trace&)> on_trace, on_change;
  std::function<bool()> span_wanted, trace_wanted;
  TextTable texts{max_texts, max_text_bytes}, services{max_services, max_service_bytes};
  SpanBounds bounds{options, stats, texts};
  const TraceReader reader{*this, texts, services};
  TimePoint now = TimePoint::min();
  std::vector<AttributeView> event_attributes;

  Chain<Half, &Half::waits_before, &Half::waits_after> pending_;
  Chain<KeptTrace, &KeptTrace::previous, &KeptTrace::next> open_, completed_, dropped_;
  Chain<KeptTrace, &KeptTrace::settles_before, &KeptTrace::settles_after> settling_, changed_;

  void apply(const EventView& event, std::uint32_t service) {
    ++stats.events;
    if (event.type != EventType::span_start && event.type != EventType::span_end) return;
    const bool starts = event.type == EventType::span_start;
    KeptTrace& trace = trace_of(ref(event.trace_id), service, event.time);
    touch(trace, event.time);
    bounds.take_apart(event, parts_);
    const std::uint64_t hash = hash_of(parts_.id);
    Half* const half = find_half(trace, parts_.id, hash);
    const bool known = half != nullptr || contains(trace, parts_.id, hash);
    if (starts) {
      apply_start(trace, known, half, hash, parts_);
    } else {
      apply_end(trace, known, half, hash, parts_);
    }
    update_settling(trace);
    enforce_bounds();
  }

  /// As if they came one by one, but the start is not put aside for the time between.
  void apply(const EventView& start, const EventView& end, std::uint32_t service) {
    KeptTrace& trace = trace_of(ref(start.trace_id), service, start.time);
    LineSpan span;
    span.id.read(start.span_id, IdRef::Form::text);
    const std::uint64_t hash = hash_of(span.id);
    if (find_half(trace, span.id, hash) != nullptr || contains(trace, span.id, hash)) {
      apply(start, service);
      apply(end, service);
      return;
    }
    stats.events += 2;
    touch(trace, std::max(start.time, end.time));
    if (bounds.within(start, end)) [[likely]] {
      span.parent.read(start.parent_id, IdRef::Form::none);
      span.name = start.name;
      span.kind = start.kind;
      span.start = start.time;
      span.end = end.time;
      span.attributes = end.attributes;
      bounds.untie(span);
      bounds.clamp_duration(span);
      finish(trace, hash, span);
    } else {
      bounds.take_apart(start, parts_);
      bounds.take_apart(end.attributes, half_parts_.attributes);
      half_parts_.end = end.time;
      bounds.untie(parts_);
      bounds.join(parts_, half_parts_);
      finish(trace, hash, parts_);
    }
    update_settling(trace);
    enforce_bounds();
  }

  void apply(const PackedSpan& span, std::uint32_t service) {
    KeptTrace& trace = trace_of({span.trace_id.high, span.trace_id.low, TraceIdForm::hex32, {}}, service, span.start_time);
    touch(trace, std::max(span.start_time, span.end_time));
    const IdRef id = IdRef::of(span.span_id);
    const std::uint64_t hash = hash_of(id);
    Half* const half = find_half(trace, id, hash);
    if (half == nullptr && contains(trace, id, hash)) {
      ++stats.events;
      ++stats.duplicates;
    } else if (half == nullptr && bounds.within(span)) {
      stats.events += 2;
      if (span.end_time < span.start_time || span.parent_id == span.span_id) {
        finish(trace, hash, bounds.corrected(span));
      } else {
        finish(trace, hash, span);
      }
    } else {
      bounds.take_apart(span, parts_);
      if (half == nullptr) {
        stats.events += 2;
        bounds.untie(parts_);
        bounds.clamp_duration(parts_);
        finish(trace, hash, parts_);
      } else if (half->state == State::ended) {
        stats.events += 2;
        ++stats.duplicates;  // the second end
        parts_.attributes.clear();
        apply_start(trace, true, half, hash, parts_);
      } else {
        ++stats.events;
        apply_end(trace, true, half, hash, parts_);
      }
    }
    update_settling(trace);
    enforce_bounds();
  }

  void apply_open(const PackedSpan& span, std::uint32_t service) {
    const TraceRef trace_id{span.trace_id.high, span.trace_id.low, TraceIdForm::hex32, {}};
    const IdRef id = IdRef::of(span.span_id);
    const std::uint64_t hash = hash_of(id);
    if (KeptTrace* const known = find_trace(trace_id)) {
      const Half* const half = find_half(*known, id, hash);
      if (half != nullptr ? half->state != State::ended : contains(*known, id, hash)) return;
    }
    ++stats.events;
    KeptTrace& trace = trace_of(trace_id, service, span.start_time);
    touch(trace, span.start_time);
    bounds.take_apart(span, parts_);
    parts_.end = {};
    Half* const half = find_half(trace, id, hash);
    apply_start(trace, half != nullptr, half, hash, parts_);
    update_settling(trace);
    enforce_bounds();
  }

  void apply_unfinished(const PackedSpan& span, std::uint32_t service) {
    apply_open(span, service);
    KeptTrace* const trace = find_trace(TraceRef{span.trace_id.high, span.trace_id.low, TraceIdForm::hex32, {}});
    if (trace == nullptr) return;  // there was no room for it
    const IdRef id = IdRef::of(span.span_id);
    Half* const half = find_half(*trace, id, hash_of(id));
    if (half != nullptr && half->state == State::started) give_up(*half);
  }

  void advance(TimePoint to) {
    now = std::max(now, to);
    if (now >= due_) do_what_is_due();
  }
  [[gnu::noinline]] void do_what_is_due() {
    while (settling_.front != nullptr && settling_.front->last + options.settle <= now) complete(*settling_.front);
    while (pending_.front != nullptr && pending_.front->arrived + options.trace_ttl <= now) give_up(*pending_.front);
    while (open_.front != nullptr && open_.front->first + options.trace_ttl <= now) complete(*open_.front);
    while (changed_.front != nullptr && changed_.front->first + options.settle <= now) hand_on_change(*changed_.front);
    while (completed_.front != nullptr && completed_.front->last + options.max_age <= now) evict(*completed_.front);
    while (dropped_.front != nullptr && dropped_.front->last + options.max_age <= now) evict(*dropped_.front);
    bound_dropped();
    enforce_bounds();
    due_ = next_deadline();
  }

  TimePoint next_deadline() const {
    TimePoint due = TimePoint::max();
    if (pending_.front != nullptr) due = std::min(due, pending_.front->arrived + options.trace_ttl);
    if (settling_.front != nullptr) due = std::min(due, settling_.front->last + options.settle);
    if (open_.front != nullptr) due = std::min(due, open_.front->first + options.trace_ttl);
    if (completed_.front != nullptr) due = std::min(due, completed_.front->last + options.max_age);
    if (changed_.front != nullptr) due = std::min(due, changed_.front->first + options.settle);
    if (dropped_.front != nullptr) due = std::min(due, dropped_.front->last + options.max_age);
    return due;
  }

  void complete_all(TimePoint to) {
    now = std::max(now, to);
    while (pending_.front != nullptr) give_up(*pending_.front);
    while (open_.front != nullptr) complete(*open_.front);
    while (changed_.front != nullptr) hand_on_change(*changed_.front);
    bound_dropped();
    enforce_bounds();
  }

  bool restore(const Trace& restored, TimePoint completed) {
    const TraceRef id = ref(restored.trace_id);
    if (find_trace(id) != nullptr) return false;
    KeptTrace& trace = make(id);
    trace.service = services.intern(restored.service);
    trace.root_ended = trace.completed = true;
    trace.tidy = false;  // its trees are never judged again
    trace.last = std::min(completed, now);
    if (completed_.back != nullptr) trace.last = std::max(trace.last, completed_.back->last);
    completed_.push_back(trace);
    be_due(trace.last + options.max_age);
    ++stats.restored_traces;
    if (restored.late != 0) extra_of(trace).late = restored.late;
    if (!restored.roots.empty()) trace.latest = trace.base = restored.roots.front().start_time;
    std::vector<const Span*> left;
    for (const Span& root : restored.roots) left.push_back(&root);
    while (!left.empty()) {
      const Span& span = *left.back();
      left.pop_back();
      for (const Span& child : span.children) left.push_back(&child);
      restore(trace, span);
    }
    enforce_bounds();
    return true;
  }

  std::map<std::string, std::vector<Span>> all_traces() const {
    std::map<std::string, std::vector<Span>> all;
    for (const auto* order : {&open_, &completed_}) {
      for (const KeptTrace* trace = order->front; trace != nullptr; trace = trace->next) {
        if (Trace known = reader.snapshot(*trace); !known.roots.empty()) all.emplace(std::move(known.trace_id), std::move(known.roots));
      }
    }
    return all;
  }

  Replay last_traces(std::size_t count, std::size_t max_bytes) const {
    Replay replay;
    std::vector<std::vector<Span>> chosen;  // newest first
    std::size_t total = 0;
    const auto choose = [&](const KeptTrace& trace) {
      if (published(trace) == 0 || (judges && !trace.completed && !judge(trace).keep)) return;
      --count;
      if (total >= max_bytes) {
        replay.left_out += published(trace);
        return;
      }
      chosen.push_back(reader.published_spans(trace));
      for (const Span& span : chosen.back()) total += text_bytes(span);
    };
    for (const KeptTrace* trace = settling_.back; trace != nullptr && count > 0; trace = trace->settles_before) choose(*trace);
    for (const KeptTrace* trace = completed_.back; trace != nullptr && count > 0; trace = trace->previous) choose(*trace);
    for (auto spans = chosen.rbegin(); spans != chosen.rend(); ++spans) append_spans(std::move(*spans), replay.spans);
    return replay;
  }

 private:
  using TraceMemory::id_of;

  // ── Traces ──

  KeptTrace& trace_of(const TraceRef& id, std::uint32_t service, Timestamp time) {
    return is_last(id) ? last() : other_trace_of(id, service, time);
  }
  [[gnu::noinline]] KeptTrace& other_trace_of(const TraceRef& id, std::uint32_t service, Timestamp time) {
    if (KeptTrace* const known = find_trace(id)) return *known;
    KeptTrace& trace = make(id);
    trace.service = service;
    trace.first = now;
    trace.latest = trace.base = time;
    open_.push_back(trace);
    be_due(now + options.trace_ttl);
    return trace;
  }
  static std::uint32_t published(const KeptTrace& trace) noexcept {
    return trace.stored + (trace.extra != nullptr ? trace.extra->unfinished : 0);
  }
  void touch(KeptTrace& trace, Timestamp time) noexcept {
    trace.latest = std::max(trace.latest, time);
    if (!trace.completed) trace.last = now;
  }
  void be_due(TimePoint time) noexcept { due_ = std::min(due_, time); }

  /// Puts the trace last among those that wait for quiet, if it does.
  void update_settling(KeptTrace& trace) noexcept {
    const bool settles = trace.root_ended && !trace.completed && (trace.extra == nullptr || trace.extra->open_roots == 0);
    if (settles == trace.settling && (!settles || settling_.back == &trace)) return;
    stop_settling(trace);
    trace.settling = settles;
    if (!settles) return;
    settling_.push_back(trace);
    be_due(now + options.settle);
  }
  void stop_settling(KeptTrace& trace) noexcept {
    if (!trace.settling) return;
    if (const KeptTrace* const next = trace.settles_after; &trace == settling_.front && next != nullptr) {
      ChunkArena::prefetch(next->settles_after);  // it comes after the next, which was fetched so
    }
    trace.settling = false;
    settling_.erase(trace);
  }
  void complete(KeptTrace& trace) {
    stop_settling(trace);
    if (published(trace) == 0) {  // nothing to show; what still waits gets its time
      wait_again(trace);
      return;
    }
    trace.completed = true;
    trace.last = now;
    open_.erase(trace);
    if (judges && !keep(trace)) return;
    completed_.push_back(trace);
    be_due(now + options.max_age);
    ++stats.traces;
    const bool call = on_trace && is_wanted(trace_wanted);
    if (!call && recent_.is_tidy(trace)) return;
    Forest forest;
    std::optional<Trace> whole;
    if (call || !count_in(trace, forest)) whole = reader.snapshot(trace, &forest);
    stats.orphans += forest.orphans;
    stats.cycles += forest.cycles;
    stats.flattened += forest.flattened;
    if (call && !call_guarded(on_trace, std::as_const(*whole))) ++stats.failed_callbacks;
  }
  /// A completed trace is not what on_trace_complete was called with any more.
  void note_change(KeptTrace& trace) noexcept {
    if (!on_change || trace.changed || trace.dropped) return;
    trace.changed = true;
    trace.first = now;
    changed_.push_back(trace);
    be_due(now + options.settle);
  }
  void take_change(KeptTrace& trace) noexcept {
    if (!trace.changed) return;
    trace.changed = false;
    changed_.erase(trace);
  }
  void hand_on_change(KeptTrace& trace) {
    take_change(trace);
    const Trace whole = reader.snapshot(trace);
    if (!call_guarded(on_change, whole)) ++stats.failed_callbacks;
  }
  /// One span of a trace that was complete before it was stored elsewhere.
  void restore(KeptTrace& trace, const Span& span) {
    SpanParts& parts = parts_;
    parts.id.read(span.id, IdRef::Form::text);
    parts.parent.read(span.parent_id, IdRef::Form::none);
    parts.name = {0, false, span.name};
    parts.kind = span.kind;
    parts.start = span.start_time;
    parts.end = std::max(span.start_time, span.end_time);
    parts.attributes.clear();
    const bool unfinished = span.unfinished();
    for (const auto& [key, value] : span.attrs) {
      if (!unfinished || key != unfinished_attribute) parts.attributes.push_back({{0, false, key}, AttributeValue::Type::string, 0, value});
    }
    const std::uint64_t hash = hash_of(parts.id);
    if (find_half(trace, parts.id, hash) != nullptr || contains(trace, parts.id, hash)) return;
    if (bytes_of(trace) > options.max_trace_bytes) {
      ++stats.dropped_spans;
      return;
    }
    trace.latest = std::max(trace.latest, parts.end);
    if (!unfinished) {
      append(trace, hash, parts);
      return;
    }
    RecordContext context;
    Half& half = add_half(trace, hash, writer_.write(parts, context));
    half.state = State::unfinished;
    half.given_up = parts.end;
    ++trace.extra->unfinished;
  }
  void wait_again(KeptTrace& trace) {
    if (halves_of(trace) == 0) {
      erase(trace);
      return;
    }
    trace.first = now;
    open_.erase(trace);
    open_.push_back(trace);
    be_due(now + options.trace_ttl);
  }
  /// Hands on what the trace still has, and forgets it.
  void evict(KeptTrace& trace) {
    if (!trace.dropped) ++stats.evicted_traces;
    if (trace.changed) hand_on_change(trace);
    prefetch_after(trace);
    give_up_pending(trace);
    erase(trace);
  }
  /// Traces leave in order, and their memory is cold.
  [[gnu::always_inline]] void prefetch_after(const KeptTrace& trace) const noexcept {
    const KeptTrace* const next = trace.next;
    if (next == nullptr) return;
    ChunkArena::prefetch(next->next);
    prefetch_free(*next);
  }
  void enforce_bounds() {
    if (pending_.size > options.max_pending || completed_.size > options.max_traces || bytes() > options.max_bytes) reduce();
  }
  [[gnu::noinline]] void reduce() {
    while (pending_.size > options.max_pending) {
      ++stats.given_up_early;
      give_up(*pending_.front);
    }
    while (completed_.size > options.max_traces) evict(*completed_.front);
    while (bytes() > options.max_bytes) {
      if (dropped_.front != nullptr) {
        evict(*dropped_.front);
      } else if (completed_.front != nullptr) {
        evict(*completed_.front);
      } else if (open_.front != nullptr) {
        complete_early(*open_.front);
      } else {
        break;
      }
    }
  }
  /// Requires: the trace is the first of open_.
  void complete_early(KeptTrace& trace) {
    prefetch_after(trace);
    give_up_pending(trace);
    if (open_.front != &trace) return;  // gone with its last pending end
    if (published(trace) > 0) {
      ++stats.completed_early;
      complete(trace);
      evict(trace);
    } else {
      erase(trace);
    }
  }
  void erase(KeptTrace& trace) noexcept {
    stop_settling(trace);
    take_change(trace);
    (trace.dropped ? dropped_ : trace.completed ? completed_ : open_).erase(trace);
    recent_.forget(trace);
    while (halves_of(trace) > 0) forget(*trace.extra->first);
    free(trace);
  }

  // ── Which traces are kept ──

  /// Asks the rules about a trace that completes. False: it is not kept.
  [[gnu::noinline]] bool keep(KeptTrace& trace) {
    KeepRules::Verdict verdict;
    try {
      verdict = judge(trace);
    } catch (const std::bad_alloc&) {  // it stays
    }
    if (verdict.rule != SIZE_MAX) {
      ++(verdict.keep ? stats.kept_by_rule : stats.dropped_by_rule);
    } else if (!verdict.keep) {
      ++stats.dropped_by_ratio;
    }
    if (!verdict.keep) drop(trace);
    return verdict.keep;
  }
  /// What is left of it is its id, so that late spans find it, and halves that wait. Requires: it is completed, and in no order.
  void drop(KeptTrace& trace) noexcept {
    stats.unkept_spans += published(trace);
    recent_.forget(trace);
    trace.dropped = true;
    trace.tidy = false;
    free_records(trace);
    dropped_.push_back(trace);
    be_due(now + options.max_age);
  }
  void bound_dropped() {
    while (dropped_.size > options.max_traces) evict(*dropped_.front);
  }
  /// What the rules say of a trace, if it completes now.
  KeepRules::Verdict judge(const KeptTrace& trace) const {
    TraceFacts facts;
    facts.id = trace.form == TraceIdForm::text ? KeepRules::id_of_text(id_of(trace)) : TraceId{trace.id_high, trace.id_low};
    if (keep_rules.look_at_spans()) look_at_spans(trace, facts);
    return keep_rules.judge(facts);
  }
  void look_at_spans(const KeptTrace& trace, TraceFacts& facts) const {
    enum Rank : std::uint8_t { root, orphan, child, none };
    struct {
      Rank rank = none;
      Timestamp start{};
      std::string id;
    } best;
    const bool tidy = recent_.is_tidy(trace);  // so there are no orphans, and there is a root
    std::string value;
    const auto look = [&](const SpanParts& parts, Timestamp end) {
      facts.start = std::min(facts.start, parts.start);
      facts.end = std::max(facts.end, end);
      for (const AttributeRef& each : parts.attributes) {
        const std::string_view key = text_of(texts, each.key);
        if (!keep_rules.ask_for(key)) continue;
        value.clear();
        append_text(value, each);
        keep_rules.note(facts, key, value);
      }
      Rank rank = root;
      if (parts.parent.form != IdRef::Form::none) {
        if (tidy || best.rank == root) return;
        rank = is_there(trace, parts.parent) ? child : orphan;
      }
      if (std::tie(best.rank, best.start) < std::tie(rank, parts.start)) return;
      std::string id = parts.id.string();
      if (std::tie(best.rank, best.start, best.id) < std::tie(rank, parts.start, id)) return;
      best = {rank, parts.start, std::move(id)};
      facts.root = text_of(texts, parts.name);
    };
    SpanParts parts;
    RecordContext context{trace.base, 0, false};
    for_each_record(trace, [&](const std::byte* record, const ChunkArena::Chunk*, std::size_t) {
      read_record(record, context, parts);
      look(parts, parts.end);
    });
    for_each_half(trace, [&](const Half& half, const SpanParts& half_parts) {
      if (half.state == State::ended) return;
      facts.error = true;
      look(half_parts, std::max(half_parts.start, half.state == State::started ? trace.latest : half.given_up));
    });
    facts.service = services.text(trace.service);
  }
  /// Whether the trace has a span of this id, complete or not.
  bool is_there(const KeptTrace& trace, const IdRef& id) const {
    const std::uint64_t hash = hash_of(id);
    const Half* const half = find_half(trace, id, hash);
    return half != nullptr ? half->state != State::ended : contains(trace, id, hash);
  }

  // ── Halves ──

  void add_pending(KeptTrace& trace, std::uint64_t hash, const SpanParts& parts, State state) {
    RecordContext context;
    Half& half = add_half(trace, hash, writer_.write(parts, context));
    half.arrived = now;
    half.state = state;
    half.root = state == State::started && parts.parent.form == IdRef::Form::none;
    if (half.root) ++trace.extra->open_roots;
    pending_.push_back(half);
    be_due(now + options.trace_ttl);
  }
  /// Takes it out of every order; whoever calls gives its chunks back.
  Half* detach(Half& half) noexcept {
    if (half.pending()) {
      pending_.erase(half);
      if (half.root) --half.trace->extra->open_roots;
    } else {
      --half.trace->extra->unfinished;
    }
    unlink(half);
    return &half;
  }
  /// A half that was detached, and is given back at the end of a scope.
  class Detached {
   public:
    Detached(Impl& impl, Half& half) : impl_(impl), half_(impl.detach(half)) {}
    ~Detached() { impl_.give(half_); }
    Detached(const Detached&) = delete;
    Detached& operator=(const Detached&) = delete;

   private:
    Impl& impl_;
    Half* half_;
  };
  void apply_start(KeptTrace& trace, bool known, Half* half, std::uint64_t hash, SpanParts& start) {
    if (known && (half == nullptr || half->state != State::ended)) {
      ++stats.duplicates;
      return;
    }
    bounds.untie(start);
    if (half == nullptr) {
      add_pending(trace, hash, start, State::started);
      return;
    }
    const Detached end_half(*this, *half);
    read_half(*half, half_parts_, half_bytes_);
    bounds.join(start, half_parts_);
    finish(trace, hash, start);
  }
  void apply_end(KeptTrace& trace, bool known, Half* half, std::uint64_t hash, SpanParts& end) {
    if (known && (half == nullptr || half->state == State::ended)) {
      ++stats.duplicates;
      return;
    }
    if (half == nullptr) {
      add_pending(trace, hash, end, State::ended);
      return;
    }
    const bool waited = half->pending();
    const Detached start_half(*this, *half);
    SpanParts& whole = half_parts_;
    read_half(*half, whole, half_bytes_);
    bounds.join(whole, end);
    if (waited) {
      finish(trace, hash, whole);
    } else {  // it was handed on already; now it is known as it was
      count_late(trace);
      append(trace, hash, whole);
    }
  }
  /// Ends the wait for the other half. An end alone is forgotten, and its trace too when nothing else is in it.
  void give_up(Half& half) {
    KeptTrace& trace = *half.trace;
    if (half.state == State::ended) {
      ++stats.ends_without_start;
      forget(half);
      if (trace.stored == 0 && halves_of(trace) == 0 && !trace.completed) erase(trace);
      return;
    }
    pending_.erase(half);
    if (half.root) {
      --trace.extra->open_roots;
      trace.root_ended = true;
    }
    half.state = State::unfinished;
    ++trace.extra->unfinished;
    ++stats.unfinished;
    ++stats.spans;
    if (trace.dropped) ++stats.unkept_spans;
    if (trace.completed) {
      note_change(trace);
    } else {
      trace.last = now;
    }
    SpanParts parts;
    std::vector<std::byte> scratch;
    read_half(half, parts, scratch);
    half.given_up = std::max(parts.start, trace.latest);
    if (on_span && is_wanted(span_wanted)) {
      const std::string trace_id = id_of(trace);
      Span span = reader.to_span(parts, trace_id);
      mark_unfinished(span, half.given_up);
      hand_on(trace_id, span);
    }
    if (bytes_of(trace) > options.max_trace_bytes) {
      ++stats.dropped_spans;
      forget(half);
    }
    update_settling(trace);
  }
  void forget(Half& half) noexcept { give(detach(half)); }
  void give_up_pending(KeptTrace& trace) {
    if (halves_of(trace) == 0) return;
    std::vector<Half*> waiting;
    for (Half* half = trace.extra->first; half != nullptr; half = half->next) {
      if (half->pending()) waiting.push_back(half);
    }
    for (Half* const half : waiting) {
      ++stats.given_up_early;
      give_up(*half);
    }
  }

  // ── Complete spans ──

  static IdRef parent_of(const PackedSpan& span) noexcept { return span.parent_id.valid() ? IdRef::of(span.parent_id) : IdRef{}; }
  static const IdRef& parent_of(const SpanParts& span) noexcept { return span.parent; }
  static const IdRef& parent_of(const LineSpan& span) noexcept { return span.parent; }
  static IdRef id_of(const PackedSpan& span) noexcept { return IdRef::of(span.span_id); }
  static const IdRef& id_of(const SpanParts& span) noexcept { return span.id; }
  static const IdRef& id_of(const LineSpan& span) noexcept { return span.id; }
  std::span<const std::byte> record_of(const LineSpan& span, RecordContext& context) { return writer_.write(span, context, texts); }
  template <class AnySpan>
  std::span<const std::byte> record_of(const AnySpan& span, RecordContext& context) {
    return writer_.write(span, context);
  }

  /// Both halves are there: hands the span on and keeps it, if there is room.
  template <class AnySpan>
  void finish(KeptTrace& trace, std::uint64_t hash, const AnySpan& span) {
    count_late(trace);
    ++stats.spans;
    if (parent_of(span).form == IdRef::Form::none) trace.root_ended = true;
    RecordContext& context = recent_.context_of(trace);
    RecordContext before;
    if (on_span) before = context;
    std::span<const std::byte> record;
    try {
      record = record_of(span, context);
      if (bytes_of(trace) + chunks_to_add(trace, record.size()) * ChunkArena::cost > options.max_trace_bytes) {
        recent_.forget_parent();
        ++stats.dropped_spans;
      } else {
        store(trace, hash, id_of(span), parent_of(span), record);
      }
    } catch (const std::bad_alloc&) {
      recent_.spoil(trace);
      throw;
    }
    if (on_span) hand_on_record(trace, record.data(), before);
  }
  [[gnu::noinline]] void hand_on_record(const KeptTrace& trace, const std::byte* record, RecordContext before) {
    if (!is_wanted(span_wanted)) return;
    while ((static_cast<unsigned>(*record++) & 0x80) != 0) {}  // its size
    const std::string trace_id = id_of(trace);
    SpanParts parts;
    read_record(record, before, parts);
    hand_on(trace_id, reader.to_span(parts, trace_id));
  }
  void append(KeptTrace& trace, std::uint64_t hash, const SpanParts& span) {
    if (trace.dropped) return;
    RecordContext& context = recent_.context_of(trace);
    try {
      store(trace, hash, span.id, span.parent, writer_.write(span, context));
    } catch (const std::bad_alloc&) {
      recent_.spoil(trace);
      throw;
    }
  }
  void count_late(KeptTrace& trace) {
    if (!trace.completed) return;
    ++stats.late;
    if (trace.dropped) return;
    ++extra_of(trace).late;
    note_change(trace);
  }
  void hand_on(const std::string& trace_id, const Span& span) {
    if (!call_guarded(on_span, std::string_view(trace_id), span)) ++stats.failed_callbacks;
  }
  bool is_wanted(const std::function<bool()>& wanted) {
    if (!wanted) return true;
    bool yes = true;
    const auto ask = [&] { yes = wanted(); };
    if (!call_guarded(ask)) ++stats.failed_callbacks;
    return yes;
  }

  void store(KeptTrace& trace, std::uint64_t hash, const IdRef& id, const IdRef& parent, std::span<const std::byte> record) {
    if (trace.tidy) {
      recent_.relate(*this, trace, id, parent);
    } else if (trace.dropped) {
      ++stats.unkept_spans;
      return;
    }
    add_record(trace, hash, record);
  }

  // ── Trees ──

  /// False: there are ids of another form.
  bool count_in(const KeptTrace& trace, Forest& forest) const {
    std::vector<ForestNode> nodes;
    nodes.reserve(trace.stored + halves_of(trace));
    bool plain = true;
    const auto add = [&](const SpanParts& parts) {
      plain = plain && parts.id.form == IdRef::Form::hex && parts.parent.form != IdRef::Form::text;
      nodes.push_back({parts.start, parts.id.value, parts.parent.value, parts.parent.form == IdRef::Form::hex});
    };
    SpanParts parts;
    RecordContext context{trace.base, 0, false};
    for_each_record(trace, [&](const std::byte* record, const ChunkArena::Chunk*, std::size_t) {
      read_record(record, context, parts);
      add(parts);
    });
    for_each_half(trace, [&](const Half& half, const SpanParts& half_parts) {
      if (half.state != State::ended) add(half_parts);
    });
    if (plain) forest = count_forest(std::move(nodes));
    return plain;
  }

  TimePoint due_ = TimePoint::max();  // nothing is due before
  RecentTrace recent_;
  RecordWriter writer_;
  SpanParts parts_, half_parts_;
  std::vector<std::byte> half_bytes_;
};

SpanStore::SpanStore(TraceStoreOptions options) {
  const auto representable = [](auto duration) {
    return std::clamp(duration, decltype(duration){0}, std::chrono::duration_cast<decltype(duration)>(std::chrono::hours{24 * 3650}));
  };
  options.settle = representable(options.settle);
  options.trace_ttl = representable(options.trace_ttl);
  options.max_age = representable(options.max_age);
  impl_ = std::make_unique<Impl>(options);
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

void SpanStore::on_trace_changed(std::function<void(const Trace&)> callback) { impl_->on_change = std::move(callback); }

std::uint32_t SpanStore::intern(std::string_view text) { return impl_->texts.intern(text); }
std::uint32_t SpanStore::intern_service(std::string_view service) { return impl_->services.intern(service); }

void SpanStore::apply(const PackedSpan& span, std::uint32_t service, TimePoint now) {
  impl_->advance(now);
  impl_->apply(span, service);
}

void SpanStore::apply_open(const PackedSpan& span, std::uint32_t service, TimePoint now) {
  impl_->advance(now);
  impl_->apply_open(span, service);
}

void SpanStore::apply_unfinished(const PackedSpan& span, std::uint32_t service, TimePoint now) {
  impl_->advance(now);
  impl_->apply_unfinished(span, service);
}

void SpanStore::apply(const EventView& event, std::uint32_t service, TimePoint now) {
  impl_->advance(now);
  impl_->apply(event, service);
}

void SpanStore::apply(const EventView& start, const EventView& end, std::uint32_t service, TimePoint now) {
  impl_->advance(now);
  impl_->apply(start, end, service);
}

void SpanStore::apply(const Event& event, std::string_view service, TimePoint now) {
  apply(view_of(event, impl_->event_attributes), intern_service(service), now);
}

bool SpanStore::restore(const Trace& trace, TimePoint completed, TimePoint now) {
  impl_->advance(now);
  return impl_->restore(trace, completed);
}

void SpanStore::advance(TimePoint now) { impl_->advance(now); }
SpanStore::TimePoint SpanStore::next_deadline() const { return impl_->next_deadline(); }
void SpanStore::complete_all(TimePoint now) { impl_->complete_all(now); }

std::map<std::string, std::vector<Span>> SpanStore::traces() const { return impl_->all_traces(); }
Replay SpanStore::last_traces(std::size_t count, std::size_t max_bytes) const { return impl_->last_traces(count, max_bytes); }

TraceStoreStats SpanStore::stats() const {
  TraceStoreStats stats = impl_->stats;
  stats.pending = impl_->pending_.size;
  stats.open_traces = impl_->open_.size;
  stats.kept_traces = impl_->completed_.size;
  stats.bytes = impl_->bytes();
  stats.overflowed_texts = impl_->texts.overflowed() + impl_->services.overflowed();
  return stats;
}

}  // namespace weir::inline v0::detail
