#pragma once
// The operation tree. A service wraps its interesting calls in operations; a call's parent is the call around it. Anyone
// may register listeners on any node; events bubble from an operation up to the root, nearest node first.
//
//   struct QuerySql {                                              // an operation type is a plain struct
//     static constexpr std::string_view name = "sql.query";        // optional; default: the type's own name
//     struct Args { std::string_view statement; };
//     struct Result { std::size_t rows = 0; };
//   };
//
//   weir::Root root;
//   root.on_finish<QuerySql>([](const QuerySql::Result& result) { count += result.rows; });
//   weir::swap_root(std::move(root));                              // from now on parentless operations go under it
//
//   weir::Op<QuerySql> query{{"select 1"}};                        // starts: parent is this thread's current operation
//   query.finish({.rows = 1});                                     // or finishes with Result{} when it goes out of scope
//
//   start bubbles from the parent: ───────▶ parent ─▶ … ─▶ root    (an operation does not hear its own start)
//   finish and data from the operation: op ─▶ parent ─▶ … ─▶ root
//
//   live ──finish()──▶ finishing (its finish listeners run) ──▶ finished (its listeners are gone; events pass through it)
//
// Costs: with no listener for its type anywhere, start and finish are a few instructions. Start, finish and emit neither
// allocate nor lock nor write to what other threads use; docs/operations.md lists what does. Patterns are there, too.
//
// Nothing is thrown at the caller: what listeners throw goes to the error handler (listener.hpp); without memory operations
// are finished from the start, and registrations, roots and shared operations are refused by an empty handle.

#include <exception>
#include <type_traits>
#include <utility>

#include "weir/core/kind.hpp"
#include "weir/operation/listener.hpp"
#include "weir/operation/observe.hpp"

namespace weir::inline v0 {

class Root;
class Under;
template <class T>
class Handle;

namespace detail {
struct OperationInfo;
struct ContextHooks;
struct Dispatch;
template <class T>
constexpr OperationInfo make_operation_info();
template <class T>
void destroy_shared(Operation* operation);
/// start<T>. `current`: and as the calling thread's current operation (implicit()), until it finishes here. Its handle must
/// not be the last to go while it may still be current on another thread.
template <OperationType T>
Handle<T> start_shared(Under parent, const typename T::Args& args, T state, bool current);
}  // namespace detail

/// A node of the tree without its type. Thread-safety: shared: safe, as long as it lives.
class Operation {
 public:
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;

  /// The node above; nullptr for a root and for an operation that started with no root installed.
  Operation* parent() const noexcept { return parent_; }
  /// True from the moment finish() took effect: while its finish listeners run, too.
  bool finished() const noexcept { return state_.load(std::memory_order_acquire) != live; }
  /// True when the scope of the operation is being left by an exception. Ask on the thread that started it: the answer
  /// compares the exceptions in flight on the calling thread with those at the start.
  bool unwinding() const noexcept;
  /// T::name, else the unqualified name of T. Static storage.
  std::string_view name() const noexcept;
  SpanKind kind() const noexcept;
  /// Number of nodes above. Takes a step for each.
  std::size_t depth() const noexcept;
  /// The nearest operation of type T from this one upwards, itself included; nullptr if there is none. Takes a step for
  /// each node. The pointer is good for as long as that operation lives.
  template <OperationType T>
  Op<T>* find() noexcept;

  /// Registers `listener` for the start or the finish of operations of exactly type T below this one (finish: and this one
  /// itself), or for data events of exactly type Data emitted on this one or below; its operation is the one emitted on.
  /// Listeners and observers of one node run in the order in which they were registered; one registered during an event
  /// does not hear that event. The closure is destroyed by whoever finishes the operation or removes the listener. Refused,
  /// with an empty handle: on a finished operation, and without memory. What copying `listener` throws reaches the caller.
  template <OperationType T, class F>
  Listener on_start(F&& listener);
  template <OperationType T, class F>
  Listener on_finish(F&& listener);
  template <class Data, class F>
  Listener on_data(F&& listener);
  /// Registers an observer of everything; it runs in line with the listeners of this node. By reference it must live until
  /// this operation has finished or the handle is removed; a shared_ptr (or any other smart pointer) is kept until then.
  /// From the first observer of the process on, events of all types walk the tree.
  Listener observe(Observer& observer);
  template <ObserverPointer Pointer>
  Listener observe(Pointer observer);

  /// Emits a data event: listeners on this operation and above hear it before emit returns, and may write to it (to a copy
  /// if `data` is const). Nobody hears it on a finished operation, or nested more than 16 deep (refused_emissions()).
  /// Requires: the operation lives until emit returns.
  template <class Data>
  void emit(Data&& data);

  /// Keeps `state`, made with new, on this operation until it is destroyed. `owner` finds it again: the observer's address.
  /// One per owner. Requires: called from Observer::started for this operation.
  void attach(const void* owner, Attachment& state) noexcept;
  /// What `owner` attached; nullptr if nothing, as on operations that were running when the observer was registered.
  Attachment* attachment(const void* owner) const noexcept;
  /// What a context that surrounds this operation is inside it: with the span that a bridge opened for it.
  Context inside(Context outer) const;

  /// The current operation of the calling thread: the innermost with an implicit parent, or that of the innermost
  /// OperationScope; nullptr if there is none. Never a root.
  static Operation* current() noexcept;
  /// True when this operation became its thread's current one when it started.
  bool implicit() const noexcept { return (own_ & in_thread) != 0; }

 protected:
  static constexpr std::uint8_t live = 0, finishing = 1, done = 2;
  static constexpr std::uint8_t settled = 3;  // done, by its own thread, and nothing is left to clean up

  Operation(detail::Slot* owner, const detail::OperationInfo* info) noexcept
      : owner_(owner), info_(info) {}  // parent_ and own_: by who makes it
  ~Operation() = default;

 private:
  template <class T>
  friend class Op;
  template <class T>
  friend class Handle;
  friend class Root;
  friend class Listener;
  friend class OperationScope;
  friend struct detail::ContextHooks;
  friend struct detail::Dispatch;
  friend struct detail::RootNode;

  // Read by every event that passes.
  Operation* parent_;
  std::atomic<detail::Lane*> lanes_{nullptr};
  detail::Slot* owner_;  // who publishes with plain stores: that thread, every thread (roots), no thread (shared operations)
  const detail::OperationInfo* info_;
  // One group of eight bytes, set by one store.
  std::atomic<std::uint8_t> state_{live};
  std::atomic<std::uint8_t> foreign_{0};  // what other threads have done to this stack operation; they alone write it
  static constexpr std::uint8_t touched = 1, foreign_finish = 2;
  std::uint8_t locked_flags_ = 0;  // guarded by the home list's lock
  static constexpr std::uint8_t foreign_won = 1, foreign_done = 2, listed = 4;
  static constexpr std::uint8_t has_zombies = 8;  // it keeps listeners dropped by a finish inside a listener
  std::uint8_t own_ = in_thread | counted;        // constant once it has started, but for the last two
  static constexpr std::uint8_t in_thread = 1, counted = 2, holds_parent = 4, counted_in_parent = 8, has_attachments = 16;
  static constexpr std::uint8_t unobserved = 32;  // observers hear nothing of it
  std::atomic<std::uint32_t> children_{0};        // debug builds: stack children alive
  std::uint32_t uncaught_;                        // exceptions in flight when it started
  // Written only when they are needed.
  detail::Lane* last_;  // of the lanes, if there are any; guarded by the home list's lock
  detail::Lane* zombies_;
  Attachment* attachments_;
  detail::NodeList* home_;  // roots and shared operations: where they are listed
  Operation* listed_next_;  // in the home list
  Operation** listed_link_;
  std::uint64_t serial_;  // which listing of the home list this is
  // In unions, so that constructors do not set them to zero.
  union {
    std::atomic<std::uint32_t> references_;                 // shared operations
    std::atomic<const detail::OperationInfo*> last_child_;  // debug builds: of a stack operation
  };
  union {
    std::atomic<std::uintptr_t> finisher_;  // who finishes it, where that is not the owner (Dispatch::mark_of)
  };
};

/// Names an explicit parent: other threads, callbacks, coroutines. The operation then leaves the thread's current one alone.
/// Does not keep the parent: one on a stack must outlive the operation, a shared one and a root must live until it has
/// started. under(root) works whether or not the root is installed, and locks. Of an empty handle: no parent. Thread-safety: a value.
class Under {
 public:
  friend Under under_root() noexcept;
  friend Under under(Operation& parent) noexcept;
  friend Under under(Root& root) noexcept;
  template <class T>
  friend Under under(const Handle<T>& parent) noexcept;
  /// nullptr: none, or the installed root.
  Operation* parent() const noexcept { return parent_; }

 private:
  friend struct detail::Dispatch;
  struct Named {};  // keeps braced arguments of an operation from being taken for a parent
  explicit Under(Named, Operation* parent, bool installed_root = false) noexcept : parent_(parent), installed_root_(installed_root) {}
  Operation* parent_;
  bool installed_root_;
};

Under under(Operation& parent) noexcept;
Under under(Root& root) noexcept;
template <class T>
Under under(const Handle<T>& parent) noexcept;
/// The installed root: for work that a call starts and that is not part of it.
Under under_root() noexcept;

/// A running operation of type T: a node, and the T it holds. Starts when constructed, finishes at the latest when
/// destroyed. Lives on a stack (or inside another object) and must outlive its children; destroy it on the thread that
/// made it. For work that moves between threads: start<T>(). With an implicit parent it must not live across a co_await.
/// Args, Result and data are borrowed for the call: listeners copy what they keep. T must be movable.
/// Thread-safety: shared: safe as long as it lives; what T holds is the program's to guard.
template <class T>
class Op : public Operation {
 public:
  using Args = typename T::Args;
  using Result = typename T::Result;

  /// Starts under the thread's current operation, else under the installed root, and becomes the current one.
  explicit Op(const Args& args) requires std::is_default_constructible_v<T>;
  Op(const Args& args, T state);
  /// Starts under `parent`.
  Op(Under parent, const Args& args) requires std::is_default_constructible_v<T>;
  Op(Under parent, const Args& args, T state);
  /// Finishes it if nobody has: with Result{} where that exists; else only observers hear it. Waits as finish() does.
  ~Op() noexcept(false);

  /// Finishes it. The first call counts. When the call returns (outside listeners), no listener that was registered on this
  /// operation runs or will run, on any thread: it waits for those in progress, so that the caller must not hold a lock that
  /// they take. Inside a listener it never waits. From another thread than the operation's own it takes microseconds.
  void finish(const Result& result);
  void finish() requires std::is_default_constructible_v<Result> { finish(Result{}); }

  T& operator*() noexcept { return value_; }
  const T& operator*() const noexcept { return value_; }
  T* operator->() noexcept { return &value_; }
  const T* operator->() const noexcept { return &value_; }

 private:
  friend struct detail::Dispatch;
  template <class U>
  friend constexpr detail::OperationInfo detail::make_operation_info();
  template <OperationType U>
  friend Handle<U> detail::start_shared(Under parent, const typename U::Args& args, U state, bool current);
  template <class U>
  friend void detail::destroy_shared(Operation* operation);
  struct SharedTag {
    bool current;
  };
  Op(SharedTag, Under parent, T state, detail::Slot* me) noexcept;
  void begin_in_thread(const Args& args);
  void begin_under(Under parent, const Args& args);
  void begin(const Args& args, detail::Slot* me);
  void finish_with(const Result* result);
  void finish_any(const Result* result);
  void emit_finish(const Result* result, detail::Slot* me);
  void finish_by_itself();
  void close();
  void abandon();
  static void finish_shared(Operation* operation) { static_cast<Op*>(operation)->finish_by_itself(); }

  [[no_unique_address]] T value_;
};

/// A reference to an operation on the heap: it outlives its scope, and its children keep it alive. The last reference to
/// go finishes it, on its thread. What calls emit() needs a reference until the call returns: a listener must not drop the
/// last one. A listener on the operation that holds a handle of it keeps it until it is finished.
/// Thread-safety: distinct handles: safe, even to one operation. Shared handle: unsafe.
template <class T>
class Handle {
 public:
  Handle() = default;
  Handle(const Handle& other) noexcept;
  Handle(Handle&& other) noexcept : op_(std::exchange(other.op_, nullptr)) {}
  Handle& operator=(Handle other) noexcept {
    std::swap(op_, other.op_);
    return *this;
  }
  /// The finish listeners that the last handle runs must not call pthread_exit (a std::thread can only carry what is
  /// destroyed without exceptions). Cancellation waits until they have run.
  ~Handle();

  Op<T>& operator*() const noexcept { return *op_; }
  Op<T>* operator->() const noexcept { return op_; }
  explicit operator bool() const noexcept { return op_ != nullptr; }

 private:
  template <OperationType U>
  friend Handle<U> detail::start_shared(Under parent, const typename U::Args& args, U state, bool current);
  template <class U>
  friend Under under(const Handle<U>& parent) noexcept;
  explicit Handle(Op<T>* op) noexcept : op_(op) {}
  Op<T>* op_ = nullptr;
};

/// Starts an operation on the heap, under `parent` or else under the thread's current operation or the installed root. It
/// does not become the current one; OperationScope makes it so where its work runs. A stack parent must outlive it: work
/// that may go on for longer names a shared parent, or under_root(). Allocates. Empty without memory.
template <OperationType T>
Handle<T> start(const typename T::Args& args, T state = {});
template <OperationType T>
Handle<T> start(Under parent, const typename T::Args& args, T state = {});

/// Makes `operation` the calling thread's current one until the end of the scope; an empty handle changes nothing. Does not
/// keep it. Scopes end in reverse order, on the thread they began on: not across a co_await. The tracer's ambient context
/// is another thing (core/context.hpp).
class [[nodiscard]] OperationScope {
 public:
  explicit OperationScope(Operation& operation) noexcept;
  template <class T>
  explicit OperationScope(const Handle<T>& operation) noexcept;
  ~OperationScope();
  OperationScope(const OperationScope&) = delete;
  OperationScope& operator=(const OperationScope&) = delete;

 private:
  Operation* previous_;
};

/// The top of a tree: where listeners for everything are registered, before or after it is installed. A handle: installed
/// roots live on without it, as do those that operations still run under. Its listeners are destroyed by whoever lets go
/// of it last, on any thread. Thread-safety: distinct: safe. Shared: unsafe, but for registration.
class Root {
 public:
  Root();
  Root(Root&& other) noexcept : node_(std::exchange(other.node_, nullptr)) {}
  Root& operator=(Root&& other) noexcept {
    Root replaced(std::move(*this));
    node_ = std::exchange(other.node_, nullptr);
    return *this;
  }
  ~Root();

  /// As on Operation. On an empty handle (moved from, no previous root, no memory): nothing happens.
  template <OperationType T, class F>
  Listener on_start(F&& listener);
  template <OperationType T, class F>
  Listener on_finish(F&& listener);
  template <class Data, class F>
  Listener on_data(F&& listener);
  Listener observe(Observer& observer);
  template <ObserverPointer Pointer>
  Listener observe(Pointer observer);

  /// False for an empty handle.
  explicit operator bool() const noexcept { return node_ != nullptr; }

 private:
  friend Root swap_root(Root root);
  friend Under under(Root& root) noexcept;
  explicit Root(detail::RootNode* node) noexcept : node_(node) {}
  detail::RootNode* node_;
};

/// Installs `root` and returns the previous one (empty if there was none). New parentless operations go under the new
/// root; running ones keep the old one alive and hearing, so that its listeners may run after this has returned: what they
/// refer to must live as long. swap_root(Root{}) silences, and so does an empty handle. Does not wait. Thread-safety: safe.
Root swap_root(Root root);

/// Installs a root until the end of the scope, then the previous one again. What a main() does after making what its
/// listeners refer to. Scopes must end in reverse order.
class [[nodiscard]] RootScope {
 public:
  explicit RootScope(Root root) : previous_(swap_root(std::move(root))) {}
  ~RootScope() { swap_root(std::move(previous_)); }
  RootScope(const RootScope&) = delete;
  RootScope& operator=(const RootScope&) = delete;

 private:
  Root previous_;
};

/// Emissions that were refused, in this process so far: nested more than 16 deep on one thread, or in a signal handler that
/// interrupted weir at a bad moment.
std::uint64_t refused_emissions() noexcept;

}  // namespace weir::inline v0

// IWYU pragma: begin_exports
#include "weir/operation/detail/context_hooks.hpp"
#include "weir/operation/detail/dispatch.hpp"
#include "weir/operation/detail/errors.hpp"
#include "weir/operation/detail/fork.hpp"
#include "weir/operation/detail/op.hpp"
#include "weir/operation/detail/roots.hpp"
// IWYU pragma: end_exports
