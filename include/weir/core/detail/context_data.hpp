#pragma once
// What stands behind a Context: the state that each thread carries, and what a context holds by counted reference.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "weir/core/ids.hpp"

namespace weir::inline v0 {

class Operation;

namespace detail {

class ThreadRing;
struct ContextData;

/// W3C Trace Context, 3.2.2.5.
inline constexpr std::uint8_t flag_sampled = 1, flag_random = 2;
/// Of our own, never sent: the trace came in with its header, or began with the context. Either way no span of it was here yet.
inline constexpr std::uint8_t flag_remote = 0x40, flag_fresh = 0x80;
inline constexpr std::uint8_t sent_flags = flag_sampled | flag_random;
/// Where there is no trace: those of the trace that begins here.
inline constexpr std::uint8_t new_trace_flags = flag_sampled | flag_random;

/// What a thread carries. Trivially destructible and constant-initialized: usable from the first to the last instruction
/// of a thread, thread_local destructors and atexit handlers included.
struct ThreadState {
  // The ambient context.
  TraceId trace;
  SpanId span;
  std::uint8_t flags = new_trace_flags;
  std::uint8_t ended_count = 0;       // of `ended`
  const ContextData* data = nullptr;  // borrowed from the innermost ContextScope
  // The ring this thread last wrote to, which tracer it belongs to (in `tracer_id` only outside of a SpanSection; both change
  // in one alone), and all rings of this thread (trace/detail/attach.hpp).
  std::uint64_t tracer_id = 0, ring_tracer = 0;
  ThreadRing* ring = nullptr;
  ThreadRing* rings = nullptr;
  // Of activities (activity/activity.hpp): the ids that this thread may still give, and memory for the next.
  std::uint64_t next_activity = 0, activities_end = 0;
  void* spare_block = nullptr;  // freed with the thread's slot (operation/detail/slot.hpp)
  // The operation that was current when the innermost ContextScope began: spans of it and of those above it are not as near
  // as the ambient one. Only compared, never followed.
  const Operation* scoped_under = nullptr;
  // Spans that ended while others, begun under them, were still current: who restores one of these restores what was
  // current before it instead. (Values, not pointers: nothing dangles when a span is destroyed where it should not be.)
  struct Ended {
    SpanId span;
    TraceId previous_trace;
    SpanId previous_span;
    std::uint8_t previous_flags;
  };
  Ended ended[8] = {};

  bool sampled() const noexcept { return (flags & flag_sampled) != 0; }
};

WEIR_SHARED_STATE inline constinit thread_local ThreadState thread_state{};

/// Where in which trace: of the ambient context, what spans move.
struct Position {
  TraceId trace;
  SpanId span;
  std::uint8_t flags = new_trace_flags;
};

inline Position position() noexcept { return {thread_state.trace, thread_state.span, thread_state.flags}; }
inline void set_position(const Position& position) noexcept {
  thread_state.trace = position.trace;
  thread_state.span = position.span;
  thread_state.flags = position.flags;
}

/// `span` ended out of order.
inline void note_ended(ThreadState& thread, SpanId span, const Position& previous) noexcept {
  constexpr std::size_t capacity = sizeof thread.ended / sizeof thread.ended[0];
  if (thread.ended_count == capacity) {  // forget the oldest
    for (std::size_t i = 1; i < capacity; ++i) thread.ended[i - 1] = thread.ended[i];
    --thread.ended_count;
  }
  thread.ended[thread.ended_count++] = {span, previous.trace, previous.span, previous.flags};
}

/// Moves the ambient context off spans that have ended.
inline void skip_ended(ThreadState& thread) noexcept {
  for (std::size_t i = thread.ended_count; i-- > 0;) {
    if (thread.ended[i].span != thread.span || !thread.span.valid()) continue;
    thread.trace = thread.ended[i].previous_trace;
    thread.span = thread.ended[i].previous_span;
    thread.flags = thread.ended[i].previous_flags;
    for (std::size_t j = i + 1; j < thread.ended_count; ++j) thread.ended[j - 1] = thread.ended[j];
    i = --thread.ended_count;  // start over
  }
}

/// Moves the ambient context from `span`, which ends, back to `previous`. If it is not the ambient one (what began under it
/// is still open), that is noted for whoever comes back to it.
inline void leave_ambient(SpanId span, const Position& previous) noexcept {
  if (thread_state.span != span) return note_ended(thread_state, span, previous);
  set_position(previous);
  if (thread_state.ended_count != 0) skip_ended(thread_state);
}

/// While one lives, the calling thread is in the middle of what a signal handler must not do as well: spans that one begins or
/// ends on this thread are dropped, and counted. It takes the place of the tracer's id, so that spans need not look for it.
/// What was found before it began (the id, the ring, room in it) a handler may have changed since. Thread-safety: of one thread.
class SpanSection {
 public:
  static constexpr std::uint64_t busy_id = UINT64_MAX - 1;  ///< no tracer's
  struct Outermost {};

  explicit SpanSection(ThreadState& thread) noexcept : nested_(thread.tracer_id == busy_id), thread_(thread) { begin(); }
  /// Requires: none lives on this thread.
  SpanSection(ThreadState& thread, Outermost) noexcept : nested_(false), thread_(thread) { begin(); }
  ~SpanSection() {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (!nested_) thread_.tracer_id = thread_.ring_tracer;
  }
  SpanSection(const SpanSection&) = delete;
  SpanSection& operator=(const SpanSection&) = delete;

  bool nested() const noexcept { return nested_; }

 private:
  void begin() noexcept {
    thread_.tracer_id = busy_id;
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }

  bool nested_;
  ThreadState& thread_;
};

/// What a context says beyond its ids. Never changed once it is shared.
struct ContextData {
  ContextData() = default;
  ContextData(const ContextData& other)
      : request_id(other.request_id), tracestate(other.tracestate), baggage(other.baggage), deadline(other.deadline) {}
  ContextData& operator=(const ContextData&) = delete;

  mutable std::atomic<std::size_t> references{1};
  std::string request_id, tracestate, baggage;
  std::optional<std::chrono::steady_clock::time_point> deadline;
};

/// A counted reference, or none. Thread-safety: a value.
class ContextDataRef {
 public:
  ContextDataRef() noexcept = default;
  ContextDataRef(const ContextDataRef& other) noexcept : ContextDataRef(share(other.data_)) {}
  ContextDataRef(ContextDataRef&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  ContextDataRef& operator=(ContextDataRef other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~ContextDataRef() {
    if (data_ != nullptr && data_->references.fetch_sub(1, std::memory_order_acq_rel) == 1) delete data_;
  }

  static ContextDataRef share(const ContextData* data) noexcept {
    if (data != nullptr) data->references.fetch_add(1, std::memory_order_relaxed);
    return adopt(data);
  }
  static ContextDataRef adopt(const ContextData* data) noexcept {
    ContextDataRef reference;
    reference.data_ = data;
    return reference;
  }

  const ContextData* get() const noexcept { return data_; }
  const ContextData* operator->() const noexcept { return data_; }
  explicit operator bool() const noexcept { return data_ != nullptr; }

 private:
  const ContextData* data_ = nullptr;
};

/// How contexts hold operations without knowing them: set by operation/detail/context_hooks.hpp when the first operation of the
/// process starts.
struct OperationHooks {
  // The nearest shared operation of the calling thread, counted; or nullptr. `outside`: see Context.
  Operation* (*capture)(bool& outside) noexcept;
  const Operation* (*current)() noexcept;
  void (*retain)(Operation*) noexcept;
  void (*release)(Operation*) noexcept;
  Operation* (*enter)(Operation*) noexcept;  // makes it the current one, or one below it; returns what was current
  void (*leave)(Operation*) noexcept;        // makes that current again
};
WEIR_SHARED_STATE inline constinit std::atomic<const OperationHooks*> operation_hooks{nullptr};

/// A counted reference to a shared operation, or none. Thread-safety: a value.
class OperationRef {
 public:
  OperationRef() noexcept = default;
  OperationRef(const OperationRef& other) noexcept : operation_(other.operation_) {
    if (operation_ != nullptr) hooks().retain(operation_);
  }
  OperationRef(OperationRef&& other) noexcept : operation_(std::exchange(other.operation_, nullptr)) {}
  OperationRef& operator=(OperationRef other) noexcept {
    std::swap(operation_, other.operation_);
    return *this;
  }
  ~OperationRef() {
    if (operation_ != nullptr) hooks().release(operation_);
  }

  /// The nearest of the calling thread.
  static OperationRef capture(bool& outside) noexcept {
    const OperationHooks* const hooks = operation_hooks.load(std::memory_order_acquire);
    return hooks != nullptr ? adopt(hooks->capture(outside)) : OperationRef();
  }
  /// The current operation of the calling thread, on a stack or not.
  static const Operation* current() noexcept {
    const OperationHooks* const hooks = operation_hooks.load(std::memory_order_acquire);
    return hooks != nullptr ? hooks->current() : nullptr;
  }
  static OperationRef adopt(Operation* operation) noexcept {
    OperationRef reference;
    reference.operation_ = operation;
    return reference;
  }

  Operation* get() const noexcept { return operation_; }
  Operation* enter() const noexcept { return hooks().enter(operation_); }
  void leave(Operation* previous) const noexcept { hooks().leave(previous); }
  explicit operator bool() const noexcept { return operation_ != nullptr; }
  friend bool operator==(const OperationRef& a, const OperationRef& b) noexcept { return a.operation_ == b.operation_; }

 private:
  static const OperationHooks& hooks() noexcept { return *operation_hooks.load(std::memory_order_acquire); }
  Operation* operation_ = nullptr;
};

/// For stages that put a span or an operation of their own into a context.
struct ContextAccess;

}  // namespace detail

}  // namespace weir::inline v0
