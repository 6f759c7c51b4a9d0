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
inline bool is_thread(const Slot* owner) { return owner > no_thread; }

struct OperationInfo {
  std::string_view name;
  SpanKind kind;
  const std::atomic<EventType*>* start;  // key of the type of its start
  EventType* (*identity)();              // the same for one type in all shared libraries
  void (*finish)(Operation*);            // with Result{}, or without a result where that does not exist
  void (*destroy)(Operation*);           // of a shared operation
};

inline constexpr OperationInfo root_info{"root", SpanKind::function, nullptr, nullptr, nullptr, nullptr};

struct RootNode : Operation {
  explicit RootNode(Slot* maker) : Operation(every_thread, &root_info) {
    parent_ = nullptr;
    own_ = 0;
    uncaught_ = 0;
    home_ = &maker->shared;
  }
  explicit RootNode(void* memory_for_a_lane);  // the deaf one
  ~RootNode();

  std::atomic<std::int64_t> merged{0};  // users that no slot counts any more; raised under the process mutex only
  // Guarded by the process mutex.
  int handles = 1;
  RootNode* next = nullptr;
  std::uint64_t id = 0;  // constant
};

/// nullptr without memory, or in a signal handler at a bad moment.
inline RootNode* make_root() {
  Slot* const me = this_slot();
  if (me->is_busy()) return nullptr;
  void* const memory = allocate(me, sizeof(RootNode));
  if (memory == nullptr) return nullptr;
  auto* const root = new (memory) RootNode(me);
  ProcessLock lock(me);
  root->id = ++process_state.last_root_id;
  root->next = std::exchange(process_state.roots, root);
  return root;
}

inline RootNode* find_root(std::uint64_t id) {
  RootNode* root = process_state.roots;
  while (root != nullptr && root->id != id) root = root->next;
  return root;
}

/// Takes the root off the list if nothing needs it any more; the caller then deletes it outside the mutex.
inline bool retire_root_locked(RootNode* root) {
  if (root == process_state.installed || root->handles != 0) return false;
  std::int64_t users = root->merged.load(std::memory_order_acquire);
  for (const Slot* s = process_state.slots.load(std::memory_order_acquire); s != nullptr; s = s->next)
    for (const RootUse& use : s->uses)
      if (use.root_id.load(std::memory_order_acquire) == root->id) users += use.users();
  if (users != 0) return false;
  RootNode** link = &process_state.roots;
  while (*link != root) link = &(*link)->next;
  *link = root->next;
  return true;
}

/// Roots that were retired, to be deleted outside the mutex.
class RetiredRoots {
 public:
  RetiredRoots() = default;
  ~RetiredRoots() {
    while (first_ != nullptr) delete_root(std::exchange(first_, first_->next));
  }
  RetiredRoots(const RetiredRoots&) = delete;
  RetiredRoots& operator=(const RetiredRoots&) = delete;

  /// Retires the root if nothing needs it any more. Requires: the mutex.
  void offer(RootNode* root) {
    if (root != nullptr && retire_root_locked(root)) root->next = std::exchange(first_, root);
  }

 private:
  static inline void delete_root(RootNode* root);
  RootNode* first_ = nullptr;
};

/// Leaves what `use` counts to its root. Requires: the mutex.
inline RootNode* hand_over(RootUse& use) {
  RootNode* root = find_root(use.root_id.load(std::memory_order_relaxed));
  if (root != nullptr) root->merged.fetch_add(use.users(), std::memory_order_relaxed);
  use.root_id.store(0, std::memory_order_release);
  use.made.store(0, std::memory_order_release);
  use.gone.store(0, std::memory_order_release);
  use.root = nullptr;
  use.generation = use.adopted = 0;
  return root;
}

/// The one to count a new root in: not the latest, and not one that counts something, if there is a choice.
inline RootUse* next_use(Slot* me) {
  constexpr std::size_t count = sizeof me->uses / sizeof me->uses[0];
  const std::size_t latest = static_cast<std::size_t>(me->use - me->uses);
  for (std::size_t i = 1; i < count; ++i)
    if (RootUse& use = me->uses[(latest + i) % count]; use.users() == 0) return &use;
  return &me->uses[(latest + 1) % count];
}

/// The generation moved since `use`, on which one use was just counted: adopts the installed root, and counts it there.
[[gnu::noinline, gnu::cold]] inline RootNode* refresh_root(Slot* me, RootUse* use) {
  if (me->has_fences()) {  // the short way is never taken: look again, behind a full barrier
    use->made.fetch_add(0, std::memory_order_seq_cst);
    if (process_state.generation.load(std::memory_order_seq_cst) == use->adopted) return use->root;
  }
  bump(use->gone);
  if (me->is_busy()) {
    process_state.missed_root.store(true, std::memory_order_relaxed);
    return process_state.deaf;
  }
  RetiredRoots retired;
  ProcessLock lock(me);
  retired.offer(find_root(use->root_id.load(std::memory_order_relaxed)));
  const std::uint64_t generation = process_state.generation.load(std::memory_order_relaxed);
  if (me->use->adopted != generation) {  // else a signal handler has been here
    use = next_use(me);
    retired.offer(hand_over(*use));
    use->root = process_state.installed;
    use->root_id.store(use->root != nullptr ? use->root->id : 0, std::memory_order_release);
    use->adopted = generation;
    use->generation = me->has_fences() ? 0 : generation;
    me->use = use;
  }
  bump(me->use->made);
  return me->use->root;
}

/// Counts one use of the installed root, if there is one. Requires: the thread's own slot.
[[gnu::always_inline]] inline RootNode* acquire_root(Slot* me) {
  RootUse* const use = me->use;
  bump(use->made);
  compiler_barrier();  // count first, then look: swap_root's heavy barrier stands between for everybody else
  if (process_state.generation.load(std::memory_order_seq_cst) == use->generation) [[likely]]
    return use->root;
  return refresh_root(me, use);
}

/// One use less of the root with this id, if it still exists: by `uncounted` beyond what the slots count.
[[gnu::noinline, gnu::cold]] inline void release_root_slow(Slot* me, std::uint64_t id, int uncounted) {
  RetiredRoots retired;
  ProcessLock lock(me);
  RootNode* const root = find_root(id);  // nullptr: somebody else saw the last use go
  if (root != nullptr) root->merged.fetch_sub(uncounted, std::memory_order_relaxed);
  retired.offer(root);
}

/// The generation moved since `use`, on which one use less was just counted.
[[gnu::noinline, gnu::cold]] inline void release_root_swapped(Slot* me, RootUse* use) {
  if (me->has_fences()) {
    use->gone.fetch_add(0, std::memory_order_seq_cst);
    if (process_state.generation.load(std::memory_order_seq_cst) == use->adopted) return;
  }
  if (me->is_busy()) return process_state.missed_root.store(true, std::memory_order_relaxed);
  release_root_slow(me, use->root_id.load(std::memory_order_relaxed), 0);
}

[[gnu::always_inline]] inline void release_use(Slot* me, RootUse* use) {
  const std::uint64_t generation = use->generation;
  bump(use->gone);
  compiler_barrier();
  if (process_state.generation.load(std::memory_order_seq_cst) != generation) [[unlikely]]
    release_root_swapped(me, use);
}

/// Ends a use of `root`, wherever it was counted. There may have been none to count.
[[gnu::noinline]] inline void release_root(Slot* me, Operation* root) {
  if (root == nullptr || root == process_state.deaf) return;
  const std::uint64_t id = static_cast<RootNode*>(root)->id;
  for (RootUse& use : me->uses)
    if (use.root_id.load(std::memory_order_relaxed) == id) return release_use(me, &use);
  if (me->is_busy() && !me->is_inert()) {
    static_cast<RootNode*>(root)->merged.fetch_sub(1, std::memory_order_release);
    return process_state.missed_root.store(true, std::memory_order_relaxed);
  }
  release_root_slow(me, id, 1);
}

/// Ends a use that a stack operation of this thread counted with acquire_root. Until then `root` is alive, so that its
/// address tells it from all others.
[[gnu::always_inline]] inline void release_acquired_root(Slot* me, Operation* root) {
  RootUse* const use = me->use;
  if (static_cast<Operation*>(use->root) == root) [[likely]]
    release_use(me, use);
  else
    release_root(me, root);
}

/// Counts one use of a root that the caller knows to be alive, installed or not. Returns what to use instead in a signal
/// handler at a bad moment.
[[gnu::noinline]] inline RootNode* pin_root(Slot* me, RootNode* root) {
  if (me->is_busy()) return process_state.deaf;
  ProcessLock lock(me);
  root->merged.fetch_add(1, std::memory_order_relaxed);
  return root;
}

/// Frees the roots whose last use nobody saw go.
[[gnu::noinline, gnu::cold]] inline void free_missed_roots() {
  process_state.missed_root.store(false, std::memory_order_relaxed);
  RetiredRoots retired;
  ProcessLock lock;
  for (RootNode *root = process_state.roots, *next; root != nullptr; root = next) {
    next = root->next;
    retired.offer(root);
  }
}

/// Destructor of the pthread key: the thread is over.
inline void end_slot(void* pointer);

}  // namespace weir::inline v0::detail
