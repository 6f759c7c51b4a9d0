#pragma once
// Context: which trace, and which span of it, a piece of work belongs to. A small value: copy it, pass it, keep it.
// There is one ambient context per thread, Context::current(), which spans and operations move along as they start and
// end; passing a Context explicitly always works too, and is what callbacks, coroutines and thread pools do:
//
//   pool.submit(weir::Context::current().wrap([] { ... }));   // the work runs under the span that submitted it

#include <cstddef>
#include <cstdint>
#include <utility>

#include "weir/core/ids.hpp"

namespace weir::inline v0 {

class Operation;

namespace detail {

class ThreadRing;

/// What a thread carries. Trivially destructible and constant-initialized: usable from the first to the last instruction
/// of a thread, thread_local destructors and atexit handlers included.
struct ThreadState {
  // The ambient context.
  TraceId trace;
  SpanId span;
  bool sampled = true;
  std::uint8_t ended_count = 0;  // of `ended`
  // The ring this thread last wrote to, which tracer it belongs to, and all rings of this thread (trace/detail/attach.hpp).
  std::uint64_t tracer_id = 0;
  ThreadRing* ring = nullptr;
  ThreadRing* rings = nullptr;
  // Spans that ended while others, begun under them, were still current: who restores one of these restores what was
  // current before it instead. (Values, not pointers: nothing dangles when a span is destroyed where it should not be.)
  struct Ended {
    SpanId span;
    TraceId previous_trace;
    SpanId previous_span;
  };
  Ended ended[8] = {};
};

WEIR_SHARED_STATE inline constinit thread_local ThreadState thread_state{};

/// `span` ended out of order.
inline void note_ended(ThreadState& thread, SpanId span, TraceId previous_trace, SpanId previous_span) noexcept {
  constexpr std::size_t capacity = sizeof thread.ended / sizeof thread.ended[0];
  if (thread.ended_count == capacity) {  // forget the oldest
    for (std::size_t i = 1; i < capacity; ++i) thread.ended[i - 1] = thread.ended[i];
    --thread.ended_count;
  }
  thread.ended[thread.ended_count++] = {span, previous_trace, previous_span};
}

/// Moves the ambient context off spans that have ended.
inline void skip_ended(ThreadState& thread) noexcept {
  for (std::size_t i = thread.ended_count; i-- > 0;) {
    if (thread.ended[i].span != thread.span || !thread.span.valid()) continue;
    thread.trace = thread.ended[i].previous_trace;
    thread.span = thread.ended[i].previous_span;
    for (std::size_t j = i + 1; j < thread.ended_count; ++j) thread.ended[j - 1] = thread.ended[j];
    i = --thread.ended_count;  // start over
  }
}

}  // namespace detail

/// Thread-safety: a value. Distinct objects: safe. Shared: safe to read.
class Context {
 public:
  Context() = default;  ///< belongs to no trace: a span started under it is a root
  Context(TraceId trace, SpanId span, bool sampled = true) noexcept : trace_(trace), span_(span), sampled_(sampled) {}

  /// The calling thread's ambient context.
  static Context current() noexcept {
    const detail::ThreadState& thread = detail::thread_state;
    return {thread.trace, thread.span, thread.sampled};
  }

  TraceId trace_id() const noexcept { return trace_; }
  SpanId span_id() const noexcept { return span_; }
  bool sampled() const noexcept { return sampled_; }
  /// True when it belongs to a trace.
  bool valid() const noexcept { return trace_.valid(); }

  /// `callable` with this context around each call, on whatever thread that is.
  template <class F>
  auto wrap(F callable) const;

  friend bool operator==(const Context&, const Context&) = default;

 private:
  TraceId trace_;
  SpanId span_;
  bool sampled_ = true;
};

namespace detail {

inline void set_ambient(const Context& context) noexcept {
  thread_state.trace = context.trace_id();
  thread_state.span = context.span_id();
  thread_state.sampled = context.sampled();
}

/// Moves the ambient context from `span`, which ends, back to `previous`. If it is not the ambient one (what began under it
/// is still open), that is noted for whoever comes back to it.
inline void leave_ambient(SpanId span, const Context& previous) noexcept {
  if (thread_state.span != span) return note_ended(thread_state, span, previous.trace_id(), previous.span_id());
  set_ambient(previous);
  if (thread_state.ended_count != 0) skip_ended(thread_state);
}

}  // namespace detail

/// Makes `context` the calling thread's ambient one until the end of the scope. Must end on the thread it began on.
class [[nodiscard]] ContextScope {
 public:
  explicit ContextScope(const Context& context) noexcept : previous_(Context::current()) { detail::set_ambient(context); }
  ~ContextScope() {
    detail::set_ambient(previous_);
    if (detail::thread_state.ended_count != 0) detail::skip_ended(detail::thread_state);
  }
  ContextScope(const ContextScope&) = delete;
  ContextScope& operator=(const ContextScope&) = delete;

 private:
  Context previous_;
};

template <class F>
auto Context::wrap(F callable) const {
  return [context = *this, callable = std::move(callable)](auto&&... arguments) mutable -> decltype(auto) {
    ContextScope scope(context);
    return callable(std::forward<decltype(arguments)>(arguments)...);
  };
}

}  // namespace weir::inline v0
