#include "weir/telemetry/telemetry.hpp"

#include "telemetry/buffer.hpp"
#include "weir/core/detail/exceptions.hpp"
#include "weir/core/detail/immortal.hpp"
#include "weir/telemetry/payload.hpp"

namespace weir::inline v0 {

namespace {

Error out_of_memory() { return Error{std::make_error_code(std::errc::not_enough_memory), "out of memory"}; }

}  // namespace

Result<Telemetry> Telemetry::create(InstanceId id, TelemetryOptions options) {
  WEIR_TRY {
    if (auto error = detail::TableBuffer::check(id, options)) return std::move(*error);
    auto buffer = std::make_shared<detail::TableBuffer>();
    buffer->begin(id, std::move(options));
    return Telemetry(std::move(buffer));
  }
  WEIR_CATCH_ALL { return out_of_memory(); }
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
  static detail::Immortal<detail::TableBuffer> buffer;
  static const detail::Immortal<Telemetry> own(Telemetry(std::shared_ptr<detail::Buffer>(std::shared_ptr<void>(), &buffer.value)));
  return detail::shared_telemetry.compare_exchange_strong(telemetry, &own.value, std::memory_order_acq_rel) ? own.value : *telemetry;
}

Result<void> init_telemetry(InstanceId id, TelemetryOptions options) {
  WEIR_TRY {
    if (auto error = detail::TableBuffer::check(id, options)) return std::move(*error);
    if (telemetry().buffer_->begin(id, std::move(options))) return {};
    return Error{std::make_error_code(std::errc::operation_not_permitted), "init_telemetry was called before: call it once, in main"};
  }
  WEIR_CATCH_ALL { return out_of_memory(); }
}

}  // namespace weir::inline v0
