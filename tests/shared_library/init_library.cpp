// Compiled with -fvisibility=hidden, linked with a weir::weir of its own, and loaded with dlopen.
#include "shared_library/init_types.hpp"

namespace {

const weir::Tracer* its_tracer() { return &weir::tracer(); }
void make_span() { weir::ScopedSpan span = weir::tracer().enter("of the library"); }
bool init() { return static_cast<bool>(weir::init()); }

}  // namespace

extern "C" {
[[gnu::visibility("default")]] extern const shared_library::InitLibrary weir_test_library;
const shared_library::InitLibrary weir_test_library{its_tracer, make_span, init};
}
