#include "weir/collect/trace_store.hpp"

#include <utility>

#include "collect/span_store.hpp"

namespace weir::inline v0 {

struct TraceStore::Impl {
  detail::SpanStore store;
};

TraceStore::TraceStore(TraceStoreOptions options) : impl_(new Impl{detail::SpanStore(options)}) {}
TraceStore::~TraceStore() = default;
TraceStore::TraceStore(TraceStore&&) noexcept = default;
TraceStore& TraceStore::operator=(TraceStore&&) noexcept = default;

void TraceStore::on_span_complete(std::function<void(std::string_view trace_id, const Span&)> callback, std::function<bool()> wanted) {
  impl_->store.on_span_complete(std::move(callback), std::move(wanted));
}
void TraceStore::on_trace_complete(std::function<void(const Trace&)> callback, std::function<bool()> wanted) {
  impl_->store.on_trace_complete(std::move(callback), std::move(wanted));
}
void TraceStore::on_trace_changed(std::function<void(const Trace&)> callback) { impl_->store.on_trace_changed(std::move(callback)); }

void TraceStore::apply(const Event& event, std::string_view service, TimePoint now) { impl_->store.apply(event, service, now); }
bool TraceStore::restore(const Trace& trace, TimePoint completed, TimePoint now) { return impl_->store.restore(trace, completed, now); }
void TraceStore::advance(TimePoint now) { impl_->store.advance(now); }
TraceStore::TimePoint TraceStore::next_deadline() const { return impl_->store.next_deadline(); }
void TraceStore::complete_all(TimePoint now) { impl_->store.complete_all(now); }

std::map<std::string, std::vector<Span>> TraceStore::traces() const { return impl_->store.traces(); }
Replay TraceStore::last_traces(std::size_t count, std::size_t max_bytes) const { return impl_->store.last_traces(count, max_bytes); }
TraceStoreStats TraceStore::stats() const { return impl_->store.stats(); }

}  // namespace weir::inline v0
