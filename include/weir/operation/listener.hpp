#pragma once
// Listeners: what can be registered on a node of the operation tree, and the handle that registering returns.
//
//   root.on_start<HandleRequest>([](weir::Op<HandleRequest>& request, const HandleRequest::Args& args) { ... });
//   request.on_finish<QuerySql>([rows](const QuerySql::Result& result) { ... });
//   request.on_data<SqlInjection>([](SqlInjection& hit) { hit.block = true; });
//   weir::Listener handle = root.on_data<Tick>([] { ... });   handle.remove();
//
// A listener may take (operation, event), (operation), (event) or nothing; the first of these forms that fits is called: a
// generic lambda of one parameter gets the operation. It may run on several threads at once, and may itself register, start,
// finish, emit, remove, or swap the root. It is moved or copied into its place; up to 24 bytes need no memory of their own.

#include "weir/operation/detail/lane.hpp"

namespace weir::inline v0 {

template <class T>
class Op;

namespace detail {
struct Dispatch;
}

/// A type that describes an operation: what goes in (Args), what comes out (Result); optionally state of its own, a
/// `static constexpr std::string_view name`, a `static constexpr SpanKind kind`, describe(AttributeSink&) const on Args,
/// Result and data events, and title() const on Args (the name of one call, such as "GET /orders/:id").
template <class T>
concept OperationType = requires {
  typename T::Args;
  typename T::Result;
};

/// F can be called for an event of type `Event` (const where listeners may only read it) on an operation of type `Target`.
template <class F, class Target, class Event>
concept ListenerFor = std::is_invocable_v<F&, Target&, Event&> || std::is_invocable_v<F&, Target&> || std::is_invocable_v<F&, Event&> ||
    std::is_invocable_v<F&>;

/// Names a registered listener. Ignoring it keeps the listener until its operation finishes. A copyable value that may
/// outlive the operation. Thread-safety: a value; remove() may be called from any thread.
class Listener {
 public:
  Listener() = default;  ///< names none

  /// Removes the listener: it is not called again. Outside listeners this returns when the listener runs nowhere any more
  /// and is destroyed (it waits for those that run it: do not hold a lock that they take); inside a listener it never waits,
  /// and the listener is destroyed when the event is over, or later if other threads run it. Returns false, at once, when
  /// there is nothing to remove: somebody has removed it or finished its operation, or is doing so; or it was refused.
  bool remove();

 private:
  friend struct detail::Dispatch;
  detail::NodeList* home_ = nullptr;
  const Operation* node_ = nullptr;
  std::uint64_t serial_ = 0;  // of the node
  detail::Entry* entry_ = nullptr;
  const detail::Slot* by_ = nullptr;
  std::uint64_t number_ = 0;
};

/// What a listener, or an observer, threw. Good for the handler's call.
struct ListenerError {
  std::string_view operation;  ///< name of the operation the event came from
  std::string_view event;      ///< its type as the compiler spells it: T::Args for a start, T::Result for a finish
  std::string_view what;       ///< std::exception::what(), or "unknown exception"
  bool disabled;               ///< it threw 100 times without returning once in between, and will not be called again
};

/// Hears of exceptions thrown by listeners, in the whole process; they reach nobody else. The default writes one line to
/// stderr. `handler` is called as handler(const ListenerError&) from any thread, inside the instrumented calls; what it
/// throws is dropped. It may set another handler. nullptr restores the default. Without memory the one before stays.
/// Thread-safety: shared: safe. A call in progress finishes with the handler it began with.
template <class Handler>
void set_error_handler(Handler handler);

}  // namespace weir::inline v0
