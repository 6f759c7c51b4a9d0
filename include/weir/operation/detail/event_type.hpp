#pragma once
// What an event is matched by. One EventType per (C++ type, phase) and process: found through a pointer that each shared
// library keeps per type, and by the type's full name where two libraries hold such a pointer for one type. Never freed.

#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <string_view>

#include "weir/core/version.hpp"

namespace weir::inline v0 {

class Operation;

namespace detail {

/// "any" is the phase of observers, which hear every event.
enum class Phase : std::uint8_t { start, finish, data, any };

struct EventType {
  /// Sticky: set by the first listener for this type anywhere in the process. (A count would make threads collide.)
  std::atomic<bool> listened{false};
  Phase phase = Phase::any;
  bool by_address = false;  // never matched by name
  std::string_view name;    // owned: the library it came from may be unloaded
  EventType* next = nullptr;
};

/// The pointer through which one shared library reaches an EventType; null until it is first needed.
template <class T, Phase P>
inline constinit std::atomic<EventType*> event_key{nullptr};

template <class T>
constexpr std::string_view raw_type_name() {
  return __PRETTY_FUNCTION__;
}

/// The full name of T as the compiler spells it.
template <class T>
constexpr std::string_view type_name() {
  constexpr std::string_view probe = raw_type_name<double>();
  constexpr std::size_t prefix = probe.find("double");
  constexpr std::size_t suffix = probe.size() - prefix - 6;
  constexpr std::string_view name = raw_type_name<T>();
  return name.substr(prefix, name.size() - prefix - suffix);
}

/// Types that may share their name with another type: those in anonymous namespaces and inside functions.
constexpr bool name_is_ambiguous(std::string_view name) {
  return name.find("anonymous") != std::string_view::npos || name.find("unnamed") != std::string_view::npos ||
         name.find("lambda") != std::string_view::npos || name.find(")::") != std::string_view::npos;
}

class MutexLock {
 public:
  explicit MutexLock(pthread_mutex_t& mutex) : mutex_(mutex) { pthread_mutex_lock(&mutex_); }
  ~MutexLock() { pthread_mutex_unlock(&mutex_); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  pthread_mutex_t& mutex_;
};

}  // namespace detail
}  // namespace weir::inline v0
