#pragma once
// The slow half of Dispatch: finishing operations that have listeners, that other threads use, or that are shared.
// (Declared inline there.)

#include "weir/operation/detail/dispatch.hpp"

namespace weir::inline v0::detail {

/// A finish that is destroying the listeners it dropped: their destructors may call finish() again.
struct Dropping {
  const Operation* node;
  const Dropping* outer;
};

void Dispatch::drop(Operation& node, Slot* me) {
  const bool shared = node.owner_ == no_thread;
  if (cannot_lock(me)) {  // its listeners go with it
    node.state_.store(Operation::done, std::memory_order_release);
    if (shared) release_shared(&node);
    return;
  }
  NodeList& home = home_of(node);
  Lane* lanes = detach(node, me);
  const bool foreign = !shared && node.owner_ != me;
  if (foreign) heavy_barrier();
  const bool others = foreign || node.foreign_.load(std::memory_order_seq_cst) != 0;
  if (me->depth() == 0) {
    if (others) wait_until_left(me, &node);
    if (me->retired != nullptr) destroy_retired(me, std::exchange(me->retired, nullptr));
  } else if (!nobody_runs(&node)) {
    ListLock lock(home, me);
    node.zombies_ = std::exchange(lanes, nullptr);
    node.locked_flags_ |= Operation::has_zombies;
  }
  if (lanes != nullptr && !me->is_inert()) {
    const Dropping dropping{&node, me->dropping};
    me->dropping = &dropping;
    destroy_lanes(lanes, me);
    me->dropping = dropping.outer;
  } else {
    destroy_lanes(lanes, me);
  }
  if (foreign) {
    ListLock lock(home, me);
    node.locked_flags_ |= Operation::foreign_done;
    node.state_.store(Operation::done, std::memory_order_release);  // from here on its owner may destroy it
  } else {
    node.state_.store(Operation::done, std::memory_order_release);
    if (shared) release_shared(&node);
  }
}

bool Dispatch::settle(Operation& node, Slot* me) {
  if ((node.foreign_.load(std::memory_order_seq_cst) & Operation::foreign_finish) == 0) return true;
  bool lost;
  {
    ListLock lock(me->own, me);
    lost = (node.locked_flags_ & Operation::foreign_won) != 0;
    // The other one may have been done before we overwrote its state.
    if ((node.locked_flags_ & Operation::foreign_done) != 0) node.state_.store(Operation::done, std::memory_order_release);
  }
  return lost ? lose(node, me) : true;
}

bool Dispatch::claim(Operation& node, Slot* me) {
  if (node.owner_ == me) {
    if (node.state_.load(std::memory_order_acquire) != Operation::live) return lose(node, me);
    node.state_.exchange(Operation::finishing, std::memory_order_seq_cst);
    return settle(node, me);
  }
  if (node.owner_ == no_thread) {
    std::uintptr_t nobody = 0;
    if (!node.finisher_.compare_exchange_strong(nobody, mark_of(me), std::memory_order_acq_rel)) return lose(node, me);
    node.state_.store(Operation::finishing, std::memory_order_release);
    node.references_.fetch_add(1, std::memory_order_relaxed);  // its listeners may let go of the last reference
    return true;
  }
  if (cannot_lock(me)) return false;
  {
    ListLock lock(node.owner_->own, me);
    if (node.state_.load(std::memory_order_seq_cst) == Operation::live) {
      node.foreign_.fetch_or(Operation::foreign_finish, std::memory_order_seq_cst);
      heavy_barrier();
      if (node.state_.load(std::memory_order_seq_cst) == Operation::live) {
        node.locked_flags_ |= Operation::foreign_won;
        node.finisher_.store(mark_of(me), std::memory_order_relaxed);
        node.state_.store(Operation::finishing, std::memory_order_seq_cst);
        return true;
      }
    }
  }
  return lose(node, me);
}

bool Dispatch::lose(Operation& node, Slot* me) {
  if (me->depth() != 0 || me->is_busy()) return false;
  for (const Dropping* d = me->dropping; d != nullptr; d = d->outer)
    if (d->node == &node) return false;
  await_finish(node, me);
  if ((node.locked_flags_ & Operation::has_zombies) != 0) wait_until_left(me, &node);  // a finish inside a listener did not
  return false;
}

void Dispatch::await_finish(Operation& node, const Slot* me) {
  for (unsigned round = 0; node.state_.load(std::memory_order_acquire) < Operation::done; ++round) {
    if (process_state.forks != 0 && (node.owner_ == me || node.owner_ == no_thread)) {
      const std::uintptr_t finisher = node.finisher_.load(std::memory_order_relaxed), mask = alignof(Slot) - 1;
      if ((finisher & mask) != (process_state.forks & mask) &&
          (finisher & ~mask) != reinterpret_cast<std::uintptr_t>(process_state.survivor))
        return node.state_.store(Operation::done, std::memory_order_release);
    }
    pause(round);
  }
}

void Dispatch::end_slow(Operation& node) {
  Slot* const me = this_slot();
  if (me->current == &node) leave(node, me);  // another thread finished it
  // A finish by another thread must be over, so that the node may go. (In one of its own finish listeners: nothing to wait for.)
  if (!me->runs(&node)) await_finish(node, me);
  if (node.lanes_.load(std::memory_order_relaxed) != nullptr && !cannot_lock(me))  // registered while it finished
    destroy_lanes(detach(node, me), me);
  if ((node.locked_flags_ & Operation::has_zombies) != 0) {
    if (me->depth() == 0) wait_until_left(me, &node);
    destroy_lanes(node.zombies_, me);
  }
#if WEIR_CHECK_LIFETIMES
  if (is_thread(node.owner_) && node.children_.load(std::memory_order_relaxed) != 0) abort_outlived(node);
#endif
  if ((node.own_ & Operation::has_attachments) != 0)
    for (Attachment* a = node.attachments_; a != nullptr;) delete std::exchange(a, a->next_);
  if ((node.own_ & Operation::counted_in_parent) != 0) node.parent_->children_.fetch_sub(1, std::memory_order_relaxed);
  if ((node.own_ & Operation::counted) != 0)
    release_root(me, node.parent_);
  else if ((node.own_ & Operation::holds_parent) != 0)
    release_shared(node.parent_);
}

void Dispatch::release_shared(Operation* node) {
  while (node != nullptr && node->references_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    if (node->state_.load(std::memory_order_acquire) < Operation::done) {
      node->references_.store(1, std::memory_order_relaxed);  // its finish listeners may start children, which may stay
      struct Rest {                                           // also when one of them leaves by pthread_exit
        Operation* node;
        ~Rest() noexcept(false) { release_shared(node); }
      } rest{node};
      NoCancellation no_cancellation;
      node->info_->finish(node);
      rest.node = nullptr;
      continue;
    }
    Operation* parent = nullptr;
    if ((node->own_ & Operation::holds_parent) != 0) {
      node->own_ &= static_cast<std::uint8_t>(~Operation::holds_parent);
      parent = node->parent_;
    }
    node->info_->destroy(node);
    node = parent;
  }
}

void Dispatch::abort_outlived(const Operation& node) {
  const std::string_view child = node.last_child_.load(std::memory_order_relaxed)->name;
  std::fprintf(stderr,
               "weir: operation '%.*s' was destroyed before its child '%.*s'; use weir::start for children that outlive their parent\n",
               static_cast<int>(node.name().size()), node.name().data(), static_cast<int>(child.size()), child.data());
  std::abort();
}

}  // namespace weir::inline v0::detail
