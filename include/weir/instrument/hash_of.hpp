#pragma once
// hash_of(value): a hash for what is put into groups, without the author of the type writing one. A Manager (manager.hpp) uses it for
// configuration and process groups.
//
//   struct Group { std::string service; int shard; auto operator<=>(const Group&) const = default; };
//   weir::hash_of(Group{"checkout", 2});
//
// What has a std::hash is hashed by it; else by hash_value(const T&), found where T lives; else, if T is an aggregate of at most six
// members (no arrays, no base classes), each of its members is hashed by these rules, and the hashes are combined. The == of such an
// aggregate must compare all of its members, as a defaulted one does; one that passes over a member needs a hash_value() that does, too.

#include <concepts>
#include <cstddef>
#include <functional>
#include <type_traits>

#include "weir/core/version.hpp"

namespace weir::inline v0 {

namespace detail {

inline constexpr std::size_t max_group_members = 6;

struct AnyMember {
  template <class T>
  operator T() const;  // only named, never called
};

template <class T, class... Members>
constexpr std::size_t count_members() {
  if constexpr (sizeof...(Members) > max_group_members) {
    return sizeof...(Members);
  } else if constexpr (requires { T{Members{}..., AnyMember{}}; }) {
    return count_members<T, Members..., AnyMember>();
  } else {
    return sizeof...(Members);
  }
}

/// Calls `use` with the members. Requires: 1 to max_group_members of them.
template <class T, class Use>
constexpr decltype(auto) with_members(const T& value, Use use) {
  constexpr std::size_t count = count_members<T>();
  static_assert(count >= 1 && count <= max_group_members);
  if constexpr (count == 1) {
    const auto& [a] = value;
    return use(a);
  } else if constexpr (count == 2) {
    const auto& [a, b] = value;
    return use(a, b);
  } else if constexpr (count == 3) {
    const auto& [a, b, c] = value;
    return use(a, b, c);
  } else if constexpr (count == 4) {
    const auto& [a, b, c, d] = value;
    return use(a, b, c, d);
  } else if constexpr (count == 5) {
    const auto& [a, b, c, d, e] = value;
    return use(a, b, c, d, e);
  } else {
    const auto& [a, b, c, d, e, f] = value;
    return use(a, b, c, d, e, f);
  }
}

template <class T>
concept StdHashed = requires(const T& value) {
  { std::hash<T>{}(value) } -> std::convertible_to<std::size_t>;
};

template <class T>
concept HashValued = requires(const T& value) {
  { hash_value(value) } -> std::convertible_to<std::size_t>;
};

template <class T>
constexpr bool can_hash();

struct CanHash {
  template <class... Members>
  constexpr std::bool_constant<(can_hash<Members>() && ...)> operator()(const Members&...) const {
    return {};
  }
};

template <class T>
constexpr bool can_hash() {
  if constexpr (StdHashed<T> || HashValued<T>) {
    return true;
  } else if constexpr (std::is_class_v<T> && std::is_aggregate_v<T>) {
    if constexpr (constexpr std::size_t count = count_members<T>(); count == 0) {
      return std::is_empty_v<T>;
    } else if constexpr (count > max_group_members) {
      return false;
    } else {
      return decltype(with_members(std::declval<const T&>(), CanHash{}))::value;
    }
  } else {
    return false;
  }
}

}  // namespace detail

/// What hash_of() takes.
template <class T>
concept Hashable = detail::can_hash<T>();

/// Equal values have equal hashes, if == is as said above. Not the same from program to program. Thread-safety: safe.
template <Hashable T>
std::size_t hash_of(const T& value) {
  if constexpr (detail::StdHashed<T>) {
    return std::hash<T>{}(value);
  } else if constexpr (detail::HashValued<T>) {
    return hash_value(value);
  } else if constexpr (std::is_empty_v<T>) {
    return 0;
  } else {
    return detail::with_members(value, [](const auto&... members) {
      std::size_t hash = 0;
      ((hash ^= hash_of(members) + 0x9e3779b97f4a7c15u + (hash << 6) + (hash >> 2)), ...);
      return hash;
    });
  }
}

}  // namespace weir::inline v0
