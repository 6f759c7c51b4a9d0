#pragma once
// Emission, registration, removal, and the finish protocol.
//
// Publishing: before a thread runs the listeners of a node it writes the node into its hazard[depth], and then reads the
// node's listeners again. Whoever takes listeners away first makes them unreachable, then makes sure that every thread's
// hazard is visible, then looks. Who pays for "visible":
//   a stack operation   its thread publishes with a plain store; other threads set `touched` and exchange (full barrier)
//   a root              everyone publishes with a plain store; taking away pays a heavy barrier
//   a shared operation  everyone exchanges: work that starts here and ends there must not interrupt every core

#include "weir/operation/detail/errors.hpp"
#include "weir/operation/detail/roots.hpp"

#if !defined(NDEBUG) && !defined(WEIR_CHECK_LIFETIMES)
#define WEIR_CHECK_LIFETIMES 1
#endif

namespace weir::inline v0::detail {

/// A listener that was removed inside a listener.
struct Retired {
  Lane* lane;
  Entry* entry;
  void (*destroy)(Entry*);
  const Operation* node;
  Slot* home;
  Retired* next;
};

struct Dispatch {
  template <class Event, Phase P>
  static constexpr EventView::Info info = EventView::info_of<Event, P>();
  static Phase phase(const EventView& view) { return view.info_.phase; }

  static Slot* home_of(const Operation& node) { return node.owner_ == every_thread || node.owner_ == no_thread ? node.home_ : node.owner_; }

  // ---- emission

  /// One event on its way up. Ends on every way out, forced unwinding included.
  struct Emission {
    Slot* const me;
    const unsigned depth;
    const std::uint64_t registrations;

    explicit Emission(Slot* slot) : me(slot), depth(slot->depth), registrations(slot->registrations) { me->depth = depth + 1; }
    ~Emission() {
      me->hazard[depth].store(nullptr, std::memory_order_release);
      me->depth = depth;
      if (me->retired != nullptr && depth == 0) [[unlikely]]
        finish_retired(me);
    }
    Emission(const Emission&) = delete;
    Emission& operator=(const Emission&) = delete;

    void publish(Operation* node) {
      auto& hazard = me->hazard[depth];
      if ((node->owner_ == me || node->owner_ == every_thread) && !me->fences) [[likely]] {
        hazard.store(node, std::memory_order_release);
      } else {
        if (!node->touched_.load(std::memory_order_seq_cst)) node->touched_.store(true, std::memory_order_seq_cst);
        hazard.exchange(node, std::memory_order_seq_cst);
      }
      compiler_barrier();
    }

    /// False for a listener that this event's own listeners registered.
    bool may_hear(Lane* lane, const Entry* entry) const {
      const Stamp& stamp = lane->stamps()[entry - lane->entries()];
      return stamp.by != me || stamp.number <= registrations;
    }
  };

  /// The operation an event comes from, and what to say about it when a listener throws.
  struct Source {
    Operation* operation;
    const EventView::Info* info;
  };

  [[gnu::always_inline]] static void run(Lane* lane, Entry* entry, const Source& source, void* event) {
    WEIR_TRY { entry->call.load(std::memory_order_acquire)(entry, source.operation, event); }
    WEIR_CATCH_ALL { listener_threw(lane, entry, source.operation->name(), source.info->name); }
  }

  [[gnu::noinline]] static void run_older(const Emission& emission, Lane* lane, Entry* entry, Entry* end, const Source& source,
                                          void* event) {
    for (; entry != end; ++entry)
      if (emission.may_hear(lane, entry)) run(lane, entry, source, event);
  }

  [[gnu::noinline]] static void run_observers(const Emission& emission, Lane* lane, const Source& source, EventView& view) {
    Entry* entry = lane->entries();
    run_older(emission, lane, entry, entry + lane->count.load(std::memory_order_acquire), source, &view);
  }

  /// Runs the listeners for `type` on `from` and above. A null type (a finish without a result) reaches observers only.
  [[gnu::always_inline]] static void emit(Operation* from, EventType* type, const EventView::Info& info, Operation* operation, void* event,
                                          Slot* me) {
    Operation* node = from;
    while (node->lanes_.load(std::memory_order_relaxed) == nullptr) {  // nothing to publish below the first node with listeners
      node = node->parent_;
      if (node == nullptr) return;
    }
    if (me->depth >= Slot::max_depth) [[unlikely]] {
      me->refused.store(me->refused.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
      return;
    }
    Emission emission(me);
    const Source source{operation, &info};
    EventView view(info, event);
    for (; node != nullptr; node = node->parent_) {
      if (node->lanes_.load(std::memory_order_relaxed) == nullptr) continue;
      emission.publish(node);
      for (Lane* lane = node->lanes_.load(std::memory_order_seq_cst); lane != nullptr; lane = lane->next.load(std::memory_order_acquire)) {
        if (lane->type == &process_state.observers) [[unlikely]] {
          run_observers(emission, lane, source, view);
          continue;
        }
        if (lane->type != type) continue;
        Entry* entry = lane->entries();
        Entry* const end = entry + lane->count.load(std::memory_order_acquire);
        if (me->registrations != emission.registrations) [[unlikely]] {
          run_older(emission, lane, entry, end, source, event);
          continue;
        }
        for (; entry != end; ++entry) run(lane, entry, source, event);
      }
    }
  }

  // ---- registration

  /// The lane of `node` to append to, made if need be; nullptr without memory. `add` holds the home slot's lock. Listeners
  /// and observers of one node run in the order of registration, so that either end the other's lanes.
  [[gnu::noinline]] static Lane* lane_for(Operation& node, EventType* type) {
    Lane* last = nullptr;
    Lane* mine = nullptr;
    for (Lane* lane = node.lanes_.load(std::memory_order_relaxed); lane != nullptr; lane = lane->next.load(std::memory_order_relaxed)) {
      last = lane;
      if (lane->type == type)
        mine = lane;
      else if (lane->type == &process_state.observers || type == &process_state.observers)
        mine = nullptr;
    }
    if (mine != nullptr && mine->count.load(std::memory_order_relaxed) < mine->capacity) return mine;
    const std::uint32_t capacity = mine == nullptr ? Lane::first_capacity : mine->capacity * 2;
    Lane* lane = Lane::make(type, capacity < Lane::largest_capacity ? capacity : Lane::largest_capacity);
    if (lane == nullptr) return nullptr;
    (last != nullptr ? last->next : node.lanes_).store(lane, std::memory_order_release);
    return lane;
  }

  static void list(Operation& node, Slot* home) {
    node.locked_flags_ |= Operation::listed;
    node.serial_ = ++home->serial;
    node.listed_next_ = home->listened;
    node.listed_link_ = &home->listened;
    if (home->listened != nullptr) home->listened->listed_link_ = &node.listed_next_;
    home->listened = &node;
  }
  static void unlist(Operation& node) {
    if ((node.locked_flags_ & Operation::listed) == 0) return;
    node.locked_flags_ &= static_cast<std::uint8_t>(~Operation::listed);
    *node.listed_link_ = node.listed_next_;
    if (node.listed_next_ != nullptr) node.listed_next_->listed_link_ = node.listed_link_;
  }

  template <class F>
  static Listener add(Operation& node, EventType* type, Entry::Call call, F&& f) {
    using Stored = std::decay_t<F>;
    Slot* const me = this_slot();
    Slot* const home = home_of(node);
    if (!type->listened.load(std::memory_order_relaxed)) type->listened.store(true, std::memory_order_relaxed);
    Listener handle;
    Made<Stored> made(std::forward<F>(f));  // before the lock, and if refused destroyed after it: this is the caller's code
    if (!made.valid()) return handle;
    if (node.owner_ == home && home != me) [[unlikely]]
      touch(node);
    {
      SlotLock lock(*home);
      Lane* lane = node.state_.load(std::memory_order_seq_cst) != Operation::live ? nullptr : lane_for(node, type);
      if (lane == nullptr) return handle;
      const std::uint32_t index = lane->count.load(std::memory_order_relaxed);
      Entry* entry = new (&lane->entries()[index]) Entry;
      made.move_to(entry);
      entry->call.store(call, std::memory_order_relaxed);
      constexpr bool trivial = Closure<Stored>::inside && std::is_trivially_destructible_v<Stored>;
      Stamp* stamp = new (&lane->stamps()[index]) Stamp{me, ++me->registrations, trivial ? nullptr : &Closure<Stored>::destroy, false};
      if ((node.locked_flags_ & Operation::listed) == 0) list(node, home);
      lane->count.store(index + 1, std::memory_order_release);
      handle.home_ = home;
      handle.node_ = &node;
      handle.serial_ = node.serial_;
      handle.entry_ = entry;
      handle.by_ = me;
      handle.number_ = stamp->number;
    }
    return handle;
  }

  /// Another thread's stack operation is about to get a listener: either its finish will learn of it, or we see that it is
  /// finishing, before anybody can run the listener.
  [[gnu::noinline, gnu::cold]] static void touch(Operation& node) {
    node.touched_.store(true, std::memory_order_seq_cst);
    heavy_barrier();
  }

  // ---- removal

  static void free_pinned(Lane* lane, Slot* home) {
    bool last;
    {
      SlotLock lock(*home);
      last = --lane->pins == 0 && lane->orphaned;
    }
    if (!last) return;
    if (lane->suspect.load(std::memory_order_relaxed)) forget_suspects(lane);
    lane->free();
  }

  static bool remove(const Listener& listener) {
    Slot* const home = listener.home_;
    if (home == nullptr) return false;
    Retired retired{nullptr, listener.entry_, nullptr, listener.node_, home, nullptr};
    bool alone;
    Slot* const me = this_slot();
    {
      SlotLock lock(*home);
      Operation* node = home->listened;
      while (node != nullptr && (node != listener.node_ || node->serial_ != listener.serial_)) node = node->listed_next_;
      if (node == nullptr) return false;
      std::atomic<Lane*>* link = &node->lanes_;
      Lane* lane = link->load(std::memory_order_relaxed);
      while (lane != nullptr && !lane->holds(listener.entry_)) lane = (link = &lane->next)->load(std::memory_order_relaxed);
      if (lane == nullptr) return false;
      Stamp& stamp = lane->stamps()[listener.entry_ - lane->entries()];
      if (stamp.by != listener.by_ || stamp.number != listener.number_ || stamp.removed) return false;
      listener.entry_->call.store(removed_listener, std::memory_order_seq_cst);  // before the look at touched_ below
      stamp.removed = true;
      retired.lane = lane;
      retired.destroy = std::exchange(stamp.destroy, nullptr);
      ++lane->pins;
      if (++lane->removed == lane->count.load(std::memory_order_relaxed)) {  // nothing left in it
        link->store(lane->next.load(std::memory_order_relaxed), std::memory_order_seq_cst);
        lane->orphaned = true;
        if (node->lanes_.load(std::memory_order_relaxed) == nullptr) unlist(*node);
      }
      alone = node->owner_ == me && !node->touched_.load(std::memory_order_seq_cst);
    }
    if (me->depth != 0) {
      retire(me, retired);
    } else {
      if (!alone) {
        heavy_barrier();
        wait_until_left(me, listener.node_);
      }
      finish_removal(retired);
    }
    return true;
  }

  static void finish_removal(const Retired& retired) {
    if (retired.destroy != nullptr) retired.destroy(retired.entry);
    free_pinned(retired.lane, retired.home);
  }

  static void retire(Slot* me, const Retired& retired) {
    auto* later = new (std::nothrow) Retired(retired);
    if (later == nullptr) return;  // without memory the closure is never destroyed
    later->next = std::exchange(me->retired, later);
  }

  /// Destroys what was removed inside listeners, except where somebody still runs listeners of that node.
  [[gnu::noinline, gnu::cold]] static void finish_retired(Slot* me) {
    heavy_barrier();
    for (Retired* list = std::exchange(me->retired, nullptr); list != nullptr;) {
      Retired* retired = std::exchange(list, list->next);
      if (nobody_runs(retired->node)) {
        finish_removal(*retired);
        delete retired;
      } else {
        retired->next = std::exchange(me->retired, retired);
      }
    }
  }

  // ---- finish

  /// Takes the listeners off a node that finishes or dies.
  static Lane* detach(Operation& node, Slot* home) {
    SlotLock lock(*home);
    Lane* lanes = node.lanes_.exchange(nullptr, std::memory_order_seq_cst);
    for (Lane* lane = lanes; lane != nullptr; lane = lane->next.load(std::memory_order_relaxed))
      for (std::uint32_t i = 0, n = lane->count.load(std::memory_order_relaxed); i < n; ++i)
        lane->entries()[i].call.store(removed_listener, std::memory_order_release);
    unlist(node);
    return lanes;
  }

  /// Completes the finish of an operation that has listeners, that another thread has been at, or that is not ours.
  [[gnu::noinline]] static inline void drop(Operation& node, Slot* me);

  /// True for the one caller that is to finish the operation.
  [[gnu::always_inline]] static bool claim(Operation& node, Slot* me) {
    if (node.owner_ != me) [[unlikely]]
      return claim_foreign(node, me);
    if (node.state_.load(std::memory_order_acquire) != Operation::live) [[unlikely]]
      return lose(node, me);
    if (me->fences) [[unlikely]]
      node.state_.exchange(Operation::finishing, std::memory_order_seq_cst);
    else
      node.state_.store(Operation::finishing, std::memory_order_release);
    compiler_barrier();
    if (node.foreign_finish_.load(std::memory_order_seq_cst)) [[unlikely]]
      return settle(node, me);
    return true;
  }

  /// Another thread tried to finish this stack operation at the same time: who was first?
  [[gnu::noinline, gnu::cold]] static inline bool settle(Operation& node, Slot* me);

  [[gnu::noinline, gnu::cold]] static inline bool claim_foreign(Operation& node, Slot* me);

  [[gnu::noinline, gnu::cold]] static inline bool lose(Operation& node, Slot* me);

  /// The nearest unfinished operation above; nullptr below a root.
  static Operation* nearest_unfinished(Operation* node) {
    while (node != nullptr && node->owner_ != every_thread && node->finished()) node = node->parent_;
    return node != nullptr && node->owner_ != every_thread ? node : nullptr;
  }

  /// The branch keeps the next operation's parent from waiting for a load of this one's.
  [[gnu::always_inline]] static void leave(Operation& node, Slot* me) {
    if (me->current != &node) return;
    if (node.counted_) [[likely]] {
      me->current = nullptr;
      asm volatile("");
    } else {
      me->current = nearest_unfinished(node.parent_);
    }
  }

  [[gnu::always_inline]] static void complete(Operation& node, Slot* me) {
    leave(node, me);
    if (node.lanes_.load(std::memory_order_relaxed) != nullptr || node.touched_.load(std::memory_order_seq_cst) || node.owner_ != me)
        [[unlikely]]
      return drop(node, me);
    node.state_.store(Operation::done, std::memory_order_release);
  }

  // ---- life of the node

  [[gnu::always_inline]] static void go_under(Operation& node, Operation* parent) {
    node.parent_ = parent;
    if (parent == nullptr) return;
    if (parent->owner_ == every_thread) {
      pin_root(static_cast<RootNode*>(parent));
      node.counted_ = true;
    } else if (parent->owner_ == no_thread) {
      parent->references_.fetch_add(1, std::memory_order_relaxed);
      node.holds_parent_ = true;
    } else {
#if WEIR_CHECK_LIFETIMES
      parent->children_.fetch_add(1, std::memory_order_relaxed);
      parent->last_child_.store(node.info_, std::memory_order_relaxed);
      node.extras_ |= Operation::counted_in_parent;
#endif
    }
  }

  /// The last of an operation that has finished.
  [[gnu::always_inline]] static void end(Operation& node, Slot* me) {
    if (me->current == &node) [[unlikely]]
      leave(node, me);  // another thread finished it
    if (node.state_.load(std::memory_order_acquire) != Operation::done) [[unlikely]]
      await_foreign_finish(node, me);
    if (node.lanes_.load(std::memory_order_relaxed) != nullptr) [[unlikely]] {  // registered while it finished
      Slot* const home = home_of(node);
      destroy_lanes(detach(node, home), home);
    }
#if WEIR_CHECK_LIFETIMES
    if (node.children_.load(std::memory_order_relaxed) != 0) abort_outlived(node);
#endif
    if (node.extras_ != 0) [[unlikely]]
      clean_up(node, me);
    if (node.counted_)
      release_root(me, static_cast<RootNode*>(node.parent_));
    else if (node.holds_parent_) [[unlikely]]
      release_shared(node.parent_);
  }

  /// Waits for a finish by another thread, so that the node may go. (In one of its own finish listeners: nothing to wait for.)
  [[gnu::noinline, gnu::cold]] static inline void await_foreign_finish(Operation& node, Slot* me);

  /// What an operation leaves behind besides its listeners.
  [[gnu::noinline, gnu::cold]] static inline void clean_up(Operation& node, Slot* me);

  /// Drops one reference to a shared operation, and finishes it with the last. Iterative, so that chains of any length may
  /// go at once.
  static inline void release_shared(Operation* node);

  [[noreturn, gnu::noinline, gnu::cold]] static inline void abort_outlived(const Operation& node);
};

inline RootNode::~RootNode() { destroy_lanes(Dispatch::detach(*this, home_), home_); }

inline void end_slot(void* pointer) {
  auto* slot = static_cast<Slot*>(pointer);
  while (slot->retired != nullptr) {
    Dispatch::finish_retired(slot);
    if (slot->retired != nullptr) sched_yield();
  }
  RootNode* unused;
  {
    MutexLock lock(process_state.mutex);
    unused = hand_over_locked(slot);
  }
  delete unused;
  while (slot->spare_blocks != nullptr) ::operator delete(std::exchange(slot->spare_blocks, slot->spare_blocks->next));
  slot->spare_count = 0;
  slot->used.store(false, std::memory_order_release);
  thread_slot = nullptr;
}

}  // namespace weir::inline v0::detail

#include "weir/operation/detail/finish.hpp"  // IWYU pragma: export
