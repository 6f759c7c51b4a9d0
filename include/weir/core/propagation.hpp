#pragma once
// How a context travels to another process: as the headers of W3C Trace Context and Baggage, and as environment variables.
//
//   weir::Context context = weir::extract([&](const char* name) { return request.get_header_value(name); });   // server
//   weir::inject(context, [&](const char* name, std::string value) { headers.emplace(name, std::move(value)); });  // client
//
// The request id travels as X-Request-ID, which is a custom and no standard.

#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include "weir/core/context.hpp"

namespace weir::inline v0 {

/// The context that a request brings: `header(name)` returns the value of a header, in whatever is a string (several of one
/// name: joined by commas; none: empty). Header names are lower case. See Context::from_traceparent for what is malformed.
template <class GetHeader>
Context extract(GetHeader&& header) {
  const auto traceparent = header("traceparent");
  const auto tracestate = header("tracestate");
  const auto baggage = header("baggage");
  const auto request_id = header("x-request-id");
  const Context context = Context::from_traceparent(traceparent, tracestate, baggage);
  const std::string_view id(request_id);
  return id.empty() ? context : context.with_request_id(id);
}

/// Calls `set(name, value)` for each header that a request under `context` carries: const char* and std::string.
template <class SetHeader>
void inject(const Context& context, SetHeader&& set) {
  if (context.valid()) set("traceparent", context.traceparent());
  if (context.valid() && !context.tracestate().empty()) set("tracestate", std::string(context.tracestate()));
  if (!context.baggage().empty()) set("baggage", std::string(context.baggage()));
  if (!context.request_id().empty()) set("x-request-id", std::string(context.request_id()));
}

/// The context that the process was started with: of the variables TRACEPARENT, TRACESTATE and BAGGAGE. Belongs to no trace if
/// the first is not set. Thread-safety: as getenv, so call it when the program starts.
inline Context context_from_environment() {
  const auto variable = [](const char* name) {
    const char* const value = std::getenv(name);
    return std::string_view(value != nullptr ? value : "");
  };
  if (variable("TRACEPARENT").empty()) return {};
  return Context::from_traceparent(variable("TRACEPARENT"), variable("TRACESTATE"), variable("BAGGAGE"));
}

/// Calls `set(name, value)` for each of those variables that a child process under `context` is to have.
template <class SetVariable>
void inject_environment(const Context& context, SetVariable&& set) {
  if (!context.valid()) return;
  set("TRACEPARENT", context.traceparent());
  if (!context.tracestate().empty()) set("TRACESTATE", std::string(context.tracestate()));
  if (!context.baggage().empty()) set("BAGGAGE", std::string(context.baggage()));
}

}  // namespace weir::inline v0
