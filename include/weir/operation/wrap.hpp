#pragma once
// wrap: a call as an operation.
//
//   auto result = weir::wrap<QuerySql>({"select 1"}, [&](weir::Op<QuerySql>&) { return QuerySql::Result{run()}; });

#include "weir/operation/operation.hpp"

namespace weir::inline v0 {

/// Starts an operation of type T, calls `call` with it (or with nothing), finishes the operation with what the call
/// returned if that is a T::Result, and returns what it returned. When the call throws, the operation finishes by going out
/// of scope (listeners can tell by unwinding()) and the exception goes on.
template <OperationType T, class F>
auto wrap(const typename T::Args& args, F&& call) {
  Op<T> operation(args);
  auto run = [&]() -> decltype(auto) {
    if constexpr (std::is_invocable_v<F, Op<T>&>)
      return std::forward<F>(call)(operation);
    else
      return std::forward<F>(call)();
  };
  using Returned = decltype(run());
  if constexpr (std::is_void_v<Returned>) {
    run();
  } else {
    auto returned = run();
    if constexpr (std::is_same_v<decltype(returned), typename T::Result>) operation.finish(returned);
    return returned;
  }
}

}  // namespace weir::inline v0
