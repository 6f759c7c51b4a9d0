#pragma once
// What a Context (core/context.hpp) asks of operations: it keeps the nearest shared operation alive, and makes it the current
// one where its work runs. Operations on stacks are left to their threads.

#include "weir/operation/detail/dispatch.hpp"

namespace weir::inline v0::detail {

inline Operation* ContextHooks::capture(bool& outside) noexcept {
  Operation* const current = Operation::current();
  Operation* node = current;
  while (node != nullptr && node->owner_ != no_thread) node = node->owner_ != every_thread ? node->parent_ : nullptr;
  if (node == nullptr) return nullptr;
  // What runs directly under it, by OperationScope, has the ambient context of before, unless a ContextScope is inside.
  outside = node == current && thread_state.scoped_under != node;
  retain(node);
  return node;
}

inline const Operation* ContextHooks::current() noexcept { return Operation::current(); }

inline void ContextHooks::retain(Operation* operation) noexcept { operation->references_.fetch_add(1, std::memory_order_relaxed); }
inline void ContextHooks::release(Operation* operation) noexcept { Dispatch::release_shared(operation); }

inline Operation* ContextHooks::enter(Operation* operation) noexcept {
  Slot* const me = this_slot();
  Operation* const previous = me->current;
  if (me->is_inert()) return previous;
  for (const Operation* node = previous; node != nullptr; node = node->parent_)
    if (node == operation) return previous;
  me->current = operation;
  return previous;
}

inline void ContextHooks::leave(Operation* previous) noexcept {
  Slot* const me = this_slot();
  if (!me->is_inert()) me->current = Dispatch::nearest_unfinished(previous);
}

}  // namespace weir::inline v0::detail
