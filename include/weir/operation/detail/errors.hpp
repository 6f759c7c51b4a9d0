#pragma once
// What happens when a listener throws. All of it is cold: a listener that has thrown is put on probation, which means that
// its entry's call is replaced by one that counts; the listeners that behave pay nothing.

#include <cstdio>
#include <exception>

#include "weir/core/detail/exceptions.hpp"
#include "weir/core/text.hpp"
#include "weir/operation/listener.hpp"

namespace weir::inline v0 {

namespace detail {

/// The installed handler. Guarded by the process mutex; called outside it.
struct ErrorHandler {
  void (*call)(ErrorHandler*, const ListenerError&);
  void (*destroy)(ErrorHandler*);
  unsigned uses = 1;  // being installed, and calls in progress
};

inline void drop_error_handler(ErrorHandler* handler) {
  if (handler == nullptr) return;
  {
    ProcessLock lock;
    if (--handler->uses != 0) return;
  }
  handler->destroy(handler);
}

inline void report(const ListenerError& error) {
  ErrorHandler* handler;
  {
    ProcessLock lock;
    handler = process_state.error_handler;
    if (handler != nullptr) ++handler->uses;
  }
  if (handler != nullptr) {
    struct Use {
      ErrorHandler* handler;
      ~Use() { drop_error_handler(handler); }
    } use{handler};
    handler->call(handler, error);
  } else {
    StderrLine line;
    line.append("weir: a listener threw on operation '");
    append_printable(line, error.operation);
    line.append("' (event ");
    append_printable(line, error.event);
    line.append("): ");
    append_printable(line, error.what);
    if (error.disabled) line.append(". It threw 100 times in a row and is disabled");
    line.write();
  }
}

/// A listener that has thrown. Guarded by the process mutex; freed with its lane.
struct Suspect {
  const Entry* entry;
  Entry::Call original;
  unsigned faults;  // in a row
  Suspect* next;
};

inline Suspect* find_suspect(const Entry* entry) {
  Suspect* suspect = process_state.suspects;
  while (suspect != nullptr && suspect->entry != entry) suspect = suspect->next;
  return suspect;
}

[[gnu::noinline, gnu::cold]] inline void forget_suspects(Lane* lane) {
  ProcessLock lock;
  for (Suspect** link = &process_state.suspects; *link != nullptr;) {
    Suspect* suspect = *link;
    if (lane->holds(suspect->entry)) {
      *link = suspect->next;
      delete suspect;
    } else {
      link = &suspect->next;
    }
  }
}

/// Stands in for the call of an entry that has thrown, until it returns normally once.
inline void probation(Entry* entry, Operation* operation, void* event) {
  Entry::Call original;
  {
    ProcessLock lock;
    original = find_suspect(entry)->original;
  }
  original(entry, operation, event);
  ProcessLock lock;
  find_suspect(entry)->faults = 0;
  Entry::Call expected = probation;
  entry->call.compare_exchange_strong(expected, original, std::memory_order_acq_rel);
}

/// One more fault of `entry`. Returns true when it is the hundredth in a row, which disables it.
inline bool count_fault(Lane* lane, Entry* entry) {
  constexpr unsigned limit = 100;
  ProcessLock lock;
  Entry::Call call = entry->call.load(std::memory_order_acquire);
  Suspect* suspect = find_suspect(entry);
  if (suspect == nullptr) {
    if (call == process_state.removed) return false;
    suspect = new (std::nothrow) Suspect{entry, call, 0, process_state.suspects};
    if (suspect == nullptr) return false;
    lane->suspect.store(true, std::memory_order_relaxed);
    process_state.suspects = suspect;
  }
  const Entry::Call next = ++suspect->faults >= limit ? process_state.removed : probation;
  while (call != process_state.removed && !entry->call.compare_exchange_weak(call, next, std::memory_order_acq_rel)) {}
  return suspect->faults == limit;
}

/// In a catch block: pthread_exit and cancellation unwind with something that has no C++ type and must not be swallowed.
inline bool is_unwinding_the_thread() {
#if defined(__cpp_exceptions)
  return abi::__cxa_current_exception_type() == nullptr;
#else
  return false;
#endif
}

/// Runs `action` when pthread_exit or cancellation unwinds through a scope. (A catch block would not do: whatever `action`
/// runs may itself leave by pthread_exit, and must not leave such a block that way.)
template <class Action>
class Unwinding {
 public:
  explicit Unwinding(Action action) : action_(action) {}
  ~Unwinding() noexcept(false) {
    if (armed_) action_();
  }
  Unwinding(const Unwinding&) = delete;
  Unwinding& operator=(const Unwinding&) = delete;
  void dismiss() { armed_ = false; }

 private:
  Action action_;
  bool armed_ = true;
};

/// Called inside a catch block, for what is not unwinding the thread.
[[gnu::noinline, gnu::cold]] inline void listener_threw(Lane* lane, Entry* entry, std::string_view operation, std::string_view event) {
#if defined(__cpp_exceptions)
  ListenerError error{operation, event, "unknown exception", count_fault(lane, entry)};
  try {
    try {
      throw;
    } catch (const std::exception& exception) {
      error.what = exception.what();
      report(error);
    } catch (...) {
      report(error);
    }
  } catch (...) {
    if (is_unwinding_the_thread()) throw;  // else the handler threw, which it was asked not to
  }
#else
  (void)lane, (void)entry, (void)operation, (void)event;
#endif
}

}  // namespace detail

template <class Handler>
void set_error_handler(Handler handler) {
  detail::ErrorHandler* next = nullptr;
  if constexpr (!std::is_same_v<Handler, std::nullptr_t>) {
    struct Installed : detail::ErrorHandler {
      explicit Installed(Handler h) : detail::ErrorHandler{call_it, destroy_it}, callable(std::move(h)) {}
      static void call_it(detail::ErrorHandler* self, const ListenerError& error) { static_cast<Installed*>(self)->callable(error); }
      static void destroy_it(detail::ErrorHandler* self) { delete static_cast<Installed*>(self); }
      Handler callable;
    };
    next = new (std::nothrow) Installed(std::move(handler));
    if (next == nullptr) return;
  }
  detail::ErrorHandler* previous;
  {
    detail::ProcessLock lock;
    previous = std::exchange(detail::process_state.error_handler, next);
  }
  detail::drop_error_handler(previous);
}

}  // namespace weir::inline v0
