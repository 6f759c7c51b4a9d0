#include "telemetry/cell_registry.hpp"

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
  forks.locked_ = true;
}

void Forks::in_parent() noexcept {
  CellRegistry& registry = cell_registry();
  Forks& forks = registry.forks();
  if (!std::exchange(forks.locked_, false)) return;
  registry.unlock();
  forks.each([](ForkMember& member) { member.unlock(); });
  pthread_mutex_unlock(&forks.mutex_);
  thread_telemetry.busy = false;
}

void Forks::in_child() noexcept {
  CellRegistry& registry = cell_registry();
  Forks& forks = registry.forks();
  if (!forks.locked_) return;
  registry.forget();
  forks.each([](ForkMember& member) { member.in_child(); });
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
    slots.free.reserve(slots.used + 1);
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

/// Makes `array` reach `index`: the thread's own, which the others read under the lock.
template <class T, class Move>
T* grown(std::unique_ptr<T[]>& array, std::uint32_t& size, std::uint32_t index, Move move) noexcept {
  std::uint32_t wanted = size < 64 ? 64 : size;
  while (wanted <= index) wanted *= 2;
  std::unique_ptr<T[]> larger(new (std::nothrow) T[wanted]{});
  if (!larger) return nullptr;
  for (std::uint32_t i = 0; i < size; ++i) move(larger[i], array[i]);
  array.swap(larger);
  size = wanted;
  return larger.release();  // the old one, to be freed when nobody reads it
}

Cell* CellRegistry::cell(std::uint32_t slot) noexcept {
  ThreadTelemetry& thread = thread_telemetry;
  if (thread.busy && slot >= thread.cells_size) return nullptr;
  TelemetryBusy busy;
  ThreadCells* const own = mine();
  if (own == nullptr) return nullptr;
  std::unique_ptr<Cell[]> old;
  if (slot >= own->cells_size) {
    Lock lock(*this);
    old.reset(grown(own->cells, own->cells_size, slot,
                    [](Cell& to, Cell& from) { to.store(from.load(std::memory_order_relaxed), std::memory_order_relaxed); }));
    if (slot >= own->cells_size) return nullptr;
    thread.cells = own->cells.get();
    thread.cells_size = own->cells_size;
  }
  return &own->cells[slot];
}

HistogramShard* CellRegistry::shard(std::uint32_t slot) noexcept {
  ThreadTelemetry& thread = thread_telemetry;
  if (thread.busy) return nullptr;
  TelemetryBusy busy;
  ThreadCells* const own = mine();
  if (own == nullptr) return nullptr;
  std::unique_ptr<HistogramShard> made(new (std::nothrow) HistogramShard);
  if (!made) return nullptr;
  std::unique_ptr<HistogramShard*[]> old;
  Lock lock(*this);
  if (slot >= own->shards_size) {
    old.reset(grown(own->shards, own->shards_size, slot, [](HistogramShard*& to, HistogramShard* from) { to = from; }));
    if (slot >= own->shards_size) return nullptr;
  }
  thread.shards = own->shards.get();
  thread.shards_size = own->shards_size;
  if (own->shards[slot] == nullptr) own->shards[slot] = made.release();
  return own->shards[slot];
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
  std::unique_ptr<ThreadCells> ended(static_cast<ThreadCells*>(cells));
  CellRegistry& registry = cell_registry();
  thread_telemetry = {};
  TelemetryBusy busy;
  {
    Lock lock(registry);
    (ended->previous != nullptr ? ended->previous->next : registry.threads_) = ended->next;
    if (ended->next != nullptr) ended->next->previous = ended->previous;
    for (std::uint32_t i = 0; i < ended->cells_size && i < registry.ended_.size(); ++i)
      registry.ended_[i] += ended->cells[i].load(std::memory_order_relaxed);
    for (std::uint32_t i = 0; i < ended->shards_size; ++i) {
      HistogramShard* const shard = std::exchange(ended->shards[i], nullptr);
      if (shard == nullptr) continue;
      if (registry.ended_shards_[i]) {
        registry.ended_shards_[i]->absorb(*shard);
        delete shard;
      } else {
        registry.ended_shards_[i].reset(shard);
      }
    }
  }
  if (!ended->keys) return;
  for (KeyCache::Line& line : ended->keys->lines)
    for (KeyEntry* entry : line.entry)
      if (entry != nullptr) entry->unref();
}

}  // namespace weir::inline v0::detail
