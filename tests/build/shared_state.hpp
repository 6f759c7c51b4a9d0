#pragma once
// What a program and the libraries it loads must see as one object each, by its address.
#include "weir/activity/activity.hpp"
#include "weir/operation/operation.hpp"
#include "weir/telemetry/telemetry.hpp"
#include "weir/trace/default_tracer.hpp"

struct SharedState {
  const void* address[15];
};

inline SharedState shared_state() {
  namespace detail = weir::detail;
  return {{&detail::thread_state, &detail::thread_slot, &detail::fast_slot, &detail::process_state, &detail::unresolved, &detail::process(),
           &detail::name_table(), &detail::operation_hooks, &detail::bad_traceparents, &detail::activities, &detail::thread_telemetry,
           &detail::shared_cell_registry, &detail::shared_telemetry, &detail::default_tracer, &detail::session_lives}};
}
