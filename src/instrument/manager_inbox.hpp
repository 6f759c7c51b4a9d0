#pragma once
// What reaches a Manager's loop from other threads (private to src). Posting never blocks. Nothing grows without end: of configurations
// the newest of each group is kept, events and requests are bounded and counted beyond; the rest are as many as there are calls,
// instrumentations and processes that ended.

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "instrument/guarded.hpp"
#include "instrument/worker_pool.hpp"
#include "weir/instrument/detail/manager_engine.hpp"
#include "weir/instrument/detector.hpp"
#include "weir/instrument/manager.hpp"

namespace weir::inline v0::detail {

struct GroupHash {
  std::size_t operator()(const GroupKey& group) const noexcept { return group->hash; }
};
struct GroupEqual {
  bool operator()(const GroupKey& left, const GroupKey& right) const noexcept {
    if (left == right) return true;
    if (left->hash != right->hash) return false;
    const Result<bool> equal = guarded<bool>([&]() -> Result<bool> { return left->equals(*right); });
    return equal && *equal;
  }
};
template <class T>
using GroupMap = std::unordered_map<GroupKey, T, GroupHash, GroupEqual>;

struct RunEnded {
  pid_t pid = 0;
  std::uint64_t serial = 0;  ///< of the instance
  std::optional<Error> error{};
};
struct DetectorEnded {
  Result<void> result{};
};

class Inbox {
 public:
  using Clock = std::chrono::steady_clock;
  using Uninstruments = Uninstrument<GroupKey>;
  using Message = std::variant<ProcessEvent, Instrument, Uninstruments, RetryFailed, std::shared_ptr<Job>, RunEnded, DetectorEnded>;
  static constexpr std::size_t max_waiting = 65'536;

  struct Batch {
    std::deque<Message> messages{};
    GroupMap<Config> configs{};
  };

  void event(const ProcessEvent& event);
  void request(Message request);
  /// One update: never taken in parts.
  void config(std::vector<std::pair<GroupKey, Config>> update);
  /// Of what there can be only so many.
  void post(Message message);
  void wake();
  /// Waits until there is something, or `until`. One loop calls it.
  Batch take(std::optional<Clock::time_point> until);
  /// What comes from now on is dropped, by whom it comes. What nobody took.
  Batch close();

  std::uint64_t lost_events() const;
  std::uint64_t lost_requests() const;

 private:
  mutable std::mutex mutex_;  // guards all below
  std::condition_variable filled_;
  Batch batch_;
  std::size_t events_ = 0, requests_ = 0;
  std::uint64_t lost_events_ = 0, lost_requests_ = 0;
  bool woken_ = false, closed_ = false;
};

}  // namespace weir::inline v0::detail
