#pragma once
// How long a root lives: until it is not installed, no handle names it, and no operation is left directly under it.
//
// Operations under the installed root are counted per thread, without a shared write: each slot counts those it made and
// those it ended, for the root whose id it holds. swap_root bumps the generation and runs a heavy barrier; from then on no
// thread adds to the old root (its look at the generation fails), so the sum over all threads only falls, and whoever
// lowers it sees the new generation and checks. Ids are never reused; an address would be.

#include "weir/operation/operation.hpp"

namespace weir::inline v0::detail {

inline Slot* const every_thread = reinterpret_cast<Slot*>(1);  // owner of roots
inline Slot* const no_thread = reinterpret_cast<Slot*>(2);     // owner of shared operations

struct OperationInfo {
  std::string_view name;
  SpanKind kind;
  EventType* (*identity)();     // the same for one type in all shared libraries
  void (*finish)(Operation*);   // with Result{}, or without a result where that does not exist
  void (*destroy)(Operation*);  // of a shared operation
};

inline constexpr OperationInfo root_info{"root", SpanKind::function, nullptr, nullptr, nullptr};

struct RootNode : Operation {
  RootNode() : Operation(nullptr, every_thread, &root_info) {
    home_ = this_slot();
    MutexLock lock(process_state.mutex);
    id = ++process_state.last_root_id;
    next = std::exchange(process_state.roots, this);
  }
  ~RootNode();

  // Guarded by the process mutex.
  std::int64_t merged = 0;  // users that no slot counts any more
  int handles = 1;
  RootNode* next;
  std::uint64_t id;  // constant
};

inline RootNode* find_root(std::uint64_t id) {
  RootNode* root = process_state.roots;
  while (root != nullptr && root->id != id) root = root->next;
  return root;
}

/// Takes the root off the list if nothing needs it any more; the caller then deletes it outside the mutex.
inline bool retire_root_locked(RootNode* root) {
  if (root == process_state.installed || root->handles != 0) return false;
  std::int64_t users = root->merged;
  for (const Slot* s = process_state.slots.load(std::memory_order_acquire); s != nullptr; s = s->next)
    if (s->root_id.load(std::memory_order_acquire) == root->id) users += s->users();
  if (users != 0) return false;
  RootNode** link = &process_state.roots;
  while (*link != root) link = &(*link)->next;
  *link = root->next;
  return true;
}

/// Hands this slot's count over to its root. Returns the root if that was the last use.
inline RootNode* hand_over_locked(Slot* slot) {
  RootNode* root = find_root(slot->root_id.load(std::memory_order_relaxed));
  if (root != nullptr) root->merged += slot->users();
  slot->root_id.store(0, std::memory_order_release);
  slot->made.store(0, std::memory_order_release);
  slot->gone.store(0, std::memory_order_release);
  slot->root = nullptr;
  slot->generation = 0;
  return root != nullptr && retire_root_locked(root) ? root : nullptr;
}

/// The generation moved: adopts the installed root, counting one use of it.
[[gnu::noinline, gnu::cold]] inline RootNode* refresh_root(Slot* me) {
  RootNode* unused;
  RootNode* root;
  {
    MutexLock lock(process_state.mutex);
    unused = hand_over_locked(me);
    root = process_state.installed;
    me->generation = process_state.generation.load(std::memory_order_relaxed);
    me->root = root;
    me->made.store(root != nullptr ? 1 : 0, std::memory_order_release);
    me->root_id.store(root != nullptr ? root->id : 0, std::memory_order_release);
  }
  delete unused;
  return root;
}

/// Counts one use of the installed root; nullptr if none is installed (nothing is counted then).
[[gnu::always_inline]] inline RootNode* acquire_root(Slot* me) {
  if (me->fences) [[unlikely]]
    me->made.fetch_add(1, std::memory_order_seq_cst);
  else
    me->made.store(me->made.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  compiler_barrier();  // count first, then look: swap_root's heavy barrier stands between for everybody else
  if (process_state.generation.load(std::memory_order_seq_cst) == me->generation) [[likely]]
    return me->root;
  me->made.store(me->made.load(std::memory_order_relaxed) - 1, std::memory_order_release);
  return refresh_root(me);
}

[[gnu::noinline, gnu::cold]] inline void release_root_slow(std::uint64_t id, bool counted) {
  RootNode* unused = nullptr;
  {
    MutexLock lock(process_state.mutex);
    RootNode* root = find_root(id);
    if (root == nullptr) return;  // somebody else saw the last use go
    if (!counted) --root->merged;
    if (retire_root_locked(root)) unused = root;
  }
  delete unused;
}

[[gnu::always_inline]] inline void release_root(Slot* me, RootNode* root) {
  const std::uint64_t id = root->id;
  if (me->root_id.load(std::memory_order_relaxed) != id) [[unlikely]]
    return release_root_slow(id, false);
  const std::uint64_t generation = me->generation;
  if (me->fences) [[unlikely]]
    me->gone.fetch_add(1, std::memory_order_seq_cst);
  else
    me->gone.store(me->gone.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  compiler_barrier();
  if (process_state.generation.load(std::memory_order_seq_cst) != generation) [[unlikely]]
    release_root_slow(id, true);
}

/// Counts one use of a root that the caller knows to be alive, installed or not.
[[gnu::noinline]] inline void pin_root(RootNode* root) {
  MutexLock lock(process_state.mutex);
  ++root->merged;
}

/// Destructor of the pthread key: the thread is over.
inline void end_slot(void* pointer);

}  // namespace weir::inline v0::detail
