#pragma once
// fork(): the child has one thread. The locks are held across the call, so that what they guard is whole; then the child
// forgets the threads that are not there: what they were running is over, what they were finishing counts as finished,
// and their operations are gone. (The roots above those stay alive, and their shared operations keep their references.)

#include "weir/operation/detail/dispatch.hpp"

namespace weir::inline v0::detail {

template <class F>
void for_each_list(F f) {
  for (Slot* s = process_state.slots.load(std::memory_order_acquire); s != nullptr; s = s->next) {
    f(s->own);
    f(s->shared);
  }
}

inline void prepare_fork() {
  Slot* const me = this_slot();
  if (me->is_busy()) return;  // in a signal handler, or in an allocation of ours: nothing can be locked
  me->nesting.store(me->nesting.load(std::memory_order_relaxed) | Slot::busy, std::memory_order_relaxed);
  pthread_mutex_lock(&process_state.mutex);
  for_each_list([](NodeList& list) {
    for (unsigned round = 0; list.lock.exchange(true, std::memory_order_acquire); ++round) pause(round);
    if (list.owner != nullptr) list.wanted.store(true, std::memory_order_seq_cst);
  });
  heavy_barrier();
  for_each_list([](NodeList& list) {
    for (unsigned round = 0; list.owner != nullptr && (list.owner->nesting.load(std::memory_order_acquire) & Slot::biased) != 0; ++round)
      pause(round);
  });
  me->forking = true;
}

/// In the parent and, last, in the child.
inline void parent_forked() {
  Slot* const me = this_slot();
  if (!me->forking) return;
  me->forking = false;
  for_each_list([](NodeList& list) {
    list.wanted.store(false, std::memory_order_release);
    list.lock.store(false, std::memory_order_release);
  });
  pthread_mutex_unlock(&process_state.mutex);
  me->nesting.store(me->nesting.load(std::memory_order_relaxed) & ~Slot::busy, std::memory_order_relaxed);
}

/// Nobody may allocate here. The other threads' stacks are still there to be read, but the next thread may get them.
inline void child_forked() {
  Slot* const me = this_slot();
  process_state.survivor = me;
  ++process_state.forks;
  while (me->current != nullptr && Dispatch::is_lost(*me->current, me)) me->current = me->current->parent();
  for (Operation* node = me->current; node != nullptr; node = node->parent()) Dispatch::leave_lost_parents(*node, me);
  for (Slot* s = process_state.slots.load(std::memory_order_relaxed); s != nullptr; s = s->next) {
    if (s == me || !s->used.load(std::memory_order_relaxed)) continue;
    for (auto& hazard : s->hazard) hazard.store(nullptr, std::memory_order_relaxed);
    s->nesting.store(0, std::memory_order_relaxed);
    s->own.first = nullptr;
    s->current = nullptr;
    s->dropping = nullptr;
    for (RootUse& use : s->uses) hand_over(use);
    s->used.store(false, std::memory_order_release);
  }
  parent_forked();
}

}  // namespace weir::inline v0::detail
