#pragma once
// weir::tracer(): the process's own tracer, for code that is handed none. Off until weir::init turns it on (init.hpp).
//
//   weir::ScopedSpan span = weir::tracer().enter("render");
//
//   off ─weir::init()─▶ on ─the session ends─▶ off ─weir::init()─▶ …

#include <atomic>
#include <memory>
#include <utility>

#include "weir/core/detail/immortal.hpp"
#include "weir/trace/tracer.hpp"

namespace weir::inline v0 {

namespace detail {

WEIR_SHARED_STATE inline constinit Immortal<Tracer> default_tracer{};
WEIR_SHARED_STATE inline constinit std::atomic<bool> session_lives{false};  // whoever has set it may turn the tracer on and off

struct DefaultTracer {
  static void begin(std::shared_ptr<Sender> sender, TracerOptions options) {
    default_tracer.value.begin(std::move(sender), std::move(options));
  }
  static void end() noexcept { default_tracer.value.end(); }
};

}  // namespace detail

/// The same for the whole process, shared libraries included, and never destroyed: a reference may be kept from before
/// weir::init, and used after the session.
inline Tracer& tracer() noexcept { return detail::default_tracer.value; }

}  // namespace weir::inline v0
