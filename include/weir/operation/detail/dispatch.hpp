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

struct Dispatch {
  template <class Event, Phase P>
  static constexpr EventView::Info info = EventView::info_of<Event, P>();
  static Phase phase(const EventView& view) { return view.info_.phase; }

  static NodeList& home_of(const Operation& node) { return is_thread(node.owner_) ? node.owner_->own : *node.home_; }

  /// In a signal handler that has interrupted a lock of ours on this thread, or in an atfork handler.
  static bool cannot_lock(const Slot* me) { return me->is_busy() && !me->is_inert(); }

  // ---- emission

  /// Where the innermost emission in progress of a thread publishes its node.
  static std::atomic<const Operation*>& hazard_of(Slot* me) { return me->hazard[(me->depth() - 1) % Slot::max_depth]; }

  /// An event is done, or its thread is being unwound.
  [[gnu::always_inline]] static void leave_emission(Slot* me) {
    const std::uint32_t nesting = me->nesting.load(std::memory_order_relaxed) - 1;
    me->hazard[nesting % Slot::max_depth].store(nullptr, std::memory_order_release);
    if (nesting % Slot::busy == 0) bump(me->rounds);
    if (me->retire_due) [[unlikely]]
      return leave_and_clean_up(me, nesting);
    me->nesting.store(nesting, std::memory_order_relaxed);
  }
  /// The list is taken while the thread still counts as emitting: signal handlers leave it alone then.
  [[gnu::noinline, gnu::cold]] static void leave_and_clean_up(Slot* me, std::uint32_t nesting) {
    Stamp* list = nullptr;
    if (nesting % Slot::busy == 0) {
      me->retire_due = false;
      list = std::exchange(me->retired, nullptr);
    }
    me->nesting.store(nesting, std::memory_order_relaxed);
    destroy_retired(me, list);
  }

  [[gnu::always_inline]] static void run(Lane* lane, Entry* entry, Operation* operation, const EventView::Info& info, void* event,
                                         Slot* me) {
    WEIR_TRY { entry->call.load(std::memory_order_acquire)(entry, operation, event); }
    WEIR_CATCH_ALL { caught(lane, entry, operation, info, me); }
  }

  [[gnu::noinline, gnu::cold]] static void caught(Lane* lane, Entry* entry, Operation* operation, const EventView::Info& info, Slot* me) {
    if (is_unwinding_the_thread()) {
      leave_emission(me);
      WEIR_THROW;
    }
    WEIR_TRY { listener_threw(lane, entry, operation->name(), info.name); }
    WEIR_CATCH_ALL {  // the error handler unwinds the thread
      leave_emission(me);
      WEIR_THROW;
    }
  }

  /// For an event whose own listeners have registered some: these do not hear it.
  [[gnu::noinline]] static void run_older(Slot* me, std::uint64_t registrations, Lane* lane, Operation* operation,
                                          const EventView::Info& info, void* event) {
    for (Entry *entry = lane->entries(), *end = lane->end.load(std::memory_order_acquire); entry != end; ++entry) {
      const Stamp& stamp = lane->stamp_of(entry);
      if (stamp.by != me || stamp.number <= registrations) run(lane, entry, operation, info, event, me);
    }
  }

  [[gnu::noinline]] static void run_observers(Slot* me, std::uint64_t registrations, Lane* lane, Operation* operation,
                                              const EventView::Info& info, void* event) {
    if (process_state.filtered.load(std::memory_order_relaxed)) [[unlikely]]
      return run_observers_filtered(me, registrations, lane, operation, info, event);
    EventView view(info, event);
    run_older(me, registrations, lane, operation, info, &view);
  }
  /// Decided when it starts, and for the whole of it: who heard the start hears the rest.
  [[gnu::noinline]] static void run_observers_filtered(Slot* me, std::uint64_t registrations, Lane* lane, Operation* operation,
                                                       const EventView::Info& info, void* event) {
    if (info.phase == Phase::start && (operation->own_ & Operation::has_attachments) == 0 &&
        operation->info_->start->load(std::memory_order_relaxed)->unobserved.load(std::memory_order_relaxed))
      operation->own_ |= Operation::unobserved;
    if ((operation->own_ & Operation::unobserved) != 0) return;
    EventView view(info, event);
    run_older(me, registrations, lane, operation, info, &view);
  }

  /// Runs the listeners for `type` on `from` and above. A null type (a finish without a result) reaches observers only.
  [[gnu::always_inline]] static void emit(Operation* from, EventType* type, const EventView::Info& info, Operation* operation, void* event,
                                          Slot* me) {
    Operation* node = from;
    while (node->lanes_.load(std::memory_order_relaxed) == nullptr) {  // nothing to publish below the first node with listeners
      node = node->parent_;
      if (node == nullptr) return;
    }
    if (me->nesting.load(std::memory_order_relaxed) >= Slot::max_depth) [[unlikely]]
      return emit_otherwise(node, type, info, operation, event, me);
    emit_from<false>(node, type, info, operation, event, me);
  }

  [[gnu::noinline, gnu::cold]] static void emit_otherwise(Operation* node, EventType* type, const EventView::Info& info,
                                                          Operation* operation, void* event, Slot* me) {
    if (me->is_busy() || me->depth() >= Slot::max_depth) return me->refuse();
    emit_from<true>(node, type, info, operation, event, me);
  }

  template <bool fences>
  [[gnu::always_inline]] static void emit_from(Operation* node, EventType* type, const EventView::Info& info, Operation* operation,
                                               void* event, Slot* me) {
    me->nesting.store(me->nesting.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    const std::uint64_t registrations = me->registrations;
    for (;;) {
      if (!fences && (node->owner_ == every_thread || node->owner_ == me)) [[likely]]
        hazard_of(me).store(node, std::memory_order_release);
      else
        publish_fully(hazard_of(me), node);
      compiler_barrier();
      for (Lane* lane = node->lanes_.load(std::memory_order_seq_cst); lane != nullptr; lane = lane->next.load(std::memory_order_acquire)) {
        if (lane->type != type) {
          if (lane->type == &process_state.observers) [[unlikely]]
            run_observers(me, registrations, lane, operation, info, event);
        } else if (me->registrations != registrations) [[unlikely]] {
          run_older(me, registrations, lane, operation, info, event);
        } else {
          Entry* entry = lane->entries();
          Entry* const end = lane->end.load(std::memory_order_acquire);
          do run(lane, entry, operation, info, event, me);
          while (++entry != end);
        }
      }
      do
        if ((node = node->parent_) == nullptr) return leave_emission(me);
      while (node->lanes_.load(std::memory_order_relaxed) == nullptr);
    }
  }

  [[gnu::noinline]] static void publish_fully(std::atomic<const Operation*>& hazard, Operation* node) {
    if ((node->foreign_.load(std::memory_order_seq_cst) & Operation::touched) == 0)
      node->foreign_.fetch_or(Operation::touched, std::memory_order_seq_cst);
    hazard.exchange(node, std::memory_order_seq_cst);
  }

  // ---- registration

  /// A lane of `node` with room for one more, and where to link it if it is new; nullptr without memory. Listeners and
  /// observers of one node run in the order of registration, so that either end the other's lanes. `add` holds the lock.
  struct Place {
    Lane* lane;
    std::atomic<Lane*>* link;
  };
  [[gnu::always_inline]] static Place place_for(Operation& node, NodeList& home, EventType* type) {
    Lane* const first = node.lanes_.load(std::memory_order_relaxed);
    if (first == nullptr) return {Lane::make(type, node, home, Lane::first_capacity), &node.lanes_};
    Lane* const last = node.last_;
    if (last->type == type && last->count() < last->capacity) return {last, nullptr};
    return place_among(first, last, node, home, type);
  }
  [[gnu::noinline]] static Place place_among(Lane* first, Lane* last, Operation& node, NodeList& home, EventType* type) {
    Lane* mine = nullptr;
    for (Lane* lane = first; lane != nullptr; lane = lane->next.load(std::memory_order_relaxed)) {
      if (lane->type == type)
        mine = lane;
      else if (lane->type == &process_state.observers || type == &process_state.observers)
        mine = nullptr;
    }
    std::uint32_t capacity = Lane::first_capacity;
    if (mine != nullptr) {
      if (mine->count() < mine->capacity) return {mine, nullptr};
      capacity = mine->capacity < Lane::largest_capacity ? mine->capacity * 2 : Lane::largest_capacity;
    }
    return {Lane::make(type, node, home, capacity), &last->next};
  }

  static void list(Operation& node, NodeList& home) {
    node.locked_flags_ |= Operation::listed;
    node.serial_ = ++home.serial;
    node.listed_next_ = home.first;
    node.listed_link_ = &home.first;
    if (home.first != nullptr) home.first->listed_link_ = &node.listed_next_;
    home.first = &node;
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
    NodeList& home = home_of(node);
    Listener handle;
    if (type == &unresolved || me->is_busy()) [[unlikely]]
      return handle;
    if (!type->listened.load(std::memory_order_relaxed)) type->listened.store(true, std::memory_order_relaxed);
    Made<Stored> made(std::forward<F>(f));  // before the lock, and if refused destroyed after it: this is the caller's code
    if (!made.valid()) return handle;
    if (home.owner != me && home.owner != nullptr) [[unlikely]]
      touch(node);
    {
      ListLock lock(home, me);
      if (node.state_.load(std::memory_order_seq_cst) != Operation::live) return handle;
      const auto [lane, link] = place_for(node, home, type);
      if (lane == nullptr) return handle;
      Entry* entry = new (lane->end.load(std::memory_order_relaxed)) Entry;
      made.move_to(entry);
      entry->call.store(call, std::memory_order_relaxed);
      constexpr bool trivial = Closure<Stored>::inside && std::is_trivially_destructible_v<Stored>;
      const std::uint64_t number = ++me->registrations;
      new (&lane->stamp_of(entry)) Stamp{me, number, trivial ? nullptr : &Closure<Stored>::destroy};
      if ((node.locked_flags_ & Operation::listed) == 0) list(node, home);
      lane->end.store(entry + 1, std::memory_order_release);
      if (link != nullptr) {
        link->store(lane, std::memory_order_release);
        node.last_ = lane;
      }
      handle.home_ = &home;
      handle.node_ = &node;
      handle.serial_ = node.serial_;
      handle.entry_ = entry;
      handle.by_ = me;
      handle.number_ = number;
    }
    return handle;
  }

  /// Another thread's stack operation is about to get a listener: either its finish will learn of it, or we see that it is
  /// finishing, before anybody can run the listener.
  [[gnu::noinline, gnu::cold]] static void touch(Operation& node) {
    node.foreign_.fetch_or(Operation::touched, std::memory_order_seq_cst);
    heavy_barrier();
  }

  // ---- removal

  static bool remove(const Listener& listener) {
    NodeList* const home = listener.home_;
    Slot* const me = this_slot();
    if (home == nullptr || me->is_busy()) return false;
    Stamp* stamp;
    bool alone;
    {
      ListLock lock(*home, me);
      Operation* node = home->first;
      while (node != nullptr && (node != listener.node_ || node->serial_ != listener.serial_)) node = node->listed_next_;
      if (node == nullptr) return false;
      std::atomic<Lane*>* link = &node->lanes_;
      Lane* before = nullptr;
      Lane* lane = link->load(std::memory_order_relaxed);
      while (lane != nullptr && !lane->holds(listener.entry_)) {
        before = lane;
        link = &lane->next;
        lane = link->load(std::memory_order_relaxed);
      }
      if (lane == nullptr) return false;
      stamp = &lane->stamp_of(listener.entry_);
      if (stamp->removed || stamp->by != listener.by_ || stamp->number != listener.number_) return false;
      listener.entry_->call.store(process_state.removed, std::memory_order_seq_cst);  // before the look at foreign_ below
      stamp->removed = true;
      stamp->lane = lane;
      ++lane->pins;
      const bool mine = node->owner_ == me;
      if (++lane->removed == lane->count()) {  // nothing left in it
        Lane* const after = lane->next.load(std::memory_order_relaxed);
        lane->orphaned = true;
        if (node->last_ == lane) node->last_ = before;
        if (link == &node->lanes_ && after == nullptr) unlist(*node);
        link->store(after, std::memory_order_seq_cst);  // the last touch of another thread's node: without listeners it may go
      }
      alone = mine && node->foreign_.load(std::memory_order_seq_cst) == 0;
    }
    if (me->depth() != 0) {
      stamp->next = me->retired;
      compiler_barrier();  // a fork sees the list whole
      me->retired = stamp;
      me->retire_due = true;
    } else {
      destroy_retired(me, std::exchange(me->retired, nullptr));
      if (!alone) {
        heavy_barrier();
        wait_until_left(me, listener.node_);
      }
      finish_removal(me, stamp);
    }
    return true;
  }

  static void finish_removal(Slot* me, Stamp* stamp) {
    Lane* const lane = stamp->lane;
    if (stamp->destroy != nullptr) stamp->destroy(lane->entry_of(stamp));
    unpin(lane, me);
  }

  /// Destroys what was removed inside listeners and nobody can stand on any more: each thread has been outside the node once
  /// (wait_until_left). The rest waits for the thread's next removal, finish of an operation with listeners, or end.
  [[gnu::noinline, gnu::cold]] static void destroy_retired(Slot* me, Stamp* list) {
    bool is_new = false;
    for (Stamp* stamp = list; stamp != nullptr; stamp = stamp->next) is_new |= stamp->look_at == nullptr;
    if (is_new) heavy_barrier();
    while (list != nullptr) {
      Stamp* const stamp = std::exchange(list, list->next);
      if (stamp->look_at == nullptr) look_at(stamp, process_state.slots.load(std::memory_order_acquire));
      while (stamp->look_at != nullptr &&
             (!stamp->look_at->runs(stamp->lane->node) || stamp->look_at->rounds.load(std::memory_order_acquire) != stamp->rounds))
        look_at(stamp, stamp->look_at->next);
      if (stamp->look_at == nullptr) {
        finish_removal(me, stamp);
      } else {
        stamp->next = me->retired;
        compiler_barrier();
        me->retired = stamp;
      }
    }
  }

  static void look_at(Stamp* stamp, const Slot* slot) {
    stamp->look_at = slot;
    if (slot != nullptr) stamp->rounds = slot->rounds.load(std::memory_order_acquire);
  }

  // ---- finish

  /// Takes the listeners off a node that finishes or dies. Nobody finds them any more; some may still run them.
  static Lane* detach(Operation& node, Slot* me) {
    ListLock lock(home_of(node), me);
    Lane* lanes = node.lanes_.exchange(nullptr, std::memory_order_seq_cst);
    for (Lane* lane = lanes; lane != nullptr; lane = lane->next.load(std::memory_order_relaxed)) {
      for (Entry *entry = lane->entries(), *end = lane->end.load(std::memory_order_relaxed); entry != end; ++entry)
        entry->call.store(process_state.removed, std::memory_order_release);
      if (lane->pins != 0) {
        lane->orphaned = true;
        ++lane->pins;  // ours
      }
    }
    unlist(node);
    return lanes;
  }

  /// Completes the finish of an operation that has listeners, that another thread has been at, or that is not ours.
  [[gnu::noinline]] static inline void drop(Operation& node, Slot* me);

  // These are true for the one caller that is to finish the operation.

  /// This thread has marked its own operation as finishing, and another tried to finish it at the same time: who was first?
  [[gnu::noinline, gnu::cold]] static inline bool settle(Operation& node, Slot* me);

  /// Any operation, from any thread.
  [[gnu::noinline, gnu::cold]] static inline bool claim(Operation& node, Slot* me);

  /// Who finishes an operation that is not a stack operation of its own: its slot, and in the low bits the forks so far.
  static std::uintptr_t mark_of(const Slot* slot) { return reinterpret_cast<std::uintptr_t>(slot) | (process_state.forks % alignof(Slot)); }

  /// Waits until the finish that somebody else has begun is over; if that thread was lost in a fork, it is.
  [[gnu::noinline, gnu::cold]] static inline void await_finish(Operation& node, const Slot* me);

  /// Somebody else finishes it: waits for that, outside listeners.
  [[gnu::noinline, gnu::cold]] static inline bool lose(Operation& node, Slot* me);

  /// The nearest unfinished operation above; nullptr below a root.
  static Operation* nearest_unfinished(Operation* node) {
    while (node != nullptr && node->owner_ != every_thread && node->finished()) node = node->parent_;
    return node != nullptr && node->owner_ != every_thread ? node : nullptr;
  }

  /// The branch keeps the next operation's parent from waiting for a load of this one's.
  [[gnu::always_inline]] static void leave(Operation& node, Slot* me) {
    if (me->current != &node) return;
    if ((node.own_ & Operation::counted) != 0) {
      me->current = nullptr;
      asm volatile("");
    } else if (Operation* const parent = node.parent_; parent != nullptr && !parent->finished()) [[likely]] {
      me->current = parent;  // not a root: that would be counted
    } else {
      me->current = nearest_unfinished(parent);
    }
  }

  /// The listeners have heard of the finish of an operation of this thread.
  [[gnu::always_inline]] static void complete(Operation& node, Slot* me) {
    leave(node, me);
    if (node.lanes_.load(std::memory_order_acquire) == nullptr && node.foreign_.load(std::memory_order_seq_cst) == 0) [[likely]]
      node.state_.store(Operation::settled, std::memory_order_release);
    else
      drop(node, me);
  }
  /// The same for any operation.
  [[gnu::noinline, gnu::cold]] static void complete_any(Operation& node, Slot* me) {
    leave(node, me);
    drop(node, me);
  }

  // ---- life of the node

  /// What `own_` says of a node with this parent.
  [[gnu::always_inline]] static std::uint8_t go_under(Operation& node, Operation* parent, Slot* me) {
    node.parent_ = parent;
    if (parent == nullptr) return 0;
    if (!is_thread(parent->owner_)) [[unlikely]]
      return go_under_any(node, parent, me);
#if WEIR_CHECK_LIFETIMES
    parent->children_.fetch_add(1, std::memory_order_relaxed);
    parent->last_child_.store(node.info_, std::memory_order_relaxed);
    return Operation::counted_in_parent;
#else
    return 0;
#endif
  }
  /// A root or a shared operation.
  [[gnu::noinline]] static std::uint8_t go_under_any(Operation& node, Operation* parent, Slot* me) {
    if (parent->owner_ == every_thread) {
      node.parent_ = pin_root(me, static_cast<RootNode*>(parent));
      return Operation::counted;
    }
    parent->references_.fetch_add(1, std::memory_order_relaxed);
    return Operation::holds_parent;
  }

  /// In the child of a fork: stack operations of other threads are not there any more.
  static bool is_lost(const Operation& node, const Slot* me) { return node.owner_ != me && is_thread(node.owner_); }
  static void leave_lost_parents(Operation& node, const Slot* me) {
    Operation* parent = node.parent_;
    while (parent != nullptr && is_lost(*parent, me)) parent = parent->parent_;
    if (parent == node.parent_) return;
    node.parent_ = parent;
    node.own_ &= static_cast<std::uint8_t>(~Operation::counted_in_parent);
    if (parent != nullptr && parent->owner_ == every_thread) {
      static_cast<RootNode*>(parent)->merged.fetch_add(1, std::memory_order_relaxed);
      node.own_ |= Operation::counted;
    }
  }

  /// Without memory for its thread's slot an operation is finished from the start, and nobody's.
  [[gnu::noinline, gnu::cold]] static void give_up(Operation& node) {
    node.owner_ = &inert_slot;
    node.parent_ = nullptr;
    node.own_ = 0;
    node.uncaught_ = 0;
    node.state_.store(Operation::done, std::memory_order_relaxed);
  }

  static std::uint8_t go_under(Operation& node, Under under, Slot* me) {
    if (!under.installed_root_) return go_under(node, under.parent_, me);
    node.parent_ = acquire_root(me);
    return Operation::counted;
  }

  /// The last of an operation that is settled.
  [[gnu::always_inline]] static void end(Operation& node) {
#if WEIR_CHECK_LIFETIMES
    if (node.children_.load(std::memory_order_relaxed) != 0) abort_outlived(node);
#endif
    if (node.own_ == Operation::in_thread) return;
    Slot* const me = fast_slot;
    if (node.own_ == (Operation::in_thread | Operation::counted) && node.owner_ == me) [[likely]]
      release_acquired_root(me, node.parent_);
    else
      end_slow(node);
  }

  /// The last of any operation that has finished, or that another thread is finishing.
  [[gnu::noinline]] static inline void end_slow(Operation& node);

  /// Drops one reference to a shared operation, and finishes it with the last. Iterative, so that chains of any length may
  /// go at once.
  static inline void release_shared(Operation* node);

  [[noreturn, gnu::noinline, gnu::cold]] static inline void abort_outlived(const Operation& node);
};

inline RootNode::RootNode(void* memory_for_a_lane) : Operation(every_thread, &root_info) {
  parent_ = nullptr;
  own_ = 0;
  uncaught_ = 0;
  home_ = &inert_slot.shared;
  state_.store(done, std::memory_order_relaxed);
  lanes_.store(new (memory_for_a_lane) Lane(&unresolved, *this, *home_, 0), std::memory_order_relaxed);
}

inline void RetiredRoots::delete_root(RootNode* root) {
  root->~RootNode();
  deallocate(this_slot(), root);
}

inline RootNode::~RootNode() {
  Slot* const me = this_slot();
  destroy_lanes(Dispatch::detach(*this, me), me);
}

/// It has a lane that nobody listens in, so that what is emitted below it is counted as refused. Requires: the mutex.
inline RootNode* make_deaf_root() {
  void* const memory = permanent(sizeof(RootNode) + sizeof(Lane));
  return memory != nullptr ? new (memory) RootNode(static_cast<char*>(memory) + sizeof(RootNode)) : nullptr;
}

inline void end_slot(void* pointer) {
  auto* slot = static_cast<Slot*>(pointer);
  for (auto& hazard : slot->hazard) hazard.store(nullptr, std::memory_order_release);  // left there by code without exceptions
  slot->nesting.fetch_and(~(Slot::busy - 1), std::memory_order_relaxed);
  while (slot->retired != nullptr) {
    Dispatch::destroy_retired(slot, std::exchange(slot->retired, nullptr));
    if (slot->retired != nullptr) wait_until_left(slot, slot->retired->lane->node);
  }
  {
    RetiredRoots retired;
    ProcessLock lock(slot);
    for (RootUse& use : slot->uses) retired.offer(hand_over(use));
  }
  while (slot->spare_blocks != nullptr) ::operator delete(std::exchange(slot->spare_blocks, slot->spare_blocks->next));
  slot->spare_count = 0;
  ::operator delete(std::exchange(thread_state.spare_block, nullptr));
  fast_slot = nullptr;
  thread_slot = nullptr;
  slot->used.store(false, std::memory_order_release);
}

}  // namespace weir::inline v0::detail

#include "weir/operation/detail/finish.hpp"  // IWYU pragma: export
