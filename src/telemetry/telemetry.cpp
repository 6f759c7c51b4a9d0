#include "weir/telemetry/telemetry.hpp"

#include "telemetry/buffer.hpp"
#include "weir/core/detail/immortal.hpp"
#include "weir/telemetry/payload.hpp"

namespace weir::inline v0 {

Result<Telemetry> Telemetry::create(InstanceId id, TelemetryOptions options) {
  if (auto error = detail::TableBuffer::check(id, options)) return std::move(*error);
  return Telemetry(std::make_shared<detail::TableBuffer>(id, std::move(options)));
}

Payload Telemetry::take() const {
  buffer_->collect(*this);
  return buffer_->take(true);
}

void Telemetry::merge_back(Payload payload) const noexcept { buffer_->merge_back(std::move(payload)); }

void Telemetry::reset() const { buffer_->take(false); }

const Telemetry& telemetry() noexcept {
  const Telemetry* telemetry = detail::shared_telemetry.load(std::memory_order_acquire);
  if (telemetry != nullptr) [[likely]]
    return *telemetry;
  static const detail::Immortal<Telemetry> own(Telemetry(std::make_shared<detail::TableBuffer>(InstanceId(), TelemetryOptions())));
  return detail::shared_telemetry.compare_exchange_strong(telemetry, &own.value, std::memory_order_acq_rel) ? own.value : *telemetry;
}

Result<void> init_telemetry(InstanceId id, TelemetryOptions options) {
  if (auto error = detail::TableBuffer::check(id, options)) return std::move(*error);
  if (telemetry().buffer_->begin(id, std::move(options))) return {};
  return Error{std::make_error_code(std::errc::operation_not_permitted), "init_telemetry was called before: call it once, in main"};
}

}  // namespace weir::inline v0
