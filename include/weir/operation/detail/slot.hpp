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
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "weir/core/detail/context_data.hpp"
#include "weir/operation/detail/event_type.hpp"

#if defined(__SANITIZE_THREAD__)
#define WEIR_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WEIR_THREAD_SANITIZER 1
#endif
#endif

#if defined(__linux__)
extern "C" [[gnu::weak]] void __lsan_register_root_region(const void* begin, std::size_t size);  // of LeakSanitizer, where it runs
#endif

namespace weir::inline v0::detail {

struct Entry;
struct Lane;
struct RootNode;
struct ErrorHandler;
struct Suspect;
struct Stamp;
struct Dropping;
struct Slot;

/// Itanium C++ ABI 2.2.2 (__cxa_eh_globals): libstdc++ and libc++abi agree. std::uncaught_exceptions() costs fifteen times as much.
struct ExceptionGlobals {
  void* caught;
  unsigned uncaught;
};

/// Memory that a thread keeps for the next attachment or activity.
struct SpareBlock {
  static constexpr std::size_t size = 1024;
  static constexpr unsigned max_kept = 16;  // per thread; the rest goes back at once
  SpareBlock* next;
};

/// Nodes that have listeners, for those who come with a handle; and the lock (ListLock) that guards the listeners of all
/// nodes that belong here: the stack operations of one thread, or the roots and shared operations that it made.
struct NodeList {
  Slot* owner;  // the thread towards which the lock is biased; null: none
  std::atomic<bool> lock{false};
  std::atomic<bool> wanted{false};  // by another thread than the owner
  Operation* first = nullptr;
  std::uint64_t serial = 0;
};

/// How many operations directly under one root a thread has made, and how many it has ended. Written by its thread, read by
/// all. Two counters, because one would be a store-forwarding chain of ++ and --.
struct RootUse {
  RootNode* root = nullptr;      // the installed one, while `generation` is the process's
  std::uint64_t generation = 0;  // without membarrier: 0, so that the short way is never taken
  std::atomic<std::int64_t> made{0}, gone{0};
  std::atomic<std::uint64_t> root_id{0};
  std::uint64_t adopted = 0;  // the generation that `root` is of

  /// Never too few: an operation that is made and ended between the two looks counts. (Who ends it looks again.)
  std::int64_t users() const {
    const std::int64_t ended = gone.load(std::memory_order_acquire);
    return made.load(std::memory_order_acquire) - ended;
  }
};

struct alignas(128) Slot {
  static constexpr std::uint32_t max_depth = 16;
  // In `nesting`, above the depth. Each makes it too large for one more emission, so that one comparison sees them all.
  static constexpr std::uint32_t busy = 1u << 16;    // holds a lock of weir: a signal handler that comes now may not
  static constexpr std::uint32_t biased = 1u << 17;  // holds the lock of `own`
  static constexpr std::uint32_t fences = 1u << 18;  // no membarrier here: everything is published with full barriers
  static constexpr std::uint32_t inert = 1u << 19;   // stands for a thread that got no slot

  // Owner only.
  Operation* current = nullptr;
  RootUse* use = &uses[0];  // the latest
  const ExceptionGlobals* exceptions = nullptr;
  std::uint64_t registrations = 0;  // made by this thread, ever: tells what was registered during an event
  // Written by the owner, read by all.
  std::atomic<std::uint32_t> nesting{0};              // emissions in progress, and the flags above
  std::atomic<const Operation*> hazard[max_depth]{};  // whose listeners this thread is running, by depth
  std::atomic<std::int64_t> rounds{0};                // outermost emissions that have ended

  // Several, so that a signal handler that adopts a new root leaves alone the one that it interrupts the counting of.
  RootUse uses[4];
  std::atomic<std::uint64_t> refused{0};  // emissions nested too deep, or in signal handlers at a bad moment
  SpareBlock* spare_blocks = nullptr;
  unsigned spare_count = 0;
  bool forking = false;                // this thread holds all locks
  bool retire_due = false;             // the emission in progress has added to `retired`
  Stamp* retired = nullptr;            // listeners removed inside listeners, to be destroyed when nobody runs them
  const Dropping* dropping = nullptr;  // finishes of this thread that are destroying listeners, innermost first

  alignas(64) NodeList own{this};
  NodeList shared{nullptr};

  Slot* next = nullptr;
  std::atomic<bool> used{true};

  constexpr explicit Slot(std::uint32_t state = 0) : nesting(state) {}
  std::uint32_t depth() const { return nesting.load(std::memory_order_relaxed) & (busy - 1); }
  bool is_busy() const { return (nesting.load(std::memory_order_relaxed) & (busy | inert)) != 0; }
  bool has_fences() const { return (nesting.load(std::memory_order_relaxed) & fences) != 0; }
  bool runs(const Operation* node) const {
    for (const auto& h : hazard)
      if (h.load(std::memory_order_acquire) == node) return true;
    return false;
  }
  bool is_inert() const { return (nesting.load(std::memory_order_relaxed) & inert) != 0; }
  void refuse();
};

/// Which operations observers do not hear of. Asked under the process mutex.
class OperationFilter {
 public:
  virtual ~OperationFilter() = default;
  virtual bool hides(std::string_view title, std::string_view type_name) const noexcept = 0;
};

struct ProcessState {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  EventType* types = nullptr;  // guarded by mutex, as all that is not atomic
  std::atomic<bool> observing{false};
  const OperationFilter* filter = nullptr;
  std::atomic<bool> filtered{false};  // sticky: there has been a filter
  RootNode* roots = nullptr;
  RootNode* installed = nullptr;
  RootNode* deaf = nullptr;              // the parent of operations that cannot have a root: signal handlers at a bad moment
  std::atomic<bool> missed_root{false};  // the last use of a root ended where nothing could be locked
  std::uint64_t last_root_id = 0;
  ErrorHandler* error_handler = nullptr;
  Suspect* suspects = nullptr;
  bool started = false;
  bool has_key = false;
  bool has_membarrier = false;
  pthread_key_t thread_end{};
  unsigned forks = 0;              // since the program began; written while the process has one thread
  const Slot* survivor = nullptr;  // the thread that called the last fork
  char* memory = nullptr;          // what `permanent` hands out next
  std::size_t memory_left = 0;
  std::atomic<std::uint64_t> generation{1};  // of `installed`
  std::atomic<Slot*> slots{nullptr};
  std::atomic<std::uint64_t> refused{0};                 // by threads without a slot
  EventType observers;                                   // what observers are registered under
  void (*removed)(Entry*, Operation*, void*) = nullptr;  // the call of a listener that is not called any more
};

/// How contexts hold shared operations (context_hooks.hpp).
struct ContextHooks {
  static Operation* capture(bool& outside) noexcept;
  static const Operation* current() noexcept;
  static void retain(Operation* operation) noexcept;
  static void release(Operation* operation) noexcept;
  static Operation* enter(Operation* operation) noexcept;
  static void leave(Operation* previous) noexcept;
  /// Makes `operation`, if there is one, the calling thread's current one. What it returns goes to leave(): the previous one,
  /// kept until then if it is shared, because it may end meanwhile.
  static Operation* exchange_current(Operation* operation) noexcept;
  /// The nearest operation on a stack, from `node` upwards; nullptr if there is none.
  static Operation* on_stack(Operation* node) noexcept;
  static constexpr OperationHooks table{&capture, &current, &retain, &release, &enter, &leave};
};

WEIR_SHARED_STATE inline constinit ProcessState process_state{};
WEIR_SHARED_STATE inline constinit thread_local Slot* thread_slot = nullptr;
/// The slot if the short ways are open to it: without membarrier they are not.
WEIR_SHARED_STATE inline constinit thread_local Slot* fast_slot = nullptr;

[[gnu::noinline, gnu::cold]] inline void Slot::refuse() {
  (is_inert() ? process_state.refused : refused).fetch_add(1, std::memory_order_relaxed);
}

inline void compiler_barrier() { std::atomic_signal_fence(std::memory_order_seq_cst); }

/// ++ of a counter that only this thread writes. One instruction, so that a signal handler's own ++ is never lost.
[[gnu::always_inline]] inline void bump(std::atomic<std::int64_t>& counter) {
#if defined(__x86_64__) && !defined(WEIR_THREAD_SANITIZER)
  static_assert(sizeof counter == sizeof(std::int64_t));
  asm volatile("incq %0" : "+m"(counter) : : "cc");
#else
  counter.fetch_add(1, std::memory_order_release);
#endif
}

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

Slot* this_slot() noexcept;
void* take_block(std::size_t size) noexcept;
void give_block(void* block, std::size_t size) noexcept;

/// Says to signal handlers on this thread that a lock of weir is held. Requires: the thread's own slot.
class Busy {
 public:
  explicit Busy(Slot* me) : me_(me), before_(me->nesting.load(std::memory_order_relaxed)) {
    me->nesting.store(before_ | Slot::busy, std::memory_order_relaxed);
    compiler_barrier();
  }
  ~Busy() {
    compiler_barrier();
    me_->nesting.store(before_, std::memory_order_relaxed);
  }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

 private:
  Slot* const me_;
  const std::uint32_t before_;
};

/// operator new and delete for what the library makes for itself, so that a signal handler knows that they may be
/// interrupted: it must not register then, which allocates. (What the program allocates is the program's to guard.)
inline void* allocate(Slot* me, std::size_t size) noexcept {
  Busy busy(me);
  return ::operator new(size, std::nothrow);
}
inline void deallocate(Slot* me, void* memory) noexcept {
  Busy busy(me);
  ::operator delete(memory);
}
/// The same for one T, whatever its alignment.
template <class T>
void* allocate_for(Slot* me) noexcept {
  Busy busy(me);
  if constexpr (alignof(T) > __STDCPP_DEFAULT_NEW_ALIGNMENT__)
    return ::operator new (sizeof(T), std::align_val_t{alignof(T)}, std::nothrow);
  else
    return ::operator new(sizeof(T), std::nothrow);
}
template <class T>
void deallocate_for(Slot* me, void* memory) noexcept {
  Busy busy(me);
  if constexpr (alignof(T) > __STDCPP_DEFAULT_NEW_ALIGNMENT__)
    ::operator delete (memory, std::align_val_t{alignof(T)});
  else
    ::operator delete(memory);
}

/// Holds the process mutex. Requires: !this_slot()->is_busy(), but for threads that got no slot.
class ProcessLock {
 public:
  ProcessLock() : ProcessLock(this_slot()) {}
  explicit ProcessLock(Slot* me) : busy_(me) { pthread_mutex_lock(&process_state.mutex); }
  ~ProcessLock() { pthread_mutex_unlock(&process_state.mutex); }

 private:
  Busy busy_;
};

/// Holds the lock of a NodeList: briefly, never while a listener runs, and never while waiting for the process mutex. The
/// owner takes it with plain stores; others say that they want it, run a heavy barrier, and wait for the owner to let go.
class ListLock {
 public:
  [[gnu::always_inline]] ListLock(NodeList& list, Slot* me) : list_(list), me_(me), before_(me->nesting.load(std::memory_order_relaxed)) {
    if (list.owner == me && !me->has_fences()) {
      me->nesting.store(before_ | Slot::busy | Slot::biased, std::memory_order_relaxed);
      compiler_barrier();
      if (!list.wanted.load(std::memory_order_acquire)) [[likely]]
        return;
    }
    lock();
  }
  [[gnu::always_inline]] ~ListLock() {
    if (!locked_) [[likely]]
      me_->nesting.store(before_, std::memory_order_release);
    else
      unlock();
  }
  ListLock(const ListLock&) = delete;
  ListLock& operator=(const ListLock&) = delete;

 private:
  [[gnu::noinline]] void lock() {
    me_->nesting.store(before_ | Slot::busy, std::memory_order_release);
    for (unsigned round = 0; list_.lock.exchange(true, std::memory_order_acquire); ++round) pause(round);
    locked_ = true;
    if (list_.owner == nullptr || list_.owner == me_) return;
    list_.wanted.store(true, std::memory_order_seq_cst);
    heavy_barrier();
    for (unsigned round = 0; (list_.owner->nesting.load(std::memory_order_acquire) & Slot::biased) != 0; ++round) pause(round);
  }
  [[gnu::noinline]] void unlock() {
    if (list_.owner != nullptr && list_.owner != me_) list_.wanted.store(false, std::memory_order_release);
    list_.lock.store(false, std::memory_order_release);
    compiler_barrier();
    me_->nesting.store(before_, std::memory_order_relaxed);
  }

  NodeList& list_;
  Slot* const me_;
  const std::uint32_t before_;
  bool locked_ = false;
};

/// Memory that is never given back, for what is made once; nullptr when there is none. Not from operator new: it may be
/// called in a signal handler, and an operator new of the program's own may itself use operations. Requires: the mutex.
inline void* permanent(std::size_t size) {
  constexpr std::size_t chunk = 64 * 1024, alignment = alignof(Slot);
  size = (size + alignment - 1) / alignment * alignment;
  ProcessState& process = process_state;
  if (process.memory_left < size) {
    const std::size_t wanted = size > chunk ? size : chunk;
    void* const memory = mmap(nullptr, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
#if defined(__linux__)
    if (__lsan_register_root_region != nullptr) __lsan_register_root_region(memory, wanted);
#endif
    process.memory = static_cast<char*>(memory);
    process.memory_left = wanted;
  }
  process.memory_left -= size;
  return std::exchange(process.memory, process.memory + size);
}

/// Stands for the slot of a thread that got none for lack of memory: emits nothing, registers nothing, owns nothing.
inline constinit Slot inert_slot{Slot::inert};

void removed_listener(Entry*, Operation*, void*);
void end_slot(void* slot);
RootNode* make_deaf_root();
void prepare_fork();
void parent_forked();
void child_forked();

inline void start_process_locked() {
  ProcessState& process = process_state;
  if (process.started) return;
  process.started = true;
  process.removed = removed_listener;
  process.has_membarrier = register_membarrier();
  // A key's destructor runs after those of all thread_local objects, which may still use operations.
  process.has_key = pthread_key_create(&process.thread_end, end_slot) == 0;
  process.deaf = make_deaf_root();
  pthread_atfork(prepare_fork, parent_forked, child_forked);
}

/// Signals are blocked meanwhile: a handler that wanted a slot, too, would find the mutex taken.
[[gnu::noinline, gnu::cold]] inline Slot* new_slot() noexcept {
  ProcessState& process = process_state;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_mutex_lock(&process.mutex);
  start_process_locked();
  Slot* mine = process.slots.load(std::memory_order_relaxed);
  while (mine != nullptr && mine->used.load(std::memory_order_acquire)) mine = mine->next;
  if (mine == nullptr) {
    if (void* memory = permanent(sizeof(Slot))) {
      mine = new (memory) Slot;
      mine->next = process.slots.load(std::memory_order_relaxed);
      process.slots.store(mine, std::memory_order_release);
    }
  }
  if (mine != nullptr) {
    mine->used.store(true, std::memory_order_relaxed);
    mine->exceptions = reinterpret_cast<const ExceptionGlobals*>(abi::__cxa_get_globals());
    mine->current = nullptr;
    mine->nesting.store(process.has_membarrier ? 0 : Slot::fences, std::memory_order_relaxed);
    if (process.has_key) pthread_setspecific(process.thread_end, mine);
    thread_slot = mine;
    operation_hooks.store(&ContextHooks::table, std::memory_order_release);
    fast_slot = process.has_membarrier ? mine : nullptr;
  }
  pthread_mutex_unlock(&process.mutex);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return mine != nullptr ? mine : &inert_slot;
}

/// The calling thread's slot, or `inert_slot`.
inline Slot* this_slot() noexcept {
  Slot* slot = thread_slot;
  return slot != nullptr ? slot : new_slot();
}

/// Waits until no other thread runs a listener of `node`. Who enters after the caller's barrier finds none to run, so each
/// thread needs to have been outside once; one that is always in some listener of the node is seen to end its rounds.
[[gnu::noinline, gnu::cold]] inline void wait_until_left(const Slot* me, const Operation* node) {
  for (const Slot* s = process_state.slots.load(std::memory_order_acquire); s != nullptr; s = s->next)
    if (s != me) {
      const std::int64_t before = s->rounds.load(std::memory_order_acquire);
      for (unsigned round = 0; s->runs(node) && s->rounds.load(std::memory_order_acquire) == before; ++round) pause(round);
    }
}

/// True when no thread, this one included, runs a listener of `node`. Requires a heavy barrier before.
inline bool nobody_runs(const Operation* node) {
  for (const Slot* s = process_state.slots.load(std::memory_order_acquire); s != nullptr; s = s->next)
    if (s->runs(node)) return false;
  return true;
}

/// Requires: the process mutex.
inline bool is_hidden(const EventType& type) {
  return type.phase == Phase::start && process_state.filter != nullptr && process_state.filter->hides(type.title, type.name);
}

/// The event type that `key` is for; `unresolved` when there is no memory for it, or in a signal handler at a bad moment.
[[gnu::noinline, gnu::cold]] inline EventType* resolve(std::atomic<EventType*>& key, Phase phase, std::string_view name, bool by_address,
                                                       std::string_view title) {
  Slot* const me = this_slot();
  if (me->is_busy()) return &unresolved;
  ProcessLock lock(me);
  if (EventType* type = key.load(std::memory_order_relaxed); type != &unresolved) return type;
  EventType* type = nullptr;
  for (EventType* t = process_state.types; t != nullptr && type == nullptr && !by_address; t = t->next)
    if (t->phase == phase && !t->by_address && t->name == name) type = t;
  if (type == nullptr) {
    auto* const text = static_cast<char*>(permanent(sizeof(EventType) + name.size() + title.size()));
    if (text == nullptr) return &unresolved;
    name.copy(text + sizeof(EventType), name.size());
    title.copy(text + sizeof(EventType) + name.size(), title.size());
    type = new (text) EventType;
    type->phase = phase;
    type->by_address = by_address;
    type->name = {text + sizeof(EventType), name.size()};
    type->title = {text + sizeof(EventType) + name.size(), title.size()};
    type->unobserved.store(is_hidden(*type), std::memory_order_relaxed);
    type->listened.store(process_state.observing.load(std::memory_order_relaxed), std::memory_order_relaxed);
    type->next = process_state.types;
    process_state.types = type;
  }
  key.store(type, std::memory_order_release);
  return type;
}

template <class T, Phase P>
inline EventType* event_type() {
  EventType* type = event_key<T, P>.load(std::memory_order_acquire);
  if (type != &unresolved) return type;
  if constexpr (P == Phase::start)
    return resolve(event_key<T, P>, P, type_name<T>(), is_ambiguous<T>(), operation_name<T>());
  else
    return resolve(event_key<T, P>, P, type_name<T>(), is_ambiguous<T>(), {});
}

/// Calls emit(type) if anybody in the process has ever listened to the event.
template <class T, Phase P, class Emit>
[[gnu::always_inline]] inline void if_listened(Emit emit) {
  EventType* type = event_key<T, P>.load(std::memory_order_acquire);
  if (!type->listened.load(std::memory_order_relaxed)) return;
  if (type == &unresolved) [[unlikely]] {
    type = event_type<T, P>();
    if (type == &unresolved) {
      if (process_state.observing.load(std::memory_order_relaxed)) this_slot()->refuse();
      return;
    }
    if (!type->listened.load(std::memory_order_relaxed)) return;
  }
  emit(type);
}

/// From now on operations that begin are hidden from observers where `filter` says so; nullptr: none. Returns the one before, which
/// nobody asks any more. Requires: not in a signal handler.
inline const OperationFilter* hide_operations(const OperationFilter* filter) {
  ProcessLock lock;
  const OperationFilter* const before = std::exchange(process_state.filter, filter);
  if (filter != nullptr) process_state.filtered.store(true, std::memory_order_relaxed);
  for (EventType* t = process_state.types; t != nullptr; t = t->next) t->unobserved.store(is_hidden(*t), std::memory_order_relaxed);
  return before;
}

inline void listen_to_everything() {
  ProcessLock lock;
  process_state.observing.store(true, std::memory_order_relaxed);
  for (EventType* t = process_state.types; t != nullptr; t = t->next) t->listened.store(true, std::memory_order_relaxed);
}

}  // namespace weir::inline v0::detail
