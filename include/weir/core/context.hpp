#pragma once
// Context: what a piece of work belongs to. Which trace and which span of it, the request and its deadline, the operation
// around it. A small value: copy it, pass it, keep it.
// There is one ambient context per thread, Context::current(), which spans and operations move along as they start and
// end; passing a Context explicitly always works too, and is what callbacks, coroutines and thread pools do:
//
//   pool.submit(weir::Context::current().wrap([] { ... }));   // the work runs under the span that submitted it
//
//   request headers ─extract─▶ Context ─ContextScope─▶ ambient ─current()─▶ Context ─inject─▶ headers of the next request
//                     (core/propagation.hpp)
//
// A context never points at an operation on a stack: it holds the nearest shared one (weir::start<T>), alive.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "weir/core/detail/context_data.hpp"
#include "weir/core/ids.hpp"

namespace weir::inline v0 {

/// Copying takes a counted reference to what goes beyond the ids, where there is any. With no memory for it, a context
/// keeps its ids and loses the rest. Thread-safety: a value. Distinct objects: safe. Shared: safe to read.
class Context {
 public:
  using Deadline = std::chrono::steady_clock::time_point;
  static constexpr std::size_t max_request_id_bytes = 256;

  Context() noexcept = default;  ///< belongs to no trace: a span started under it is a root
  Context(TraceId trace, SpanId span, bool sampled = true) noexcept : trace_(trace), span_(span), flags_(flags_of(trace, sampled)) {}

  /// The calling thread's ambient context.
  static Context current() noexcept;

  TraceId trace_id() const noexcept { return trace_; }
  SpanId span_id() const noexcept { return span_; }
  bool sampled() const noexcept { return (flags_ & detail::flag_sampled) != 0; }
  /// The flags of W3C Trace Context: bit 0 sampled, bit 1 random trace id. Others are not kept. Of no trace: those of the one
  /// that begins under it.
  std::uint8_t trace_flags() const noexcept { return flags_ & detail::sent_flags; }
  /// True when it belongs to a trace.
  bool valid() const noexcept { return trace_.valid(); }
  /// Of the request, in the words of whoever named it; empty: none. Lives as long as this context.
  std::string_view request_id() const noexcept { return data_ ? std::string_view(data_->request_id) : std::string_view(); }
  /// Of steady_clock.
  std::optional<Deadline> deadline() const noexcept { return data_ ? data_->deadline : std::nullopt; }
  bool expired() const noexcept { return data_ && data_->deadline && *data_->deadline <= std::chrono::steady_clock::now(); }
  /// What other tracing systems said about this trace: the text of the W3C header of this name.
  std::string_view tracestate() const noexcept { return data_ ? std::string_view(data_->tracestate) : std::string_view(); }
  /// Key-value pairs that travel with the request: the text of the W3C header of this name, percent-encoded.
  std::string_view baggage() const noexcept { return data_ ? std::string_view(data_->baggage) : std::string_view(); }
  /// The decoded value of one key, byte by byte as it was set; nullopt if it is not there. Throws std::bad_alloc.
  std::optional<std::string> baggage(std::string_view key) const;

  // The same context but for one thing.
  /// In another trace or span: what a span started under this context hands on.
  Context with_span(TraceId trace, SpanId span, bool sampled = true) const noexcept;
  /// Cut at max_request_id_bytes; each byte that is no visible ASCII character becomes "_", so that it fits a header.
  Context with_request_id(std::string_view id) const noexcept;
  /// 32 lower-case hex digits, random.
  Context with_new_request_id() const noexcept;
  /// The earlier of this one and the one there is.
  Context with_deadline(Deadline deadline) const noexcept;
  Context with_timeout(std::chrono::nanoseconds timeout) const noexcept;
  /// Sets the value of a key, any bytes, or drops the key: an empty `value`. Unchanged if the key is no HTTP token or the
  /// whole would be longer than 8,192 bytes, as encoded, or 180 pairs.
  Context with_baggage(std::string_view key, std::string_view value) const noexcept;
  /// Puts `key` first with this value, as one who changes it must; the last of more than 32 goes. Unchanged if key or value
  /// is not what W3C Trace Context 3.3.1 allows.
  Context with_tracestate(std::string_view key, std::string_view value) const noexcept;

  /// W3C Trace Context in: of the headers `traceparent`, `tracestate` and `baggage` (several of one name: joined by commas).
  /// A traceparent that is malformed, or none, yields a new trace without tracestate; malformed ones are counted
  /// (malformed_traceparents). What is wrong with the other two never touches the trace.
  static Context from_traceparent(std::string_view traceparent, std::string_view tracestate = {}, std::string_view baggage = {}) noexcept;
  /// The header's text: "00-<trace id>-<span id>-<flags>". Without a span, a new span id; without a trace: empty. Throws
  /// std::bad_alloc.
  std::string traceparent() const;

  /// `callable` with this context around each call, on whatever thread that is: see ContextScope. On a thread of a pool, what
  /// the call starts goes under the context's span and operation; without an operation, under the installed root.
  template <class F>
  auto wrap(F callable) const;

  /// Whether all they say is the same.
  friend bool operator==(const Context& a, const Context& b) noexcept {
    return a.trace_ == b.trace_ && a.span_ == b.span_ && a.trace_flags() == b.trace_flags() && a.operation_ == b.operation_ &&
           a.request_id() == b.request_id() && a.tracestate() == b.tracestate() && a.baggage() == b.baggage() &&
           a.deadline() == b.deadline();
  }

 private:
  friend class ContextScope;
  friend struct detail::ContextAccess;

  static constexpr std::uint8_t flags_of(TraceId trace, bool sampled) noexcept {
    return static_cast<std::uint8_t>((sampled ? detail::flag_sampled : 0) | (trace.valid() ? 0 : detail::flag_random));
  }
  template <class Change>
  Context changed(Change change) const noexcept;

  TraceId trace_;
  SpanId span_;
  std::uint8_t flags_ = detail::new_trace_flags;
  bool outside_ = false;  // span_ was current before operation_ was: a span that a bridge opened for that is nearer
  detail::ContextDataRef data_;
  detail::OperationRef operation_;
};

/// Traceparent headers that were not what W3C Trace Context says, in this process so far.
std::uint64_t malformed_traceparents() noexcept;

/// Makes `context` the calling thread's ambient one until the end of the scope, and its operation, if it has one, the current
/// one, unless the current one is below it already. Must end on the thread it began on, in reverse order: not across a
/// co_await. Thread-safety: of one thread.
class [[nodiscard]] ContextScope {
 public:
  explicit ContextScope(Context context) noexcept;
  ~ContextScope();
  ContextScope(const ContextScope&) = delete;
  ContextScope& operator=(const ContextScope&) = delete;

 private:
  Context context_;
  detail::Position previous_;
  const detail::ContextData* previous_data_;
  const Operation* previous_scoped_under_;
  Operation* previous_operation_ = nullptr;
};

inline Context Context::current() noexcept {
  const detail::ThreadState& thread = detail::thread_state;
  Context context;
  context.trace_ = thread.trace;
  context.span_ = thread.span;
  context.flags_ = thread.flags;
  context.data_ = detail::ContextDataRef::share(thread.data);
  context.operation_ = detail::OperationRef::capture(context.outside_);
  return context;
}

inline ContextScope::ContextScope(Context context) noexcept
    : context_(std::move(context)),
      previous_(detail::position()),
      previous_data_(detail::thread_state.data),
      previous_scoped_under_(detail::thread_state.scoped_under) {
  detail::set_position({context_.trace_, context_.span_, context_.flags_});
  detail::thread_state.data = context_.data_.get();
  if (context_.operation_) previous_operation_ = context_.operation_.enter();
  detail::thread_state.scoped_under = context_.outside_ ? nullptr : detail::OperationRef::current();
}

inline ContextScope::~ContextScope() {
  if (context_.operation_) context_.operation_.leave(previous_operation_);
  detail::thread_state.data = previous_data_;
  detail::thread_state.scoped_under = previous_scoped_under_;
  detail::set_position(previous_);
  if (detail::thread_state.ended_count != 0) detail::skip_ended(detail::thread_state);
}

template <class F>
auto Context::wrap(F callable) const {
  return [context = *this, callable = std::move(callable)](auto&&... arguments) mutable -> decltype(auto) {
    ContextScope scope(context);
    return callable(std::forward<decltype(arguments)>(arguments)...);
  };
}

}  // namespace weir::inline v0

// IWYU pragma: begin_exports
#include "weir/core/detail/context_impl.hpp"
// IWYU pragma: end_exports
