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
  Slot* const home = home_of(node);
  Lane* lanes = detach(node, home);
  const bool shared = node.owner_ == no_thread;
  const bool foreign = !shared && home != me;
  if (foreign) heavy_barrier();
  const bool others = foreign || node.touched_.load(std::memory_order_seq_cst);
  if (me->depth == 0) {
    if (others) wait_until_left(me, &node);
  } else if (!nobody_runs(&node)) {
    node.zombies_ = std::exchange(lanes, nullptr);
    node.extras_ |= Operation::has_zombies;
  }
  const Dropping dropping{&node, me->dropping};
  me->dropping = &dropping;
  destroy_lanes(lanes, home);
  me->dropping = dropping.outer;
  if (foreign) {
    SlotLock lock(*home);
    node.locked_flags_ |= Operation::foreign_done;
    node.state_.store(Operation::done, std::memory_order_release);  // from here on its owner may destroy it
  } else {
    node.state_.store(Operation::done, std::memory_order_release);
    if (shared) release_shared(&node);
  }
}

bool Dispatch::settle(Operation& node, Slot* me) {
  bool lost;
  {
    SlotLock lock(*me);
    lost = (node.locked_flags_ & Operation::foreign_won) != 0;
    // The other one may have been done before we overwrote its state.
    if ((node.locked_flags_ & Operation::foreign_done) != 0) node.state_.store(Operation::done, std::memory_order_release);
  }
  return lost ? lose(node, me) : true;
}

bool Dispatch::claim_foreign(Operation& node, Slot* me) {
  if (node.owner_ == no_thread) {
    std::uint8_t expected = Operation::live;
    if (!node.state_.compare_exchange_strong(expected, Operation::finishing, std::memory_order_acq_rel)) return lose(node, me);
    node.references_.fetch_add(1, std::memory_order_relaxed);  // its listeners may let go of the last reference
    return true;
  }
  {
    SlotLock lock(*node.owner_);
    if (node.state_.load(std::memory_order_seq_cst) == Operation::live) {
      node.foreign_finish_.store(true, std::memory_order_seq_cst);
      heavy_barrier();
      if (node.state_.load(std::memory_order_seq_cst) == Operation::live) {
        node.locked_flags_ |= Operation::foreign_won;
        node.state_.store(Operation::finishing, std::memory_order_seq_cst);
        return true;
      }
    }
  }
  return lose(node, me);
}

bool Dispatch::lose(Operation& node, Slot* me) {
  if (me->depth != 0) return false;
  for (const Dropping* d = me->dropping; d != nullptr; d = d->outer)
    if (d->node == &node) return false;
  for (unsigned round = 0; node.state_.load(std::memory_order_acquire) != Operation::done; ++round) pause(round);
  if ((node.extras_ & Operation::has_zombies) != 0) wait_until_left(me, &node);  // a finish inside a listener did not
  return false;
}

void Dispatch::clean_up(Operation& node, Slot* me) {
  if ((node.extras_ & Operation::has_zombies) != 0) {
    if (me->depth == 0) wait_until_left(me, &node);
    destroy_lanes(node.zombies_, home_of(node));
  }
  if ((node.extras_ & Operation::has_attachments) != 0)
    for (Attachment* a = node.attachments_; a != nullptr;) delete std::exchange(a, a->next_);
  if ((node.extras_ & Operation::counted_in_parent) != 0) node.parent_->children_.fetch_sub(1, std::memory_order_relaxed);
  node.extras_ = 0;
}

void Dispatch::release_shared(Operation* node) {
  while (node != nullptr && node->references_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    if (node->state_.load(std::memory_order_acquire) != Operation::done) {
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
    Operation* parent = std::exchange(node->holds_parent_, false) ? node->parent_ : nullptr;
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

void Dispatch::await_foreign_finish(Operation& node, Slot* me) {
  for (unsigned round = 0; node.state_.load(std::memory_order_acquire) != Operation::done && !me->runs(&node); ++round) pause(round);
}

}  // namespace weir::inline v0::detail
