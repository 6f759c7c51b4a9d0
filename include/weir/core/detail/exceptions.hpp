#pragma once
// For headers that are also compiled with -fno-exceptions or -fno-rtti, and calls into the user's code.

#include <cxxabi.h>
#include <typeinfo>
#include <utility>

#include "weir/core/version.hpp"

#if defined(__cpp_exceptions)
#define WEIR_TRY try
#define WEIR_CATCH_ALL catch (...)
#define WEIR_THROW throw
#else
#define WEIR_TRY if constexpr (true)
#define WEIR_CATCH_ALL else
#define WEIR_THROW static_cast<void>(0)
#endif

namespace weir::inline v0::detail {

/// The type that `object` has, or nullptr where programs do not know types.
template <class T>
const std::type_info* type_of(const T& object) noexcept {
#if defined(__cpp_rtti)
  return &typeid(object);
#else
  (void)object;
  return nullptr;
#endif
}

/// Calls `callback`; false if it threw. Lets the cancellation of a thread through, which would abort otherwise.
template <class Callback, class... Arguments>
bool call_guarded(Callback& callback, Arguments&&... arguments) {
  WEIR_TRY {
    callback(std::forward<Arguments>(arguments)...);
    return true;
  }
#if defined(__cpp_exceptions) && defined(__GLIBCXX__)
  catch (abi::__forced_unwind&) {
    throw;
  }
#endif
  WEIR_CATCH_ALL { return false; }
}

}  // namespace weir::inline v0::detail
