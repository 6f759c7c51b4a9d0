#pragma once
// The memory of one activity: blocks that the thread keeps (operation/detail/slot.hpp), filled from the front. The record stands at
// the beginning of the first.
//
//   [record | tracking | tracking |      ] ─▶ [block | tracking |          ] ─▶ …

#include <algorithm>
#include <cstddef>
#include <new>
#include <optional>
#include <typeinfo>
#include <utility>

#include "weir/activity/tracker.hpp"
#include "weir/operation/operation.hpp"

namespace weir::inline v0::detail {

/// In a handler: counts the exception that is being handled, and logs it. `tracker`: the type that threw.
void tracker_threw(const std::type_info* tracker) noexcept;

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
      WEIR_TRY { tell(*tracking); }
      WEIR_CATCH_ALL { tracker_threw(type_of(*tracking)); }
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

/// Rounded up to what any object is aligned to.
constexpr std::size_t aligned(std::size_t size) noexcept {
  return (size + alignof(std::max_align_t) - 1) / alignof(std::max_align_t) * alignof(std::max_align_t);
}

/// The block of an activity that was just ended is the one that the next gets.
inline void put_back(void* block) noexcept {
  ThreadState& thread = thread_state;
  if (thread.spare_block != nullptr || thread_slot == nullptr) return give_block(block, SpareBlock::size);
  thread.spare_block = block;
}

inline ActivityRecord* ActivityRecord::create() {
  void* memory = std::exchange(thread_state.spare_block, nullptr);
  if (memory == nullptr) memory = take_block(SpareBlock::size);
  if (memory == nullptr) memory = ::operator new(SpareBlock::size);  // which throws, or has been made to find some
  auto* const record = new (memory) ActivityRecord;
  record->free_ = static_cast<std::byte*>(memory) + aligned(sizeof(ActivityRecord));
  record->end_ = static_cast<std::byte*>(memory) + SpareBlock::size;
  return record;
}

inline void* ActivityRecord::allocate(std::size_t size) {
  size = aligned(size);
  if (static_cast<std::size_t>(end_ - free_) < size) {
    const std::size_t block_size = std::max(SpareBlock::size, aligned(sizeof(Block)) + size);
    void* memory = take_block(block_size);
    if (memory == nullptr) memory = ::operator new(block_size);
    more_ = new (memory) Block{more_, block_size};
    free_ = static_cast<std::byte*>(memory) + aligned(sizeof(Block));
    end_ = static_cast<std::byte*>(memory) + block_size;
  }
  return std::exchange(free_, free_ + size);
}

inline void ActivityRecord::add(Tracking& tracking, bool blocks) noexcept {
  blocks_ = blocks_ || blocks;
  *last_ = &tracking;
  last_ = &tracking.next_;
}

inline std::uint64_t ActivityRecord::id() noexcept {
  constexpr std::uint64_t batch = 1024;  // that a thread takes at a time
  if (id_ != 0) return id_;
  ThreadState& thread = thread_state;
  if (thread.next_activity == thread.activities_end) {
    thread.next_activity = activities.next_id.fetch_add(batch, std::memory_order_relaxed);
    thread.activities_end = thread.next_activity + batch;
  }
  return id_ = thread.next_activity++;
}

inline void ActivityRecord::end() noexcept {
  if (telling_ != 0)
    end_due_ = true;
  else
    finish();
}

inline void ActivityRecord::finish() noexcept {
  end_due_ = false;
  std::optional<NoCancellation> no_cancellation;
  if (blocks_) no_cancellation.emplace();
  each([](Tracking& tracking) { tracking.ended(); });
  while (first_ != nullptr) {
    Tracking* const tracking = std::exchange(first_, first_->next_);
    tracking->~Tracking();
  }
  while (more_ != nullptr) {
    Block* const block = std::exchange(more_, more_->next);
    give_block(block, block->size);
  }
  put_back(this);
}

}  // namespace weir::inline v0::detail
