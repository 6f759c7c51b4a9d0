#pragma once
// The memory of one activity: blocks that the thread keeps (operation/detail/slot.hpp), filled from the front. The record stands at
// the beginning of the first.
//
//   [record | tracking | tracking |      ] ─▶ [block | tracking |          ] ─▶ …

#include <cstddef>
#include <optional>
#include <typeinfo>

#include "weir/activity/tracker.hpp"
#include "weir/operation/operation.hpp"

namespace weir::inline v0::detail {

/// In a handler: counts the exception that is being handled, and logs it. `tracker`: the type that threw.
void tracker_threw(const std::type_info& tracker) noexcept;

/// Thread-safety: shared: unsafe, as the activity is.
class ActivityRecord {
 public:
  /// Throws std::bad_alloc.
  static ActivityRecord* create();
  /// Ends it: tells everybody, destroys what they keep, and itself. When everybody has heard what they are being told: the
  /// program's own code that runs meanwhile (the data of a change) may end the activity.
  void end() noexcept;

  void* allocate(std::size_t size);
  void add(Tracking& tracking, bool blocks) noexcept;
  /// Of the activity: given out at the first call.
  std::uint64_t id() noexcept;

  /// Calls `tell` with each tracking, in order. What it throws is dropped.
  template <class F>
  void each(F tell) noexcept {
    std::optional<NoCancellation> no_cancellation;
    if (blocks_) no_cancellation.emplace();
    ++telling_;
    for (Tracking* tracking = first_; tracking != nullptr; tracking = tracking->next_) {
      try {
        tell(*tracking);
      } catch (...) {
        tracker_threw(typeid(*tracking));
      }
    }
    if (--telling_ == 0 && end_due_) finish();
  }

 private:
  struct Block {
    Block* next;
    std::size_t size;
  };

  ActivityRecord() = default;
  void finish() noexcept;

  Tracking* first_ = nullptr;
  Tracking** last_ = &first_;
  std::byte* free_ = nullptr;
  std::byte* end_ = nullptr;
  Block* more_ = nullptr;
  std::uint64_t id_ = 0;
  unsigned telling_ = 0;  // calls of each() in progress, one inside the other
  bool end_due_ = false;  // when they are over
  bool blocks_ = false;   // somebody does
};

}  // namespace weir::inline v0::detail
