#include "telemetry/cell_registry.hpp"

#include <algorithm>

#include "weir/core/detail/exceptions.hpp"
#include "weir/core/detail/immortal.hpp"

namespace weir::inline v0::detail {

CellRegistry& cell_registry() noexcept {
  CellRegistry* registry = shared_cell_registry.load(std::memory_order_acquire);
  if (registry != nullptr) [[likely]]
    return *registry;
  static Immortal<CellRegistry> spare;  // whoever has no memory for it
  auto* made = new (std::nothrow) CellRegistry;
  if (shared_cell_registry.compare_exchange_strong(registry, made != nullptr ? made : &spare.value, std::memory_order_acq_rel))
    return *shared_cell_registry.load(std::memory_order_acquire);
  delete made;
  return *registry;
}

void Forks::add(ForkMember& member) noexcept {
  pthread_mutex_lock(&mutex_);
  if (!registered_) registered_ = pthread_atfork(prepare, in_parent, in_child) == 0;
  member.next_member = first_;
  if (first_ != nullptr) first_->previous_member = &member;
  first_ = &member;
  pthread_mutex_unlock(&mutex_);
}

void Forks::remove(ForkMember& member) noexcept {
  pthread_mutex_lock(&mutex_);
  (member.previous_member != nullptr ? member.previous_member->next_member : first_) = member.next_member;
  if (member.next_member != nullptr) member.next_member->previous_member = member.previous_member;
  pthread_mutex_unlock(&mutex_);
}

void Forks::prepare() noexcept {
  CellRegistry& registry = cell_registry();
  Forks& forks = registry.forks();
  if (thread_telemetry.busy) return;  // in a signal handler: nothing can be locked
  thread_telemetry.busy = true;
  pthread_mutex_lock(&forks.mutex_);
  forks.each([](ForkMember& member) { member.lock_first(); });
  forks.each([](ForkMember& member) { member.lock_second(); });
  registry.lock();
  thread_telemetry.forking = true;
}

void Forks::in_parent() noexcept {
  CellRegistry& registry = cell_registry();
  Forks& forks = registry.forks();
  if (!std::exchange(thread_telemetry.forking, false)) return;
  registry.unlock();
  forks.each([](ForkMember& member) { member.unlock(); });
  pthread_mutex_unlock(&forks.mutex_);
  thread_telemetry.busy = false;
}

void Forks::in_child() noexcept {
  if (!thread_telemetry.forking) return;
  CellRegistry& registry = cell_registry();
  registry.forget();
  registry.forks().each([](ForkMember& member) { member.in_child(); });
  in_parent();
}

std::uint32_t CellRegistry::take(Slots& slots) noexcept {
  Lock lock(*this);
  WEIR_TRY {
    if (!slots.free.empty()) {
      const std::uint32_t slot = slots.free.back();
      slots.free.pop_back();
      return slot;
    }
    if (slots.used == max_slots) return no_cell;
    // Room for what must not fail later: giving slots back, and the end of a thread.
    if (slots.free.capacity() <= slots.used) slots.free.reserve(std::max<std::size_t>(64, 2 * slots.free.capacity()));
    if (&slots == &counters_)
      ended_.resize(slots.used + 1);
    else
      ended_shards_.resize(slots.used + 1);
    return slots.used++;
  }
  WEIR_CATCH_ALL { return no_cell; }
}

ThreadCells* CellRegistry::mine() noexcept {
  ThreadTelemetry& thread = thread_telemetry;
  if (thread.mine != nullptr) return thread.mine;
  auto* const mine = new (std::nothrow) ThreadCells;
  if (mine == nullptr) return nullptr;
  Lock lock(*this);
  // A key's destructor runs after those of all thread_local objects, which may still count.
  if (!has_key_) has_key_ = pthread_key_create(&thread_end_, end_thread) == 0;
  if (has_key_) pthread_setspecific(thread_end_, mine);
  mine->next = threads_;
  if (threads_ != nullptr) threads_->previous = mine;
  threads_ = mine;
  return thread.mine = mine;
}

Cell* CellRegistry::cell(std::uint32_t slot) noexcept {
  ThreadTelemetry& thread = thread_telemetry;
  if (slot < thread.cells_size) return &thread.cells[slot];
  if (thread.busy) return nullptr;
  TelemetryBusy busy;
  ThreadCells* const own = mine();
  if (own == nullptr) return nullptr;
  if (slot >= thread.cells_size) {
    const std::size_t which = ThreadCells::which(slot);
    std::unique_ptr<Cell[]> larger(new (std::nothrow) Cell[ThreadCells::size(which)]{});
    if (!larger) return nullptr;
    Lock lock(*this);
    thread.cells = larger.get();
    own->cells[which] = std::move(larger);
    signal_fence();
    thread.cells_size = ThreadCells::size(which);
  }
  return &thread.cells[slot];
}

HistogramShard* CellRegistry::shard(std::uint32_t slot) noexcept {
  ThreadTelemetry& thread = thread_telemetry;
  if (thread.busy) return nullptr;
  TelemetryBusy busy;
  ThreadCells* const own = mine();
  if (own == nullptr) return nullptr;
  std::unique_ptr<HistogramShard> made(new (std::nothrow) HistogramShard);
  if (!made) return nullptr;
  std::unique_ptr<HistogramShard*[]> larger;
  const std::size_t which = ThreadCells::which(slot);
  if (slot >= own->shards_size) {
    larger.reset(new (std::nothrow) HistogramShard* [ThreadCells::size(which)] {});
    if (!larger) return nullptr;
  }
  Lock lock(*this);
  if (larger) {
    std::copy_n(own->all_shards, own->shards_size, larger.get());
    thread.shards = own->all_shards = larger.get();
    own->shards[which] = std::move(larger);
    signal_fence();
    thread.shards_size = own->shards_size = ThreadCells::size(which);
  }
  HistogramShard*& shard = own->all_shards[slot];
  if (shard == nullptr) shard = made.release();
  return shard;
}

KeyCache* CellRegistry::keys() noexcept {
  ThreadCells* const own = mine();
  if (own == nullptr) return nullptr;
  if (!own->keys) {
    own->keys.reset(new (std::nothrow) KeyCache);
    thread_telemetry.keys = own->keys.get();
  }
  return own->keys.get();
}

void CellRegistry::end_thread(void* cells) noexcept {
  TelemetryBusy busy;
  std::unique_ptr<ThreadCells> ended(static_cast<ThreadCells*>(cells));
  CellRegistry& registry = cell_registry();
  ThreadTelemetry& thread = thread_telemetry;
  thread.cells_size = thread.shards_size = 0;
  thread.keys = nullptr;
  thread.mine = nullptr;
  {
    Lock lock(registry);
    (ended->previous != nullptr ? ended->previous->next : registry.threads_) = ended->next;
    if (ended->next != nullptr) ended->next->previous = ended->previous;
    ended->for_each_array([&](const Cell* array, std::uint32_t size) {
      for (std::uint32_t i = 0; i < size && i < registry.ended_.size(); ++i)
        registry.ended_[i] = wrapping_add(registry.ended_[i], array[i].load(std::memory_order_relaxed));
    });
    for (std::uint32_t i = 0; i < ended->shards_size; ++i) {
      std::unique_ptr<HistogramShard> shard(std::exchange(ended->all_shards[i], nullptr));
      if (!shard) continue;
      if (registry.ended_shards_[i])
        move_shard(*shard, *registry.ended_shards_[i]);
      else
        registry.ended_shards_[i] = std::move(shard);
    }
  }
  if (!ended->keys) return;
  for (KeyCache::Line& line : ended->keys->lines)
    for (KeyEntry* entry : line.entry)
      if (entry != nullptr) entry->unref();
}

}  // namespace weir::inline v0::detail
