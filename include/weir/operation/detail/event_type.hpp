#pragma once
// What an event is matched by. One EventType per (C++ type, phase) and process: found through a pointer that each shared
// library keeps per type, and by the type's full name where two libraries hold such a pointer for one type. Never freed.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <string_view>
#include <type_traits>
#if defined(__cpp_rtti)
#include <typeinfo>
#endif

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
  /// Of the start of operations: observers do not hear of those that begin from now on.
  std::atomic<bool> unobserved{false};
  std::string_view name{};   // a copy: the library it came from may be unloaded
  std::string_view title{};  // likewise: what operations of the type are called; empty but for their start
  EventType* next = nullptr;
};

/// What a key points at before it is first needed. "Listened", so that one look at the flag is all the short way takes.
WEIR_SHARED_STATE inline constinit EventType unresolved{true};

/// The pointer through which one shared library reaches an EventType.
template <class T, Phase P>
inline constinit std::atomic<EventType*> event_key{&unresolved};

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

/// "ns::QuerySql" -> "QuerySql".
constexpr std::string_view unqualified(std::string_view name) {
  const std::size_t colons = name.substr(0, name.find('<')).rfind("::");
  return colons == std::string_view::npos ? name : name.substr(colons + 2);
}

/// T::name as a static member. (State of an operation may have this name too.)
template <class T>
concept HasName = requires {
  requires std::is_convertible_v<decltype(*&T::name), std::string_view>;
};

/// What an operation is called whose type is T.
template <class T>
constexpr std::string_view operation_name() {
  if constexpr (HasName<T>)
    return T::name;
  else
    return unqualified(type_name<T>());
}

/// As the compilers spell types that may share their name with another type: those in anonymous namespaces, those without
/// a name, those inside functions.
constexpr bool name_is_ambiguous(std::string_view name) {
  for (std::string_view part : {"{anonymous}", "<unnamed ", "<lambda(", ")::", "(anonymous ", "(unnamed ", "(lambda at "})
    if (name.find(part) != std::string_view::npos) return true;
  return false;
}

/// The same for a mangled name: one inside a function has a Z outside of its identifiers. Clang's own spelling does not
/// tell. (Itanium C++ ABI 5.1; in doubt: yes.)
constexpr bool mangled_name_is_local(std::string_view name) {
  for (std::size_t i = 0; i < name.size();) {
    const char c = name[i++];
    if (c == 'Z') return true;
    if (c == 'S' && i < name.size() && (name[i] < 'a' || name[i] > 'z')) {  // a substitution
      while (i < name.size() && name[i] != '_') ++i;
    } else if (c == 'A') {  // the bound of an array
      while (i < name.size() && name[i] >= '0' && name[i] <= '9') ++i;
    } else if (c == 'L' && i < name.size() && name[i] >= 'a' && name[i] <= 'z') {  // a literal of a builtin type
      while (i < name.size() && name[i] != 'E') ++i;
    } else if (c >= '1' && c <= '9') {  // an identifier
      std::size_t length = static_cast<std::size_t>(c - '0');
      while (i < name.size() && name[i] >= '0' && name[i] <= '9') length = length * 10 + static_cast<std::size_t>(name[i++] - '0');
      i += length;
    }
  }
  return false;
}

/// True when T's name does not tell it from every other type of the process: then only one shared library knows it.
template <class T>
bool is_ambiguous() {
  if (name_is_ambiguous(type_name<T>())) return true;
#if defined(__cpp_rtti)
  return mangled_name_is_local(typeid(T).name());
#elif defined(__clang__)
  return type_name<T>().find("::") == std::string_view::npos;  // may be inside a function
#else
  return false;
#endif
}

}  // namespace detail
}  // namespace weir::inline v0
