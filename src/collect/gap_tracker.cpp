#include "collect/gap_tracker.hpp"

namespace weir::inline v0::detail {

/// The loss up to the latest hello, when nothing more can come from earlier connections.
std::uint64_t GapTracker::settle(Service& service) noexcept {
  if (service.earlier_open != 0) return 0;
  const std::uint64_t lost = service.sequence > service.read_before ? service.sequence - service.read_before : 0;
  service.read_before = service.sequence;
  return lost;
}

std::uint64_t GapTracker::hello(Place& place, Key key, std::uint64_t sequence) {
  if (place.service != nullptr) return 0;
  auto found = services_.find(key);
  const bool known = found != services_.end();
  if (!known) {
    if (!make_room()) return 0;
    found = services_.try_emplace(std::move(key)).first;
  }
  Service& service = found->second;
  service.read_before = known ? service.read_before + std::exchange(service.read_since, 0) : sequence;
  service.earlier_open += service.latest_open ? 1 : 0;
  service.latest_open = true;
  service.sequence = sequence;
  service.last_hello = ++hellos_;
  place = {&service, ++service.latest};
  return settle(service);
}

std::uint64_t GapTracker::ended(Place& place) noexcept {
  if (place.service == nullptr) return 0;
  Service& service = *std::exchange(place.service, nullptr);
  if (place.connection == service.latest) {
    service.latest_open = false;
    return 0;
  }
  --service.earlier_open;
  return settle(service);
}

void GapTracker::read_spans(const Place& place, std::uint64_t count) noexcept {
  if (place.service == nullptr) return;
  (place.connection == place.service->latest ? place.service->read_since : place.service->read_before) += count;
}

bool GapTracker::make_room() {
  if (services_.size() < max_services) return true;
  auto oldest = services_.end();
  for (auto at = services_.begin(); at != services_.end(); ++at) {
    const Service& service = at->second;
    if (service.latest_open || service.earlier_open != 0) continue;
    if (oldest == services_.end() || service.last_hello < oldest->second.last_hello) oldest = at;
  }
  if (oldest == services_.end()) return false;
  services_.erase(oldest);
  return true;
}

}  // namespace weir::inline v0::detail
