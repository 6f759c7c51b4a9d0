#include "weir/core/context.hpp"

extern "C" {
[[gnu::visibility("default")]] unsigned long plugin_current_span() { return weir::Context::current().span_id().value; }
[[gnu::visibility("default")]] const void* plugin_state_address() { return &weir::detail::thread_state; }
}
