#pragma once
// Which ring a thread writes to. Every tracer has an id that is never used again; a thread keeps a list of its rings, and
// in its ThreadState the one it used last. All that is slow happens here: a thread's first span, its end, fork().
//
//   thread_state ─▶ ring (tracer 7) ─▶ ring (tracer 3)        the thread's
//   process       ─▶ TracerEntry 3 ─▶ TracerEntry 7           the living tracers, under a mutex
//
// Thread end: a pthread key's destructor (they run after those of thread_local objects; the main thread has none) closes
// the thread's rings. fork(): the child forgets the rings of its parent and begins with new ones; the tracers live on.
// exit(): a handler, registered before the first tracer is complete, stops the tracers that still live (those on the stack
// of main, on the heap, or destroyed by a static destructor that comes later). It thus runs after the destructors of static
// tracers and of static objects made after the first tracer. _exit, quick_exit and abort run no handlers: call
// Tracer::flush() or stop() before.

#include <pthread.h>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "weir/core/clock.hpp"
#include "weir/core/context.hpp"
#include "weir/trace/detail/name_table.hpp"
#include "weir/trace/detail/thread_ring.hpp"
#include "weir/trace/sampler.hpp"
#include "weir/trace/sender.hpp"

namespace weir::inline v0::detail {

/// Told in the child of a fork, before fork() returns, with the process's mutex held: may neither lock nor allocate.
class ForkListener {
 public:
  virtual void in_child() noexcept = 0;
  ForkListener *previous_listener = nullptr, *next_listener = nullptr;

 protected:
  ~ForkListener() = default;
};

/// What may wait or lock, on a thread of the program's: see SpanSection; and nobody cancels the thread on the way, where
/// nothing may be thrown. Thread-safety: of one thread.
class Undisturbed {
 public:
  Undisturbed() noexcept { ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state_); }
  ~Undisturbed() { ::pthread_setcancelstate(cancel_state_, nullptr); }

 private:
  SpanSection section_{thread_state};
  int cancel_state_ = 0;
};

/// A living tracer, as the threads of the process find it.
struct TracerEntry {
  std::atomic<std::uint64_t> active_id{UINT64_MAX - 2};  // what each span reads first: `id`, Process::off_id or Process::stopped_id
  std::atomic<std::uint64_t> sampling{Sampler::word_of_default};  // Sampler::word of `sampler`
  std::atomic<std::uint64_t> sampler_version{0};
  std::uint64_t id = 0;
  std::shared_ptr<Sender> sender;  // guarded by the process's mutex
  std::chrono::milliseconds stop_timeout{};
  Ticker ticker{Ticker::Source::steady};
  AttributeLimits limits{};
  std::uint64_t id_seed = 0;  // guarded by the process's mutex: of the next ring; 0: random
  std::atomic<bool> stopped{false};
  std::atomic<std::uint32_t> refusals{0};  // attempts since the sender refused a ring; 0: it did not
  std::atomic<std::uint64_t> dropped_no_ring{0}, dropped_stopped{0}, dropped_reentrant{0};
  Sampler sampler;               // guarded by the process's mutex; in force unless the process is steered
  std::uint64_t generation = 0;  // guarded by the process's mutex: of the process that made it or last opened a ring
  bool stopped_at_exit = false;  // guarded by the process's mutex
  TracerEntry *previous = nullptr, *next = nullptr;
};

/// Thread-safety: shared: safe.
class Process {
 public:
  static constexpr std::uint64_t off_id = UINT64_MAX - 2, stopped_id = UINT64_MAX;  ///< no tracer's, and no thread's

  /// The entry is one that was just made, or was removed. Its other fields are set.
  void add(TracerEntry& entry, std::shared_ptr<Sender> sender) noexcept {
    const Undisturbed undisturbed;
    prepare();
    std::lock_guard lock(mutex_);
    entry.sender = std::move(sender);
    entry.id = ++last_id_;
    entry.generation = generation();
    entry.stopped_at_exit = false;
    entry.active_id.store(entry.id, std::memory_order_relaxed);
    entry.previous = nullptr;
    entry.next = tracers_;
    if (tracers_ != nullptr) tracers_->previous = &entry;
    tracers_ = &entry;
    sampler_changed(entry);
  }
  /// Spans that begin from now on are counted no-ops.
  static void refuse_spans(TracerEntry& entry) noexcept {
    entry.stopped.store(true, std::memory_order_relaxed);
    entry.active_id.store(stopped_id, std::memory_order_relaxed);
  }
  /// When it returns, no thread is in the entry's sender any more through the entry, and none gets there. Spans that begin from
  /// now on are those of a tracer that is off. Returns the sender.
  std::shared_ptr<Sender> remove(TracerEntry& entry) noexcept {
    const Undisturbed undisturbed;
    std::lock_guard lock(mutex_);
    entry.active_id.store(off_id, std::memory_order_relaxed);
    (entry.previous != nullptr ? entry.previous->next : tracers_) = entry.next;
    if (entry.next != nullptr) entry.next->previous = entry.previous;
    return std::move(entry.sender);
  }
  /// nullptr: the tracer is off.
  std::shared_ptr<Sender> sender_of(const TracerEntry& entry) noexcept {
    const Undisturbed undisturbed;
    std::lock_guard lock(mutex_);
    return entry.sender;
  }
  void add(ForkListener& listener) noexcept {
    const Undisturbed undisturbed;
    prepare();
    std::lock_guard lock(mutex_);
    listener.next_listener = listeners_;
    if (listeners_ != nullptr) listeners_->previous_listener = &listener;
    listeners_ = &listener;
  }
  void remove(ForkListener& listener) noexcept {
    const Undisturbed undisturbed;
    std::lock_guard lock(mutex_);
    (listener.previous_listener != nullptr ? listener.previous_listener->next_listener : listeners_) = listener.next_listener;
    if (listener.next_listener != nullptr) listener.next_listener->previous_listener = listener.previous_listener;
  }
  void set_sampler(TracerEntry& entry, Sampler sampler) noexcept {
    const Undisturbed undisturbed;  // the old one goes after the mutex
    std::lock_guard lock(mutex_);
    std::swap(entry.sampler, sampler);
    sampler_changed(entry);
  }
  /// Of all tracers, those to come among them, in the place of their own, until there is none again. For control.hpp: a manager's word
  /// counts more than the program's.
  void steer_samplers(std::optional<Sampler> sampler) noexcept {
    const Undisturbed undisturbed;
    std::lock_guard lock(mutex_);
    std::swap(steering_, sampler);
    for (TracerEntry* entry = tracers_; entry != nullptr; entry = entry->next) sampler_changed(*entry);
  }
  /// visit(entry, sampler in force) for each living tracer, under the mutex.
  template <class Visit>
  void for_each_tracer(Visit visit) {
    const Undisturbed undisturbed;
    std::lock_guard lock(mutex_);
    for (TracerEntry* entry = tracers_; entry != nullptr; entry = entry->next) visit(*entry, in_force(*entry));
  }
  /// The one in force.
  Sampler sampler(const TracerEntry& entry) noexcept {
    const Undisturbed undisturbed;
    std::lock_guard lock(mutex_);
    return in_force(entry);
  }
  /// The tracer's sampler, as the thread of the ring knows it, brought up to date. Requires: a SpanSection.
  const Sampler& sampler_of(ThreadRing& ring, const TracerEntry& entry) noexcept {
    if (ring.sampler_version != entry.sampler_version.load(std::memory_order_relaxed)) {
      Sampler old;  // goes after the mutex
      std::lock_guard lock(mutex_);
      old = std::exchange(ring.sampler, in_force(entry));
      ring.sampler_version = entry.sampler_version.load(std::memory_order_relaxed);
    }
    return ring.sampler;
  }
  /// How often this process is the child of a fork.
  std::uint64_t generation() const noexcept { return generation_.load(std::memory_order_relaxed); }

  /// Makes the ring that the calling thread has for the tracer its current one; nullptr if it has none.
  static ThreadRing* attached(std::uint64_t tracer_id) noexcept;
  /// The same, with a new ring if it has none. nullptr: the span is dropped, and counted if the tracer lives.
  ThreadRing* attach(std::uint64_t tracer_id) noexcept;
  /// Counts a span of the tracer that ended in a signal handler at the wrong time; `ring`: where it has a slot, if it has one.
  static void drop_reentrant(ThreadRing* ring, std::uint64_t tracer_id) noexcept;

 private:
  const Sampler& in_force(const TracerEntry& entry) const noexcept { return steering_ ? *steering_ : entry.sampler; }  // mutex_ held
  void sampler_changed(TracerEntry& entry) noexcept {                                                                  // mutex_ held
    entry.sampler_version.fetch_add(1, std::memory_order_relaxed);
    entry.sampling.store(in_force(entry).word(), std::memory_order_relaxed);
  }
  void prepare() noexcept;  // once: key, fork and exit handlers
  static void wake(std::uint64_t tracer_id) noexcept;
  static void end_thread(void* state) noexcept;
  void stop_tracers() noexcept;
  TracerEntry* find(std::uint64_t tracer_id) const noexcept {  // mutex_ held
    TracerEntry* entry = tracers_;
    while (entry != nullptr && entry->id != tracer_id) entry = entry->next;
    return entry;
  }

  std::mutex mutex_;
  TracerEntry* tracers_ = nullptr;     // guarded by mutex_
  std::optional<Sampler> steering_;    // guarded by mutex_
  ForkListener* listeners_ = nullptr;  // guarded by mutex_
  std::uint64_t last_id_ = 0;          // guarded by mutex_
  std::atomic<std::uint64_t> generation_{0};
  std::once_flag prepared_;
  pthread_key_t key_{};
  bool has_key_ = false;
};

WEIR_SHARED_STATE inline Process& process() noexcept {
  static Immortal<Process> instance;
  return instance.value;
}

inline void Process::prepare() noexcept {
  std::call_once(prepared_, [this] {
    has_key_ = ::pthread_key_create(&key_, &Process::end_thread) == 0;
    (void)std::atexit([] { process().stop_tracers(); });  // no room for it: tracers deliver in their destructors only
    ::pthread_atfork(
        [] {
          process().mutex_.lock();
          name_table().mutex().lock();
        },
        [] {
          name_table().mutex().unlock();
          process().mutex_.unlock();
        },
        [] {
          Process& self = process();
          self.generation_.fetch_add(1, std::memory_order_relaxed);
          ThreadState& thread = thread_state;  // the only thread there is; its rings are the parent's
          thread.tracer_id = thread.ring_tracer = 0;
          thread.ring = thread.rings = nullptr;
          for (TracerEntry* entry = self.tracers_; entry != nullptr; entry = entry->next) {
            entry->refusals.store(0, std::memory_order_relaxed);
            entry->dropped_no_ring.store(0, std::memory_order_relaxed);
            entry->dropped_stopped.store(0, std::memory_order_relaxed);
            entry->dropped_reentrant.store(0, std::memory_order_relaxed);
          }
          for (ForkListener* listener = self.listeners_; listener != nullptr; listener = listener->next_listener) listener->in_child();
          name_table().forget_shared();
          name_table().mutex().unlock();
          self.mutex_.unlock();
        });
  });
}

inline ThreadRing* Process::attached(std::uint64_t tracer_id) noexcept {
  ThreadState& thread = thread_state;
  const SpanSection section(thread);
  for (ThreadRing** link = &thread.rings; *link != nullptr;) {
    ThreadRing* ring = *link;
    if (ring->tracer_id() == tracer_id) {
      thread.ring = ring;
      thread.ring_tracer = tracer_id;
      return ring;
    }
    if (ring->orphaned()) {  // its tracer is gone
      if (thread.ring == ring) thread.ring = nullptr, thread.ring_tracer = 0;
      *link = ring->next;
      ring->let_go();
    } else {
      link = &ring->next;
    }
  }
  return nullptr;
}

[[gnu::noinline, gnu::cold]] inline ThreadRing* Process::attach(std::uint64_t tracer_id) noexcept {
  if (ThreadRing* ring = attached(tracer_id)) return ring;
  ThreadState& thread = thread_state;
  const Undisturbed undisturbed;
  std::lock_guard lock(mutex_);
  TracerEntry* entry = find(tracer_id);
  if (entry == nullptr) return nullptr;
  if (entry->stopped.load(std::memory_order_relaxed)) {
    entry->dropped_stopped.fetch_add(1, std::memory_order_relaxed);
    return nullptr;
  }
  // Without the key the thread's end would go unnoticed, and its ring would never be given back.
  const bool hooked = has_key_ && ::pthread_setspecific(key_, &thread) == 0;
  ThreadRing* ring = hooked ? entry->sender->open_ring() : nullptr;
  entry->refusals.store(ring == nullptr ? 1 : 0, std::memory_order_relaxed);
  if (ring == nullptr) {
    entry->dropped_no_ring.fetch_add(1, std::memory_order_relaxed);
    return nullptr;
  }
  entry->generation = generation();
  ring->sampler_version = UINT64_MAX;  // none yet
  ring->adopt(tracer_id, entry->ticker, entry->limits, generation(), &Process::wake);
  if (entry->id_seed != 0 || ring->has_fixed_ids()) ring->seed_ids(entry->id_seed != 0 ? entry->id_seed++ : 0);
  ring->next = thread.rings;
  thread.rings = thread.ring = ring;
  thread.ring_tracer = tracer_id;
  return ring;
}

[[gnu::noinline, gnu::cold]] inline void Process::drop_reentrant(ThreadRing* ring, std::uint64_t tracer_id) noexcept {
  if (ring != nullptr) return ring->count_reentrant();
  std::unique_lock lock(process().mutex_, std::try_to_lock);  // the interrupted thread may hold it
  if (!lock) return;
  if (TracerEntry* entry = process().find(tracer_id)) entry->dropped_reentrant.fetch_add(1, std::memory_order_relaxed);
}

inline void Process::wake(std::uint64_t tracer_id) noexcept {
  const Undisturbed undisturbed;
  std::unique_lock lock(process().mutex_, std::try_to_lock);
  if (!lock) return;  // somebody's first span; the rings are drained every few milliseconds anyway
  if (TracerEntry* entry = process().find(tracer_id)) entry->sender->wake();
}

/// Runs in exit(). All tracers refuse spans before the first is waited for, and their time runs from then on: together they
/// take as long as the slowest. A child's exit leaves those alone that it only inherited: there is nothing in them, and no
/// telling what state their senders are in.
inline void Process::stop_tracers() noexcept {
  const Sender::Deadline begin = std::chrono::steady_clock::now();
  {
    std::lock_guard lock(mutex_);
    for (TracerEntry* entry = tracers_; entry != nullptr; entry = entry->next) {
      refuse_spans(*entry);
      entry->stopped_at_exit = entry->generation != generation();
    }
  }
  for (;;) {
    std::shared_ptr<Sender> sender;  // other threads go on: one may destroy the tracer while we wait
    std::chrono::milliseconds timeout{};
    {
      std::lock_guard lock(mutex_);
      TracerEntry* entry = tracers_;
      while (entry != nullptr && entry->stopped_at_exit) entry = entry->next;
      if (entry == nullptr) return;
      entry->stopped_at_exit = true;
      sender = entry->sender;
      timeout = entry->stop_timeout;
    }
    (void)sender->stop(begin + timeout);
  }
}

inline void Process::end_thread(void*) noexcept {
  ThreadState& thread = thread_state;
  const Undisturbed undisturbed;
  thread.ring_tracer = 0;
  thread.ring = nullptr;
  while (thread.rings != nullptr) {
    ThreadRing* ring = thread.rings;
    thread.rings = ring->next;
    ring->let_go();
  }
}

}  // namespace weir::inline v0::detail
