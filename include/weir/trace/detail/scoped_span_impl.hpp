#pragma once
// The bodies of ScopedSpan. begin(), put(), write() and end() are the hot path; everything else is out of line.

#include <bit>

#include "weir/trace/scoped_span.hpp"
#include "weir/trace/tracer.hpp"

namespace weir::inline v0 {

inline ScopedSpan::ScopedSpan(Tracer& tracer, Name name, SpanKind kind) noexcept {
  tracer_id_ = tracer.entry_.active_id.load(std::memory_order_relaxed);
  if (tracer_id_ == detail::Process::off_id) return;
  detail::ThreadState& thread = detail::thread_state;
  detail::ThreadRing* ring = thread.ring;
  if (thread.tracer_id != tracer_id_ || !thread.sampled()) [[unlikely]] {
    ring = thread.sampled() ? tracer.attach(tracer_id_) : nullptr;
    if (ring == nullptr) {
      thread_ = &thread;
      decline(detail::position());
      return;
    }
  }
  root_ = !thread.trace.valid();
  if (root_) thread.trace = ring->next_trace_id();
  flags_ = thread.flags;
  begin(*ring, thread.trace, thread.span, name, kind);
  thread_ = &thread;
  thread.span = SpanId{record_.span};
}

inline ScopedSpan::ScopedSpan(Tracer& tracer, const Context& parent, Name name, SpanKind kind) noexcept
    : data_(detail::ContextAccess::data(parent)), operation_(detail::ContextAccess::operation(parent)) {
  tracer_id_ = tracer.entry_.active_id.load(std::memory_order_relaxed);
  if (tracer_id_ == detail::Process::off_id) [[unlikely]] {
    decline(detail::ContextAccess::position(parent));
    return;
  }
  const detail::ThreadState& thread = detail::thread_state;
  detail::ThreadRing* ring = thread.ring;
  if (thread.tracer_id != tracer_id_ || !parent.sampled()) [[unlikely]] {
    ring = parent.sampled() ? tracer.attach(tracer_id_) : nullptr;
    if (ring == nullptr) {
      decline(detail::ContextAccess::position(parent));
      return;
    }
  }
  flags_ = parent.trace_flags();
  begin(*ring, parent.valid() ? parent.trace_id() : ring->next_trace_id(), parent.span_id(), name, kind);
}

inline void ScopedSpan::begin(detail::ThreadRing& ring, TraceId trace, SpanId parent, const Name& name, SpanKind kind) noexcept {
  limits_ = ring.limits();
  attributes_ = inline_;
  record_.trace_high = trace.high;
  record_.trace_low = trace.low;
  record_.parent = parent.value;
  record_.span = ring.next_span_id().value;
  record_.name = ring.name_id(name);
  record_.kind = static_cast<std::int32_t>(kind);
  record_.start = ring.ticks();
  slot_ = static_cast<std::uint8_t>(ring.open_slot(record_));
  state_ = slot_ != detail::no_slot ? State::plain : State::special;
  ring_ = &ring;
}

[[gnu::noinline, gnu::cold]] inline void ScopedSpan::decline(const detail::Position& parent) noexcept {
  record_.trace_high = parent.trace.high;
  record_.trace_low = parent.trace.low;
  record_.span = parent.span.value;
  flags_ = parent.flags;
  state_ = State::done;
}

inline Context ScopedSpan::context() const noexcept {
  if (state_ == State::off) return Context::current();
  const detail::Position position{TraceId{record_.trace_high, record_.trace_low}, SpanId{record_.span}, flags_};
  if (thread_ == &detail::thread_state) {
    bool outside = false;  // asked for this span, one says what is nearest
    return detail::ContextAccess::make(position, detail::ContextDataRef::share(thread_->data), detail::OperationRef::capture(outside));
  }
  return detail::ContextAccess::make(position, data_, operation_);
}

[[gnu::always_inline]] inline void ScopedSpan::set(Name key, AttributeValue value) noexcept {  // inline: the switch folds away
  if (state_ <= State::done) [[unlikely]]
    return;
  detail::ThreadRing* ring = detail::thread_state.ring;  // any ring of this thread: ids are the process's
  const std::uint32_t id = ring != nullptr ? ring->name_id(key) : detail::name_table().intern(key.view());
  switch (value.type()) {
    case AttributeValue::Type::string: return put_text(id, value.text());
    case AttributeValue::Type::integer: return put_word(id, value.type(), static_cast<std::uint64_t>(value.integer()));
    case AttributeValue::Type::real: return put_word(id, value.type(), std::bit_cast<std::uint64_t>(value.real()));
    case AttributeValue::Type::boolean: return put_word(id, value.type(), value.boolean() ? 1 : 0);
  }
}

[[gnu::always_inline]] inline void ScopedSpan::put_word(std::uint32_t key, AttributeValue::Type type, std::uint64_t word) noexcept {
  if (count_ >= limits_.count || capacity_ - size_ < 16) [[unlikely]] {
    if (!make_room_slowly(key, 16)) return;
  }
  std::byte* out = attributes_ + size_;
  const std::uint64_t head = detail::attribute_word(key, static_cast<std::uint64_t>(type), sizeof word);
  std::memcpy(out, &head, sizeof head);
  std::memcpy(out + sizeof head, &word, sizeof word);
  size_ += 16;
  ++count_;
}

[[gnu::always_inline]] inline void ScopedSpan::put_text(std::uint32_t key, std::string_view text) noexcept {
  if (text.size() > limits_.bytes) [[unlikely]] {
    text = detail::cut_text(text, limits_.bytes);
    ++truncated_;
    state_ = State::special;
  }
  if (count_ >= limits_.count || capacity_ - size_ < 16 + text.size()) [[unlikely]] {
    if (!make_room_slowly(key, 16 + text.size())) return;
  }
  std::byte* out = attributes_ + size_;
  const std::uint64_t head = detail::attribute_word(key, static_cast<std::uint64_t>(AttributeValue::Type::string), text.size());
  std::memcpy(out, &head, sizeof head);
  detail::copy_padded(out + sizeof head, text);
  size_ += static_cast<std::uint32_t>(sizeof head + detail::padded(text.size()));
  ++count_;
}

/// For one more attribute. False: it is left out, and counted.
[[gnu::noinline, gnu::cold]] inline bool ScopedSpan::make_room_slowly(std::uint32_t key, std::size_t bytes) noexcept {
  state_ = State::special;
  merge_equal_keys();
  if (count_ >= limits_.count) {  // full, but a value that is there already may still change
    for (std::size_t at = 0; at < size_;) {
      std::uint64_t word = 0;
      std::memcpy(&word, attributes_ + at, sizeof word);
      const std::size_t step = 8 + detail::padded(detail::attribute_bytes(word));
      if (detail::attribute_key(word) == key) {
        std::memmove(attributes_ + at, attributes_ + at + step, size_ - at - step);
        size_ -= static_cast<std::uint32_t>(step);
        --count_;
        break;
      }
      at += step;
    }
  }
  if (count_ < limits_.count && make_room(bytes)) return true;
  ++truncated_;
  return false;
}

/// Keeps the last value of each key.
[[gnu::noinline, gnu::cold]] inline void ScopedSpan::merge_equal_keys() noexcept {
  std::size_t kept = 0;
  for (std::size_t at = 0; at < size_;) {
    std::uint64_t word = 0;
    std::memcpy(&word, attributes_ + at, sizeof word);
    const std::size_t step = 8 + detail::padded(detail::attribute_bytes(word));
    bool again = false;
    for (std::size_t later = at + step; later < size_ && !again;) {
      std::uint64_t other = 0;
      std::memcpy(&other, attributes_ + later, sizeof other);
      again = detail::attribute_key(other) == detail::attribute_key(word);
      later += 8 + detail::padded(detail::attribute_bytes(other));
    }
    if (again) {
      --count_;
    } else {
      std::memmove(attributes_ + kept, attributes_ + at, step);
      kept += step;
    }
    at += step;
  }
  size_ = static_cast<std::uint32_t>(kept);
}

[[gnu::noinline, gnu::cold]] inline bool ScopedSpan::make_room(std::size_t bytes) noexcept {
  if (capacity_ - size_ >= bytes) return true;
  if (size_ + bytes > max_attribute_bytes) return false;
  const std::size_t wanted = std::min(max_attribute_bytes, std::max(std::size_t{capacity_} * 2, size_ + bytes));
  auto* larger = static_cast<std::byte*>(std::malloc(wanted + 16));
  if (larger == nullptr) return false;
  std::memcpy(larger, attributes_, size_);
  if (attributes_ != inline_) std::free(attributes_);
  attributes_ = larger;
  capacity_ = static_cast<std::uint32_t>(wanted);
  return true;
}

inline bool ScopedSpan::write(detail::ThreadRing& ring) noexcept {
  const std::uint64_t end = ring.ticks();
  const std::uint64_t bytes = (sizeof record_ + size_ + detail::record_alignment - 1) & ~(detail::record_alignment - 1);
  std::byte* out = ring.reserve(bytes);
  if (out == nullptr) [[unlikely]]
    return false;
  const std::uint64_t header = detail::record_header(bytes, detail::RecordType::span, count_, record_.name);
  std::memcpy(out, &header, sizeof header);
  std::memcpy(out + 8, &end, sizeof end);
  std::memcpy(out + 16, reinterpret_cast<const std::byte*>(&record_) + 16, sizeof record_ - 16);
  const std::uint64_t zero = 0;
  std::memcpy(attributes_ + size_, &zero, sizeof zero);  // the copy below ends at a multiple of 16
  for (std::size_t at = 0; at < bytes - sizeof record_; at += 16) std::memcpy(out + sizeof record_ + at, attributes_ + at, 16);
  ring.commit(bytes);
  return true;
}

inline void ScopedSpan::end() noexcept {
  if (state_ == State::off) return;
  detail::ThreadState& thread = detail::thread_state;
  if (state_ != State::plain || ring_ != thread.ring) [[unlikely]]
    return end_slowly();
  state_ = State::done;
  write(*ring_);
  ring_->close_slot(slot_);
  if (thread_ != nullptr) restore_context(thread);
}

inline void ScopedSpan::restore_context(detail::ThreadState& thread) const noexcept {
  if (thread.span.value != record_.span) [[unlikely]] {
    return detail::note_ended(thread, SpanId{record_.span}, root_ ? TraceId{} : TraceId{record_.trace_high, record_.trace_low},
                              SpanId{record_.parent});
  }
  thread.span.value = record_.parent;
  if (root_) thread.trace = {};
  if (thread.ended_count != 0) [[unlikely]]
    detail::skip_ended(thread);
}

[[gnu::noinline, gnu::cold]] inline void ScopedSpan::end_slowly() noexcept {
  if (state_ == State::done) return;
  state_ = State::done;
  detail::ThreadState& thread = detail::thread_state;
  const bool slotted = slot_ != detail::no_slot;
  if (!slotted || ring_->generation() == detail::process().generation()) {  // else the parent process tells of it
    detail::ThreadRing* ring = thread.tracer_id == tracer_id_ ? thread.ring : detail::process().attach(tracer_id_);
    if (ring != nullptr) {
      if (truncated_ != 0) ring->count_truncated(truncated_);
      write(*ring);
    }
    if (slotted && ring == ring_) {
      ring_->close_slot(slot_);
    } else if (slotted) {
      ring_->abandon_slot(slot_);
    }
  }
  if (attributes_ != inline_) std::free(attributes_);
  attributes_ = inline_;
  if (thread_ == &thread) restore_context(thread);
}

}  // namespace weir::inline v0
