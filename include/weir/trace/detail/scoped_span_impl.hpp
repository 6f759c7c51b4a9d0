#pragma once
// The bodies of ScopedSpan that begin and end a span (scoped_span_attributes.hpp: what it gathers). What is usual is the hot path;
// everything else is out of line.

#include <cstdlib>
#include <cstring>

#include "weir/trace/scoped_span.hpp"
#include "weir/trace/tracer.hpp"

namespace weir::inline v0 {

[[gnu::always_inline]] inline ScopedSpan::ScopedSpan(Tracer& tracer, Name name, SpanKind kind) noexcept {
  if (!tracer.off()) start(tracer, name, kind);
}

inline ScopedSpan::ScopedSpan(Tracer& tracer, Name name, SpanKind kind, Attributes attributes) noexcept {
  if (tracer.off()) return;
  thread_ = &detail::thread_state;
  start_slowly(tracer, name, kind, &attributes);
  set_all(attributes);
}

inline ScopedSpan::ScopedSpan(Tracer& tracer, const Context& parent, Name name, SpanKind kind) noexcept {
  start_under(parent, tracer, name, kind, nullptr);
}

inline ScopedSpan::ScopedSpan(Tracer& tracer, const Context& parent, Name name, SpanKind kind, Attributes attributes) noexcept {
  start_under(parent, tracer, name, kind, &attributes);
  set_all(attributes);
}

/// Only says where to go: so none of the ways pays for what another keeps.
[[gnu::noinline]] inline void ScopedSpan::start(Tracer& tracer, Name name, SpanKind kind) noexcept {
  detail::ThreadState& thread = detail::thread_state;
  thread_ = &thread;
  const std::uint8_t flags = thread.flags;
  if ((flags & ~detail::flag_random) == detail::flag_sampled) {
    if (thread.trace.valid()) return start_child(tracer, name, kind);
    return start_root(tracer, name, kind);
  }
  if ((flags & ~detail::flag_random) == 0) return decline(detail::position());
  start_slowly(tracer, name, kind, nullptr);
}

/// What is usual, and nothing that would have to be called.
[[gnu::noinline]] inline void ScopedSpan::start_child(Tracer& tracer, Name name, SpanKind kind) noexcept {
  const std::uint64_t tracer_id = tracer.entry_.active_id.load(std::memory_order_relaxed);
  if (detail::thread_state.tracer_id != tracer_id || !begin_child(tracer_id, name, kind)) [[unlikely]]
    return start_slowly(tracer, name, kind, nullptr);
  if (slot_ == detail::no_slot) [[unlikely]]
    return begin_without_slot(tracer_id);
}

/// False, and nothing has happened: its name is not at hand, or a signal handler made a span of another tracer meanwhile.
[[gnu::always_inline]] inline bool ScopedSpan::begin_child(std::uint64_t tracer_id, Name name, SpanKind kind) noexcept {
  detail::ThreadState& thread = detail::thread_state;
  const detail::SpanSection section(thread, detail::SpanSection::Outermost{});
  if (thread.ring_tracer != tracer_id) [[unlikely]]
    return false;
  detail::ThreadRing& ring = *thread.ring;
  const std::uint32_t* const known = ring.known_name(name);
  if (known == nullptr) [[unlikely]]
    return false;
  flags_ = thread.flags;
  first_ = false;
  const SpanId span = ring.next_span_id();
  begin(ring, thread.trace, thread.span, *known, kind, span);
  thread.span = span;
  return true;
}

/// The first span of a trace that begins here. With nothing kept over a call where it is not recorded.
[[gnu::noinline]] inline void ScopedSpan::start_root(Tracer& tracer, Name name, SpanKind kind) noexcept {
  const detail::ThreadState& thread = detail::thread_state;
  const std::uint64_t word = tracer.entry_.sampling.load(std::memory_order_relaxed);
  const std::uint64_t tracer_id = tracer.entry_.active_id.load(std::memory_order_relaxed);
  const bool usual = thread.tracer_id == tracer_id && thread.flags == detail::new_trace_flags && !thread.span.valid();
  if ((word & Sampler::asks) != 0 || !usual) [[unlikely]]
    return start_slowly(tracer, name, kind, nullptr);
  if (Sampler::takes_all(word) || !begin_not_sampled(tracer_id, word)) start_sampled_root(tracer, name, kind);
}

/// False, and nothing has happened: the trace may be recorded.
[[gnu::always_inline]] inline bool ScopedSpan::begin_not_sampled(std::uint64_t tracer_id, std::uint64_t word) noexcept {
  detail::ThreadState& thread = detail::thread_state;
  const detail::SpanSection section(thread, detail::SpanSection::Outermost{});
  if (thread.ring_tracer != tracer_id) [[unlikely]]
    return false;
  detail::ThreadRing& ring = *thread.ring;
  const SpanId span = ring.peek_span_id();
  const TraceId trace = ring.trace_id_of(span);
  if (Sampler::below(trace, word)) return false;
  std::atomic_signal_fence(std::memory_order_seq_cst);  // what is read again below need not be kept
  ring.take_span_id();
  ring.count_not_sampled();
  record_.trace_high = thread.trace.high = trace.high;
  record_.trace_low = thread.trace.low = trace.low;
  record_.span = thread.span.value = span.value;
  flags_ = thread.flags = detail::flag_random;
  state_ = State::root_not_sampled;
  return true;
}

[[gnu::noinline]] inline void ScopedSpan::start_sampled_root(Tracer& tracer, Name name, SpanKind kind) noexcept {
  const std::uint64_t tracer_id = tracer.entry_.active_id.load(std::memory_order_relaxed);
  const std::uint64_t word = tracer.entry_.sampling.load(std::memory_order_relaxed);
  if (detail::thread_state.tracer_id != tracer_id || !begin_sampled_root(tracer_id, word, name, kind)) [[unlikely]]
    return start_slowly(tracer, name, kind, nullptr);
  if (slot_ == detail::no_slot) [[unlikely]]
    return begin_without_slot(tracer_id);
}

/// False, and nothing has happened: as with a child, or the trace is not to be recorded, since the sampler has changed or a
/// signal handler took the id that was.
[[gnu::always_inline]] inline bool ScopedSpan::begin_sampled_root(std::uint64_t tracer_id, std::uint64_t word, Name name,
                                                                  SpanKind kind) noexcept {
  detail::ThreadState& thread = detail::thread_state;
  const detail::SpanSection section(thread, detail::SpanSection::Outermost{});
  if (thread.ring_tracer != tracer_id) [[unlikely]]
    return false;
  detail::ThreadRing& ring = *thread.ring;
  const std::uint32_t* const known = ring.known_name(name);
  if (known == nullptr) [[unlikely]]
    return false;
  const SpanId span = ring.peek_span_id();
  const TraceId trace = ring.trace_id_of(span);
  if (!Sampler::below(trace, word)) [[unlikely]]
    return false;
  ring.take_span_id();
  root_ = first_ = true;
  flags_ = previous_flags_ = thread.flags;
  begin(ring, trace, thread.span, *known, kind, span);
  thread.trace = trace;
  thread.span = span;
  return true;
}

[[gnu::noinline]] inline void ScopedSpan::start_slowly(Tracer& tracer, Name name, SpanKind kind, const Attributes* attributes) noexcept {
  detail::ThreadState& thread = detail::thread_state;
  if (tracer.declines(thread.flags)) return decline(detail::position());
  const detail::SpanSection section(thread);
  if (tracer.attach(section) == nullptr) return refuse(section, detail::position());
  detail::ThreadRing& ring = *thread.ring;
  const SpanId span = ring.next_span_id(), parent = thread.span;
  const std::uint8_t flags = thread.flags;
  root_ = !thread.trace.valid();
  first_ = root_ || flags >= detail::flag_remote;
  flags_ = flags;
  if (first_) {
    previous_flags_ = flags;
    if (root_) thread.trace = ring.trace_id_of(span);
    const bool sampled = tracer.samples(thread.trace, flags, name, attributes);
    flags_ = static_cast<std::uint8_t>((flags & detail::flag_random) | (sampled ? detail::flag_sampled : 0));
    thread.flags = flags_;
    if (!sampled) {
      record_.parent = parent.value;
      decline({thread.trace, span, flags_});
      state_ = State::not_sampled;
      thread.span = span;
      return;
    }
  }
  begin(ring, thread.trace, parent, ring.name_id(name), kind, span);
  if (slot_ == detail::no_slot) begin_without_slot(thread.ring_tracer);
  thread.span = span;
}

[[gnu::noinline]] inline void ScopedSpan::start_under(const Context& parent, Tracer& tracer, Name name, SpanKind kind,
                                                      const Attributes* attributes) noexcept {
  detail::ThreadState& thread = detail::thread_state;
  ::new (&parent_) Parent{detail::ContextAccess::data(parent), detail::ContextAccess::operation(parent)};
  thread_ = nullptr;
  const detail::Position position = detail::ContextAccess::position(parent);
  if (tracer.off() || tracer.declines(position.flags)) return decline(position);
  const detail::SpanSection section(thread);
  if (tracer.attach(section) == nullptr) return refuse(section, position);
  detail::ThreadRing& ring = *thread.ring;
  const SpanId span = ring.next_span_id();
  TraceId trace = position.trace;
  flags_ = position.flags;
  if (!trace.valid() || position.flags >= detail::flag_remote) {
    if (!trace.valid()) trace = ring.trace_id_of(span);
    const bool sampled = tracer.samples(trace, position.flags, name, attributes);
    flags_ = static_cast<std::uint8_t>((position.flags & detail::flag_random) | (sampled ? detail::flag_sampled : 0));
    if (!sampled) return decline({trace, span, flags_});
  }
  begin(ring, trace, position.span, ring.name_id(name), kind, span);
  if (slot_ == detail::no_slot) begin_without_slot(thread.ring_tracer);
}

[[gnu::always_inline]] inline void ScopedSpan::begin(detail::ThreadRing& ring, TraceId trace, SpanId parent, std::uint32_t name,
                                                     SpanKind kind, SpanId span) noexcept {
  begin_ = inline_;
  count_ = size_ = 0;
  quick_end_ = ring.quick_end();
  record_.trace_high = trace.high;
  record_.trace_low = trace.low;
  record_.parent = parent.value;
  record_.span = span.value;
  record_.name = name;
  record_.kind = static_cast<std::int32_t>(kind);
  record_.start = ring.ticks();
  ring_ = &ring;
  state_ = State::plain;
  slot_ = static_cast<std::uint8_t>(ring.try_open_slot(record_));
}

[[gnu::noinline, gnu::cold]] inline void ScopedSpan::begin_without_slot(std::uint64_t tracer_id) noexcept {
  {
    const detail::SpanSection section(detail::thread_state);
    slot_ = static_cast<std::uint8_t>(ring_->open_slot(record_));
  }
  if (slot_ != detail::no_slot) return;
  become_special();
  tracer_id_ = tracer_id;
  generation_ = detail::process().generation();
}

/// Requires: it is plain, or special already.
[[gnu::noinline, gnu::cold]] inline void ScopedSpan::become_special() noexcept {
  if (state_ == State::special) return;
  state_ = State::special;
  limits_ = ring_->limits();
  truncated_ = 0;
}

/// Not recorded.
[[gnu::always_inline]] inline void ScopedSpan::decline(const detail::Position& parent) noexcept {
  record_.trace_high = parent.trace.high;
  record_.trace_low = parent.trace.low;
  record_.span = parent.span.value;
  flags_ = parent.flags;
  state_ = ended();
}

/// There is no ring for it.
[[gnu::noinline, gnu::cold]] inline void ScopedSpan::refuse(const detail::SpanSection& section, const detail::Position& parent) noexcept {
  // In a signal handler that came while its thread was moving the ambient context: there is none to speak of.
  decline(section.nested() && thread_ != nullptr ? detail::Position{{}, {}, 0} : parent);
}

inline Context ScopedSpan::context() const noexcept {
  if (state_ == State::off) return Context::current();
  const detail::Position position{TraceId{record_.trace_high, record_.trace_low}, SpanId{record_.span}, flags_};
  if (thread_ == nullptr) return detail::ContextAccess::make(position, parent_.data, parent_.operation);
  if (thread_ != &detail::thread_state) return detail::ContextAccess::make(position, {}, {});
  bool outside = false;  // asked for this span, one says what is nearest
  return detail::ContextAccess::make(position, detail::ContextDataRef::share(thread_->data), detail::OperationRef::capture(outside));
}

/// Whether it may end the usual way: in this thread's ring, and not in the middle of another span's begin or end.
[[gnu::always_inline]] inline bool ScopedSpan::quick() const noexcept {
  const detail::ThreadState& thread = detail::thread_state;
  return state_ == State::plain && ring_ == thread.ring && thread.tracer_id != detail::SpanSection::busy_id;
}

/// Requires: room in the ring, and for 16 bytes more after the attributes.
[[gnu::always_inline]] inline void ScopedSpan::write(detail::ThreadRing& ring, const std::byte* attributes) noexcept {
  const std::uint64_t end = ring.ticks();
  const std::uint64_t bytes = record_bytes();
  std::byte* out = ring.place();
  const std::uint64_t header = detail::record_header(bytes, detail::RecordType::span, count_, record_.name);
  std::memcpy(out, &header, sizeof header);
  std::memcpy(out + 8, &end, sizeof end);
  std::memcpy(out + 16, reinterpret_cast<const std::byte*>(&record_) + 16, sizeof record_ - 16);
  for (std::size_t at = 0; at < bytes - sizeof record_; at += 16) std::memcpy(out + sizeof record_ + at, attributes + at, 16);
  ring.commit(bytes);
}

[[gnu::noinline]] inline void ScopedSpan::destroy_recorded() noexcept {
  if (!quick() || !end_quickly(State::plain)) [[unlikely]]
    return destroy_slowly();
  if (thread_ == nullptr) parent_.~Parent();
}

/// Requires: quick(). False, and nothing has happened: the ring has no room at hand.
[[gnu::always_inline]] inline bool ScopedSpan::end_quickly(State next) noexcept {
  detail::ThreadState& thread = detail::thread_state;
  const detail::SpanSection section(thread, detail::SpanSection::Outermost{});
  if (!ring_->has_room(sizeof record_ + inline_bytes + detail::record_alignment)) [[unlikely]]
    return false;
  state_ = next;
  const std::uint64_t zero = 0;
  std::memcpy(inline_ + size_, &zero, sizeof zero);  // what is copied ends at a multiple of 16
  write(*ring_, inline_);
  ring_->close_slot(slot_);
  if (thread_ != nullptr) restore_context(thread);
  return true;
}

/// Of a span that nobody looks at any more.
[[gnu::noinline]] inline void ScopedSpan::destroy() noexcept {
  if (state_ == State::root_not_sampled) return destroy_not_sampled();
  destroy_recorded();
}

[[gnu::always_inline]] inline void ScopedSpan::destroy_not_sampled() noexcept {
  detail::ThreadState& thread = detail::thread_state;
  const bool busy = thread.tracer_id == detail::SpanSection::busy_id;
  if (thread_ != &thread || busy || thread.span.value != record_.span || thread.ended_count != 0) [[unlikely]]
    return destroy_slowly();
  // In this order, a signal handler finds what this span left, or no trace in which nothing is recorded, or what was before.
  thread.trace = {};
  std::atomic_signal_fence(std::memory_order_seq_cst);
  thread.span = {};
  std::atomic_signal_fence(std::memory_order_seq_cst);
  thread.flags = detail::new_trace_flags;
}

[[gnu::noinline]] inline void ScopedSpan::destroy_slowly() noexcept {
  if (state_ > State::with_parent) finish_slowly();
  if (state_ == State::with_parent) parent_.~Parent();
}

[[gnu::noinline]] inline void ScopedSpan::finish() noexcept {
  if (!quick() || !end_quickly(ended())) finish_slowly();
}

/// Requires: a SpanSection.
[[gnu::always_inline]] inline void ScopedSpan::restore_context(detail::ThreadState& thread) noexcept {
  if (thread.span.value != record_.span || thread.ended_count != 0) [[unlikely]]
    return restore_context_slowly();
  thread.span.value = record_.parent;
  if (!first_) return;
  thread.flags = previous_flags_;
  if (root_) thread.trace = {};
}

[[gnu::noinline]] inline void ScopedSpan::restore_context_slowly() noexcept {
  detail::ThreadState& thread = detail::thread_state;
  const detail::SpanSection section(thread);
  const std::uint8_t flags = first_ ? previous_flags_ : flags_;
  if (thread.span.value != record_.span) {
    const TraceId trace = first_ && root_ ? TraceId{} : TraceId{record_.trace_high, record_.trace_low};
    return detail::note_ended(thread, SpanId{record_.span}, {trace, SpanId{record_.parent}, flags});
  }
  thread.span.value = record_.parent;
  thread.flags = flags;
  if (first_ && root_) thread.trace = {};
  if (thread.ended_count != 0) detail::skip_ended(thread);
}

[[gnu::noinline]] inline void ScopedSpan::finish_slowly() noexcept {
  detail::ThreadState& thread = detail::thread_state;
  const bool reentrant = thread.tracer_id == detail::SpanSection::busy_id;
  const State state = state_;
  state_ = ended();
  if (state == State::root_not_sampled) {
    root_ = first_ = true;
    previous_flags_ = detail::new_trace_flags;
    record_.parent = 0;
  } else if (state != State::not_sampled) {
    const bool slotted = slot_ != detail::no_slot;
    const std::uint64_t tracer_id = slotted ? ring_->tracer_id() : tracer_id_;
    if ((slotted ? ring_->generation() : generation_) == detail::process().generation()) {  // else the parent process tells of it
      const detail::SpanSection section(thread);
      detail::ThreadRing* ring = nullptr;
      if (section.nested()) {
        detail::Process::drop_reentrant(slotted ? ring_ : nullptr, tracer_id);
      } else {
        ring = thread.ring_tracer == tracer_id ? thread.ring : detail::process().attach(tracer_id);
      }
      if (ring != nullptr) {
        if (state == State::special && truncated_ != 0) ring->count_truncated(truncated_);
        const std::uint64_t zero = 0;
        std::memcpy(begin_ + size_, &zero, sizeof zero);
        if (ring->reserve(record_bytes())) write(*ring, begin_);
      }
      if (slotted && ring == ring_) {
        ring_->close_slot(slot_);
      } else if (slotted) {
        ring_->abandon_slot(slot_);
      }
    }
    if (begin_ != inline_) std::free(begin_);
  }
  if (thread_ == &thread && !reentrant) restore_context_slowly();
}

}  // namespace weir::inline v0
