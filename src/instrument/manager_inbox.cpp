#include "instrument/manager_inbox.hpp"

namespace weir::inline v0::detail {

void Inbox::event(const ProcessEvent& event) {
  const bool bounded = event.type != ProcessEvent::Type::exit;
  Message message = event;
  std::lock_guard lock(mutex_);
  if (closed_) return;
  if (bounded && events_ >= max_waiting) {
    ++lost_events_;
    return;
  }
  events_ += bounded ? 1 : 0;
  batch_.messages.push_back(std::move(message));
  filled_.notify_one();
}

void Inbox::request(Message request) {
  std::lock_guard lock(mutex_);
  if (closed_) return;
  if (requests_ >= max_waiting) {
    ++lost_requests_;
    return;
  }
  ++requests_;
  batch_.messages.push_back(std::move(request));
  filled_.notify_one();
}

void Inbox::config(std::vector<std::pair<GroupKey, Config>> update) {
  std::lock_guard lock(mutex_);
  if (closed_) return;
  for (auto& [group, config] : update) batch_.configs.insert_or_assign(std::move(group), std::move(config));
  filled_.notify_one();
}

void Inbox::post(Message message) {
  std::lock_guard lock(mutex_);
  if (closed_) return;
  batch_.messages.push_back(std::move(message));
  filled_.notify_one();
}

void Inbox::wake() {
  std::lock_guard lock(mutex_);
  woken_ = true;
  filled_.notify_one();
}

Inbox::Batch Inbox::take(std::optional<Clock::time_point> until) {
  std::unique_lock lock(mutex_);
  const auto filled = [this] { return woken_ || !batch_.messages.empty() || !batch_.configs.empty(); };
  if (until) {
    filled_.wait_until(lock, *until, filled);
  } else {
    filled_.wait(lock, filled);
  }
  woken_ = false;
  events_ = requests_ = 0;
  return std::exchange(batch_, {});
}

Inbox::Batch Inbox::close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  return std::exchange(batch_, {});
}

std::uint64_t Inbox::lost_events() const {
  std::lock_guard lock(mutex_);
  return lost_events_;
}

std::uint64_t Inbox::lost_requests() const {
  std::lock_guard lock(mutex_);
  return lost_requests_;
}

}  // namespace weir::inline v0::detail
