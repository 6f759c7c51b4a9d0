#pragma once
// Immortal: an object that is never destroyed: usable in the destructors of statics, whatever their order.

#include <utility>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

template <class T>
union Immortal {
  T value;
  template <class... Arguments>
  constexpr explicit Immortal(Arguments&&... arguments) : value(std::forward<Arguments>(arguments)...) {}
  ~Immortal() {}
};

}  // namespace weir::inline v0::detail
