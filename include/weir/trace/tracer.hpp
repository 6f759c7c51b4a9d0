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
#include <vector>

#include "weir/trace/detail/attach.hpp"
#include "weir/trace/sampler.hpp"
#include "weir/trace/scoped_span.hpp"
#include "weir/trace/sender.hpp"

namespace weir::inline v0 {

namespace detail {
struct DefaultTracer;
}

struct TracerOptions {
  std::string service_name{};
  std::vector<std::pair<std::string, std::string>> resource_attributes{};  ///< what else is known of the service; see Resource
  std::size_t max_attributes = 128;              ///< per span; at most 255. More: larger records, fewer of them fit a ring
  std::size_t max_attribute_bytes = 4096;        ///< per string; longer ones are cut. All of a span together: 256 KiB
  std::chrono::milliseconds stop_timeout{1000};  ///< how long the destructor, or exit(), may wait for spans to be delivered
  const Clock* clock = nullptr;                  ///< for tests; nullptr: the machine's
  Sampler sampler{};                             ///< which traces are recorded
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
  /// The same with attributes, which samplers see, too.
  [[nodiscard]] ScopedSpan enter(Name name, SpanKind kind, Attributes attributes) noexcept {
    return ScopedSpan(*this, name, kind, attributes);
  }
  /// A child of `parent`; the ambient context stays as it is, and the span may end on another thread.
  [[nodiscard]] ScopedSpan enter(const Context& parent, Name name, SpanKind kind = SpanKind::function) noexcept {
    return ScopedSpan(*this, parent, name, kind);
  }
  [[nodiscard]] ScopedSpan enter(const Context& parent, Name name, SpanKind kind, Attributes attributes) noexcept {
    return ScopedSpan(*this, parent, name, kind, attributes);
  }

  /// From now on, for traces that begin. A tracer that is off stays off.
  void set_sampler(Sampler sampler) noexcept { detail::process().set_sampler(entry_, std::move(sampler)); }
  /// The one in force: set_sampler's, unless the process is steered (control.hpp).
  Sampler sampler() const noexcept { return detail::process().sampler(entry_); }

  TracerStats stats() const noexcept;
  /// Delivers what ended before the call. Returns early when that is done.
  FlushResult flush(std::chrono::milliseconds timeout = std::chrono::milliseconds{1000}) noexcept {
    if (off()) return {};
    const detail::Undisturbed undisturbed;
    const std::shared_ptr<Sender> sender = detail::process().sender_of(entry_);
    return sender == nullptr ? FlushResult{} : completed(sender->flush(std::chrono::steady_clock::now() + timeout));
  }
  /// Takes no more spans and delivers what there is; what the timeout leaves is dropped and counted. Idempotent.
  FlushResult stop(std::chrono::milliseconds timeout = std::chrono::milliseconds{1000}) noexcept;

 private:
  friend class ScopedSpan;
  friend struct detail::DefaultTracer;

  void begin(std::shared_ptr<Sender> sender, TracerOptions options);
  void end() noexcept;  // as it was before begin()
  bool off() const noexcept { return entry_.active_id.load(std::memory_order_relaxed) == detail::Process::off_id; }
  bool declines(std::uint8_t flags) const noexcept;
  bool samples(TraceId trace, std::uint8_t flags, const Name& name, const Attributes* attributes) noexcept;
  bool asks_sampler(TraceId trace, std::uint8_t flags, const Name& name, const Attributes* attributes) noexcept;
  detail::ThreadRing* attach(const detail::SpanSection& section) noexcept;
  detail::ThreadRing* attach_slowly(const detail::SpanSection& section) noexcept;
  FlushResult completed(FlushResult result) const noexcept {
    result.dropped = stats().dropped();
    return result;
  }

  detail::TracerEntry entry_;
};

inline Tracer::Tracer(std::shared_ptr<Sender> sender, TracerOptions options) { begin(std::move(sender), std::move(options)); }

inline Tracer::~Tracer() { end(); }

inline void Tracer::begin(std::shared_ptr<Sender> sender, TracerOptions options) {
  entry_.stopped.store(false, std::memory_order_relaxed);
  entry_.refusals.store(0, std::memory_order_relaxed);
  entry_.dropped_no_ring.store(0, std::memory_order_relaxed);
  entry_.dropped_stopped.store(0, std::memory_order_relaxed);
  entry_.dropped_reentrant.store(0, std::memory_order_relaxed);
  entry_.stop_timeout = options.stop_timeout;
  entry_.ticker = detail::Ticker(options.clock);
  entry_.limits.count = static_cast<std::uint32_t>(std::min<std::size_t>(options.max_attributes, 255));
  entry_.limits.bytes = static_cast<std::uint32_t>(std::min<std::size_t>(options.max_attribute_bytes, detail::max_record_bytes));
  entry_.id_seed = options.id_seed;
  detail::process().set_sampler(entry_, std::move(options.sampler));
  sender->start({{std::move(options.service_name), std::move(options.resource_attributes)}, options.clock, &entry_.dropped_no_ring});
  detail::process().add(entry_, std::move(sender));
}

inline void Tracer::end() noexcept {
  if (off()) return;
  (void)stop(entry_.stop_timeout);
  (void)detail::process().remove(entry_);
}

inline FlushResult Tracer::stop(std::chrono::milliseconds timeout) noexcept {
  if (off()) return {};
  const detail::Undisturbed undisturbed;
  const std::shared_ptr<Sender> sender = detail::process().sender_of(entry_);
  if (sender == nullptr) return {};
  const Sender::Deadline deadline = std::chrono::steady_clock::now() + timeout;
  detail::Process::refuse_spans(entry_);
  return completed(sender->stop(deadline));
}

inline TracerStats Tracer::stats() const noexcept {
  if (off()) return {};
  const detail::Undisturbed undisturbed;
  const std::shared_ptr<Sender> sender = detail::process().sender_of(entry_);
  if (sender == nullptr) return {};
  TracerStats stats = sender->stats();
  const std::uint64_t reentrant = entry_.dropped_reentrant.load(std::memory_order_relaxed);
  const std::uint64_t no_ring = entry_.dropped_no_ring.load(std::memory_order_relaxed);
  const std::uint64_t stopped = entry_.dropped_stopped.load(std::memory_order_relaxed);
  stats.emitted += no_ring + stopped + reentrant;
  stats.dropped_reentrant += reentrant;
  stats.dropped_no_ring += no_ring;
  stats.dropped_stopped += stopped;
  return stats;
}

/// Whether it was decided before, here or by the caller, that nothing under a context with these flags is recorded.
inline bool Tracer::declines(std::uint8_t flags) const noexcept {
  return (flags & (detail::flag_sampled | detail::flag_fresh)) == 0 &&
         ((flags & detail::flag_remote) == 0 || (entry_.sampling.load(std::memory_order_relaxed) & Sampler::follows_callers) != 0);
}

/// Whether the trace is recorded of which a first span begins here. `flags`: of the context that it begins under.
inline bool Tracer::samples(TraceId trace, std::uint8_t flags, const Name& name, const Attributes* attributes) noexcept {
  const std::uint64_t word = entry_.sampling.load(std::memory_order_relaxed);
  const bool called = (flags & detail::flag_remote) != 0;
  bool sampled = Sampler::below(trace, word);
  if ((word & Sampler::asks) != 0 || called) {
    if (called && (word & Sampler::follows_callers) != 0) return (flags & detail::flag_sampled) != 0;
    if ((word & Sampler::asks) != 0) sampled = asks_sampler(trace, flags, name, attributes);
  }
  if (!sampled) detail::thread_state.ring->count_not_sampled();
  return sampled;
}

[[gnu::noinline]] inline bool Tracer::asks_sampler(TraceId trace, std::uint8_t flags, const Name& name,
                                                   const Attributes* attributes) noexcept {
  return detail::process()
      .sampler_of(*detail::thread_state.ring, entry_)
      .samples({trace, (flags & detail::flag_remote) != 0, (flags & detail::flag_sampled) != 0, name.view(), attributes, &entry_.ticker});
}

/// The thread's ring, which is one of this tracer from now on. nullptr: there is none, and the span is counted as dropped.
/// Requires: `section` is the innermost one.
inline detail::ThreadRing* Tracer::attach(const detail::SpanSection& section) noexcept {
  const detail::ThreadState& thread = detail::thread_state;
  const bool attached = !section.nested() && thread.ring_tracer == entry_.active_id.load(std::memory_order_relaxed);
  return attached ? thread.ring : attach_slowly(section);
}

[[gnu::noinline, gnu::cold]] inline detail::ThreadRing* Tracer::attach_slowly(const detail::SpanSection& section) noexcept {
  if (section.nested()) {
    entry_.dropped_reentrant.fetch_add(1, std::memory_order_relaxed);
    return nullptr;
  }
  const std::uint64_t id = entry_.active_id.load(std::memory_order_relaxed);
  if (id == detail::Process::off_id) return nullptr;  // since a moment ago
  if (id == detail::Process::stopped_id || entry_.stopped.load(std::memory_order_relaxed)) {
    entry_.dropped_stopped.fetch_add(1, std::memory_order_relaxed);
    return nullptr;
  }
  if (detail::ThreadRing* ring = detail::Process::attached(id)) return ring;
  // A sender that refused a ring is asked again every 256 spans, not at each.
  if (entry_.refusals.load(std::memory_order_relaxed) != 0 && entry_.refusals.fetch_add(1, std::memory_order_relaxed) % 256 != 0) {
    entry_.dropped_no_ring.fetch_add(1, std::memory_order_relaxed);
    return nullptr;
  }
  return detail::process().attach(id);
}

}  // namespace weir::inline v0

#include "weir/trace/detail/scoped_span_attributes.hpp"
#include "weir/trace/detail/scoped_span_impl.hpp"
