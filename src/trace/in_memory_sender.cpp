#include "weir/trace/in_memory_sender.hpp"

#include <mutex>
#include <new>
#include <optional>

#include "trace/record.hpp"
#include "trace/ring_set.hpp"
#include "weir/trace/detail/attach.hpp"

namespace weir::inline v0 {

struct InMemorySender::Impl final : detail::ForkListener {
  explicit Impl(const InMemorySenderOptions& its_options) : options(its_options), live(options) { detail::process().add(*this); }
  ~Impl() {
    detail::process().remove(*this);
    live.~Live();
  }

  /// What the child of a fork begins anew with.
  struct Live {
    explicit Live(const InMemorySenderOptions& its_options) : rings({its_options.ring_bytes, its_options.max_rings, SIZE_MAX}) {}
    std::mutex mutex;
    detail::RingSet rings;
    std::vector<Span> spans;  // guarded by mutex, as the reader's side of `rings` is
    std::uint64_t delivered = 0;
    bool stopped = false;
  };

  void in_child() noexcept override { ::new (&live) Live(options); }  // the parent's is abandoned

  // Requires: live.mutex held.
  void drain() {
    if (!calibration) calibration.emplace(detail::Ticker(nullptr));
    calibration->update();
    for (detail::ReaderRing* ring : live.rings.refresh()) {
      ring->read_records([&](const std::byte* record, std::uint64_t next) {
        if (live.spans.size() >= options.max_spans) return false;
        try {
          live.spans.push_back(to_span(detail::RecordView(record), *calibration));
        } catch (const std::bad_alloc&) {  // it stays in the ring
          return false;
        }
        ring->take(next, 1);
        ++live.delivered;
        return true;
      });
    }
    live.rings.reap();
  }

  TracerStats stats() const {  // live.mutex held
    const detail::RingSet::Totals totals = live.rings.totals();
    TracerStats stats;
    stats.emitted = totals.written + totals.dropped_full + totals.dropped_too_large + totals.dropped_reentrant;
    stats.delivered = live.delivered;
    stats.dropped_full = totals.dropped_full;
    stats.dropped_too_large = totals.dropped_too_large;
    stats.dropped_reentrant = totals.dropped_reentrant;
    stats.truncated_attributes = totals.truncated;
    stats.not_sampled = totals.not_sampled;
    (live.stopped ? stats.dropped_stopped : stats.in_flight) = totals.written - totals.taken;
    return stats;
  }

  FlushResult deliver(bool stop) {
    std::lock_guard lock(live.mutex);
    const std::uint64_t before = live.delivered;
    if (!live.stopped) drain();
    if (stop) {
      live.stopped = true;
      live.rings.close();
    }
    const TracerStats now = stats();
    return {live.delivered - before, now.dropped(), now.in_flight};
  }

  const InMemorySenderOptions options;
  std::optional<detail::TickCalibration> calibration;
  union {
    Live live;
  };
};

InMemorySender::InMemorySender(InMemorySenderOptions options) : impl_(std::make_shared<Impl>(options)) {}
InMemorySender::~InMemorySender() = default;
InMemorySender::InMemorySender(const InMemorySender&) = default;
InMemorySender& InMemorySender::operator=(const InMemorySender&) = default;

std::vector<Span> InMemorySender::spans() const {
  std::lock_guard lock(impl_->live.mutex);
  if (!impl_->live.stopped) impl_->drain();
  return impl_->live.spans;
}

std::vector<Span> InMemorySender::open_spans() const {
  std::lock_guard lock(impl_->live.mutex);
  std::vector<Span> spans;
  if (!impl_->calibration) return spans;
  impl_->calibration->update();
  const std::uint64_t now = impl_->calibration->ticker().now();
  for (const detail::ReaderRing* ring : impl_->live.rings.refresh()) {
    for (const detail::OpenSpan& open : ring->ring->page().open) {
      detail::SpanRecord record;
      if (!detail::copy_open_span(open, record)) continue;
      record.end = now;
      Span span = to_span(detail::RecordView(reinterpret_cast<const std::byte*>(&record)), *impl_->calibration);
      span.attrs.emplace(unfinished_attribute, "true");
      spans.push_back(std::move(span));
    }
  }
  return spans;
}

void InMemorySender::clear() {
  std::lock_guard lock(impl_->live.mutex);
  if (!impl_->live.stopped) impl_->drain();
  impl_->live.spans.clear();
}

void InMemorySender::start(const SenderSetup& setup) noexcept {
  std::lock_guard lock(impl_->live.mutex);
  impl_->calibration.emplace(detail::Ticker(setup.clock));
}

detail::ThreadRing* InMemorySender::open_ring() noexcept { return impl_->live.rings.open(); }

void InMemorySender::wake() noexcept {
  std::unique_lock lock(impl_->live.mutex, std::try_to_lock);  // whoever has it empties the rings, or we interrupted it
  if (!lock || impl_->live.stopped) return;                    // after stop(), what is in the rings counts as dropped
  impl_->drain();
}

FlushResult InMemorySender::flush(Deadline) noexcept { return impl_->deliver(false); }
FlushResult InMemorySender::stop(Deadline) noexcept { return impl_->deliver(true); }

TracerStats InMemorySender::stats() const noexcept {
  std::lock_guard lock(impl_->live.mutex);
  return impl_->stats();
}

}  // namespace weir::inline v0
