#include "shared_state.hpp"

extern "C" {
[[gnu::visibility("default")]] unsigned long plugin_current_span() { return weir::Context::current().span_id().value; }
[[gnu::visibility("default")]] void plugin_shared_state(SharedState& state) { state = shared_state(); }
}
