#pragma once
// Calls into the user's code: what it throws becomes an Error (private to src).

#include <cxxabi.h>
#include <exception>
#include <string>
#include <utility>

#include "weir/core/result.hpp"

namespace weir::inline v0::detail {

/// `call`'s result. Lets the cancellation of a thread (pthread_exit(), too) through, as nothing else may be done with it: no caller of it
/// may be noexcept, and what must happen in any case is done by a destructor.
template <class T, class Call>
Result<T> guarded(Call&& call) {
  try {
    return std::forward<Call>(call)();
#ifdef __GLIBCXX__
  } catch (abi::__forced_unwind&) {
    throw;
#endif
  } catch (const std::exception& thrown) {
    return Error{{}, std::string("it threw: ") + thrown.what()};
  } catch (...) {
    return Error{{}, "it threw"};
  }
}

}  // namespace weir::inline v0::detail
