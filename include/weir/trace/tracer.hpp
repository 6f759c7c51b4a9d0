#pragma once
// Tracer: what a service makes spans with. It owns a Sender, which takes finished spans away, and knows nothing of how.
//
//   weir::Tracer tracer{weir::SocketSender{"/run/user/1000/weir/weir.sock"}, {.service_name = "checkout"}};
//   weir::ScopedSpan span = tracer.enter("HandleRequest", weir::SpanKind::http);
//
//   running ─stop() or destructor─▶ stopped: what was written is sent within the deadline, later spans are counted no-ops
//   off: Tracer{}, for ever
//
// Any order of ends is safe: threads before or after the tracer, spans after the tracer (they are dropped). exit() stops the
// tracers that still live, each within its stop_timeout, as if their destructors ran; _exit() and quick_exit() do not.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "weir/trace/detail/attach.hpp"
#include "weir/trace/scoped_span.hpp"
#include "weir/trace/sender.hpp"

namespace weir::inline v0 {

struct TracerOptions {
  std::string service_name{};
  std::size_t max_attributes = 128;              ///< per span; at most 255. More: larger records, fewer of them fit a ring
  std::size_t max_attribute_bytes = 4096;        ///< per string; longer ones are cut. All of a span together: 256 KiB
  std::chrono::milliseconds stop_timeout{1000};  ///< how long the destructor, or exit(), may wait for spans to be delivered
  const Clock* clock = nullptr;                  ///< for tests; nullptr: the machine's
  /// For tests; 0: random ids. Else those of the first thread that makes a span follow from it, and each further thread's from
  /// the next number.
  std::uint64_t id_seed = 0;
};

/// Thread-safety: shared: safe, but for construction and destruction. Nothing throws once it is constructed.
class Tracer {
 public:
  /// Off, for ever: its spans cost a load and a branch and are not counted, its figures are all zero.
  constexpr Tracer() noexcept {}
  template <std::derived_from<Sender> S>
  explicit Tracer(S sender, TracerOptions options = {}) : Tracer(std::make_shared<S>(std::move(sender)), std::move(options)) {}
  /// Requires: a sender that no other tracer has.
  explicit Tracer(std::shared_ptr<Sender> sender, TracerOptions options = {});
  /// stop(), within options.stop_timeout.
  ~Tracer();
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  /// A child of the ambient context, current until it ends.
  [[nodiscard]] ScopedSpan enter(Name name, SpanKind kind = SpanKind::function) noexcept { return ScopedSpan(*this, name, kind); }
  /// A child of `parent`; the ambient context stays as it is, and the span may end on another thread.
  [[nodiscard]] ScopedSpan enter(const Context& parent, Name name, SpanKind kind = SpanKind::function) noexcept {
    return ScopedSpan(*this, parent, name, kind);
  }

  TracerStats stats() const noexcept;
  /// Delivers what ended before the call. Returns early when that is done.
  FlushResult flush(std::chrono::milliseconds timeout = std::chrono::milliseconds{1000}) noexcept {
    return off() ? FlushResult{} : completed(entry_.sender->flush(std::chrono::steady_clock::now() + timeout));
  }
  /// Takes no more spans and delivers what there is; what the timeout leaves is dropped and counted. Idempotent.
  FlushResult stop(std::chrono::milliseconds timeout = std::chrono::milliseconds{1000}) noexcept;

 private:
  friend class ScopedSpan;

  bool off() const noexcept { return entry_.id == detail::Process::off_id; }
  detail::ThreadRing* attach() noexcept;
  FlushResult completed(FlushResult result) const noexcept {
    result.dropped = stats().dropped();
    return result;
  }

  detail::TracerEntry entry_;
};

inline Tracer::Tracer(std::shared_ptr<Sender> sender, TracerOptions options) {
  entry_.sender = std::move(sender);
  entry_.stop_timeout = options.stop_timeout;
  entry_.ticker = detail::Ticker(options.clock);
  entry_.limits.count = static_cast<std::uint32_t>(std::min<std::size_t>(options.max_attributes, 255));
  entry_.limits.bytes = static_cast<std::uint32_t>(std::min<std::size_t>(options.max_attribute_bytes, detail::max_record_bytes));
  entry_.id_seed = options.id_seed;
  entry_.sender->start({{std::move(options.service_name)}, options.clock, &entry_.dropped_no_ring});
  detail::process().add(entry_);
}

inline Tracer::~Tracer() {
  if (off()) return;
  stop(entry_.stop_timeout);
  detail::process().remove(entry_);
}

inline FlushResult Tracer::stop(std::chrono::milliseconds timeout) noexcept {
  if (off()) return {};
  const Sender::Deadline deadline = std::chrono::steady_clock::now() + timeout;
  detail::Process::refuse_spans(entry_);
  return completed(entry_.sender->stop(deadline));
}

inline TracerStats Tracer::stats() const noexcept {
  if (off()) return {};
  TracerStats stats = entry_.sender->stats();
  const std::uint64_t no_ring = entry_.dropped_no_ring.load(std::memory_order_relaxed);
  const std::uint64_t stopped = entry_.dropped_stopped.load(std::memory_order_relaxed);
  stats.emitted += no_ring + stopped;
  stats.dropped_no_ring += no_ring;
  stats.dropped_stopped += stopped;
  return stats;
}

[[gnu::noinline, gnu::cold]] inline detail::ThreadRing* Tracer::attach() noexcept {
  if (entry_.stopped.load(std::memory_order_relaxed)) {
    entry_.dropped_stopped.fetch_add(1, std::memory_order_relaxed);
    return nullptr;
  }
  if (detail::ThreadRing* ring = detail::Process::attached(entry_.id)) return ring;
  // A sender that refused a ring is asked again every 256 spans, not at each.
  if (entry_.refusals.load(std::memory_order_relaxed) != 0 && entry_.refusals.fetch_add(1, std::memory_order_relaxed) % 256 != 0) {
    entry_.dropped_no_ring.fetch_add(1, std::memory_order_relaxed);
    return nullptr;
  }
  return detail::process().attach(entry_.id);
}

}  // namespace weir::inline v0

#include "weir/trace/detail/scoped_span_impl.hpp"
