#pragma once
// Trackers: what becomes of activities. To write one, say what is of interest when an activity starts:
//
//   class CountFailures : public weir::ActivityTracker {
//     struct Following : weir::Tracking {                                  // one activity, as this tracker sees it
//       explicit Following(std::atomic<int>& failures) : failures(failures) {}
//       void failed(const weir::ActivityError&) override { ++failures; }
//       std::atomic<int>& failures;
//     };
//     void started(weir::ActivityStart& start) override {
//       if (start.subject() == "order") start.follow<Following>(failures);
//     }
//     std::atomic<int> failures{0};
//   };
//
// What a tracker throws is dropped, counted (activity_stats) and logged, and stops neither the program nor other trackers.

#include <concepts>
#include <cstddef>
#include <memory>
#include <new>
#include <string_view>
#include <system_error>
#include <typeinfo>
#include <utility>
#include <vector>

#include "weir/activity/activity.hpp"

namespace weir::inline v0 {

/// An error as it was reported. Borrowed for the call.
struct ActivityError {
  std::string_view text;                      ///< what() or message(), or the text itself; nothing is redacted
  const std::type_info* exception = nullptr;  ///< of what was thrown, if it is known
  std::error_code code{};                     ///< if there is one
};

/// What a tracker keeps for one activity, and hears of it: made by ActivityStart::follow, destroyed after ended(), which
/// comes once. They return or throw: pthread_exit ends the program here. Thread-safety: calls come one after the other, maybe
/// from several threads.
class Tracking {
 public:
  /// Whether these functions may reach a cancellation point (pthreads(7)), as most that wait or write are. The thread's
  /// cancellation is put off meanwhile, which takes some nanoseconds; a T of which it is not true says so with a `blocks` of its own.
  static constexpr bool blocks = true;

  Tracking() = default;
  Tracking(const Tracking&) = delete;
  Tracking& operator=(const Tracking&) = delete;
  virtual ~Tracking() = default;

  virtual void failed(const ActivityError& error) { (void)error; }
  virtual void changed(ActivityChange& change) { (void)change; }
  virtual void ended() {}
  /// What a context that surrounds the activity is inside it: with the span that this tracker opened, say.
  virtual Context inside(Context outer) const { return outer; }

 private:
  friend class ActivityStart;
  friend class detail::ActivityRecord;
  Tracking* next_ = nullptr;
};

/// Tells several trackers, in order, of everything; each hears of the end, whatever others throw. Copies share the trackers.
///
///   weir::ChainedTracker tracker(spans, log);                                   // they outlive it
///   auto tracker = weir::ChainedTracker::create({std::move(spans), log});       // Result: refuses null members
///
/// Thread-safety: shared: safe.
class ChainedTracker final : public ActivityTracker {
 public:
  template <std::derived_from<ActivityTracker>... Trackers>
  requires(sizeof...(Trackers) > 1) explicit ChainedTracker(Trackers&... trackers) : trackers_{&trackers...} {}

  /// Error: std::errc::invalid_argument for a null member, which names its place.
  static Result<ChainedTracker> create(std::vector<std::shared_ptr<ActivityTracker>> trackers);

 private:
  ChainedTracker() = default;
  inline void started(ActivityStart& start) override;  // "inline" here, or every file that includes this compiles all of it

  std::vector<ActivityTracker*> trackers_;
  std::vector<std::shared_ptr<ActivityTracker>> owned_;
};

template <class T, class... Arguments>
T& ActivityStart::follow(Arguments&&... arguments) {
  static_assert(std::derived_from<T, Tracking>, "what follows an activity derives from weir::Tracking");
  static_assert(alignof(T) <= alignof(std::max_align_t));
  T* const tracking = new (allocate(sizeof(T))) T(std::forward<Arguments>(arguments)...);
  add(*tracking, T::blocks);
  return *tracking;
}

}  // namespace weir::inline v0

// IWYU pragma: begin_exports
#include "weir/activity/detail/activity_impl.hpp"
// IWYU pragma: end_exports
