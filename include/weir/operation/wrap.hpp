#pragma once
// wrap: a call as an operation.
//
//   auto result = weir::wrap<QuerySql>({"select 1"}, [&](weir::Op<QuerySql>&) { return QuerySql::Result{run()}; });

#include "weir/operation/operation.hpp"

namespace weir::inline v0 {

namespace detail {

template <class T, class F>
decltype(auto) call_in(Op<T>& operation, F&& call) {
  const auto run = [&]() -> decltype(auto) {
#if defined(__cpp_exceptions)
    try {
#endif
      if constexpr (std::is_invocable_v<F, Op<T>&>)
        return std::forward<F>(call)(operation);
      else
        return std::forward<F>(call)();
#if defined(__cpp_exceptions)
    } catch (const std::exception& exception) {
      operation.emit(Failure{exception.what()});
      throw;
    }
#endif
  };
  if constexpr (std::is_same_v<std::remove_cvref_t<decltype(run())>, typename T::Result>) {
    decltype(run()) result = run();
    operation.finish(result);
    return result;
  } else {
    return run();
  }
}

}  // namespace detail

/// Starts an operation of type T, calls `call` with it (or with nothing), finishes the operation with what the call
/// returned if that is a T::Result (else with T::Result{}, unless the call has finished it), and returns what it returned.
/// When the call throws, the operation finishes by going out of scope (listeners can tell by unwinding()), and the
/// exception goes on; before that, for a std::exception, a Failure with its what() is emitted on the operation. Not for
/// coroutines: their call returns at its first suspension.
template <OperationType T, class F>
decltype(auto) wrap(const typename T::Args& args, F&& call) {
  Op<T> operation(args);
  return detail::call_in(operation, std::forward<F>(call));
}
template <OperationType T, class F>
decltype(auto) wrap(Under parent, const typename T::Args& args, F&& call) {
  Op<T> operation(parent, args);
  return detail::call_in(operation, std::forward<F>(call));
}

}  // namespace weir::inline v0
