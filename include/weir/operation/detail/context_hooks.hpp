#pragma once
// What a Context (core/context.hpp) asks of operations: it keeps the nearest shared operation alive, and makes it the current
// one where its work runs. Operations on stacks are left to their threads, and so is what is shared and under one of these.

#include "weir/operation/detail/dispatch.hpp"

namespace weir::inline v0::detail {

inline Operation* ContextHooks::capture(bool& outside) noexcept {
  Operation* const current = Operation::current();
  Operation* shared = nullptr;
  for (Operation* node = current; node != nullptr; node = node->parent_) {
    if (node->owner_ == no_thread)
      shared = shared != nullptr ? shared : node;
    else if (node->owner_ != every_thread)
      shared = nullptr;
  }
  if (shared == nullptr) return nullptr;
  // What runs directly under it, by OperationScope, has the ambient context of before, unless a ContextScope is inside.
  outside = shared == current && !shared->implicit() && thread_state.scoped_under != shared;
  retain(shared);
  return shared;
}

inline Operation* ContextHooks::on_stack(Operation* node) noexcept {
  while (node != nullptr && node->owner_ == no_thread) node = node->parent_;
  return node != nullptr && node->owner_ != every_thread ? node : nullptr;
}

inline const Operation* ContextHooks::current() noexcept { return Operation::current(); }

inline void ContextHooks::retain(Operation* operation) noexcept { operation->references_.fetch_add(1, std::memory_order_relaxed); }
inline void ContextHooks::release(Operation* operation) noexcept { Dispatch::release_shared(operation); }

inline Operation* ContextHooks::enter(Operation* operation) noexcept {
  for (const Operation* node = Operation::current(); node != nullptr; node = node->parent_)
    if (node == operation) return exchange_current(nullptr);
  return exchange_current(operation);
}

inline Operation* ContextHooks::exchange_current(Operation* operation) noexcept {
  Slot* const me = this_slot();
  if (me->is_inert()) return nullptr;
  Operation* const previous = me->current;
  if (previous != nullptr && previous->owner_ == no_thread) retain(previous);
  if (operation != nullptr) me->current = operation;
  return previous;
}

inline void ContextHooks::leave(Operation* previous) noexcept {
  Slot* const me = this_slot();
  if (me->is_inert()) return;
  me->current = Dispatch::nearest_unfinished(previous);
  if (previous != nullptr && previous->owner_ == no_thread) release(previous);
}

}  // namespace weir::inline v0::detail
