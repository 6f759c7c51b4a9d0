#pragma once
// Calls into the user's code.

#include <cxxabi.h>

#include <utility>

namespace weir::inline v0::detail {

/// Calls `callback`; false if it threw. Lets the cancellation of a thread through, which would abort otherwise.
template <class Callback, class... Arguments>
bool call_guarded(Callback& callback, Arguments&&... arguments) {
  try {
    callback(std::forward<Arguments>(arguments)...);
    return true;
  } catch (abi::__forced_unwind&) {
    throw;
  } catch (...) {
    return false;
  }
}

}  // namespace weir::inline v0::detail
