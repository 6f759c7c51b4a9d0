#pragma once
// What a program and the libraries it loads must see as one object each, by its address.
#include "weir/operation/operation.hpp"
#include "weir/trace/tracer.hpp"

struct SharedState {
  const void* address[7];
};

inline SharedState shared_state() {
  namespace detail = weir::detail;
  return {{&detail::thread_state, &detail::thread_slot, &detail::fast_slot, &detail::process_state, &detail::unresolved, &detail::process(),
           &detail::name_table()}};
}
