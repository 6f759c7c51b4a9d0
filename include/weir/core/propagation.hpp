#pragma once
// How a context travels to another process: as the headers of W3C Trace Context and Baggage, and as environment variables.
//
//   weir::Context context = weir::extract([&](const char* name) { return request.get_header_value(name); });   // server
//   weir::inject(context, [&](const char* name, std::string value) { headers.emplace(name, std::move(value)); });  // client
//
// A header may come several times, and all of them count: HTTP libraries whose getter returns the first need a loop.
//
// The request id travels as X-Request-ID, which is a custom and no standard.

#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include "weir/core/context.hpp"

namespace weir::inline v0 {

namespace detail {

inline std::string_view header_text(const char* text) noexcept { return text != nullptr ? text : std::string_view(); }
inline std::string_view header_text(std::string_view text) noexcept { return text; }

/// Nobody records the caller's span of a trace that is not sampled, so each request gets an id of its own; empty: no trace.
inline std::string traceparent_out(const Context& context) {
  return (context.sampled() ? context : context.with_span(context.trace_id(), {}, false)).traceparent();
}

}  // namespace detail

/// The context that a request brings: `header(name)` returns the value of a header, in whatever is a string (several of one
/// name: joined by commas; none: empty, or a null char*). Header names are lower case. See Context::from_traceparent for what
/// is malformed.
template <class GetHeader>
Context extract(GetHeader&& header) {
  const auto traceparent = header("traceparent");
  const auto tracestate = header("tracestate");
  const auto baggage = header("baggage");
  const auto request_id = header("x-request-id");
  const Context context =
      Context::from_traceparent(detail::header_text(traceparent), detail::header_text(tracestate), detail::header_text(baggage));
  const std::string_view id = detail::header_text(request_id);
  return id.empty() ? context : context.with_request_id(id);
}

/// Calls `set(name, value)` for each header that a request under `context` carries: const char* and std::string. Of a trace
/// that is not sampled, each has a parent id of its own. Throws what `set` throws, and std::bad_alloc.
template <class SetHeader>
void inject(const Context& context, SetHeader&& set) {
  if (context.valid()) set("traceparent", detail::traceparent_out(context));
  if (context.valid() && !context.tracestate().empty()) set("tracestate", std::string(context.tracestate()));
  if (!context.baggage().empty()) set("baggage", std::string(context.baggage()));
  if (!context.request_id().empty()) set("x-request-id", std::string(context.request_id()));
}

/// The context that the process was started with: of the variables TRACEPARENT, TRACESTATE and BAGGAGE. Belongs to no trace if
/// the first is not set, or empty. Thread-safety: as getenv, so call it when the program starts.
inline Context context_from_environment() noexcept {
  const auto variable = [](const char* name) { return detail::header_text(std::getenv(name)); };
  const Context context = Context::from_traceparent(variable("TRACEPARENT"), variable("TRACESTATE"), variable("BAGGAGE"));
  return variable("TRACEPARENT").empty() ? context.with_span({}, {}) : context;
}

/// Calls `set(name, value)` for each of those variables, for a child process under `context`. An empty value: the child is
/// not to have it, and must not inherit ours. Throws what `set` throws, and std::bad_alloc.
template <class SetVariable>
void inject_environment(const Context& context, SetVariable&& set) {
  set("TRACEPARENT", detail::traceparent_out(context));
  set("TRACESTATE", std::string(context.valid() ? context.tracestate() : std::string_view()));
  set("BAGGAGE", std::string(context.baggage()));
}

}  // namespace weir::inline v0
