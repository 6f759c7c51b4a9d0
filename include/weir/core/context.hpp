#pragma once
// Context: which trace, and which span of it, a piece of work belongs to. A small value: copy it, pass it, keep it.
// There is one ambient context per thread, Context::current(), which spans and operations move along as they start and
// end; passing a Context explicitly always works too, and is what callbacks, coroutines and thread pools do:
//
//   pool.submit(weir::Context::current().wrap([] { ... }));   // the work runs under the span that submitted it

#include <cstdint>
#include <utility>

#include "weir/core/ids.hpp"

namespace weir::inline v0 {

class Operation;

namespace detail {

/// What a thread carries. Trivially destructible and constant-initialized: usable from the first to the last instruction
/// of a thread, thread_local destructors and atexit handlers included.
struct ThreadState {
  TraceId trace;
  SpanId span;
  bool sampled = true;
  // The ring this thread last wrote to, and which tracer it belongs to (trace/tracer.hpp).
  std::uint64_t tracer_id = 0;
  void* ring = nullptr;
  void* rings = nullptr;
};

WEIR_SHARED_STATE inline constinit thread_local ThreadState thread_state{};

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

/// Makes `context` the calling thread's ambient one until the end of the scope. Must end on the thread it began on.
class [[nodiscard]] ContextScope {
 public:
  explicit ContextScope(const Context& context) noexcept : previous_(Context::current()) { set(context); }
  ~ContextScope() { set(previous_); }
  ContextScope(const ContextScope&) = delete;
  ContextScope& operator=(const ContextScope&) = delete;

 private:
  static void set(const Context& context) noexcept {
    detail::ThreadState& thread = detail::thread_state;
    thread.trace = context.trace_id();
    thread.span = context.span_id();
    thread.sampled = context.sampled();
  }

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
