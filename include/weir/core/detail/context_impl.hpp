#pragma once
// The parts of Context that are no short way.

#include <algorithm>
#include <memory>
#include <new>

#include "weir/core/context.hpp"
#include "weir/core/detail/w3c.hpp"

namespace weir::inline v0 {

namespace detail {

/// For the stages whose spans and operations contexts carry.
struct ContextAccess {
  static Context make(const Position& position, ContextDataRef data, OperationRef operation) noexcept {
    Context context;
    context.trace_ = position.trace;
    context.span_ = position.span;
    context.flags_ = position.flags;
    context.data_ = std::move(data);
    context.operation_ = std::move(operation);
    return context;
  }
  static Position position(const Context& context) noexcept { return {context.trace_, context.span_, context.flags_}; }
  static const ContextDataRef& data(const Context& context) noexcept { return context.data_; }
  static const OperationRef& operation(const Context& context) noexcept { return context.operation_; }
};

WEIR_SHARED_STATE inline constinit std::atomic<std::uint64_t> bad_traceparents{0};

/// For what begins far from any tracer. Tracers have faster ones.
inline std::uint64_t random_word() noexcept {
  std::uint64_t word = random_seed();
  while (word == 0) word = random_seed();
  return word;
}

}  // namespace detail

inline std::uint64_t malformed_traceparents() noexcept { return detail::bad_traceparents.load(std::memory_order_relaxed); }

/// The same context with its data changed by change(ContextData&); without memory, unchanged.
template <class Change>
Context Context::changed(Change change) const noexcept {
  Context context = *this;
#if defined(__cpp_exceptions)
  try {
#endif
    auto data = data_ ? std::make_unique<detail::ContextData>(*data_.get()) : std::make_unique<detail::ContextData>();
    change(*data);
    context.data_ = detail::ContextDataRef::adopt(data.release());
#if defined(__cpp_exceptions)
  } catch (const std::bad_alloc&) {}
#endif
  return context;
}

inline Context Context::with_span(TraceId trace, SpanId span, bool sampled) const noexcept {
  Context context = *this;
  context.trace_ = trace;
  context.span_ = span;
  context.flags_ = flags_of(trace, sampled);
  if (trace == trace_) context.flags_ |= flags_ & detail::flag_random;
  context.outside_ = false;
  return context;
}

inline Context Context::with_request_id(std::string_view id) const noexcept {
  return changed([&](detail::ContextData& data) {
    data.request_id = id.substr(0, max_request_id_bytes);
    for (char& c : data.request_id)
      if (c <= ' ' || c > '~') c = '_';
  });
}

inline Context Context::with_new_request_id() const noexcept {
  return with_request_id(TraceId{detail::random_word(), detail::random_word()}.hex());
}

inline Context Context::with_deadline(Deadline deadline) const noexcept {
  return changed([&](detail::ContextData& data) { data.deadline = data.deadline ? std::min(*data.deadline, deadline) : deadline; });
}

inline Context Context::with_timeout(std::chrono::nanoseconds timeout) const noexcept {
  const Deadline now = std::chrono::steady_clock::now();
  if (timeout >= Deadline::max() - now) return with_deadline(Deadline::max());
  return with_deadline(now + std::chrono::duration_cast<Deadline::duration>(timeout));
}

inline std::optional<std::string> Context::baggage(std::string_view key) const {
  const auto value = detail::find_baggage(baggage(), key);
  if (!value) return {};
  return detail::percent_decoded(*value);
}

inline Context Context::with_baggage(std::string_view key, std::string_view value) const noexcept {
  if (!detail::is_token(key)) return *this;
  return changed([&](detail::ContextData& data) {
    std::string baggage = detail::set_baggage(data.baggage, key, value);
    const auto commas = std::count(baggage.begin(), baggage.end(), ',');
    if (baggage.size() > detail::max_baggage_bytes || commas >= static_cast<std::ptrdiff_t>(detail::max_baggage_members)) return;
    data.baggage = std::move(baggage);
  });
}

inline Context Context::with_tracestate(std::string_view key, std::string_view value) const noexcept {
  if (!detail::is_tracestate_key(key) || !detail::is_tracestate_value(value)) return *this;
  return changed([&](detail::ContextData& data) { data.tracestate = detail::set_tracestate(data.tracestate, key, value); });
}

inline Context Context::from_traceparent(std::string_view traceparent, std::string_view tracestate, std::string_view baggage) noexcept {
  const std::optional<detail::Position> parent = detail::parse_traceparent(traceparent);
  if (!parent && !detail::trim(traceparent).empty()) detail::bad_traceparents.fetch_add(1, std::memory_order_relaxed);
  Context context;
  if (parent) {
    context = detail::ContextAccess::make(*parent, {}, {});
    context.flags_ |= detail::flag_remote;
  } else {
    context.flags_ |= detail::flag_fresh;
    context.trace_ = {detail::random_word(), detail::random_word()};
    tracestate = {};
  }
  if (tracestate.empty() && baggage.empty()) return context;
  return context.changed([&](detail::ContextData& data) {
    data.tracestate = detail::parse_tracestate(tracestate);
    data.baggage = detail::parse_baggage(baggage);
  });
}

inline std::string Context::traceparent() const {
  if (!valid()) return {};
  return detail::format_traceparent({trace_, span_.valid() ? span_ : SpanId{detail::random_word()}, trace_flags()});
}

}  // namespace weir::inline v0
