#pragma once
// The state behind the operation tree: one ProcessState, and one Slot per thread.
//
// A Slot is written with plain stores by its thread and read by the rare slow side (finishing what other threads use,
// removing listeners, swapping roots), which first runs a heavy barrier: membarrier(2) makes every other thread execute a
// full barrier, so that the fast side needs none (an asymmetric Dekker). Where membarrier is missing, the fast side pays.
// Slots are never freed, only recycled: whoever holds a pointer to one may always read it.

#include <cxxabi.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "weir/operation/detail/event_type.hpp"

namespace weir::inline v0::detail {

struct Lane;
struct RootNode;
struct ErrorHandler;
struct Suspect;

/// Itanium C++ ABI 2.2.2 (__cxa_eh_globals): libstdc++ and libc++abi agree. std::uncaught_exceptions() costs fifteen times as much.
struct ExceptionGlobals {
  void* caught;
  unsigned uncaught;
};

struct Retired;

/// Memory that a thread keeps for the next attachment.
struct SpareBlock {
  static constexpr std::size_t size = 1024;
  static constexpr unsigned max_kept = 16;  // per thread; the rest goes back at once
  SpareBlock* next;
};
struct Dropping;

struct alignas(128) Slot {
  static constexpr unsigned max_depth = 16;

  // Owner only.
  Operation* current = nullptr;
  RootNode* root = nullptr;  // the installed root, valid while generation is the process's
  std::uint64_t generation = 0;
  const ExceptionGlobals* exceptions = nullptr;
  std::uint64_t registrations = 0;     // made by this thread, ever: tells what was registered during an event
  unsigned depth = 0;                  // of emissions in progress
  bool fences = false;                 // no membarrier: publish with full barriers
  SpareBlock* spare_blocks = nullptr;  // for attachments
  unsigned spare_count = 0;
  Retired* retired = nullptr;          // listeners removed inside listeners, to be destroyed when nobody runs them
  const Dropping* dropping = nullptr;  // finishes of this thread that are destroying listeners, innermost first

  // Written by the owner, read by all. The counters belong to the root with this id: operations directly under it that
  // this thread made, and that it ended. Two counters, because one would be a store-forwarding chain of ++ and --.
  std::atomic<std::uint64_t> root_id{0};
  std::atomic<std::int64_t> made{0}, gone{0};
  std::atomic<std::uint64_t> refused{0};              // emissions nested deeper than max_depth
  std::atomic<const Operation*> hazard[max_depth]{};  // whose listeners this thread is running, by depth

  // Guarded by lock: the nodes made by this thread that have listeners, for those who come with a handle.
  alignas(64) std::atomic<bool> lock{false};
  Operation* listened = nullptr;
  std::uint64_t serial = 0;

  Slot* next = nullptr;
  std::atomic<bool> used{true};

  std::int64_t users() const { return made.load(std::memory_order_acquire) - gone.load(std::memory_order_acquire); }
  bool runs(const Operation* node) const {
    for (const auto& h : hazard)
      if (h.load(std::memory_order_acquire) == node) return true;
    return false;
  }
};

struct ProcessState {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  EventType* types = nullptr;  // guarded by mutex, as all that is not atomic
  bool observing = false;
  RootNode* roots = nullptr;
  RootNode* installed = nullptr;
  std::uint64_t last_root_id = 0;
  ErrorHandler* error_handler = nullptr;
  Suspect* suspects = nullptr;
  bool started = false;
  bool has_key = false;
  bool has_membarrier = false;
  pthread_key_t thread_end{};
  std::atomic<std::uint64_t> generation{1};  // of `installed`
  std::atomic<Slot*> slots{nullptr};
  EventType observers;  // what observers are registered under
};

WEIR_SHARED_STATE inline constinit ProcessState process_state{};
WEIR_SHARED_STATE inline constinit thread_local Slot* thread_slot = nullptr;

inline void compiler_barrier() { std::atomic_signal_fence(std::memory_order_seq_cst); }

#if defined(__linux__)
inline bool membarrier(int command) { return syscall(SYS_membarrier, command, 0, 0) == 0; }
inline bool register_membarrier() { return membarrier(1 << 4); }  // MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED
/// Afterwards every thread, this one included, has executed a full barrier since the call began. (Without membarrier the
/// others execute theirs where they publish.)
[[gnu::noinline, gnu::cold]] inline void heavy_barrier() {
  constexpr int private_expedited = 1 << 3;
  if (!process_state.has_membarrier) return __sync_synchronize();
  if (!membarrier(private_expedited)) {
    register_membarrier();
    membarrier(private_expedited);
  }
}
#else
inline bool register_membarrier() { return false; }
[[gnu::noinline, gnu::cold]] inline void heavy_barrier() { __sync_synchronize(); }
#endif

/// For what runs in destructors: puts the thread's cancellation off.
class NoCancellation {
 public:
  NoCancellation() { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before_); }
  ~NoCancellation() { pthread_setcancelstate(before_, nullptr); }
  NoCancellation(const NoCancellation&) = delete;
  NoCancellation& operator=(const NoCancellation&) = delete;

 private:
  int before_ = 0;
};

/// Lets the others run.
[[gnu::noinline, gnu::cold]] inline void pause(unsigned round) {
  if (round < 100) {
    sched_yield();
    return;
  }
  NoCancellation no_cancellation;
  const timespec time{0, 50'000};
  nanosleep(&time, nullptr);
}

/// Held briefly, never while a listener runs.
class SlotLock {
 public:
  explicit SlotLock(Slot& slot) : lock_(slot.lock) {
    while (lock_.exchange(true, std::memory_order_acquire)) sched_yield();
  }
  ~SlotLock() { lock_.store(false, std::memory_order_release); }
  SlotLock(const SlotLock&) = delete;
  SlotLock& operator=(const SlotLock&) = delete;

 private:
  std::atomic<bool>& lock_;
};

void end_slot(void* slot);

[[gnu::noinline, gnu::cold]] inline Slot* new_slot() noexcept {
  ProcessState& process = process_state;
  Slot* mine = nullptr;
  {
    MutexLock lock(process.mutex);
    if (!process.started) {
      process.started = true;
      process.has_membarrier = register_membarrier();
      // A key's destructor runs after those of all thread_local objects, which may still use operations.
      process.has_key = pthread_key_create(&process.thread_end, end_slot) == 0;
    }
    for (Slot* s = process.slots.load(std::memory_order_relaxed); s != nullptr && mine == nullptr; s = s->next)
      if (!s->used.load(std::memory_order_acquire)) mine = s;
    if (mine == nullptr) {
      mine = new Slot;
      mine->next = process.slots.load(std::memory_order_relaxed);
      process.slots.store(mine, std::memory_order_release);
    }
    mine->used.store(true, std::memory_order_relaxed);
    mine->fences = !process.has_membarrier;
  }
  mine->exceptions = reinterpret_cast<const ExceptionGlobals*>(abi::__cxa_get_globals());
  mine->current = nullptr;
  mine->depth = 0;
  if (process.has_key) pthread_setspecific(process.thread_end, mine);
  return thread_slot = mine;
}

inline Slot* this_slot() noexcept {
  Slot* slot = thread_slot;
  return slot != nullptr ? slot : new_slot();
}

/// Waits until no other thread runs a listener of `node`. Who enters after the caller's barrier finds none to run, so each
/// thread needs to be seen outside once.
[[gnu::noinline, gnu::cold]] inline void wait_until_left(const Slot* me, const Operation* node) {
  for (const Slot* s = process_state.slots.load(std::memory_order_acquire); s != nullptr; s = s->next)
    for (unsigned round = 0; s != me && s->runs(node); ++round) pause(round);
}

/// True when no thread, this one included, runs a listener of `node`. Requires a heavy barrier before.
inline bool nobody_runs(const Operation* node) {
  for (const Slot* s = process_state.slots.load(std::memory_order_acquire); s != nullptr; s = s->next)
    if (s->runs(node)) return false;
  return true;
}

[[gnu::noinline, gnu::cold]] inline EventType* resolve(std::atomic<EventType*>& key, Phase phase, std::string_view name, bool by_address) {
  MutexLock lock(process_state.mutex);
  if (EventType* type = key.load(std::memory_order_relaxed)) return type;
  EventType* type = nullptr;
  for (EventType* t = process_state.types; t != nullptr && type == nullptr && !by_address; t = t->next)
    if (t->phase == phase && !t->by_address && t->name == name) type = t;
  if (type == nullptr) {
    char* text = new char[name.size()];
    name.copy(text, name.size());
    type = new EventType;
    type->phase = phase;
    type->by_address = by_address;
    type->name = {text, name.size()};
    type->listened.store(process_state.observing, std::memory_order_relaxed);
    type->next = process_state.types;
    process_state.types = type;
  }
  key.store(type, std::memory_order_release);
  return type;
}

template <class T, Phase P>
inline EventType* event_type() {
  EventType* type = event_key<T, P>.load(std::memory_order_acquire);
  return type != nullptr ? type : resolve(event_key<T, P>, P, type_name<T>(), is_ambiguous<T>());
}

inline void listen_to_everything() {
  MutexLock lock(process_state.mutex);
  process_state.observing = true;
  for (EventType* t = process_state.types; t != nullptr; t = t->next) t->listened.store(true, std::memory_order_relaxed);
}

}  // namespace weir::inline v0::detail
