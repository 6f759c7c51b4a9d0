#pragma once
// The memory of one activity: blocks that the thread keeps (operation/detail/slot.hpp), filled from the front. The record stands at
// the beginning of the first.
//
//   [record | tracking | tracking |      ] ─▶ [block | tracking |          ] ─▶ …

#include <cstddef>

#include "weir/activity/tracker.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: shared: unsafe, as the activity is.
class ActivityRecord {
 public:
  /// Throws std::bad_alloc.
  static ActivityRecord* create();
  /// Ends it: tells everybody, destroys what they keep, and itself.
  void end() noexcept;

  void* allocate(std::size_t size);
  void add(Tracking& tracking) noexcept;
  /// Of the activity: given out at the first call.
  std::uint64_t id() noexcept;

  /// Calls `tell` with each tracking, in order. What it throws is dropped.
  template <class F>
  void each(F tell) noexcept {
    for (Tracking* tracking = first_; tracking != nullptr; tracking = tracking->next_) {
      try {
        tell(*tracking);
      } catch (...) {
        tracker_threw({});
      }
    }
  }

 private:
  struct Block {
    Block* next;
    std::size_t size;
  };

  ActivityRecord() = default;

  Tracking* first_ = nullptr;
  Tracking** last_ = &first_;
  std::byte* free_ = nullptr;
  std::byte* end_ = nullptr;
  Block* more_ = nullptr;
  std::uint64_t id_ = 0;
};

}  // namespace weir::inline v0::detail
