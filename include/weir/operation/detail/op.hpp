#pragma once
// Bodies of operation.hpp.

#include "weir/operation/detail/dispatch.hpp"

namespace weir::inline v0 {

namespace detail {

/// T::kind as a static member. (State of an operation may have this name too.)
template <class T>
concept HasKind = requires {
  requires std::is_convertible_v<decltype(*&T::kind), SpanKind>;
};

template <class T>
constexpr SpanKind operation_kind() {
  if constexpr (HasKind<T>)
    return T::kind;
  else
    return SpanKind::function;
}

template <class T>
void destroy_shared(Operation* operation) {
  auto* const op = static_cast<Op<T>*>(operation);
  op->~Op();
  deallocate_for<Op<T>>(this_slot(), op);
}

template <class T>
constexpr OperationInfo make_operation_info() {
  return {operation_name<T>(),           operation_kind<T>(),   &event_key<T, Phase::start>,
          &event_type<T, Phase::finish>, &Op<T>::finish_shared, &destroy_shared<T>};
}
template <class T>
inline constexpr OperationInfo operation_info = make_operation_info<T>();

/// Calls a listener with what it takes.
template <class F, class Target, class Event>
void call_listener(Entry* entry, Operation* operation, void* event) {
  F& f = Closure<F>::of(entry);
  if constexpr (std::is_invocable_v<F&, Target&, Event&>)
    f(*static_cast<Target*>(operation), *static_cast<Event*>(event));
  else if constexpr (std::is_invocable_v<F&, Target&>)
    f(*static_cast<Target*>(operation));
  else if constexpr (std::is_invocable_v<F&, Event&>)
    f(*static_cast<Event*>(event));
  else
    f();
}

template <class Pointer>
void call_observer(Entry* entry, Operation* operation, void* event) {
  Observer& observer = *Closure<Pointer>::of(entry);
  const EventView& view = *static_cast<const EventView*>(event);
  switch (Dispatch::phase(view)) {
    case Phase::start: return observer.started(*operation, view);
    case Phase::finish: return observer.finished(*operation, view);
    default: return observer.data(*operation, view);
  }
}

/// Registration, in the words of Operation and Root alike.
template <OperationType T, class F>
Listener add_start(Operation& node, F&& listener) {
  using Function = std::decay_t<F>;
  static_assert(ListenerFor<Function, Op<T>, const typename T::Args>,
                "a start listener takes (Op<T>&, const Args&), (Op<T>&), (const Args&) or nothing");
  return Dispatch::add(node, event_type<T, Phase::start>(), &call_listener<Function, Op<T>, const typename T::Args>,
                       std::forward<F>(listener));
}
template <OperationType T, class F>
Listener add_finish(Operation& node, F&& listener) {
  using Function = std::decay_t<F>;
  static_assert(ListenerFor<Function, Op<T>, const typename T::Result>,
                "a finish listener takes (Op<T>&, const Result&), (Op<T>&), (const Result&) or nothing");
  return Dispatch::add(node, event_type<T, Phase::finish>(), &call_listener<Function, Op<T>, const typename T::Result>,
                       std::forward<F>(listener));
}
template <class Data, class F>
Listener add_data(Operation& node, F&& listener) {
  using Function = std::decay_t<F>;
  static_assert(!std::is_const_v<Data> && !std::is_reference_v<Data>, "on_data<T>: T without const or &; the listener may take const T&");
  static_assert(ListenerFor<Function, Operation, Data>, "a data listener takes (Operation&, Data&), (Operation&), (Data&) or nothing");
  return Dispatch::add(node, event_type<Data, Phase::data>(), &call_listener<Function, Operation, Data>, std::forward<F>(listener));
}
template <class Pointer>
Listener add_observer(Operation& node, Pointer observer) {
  listen_to_everything();
  return Dispatch::add(node, &process_state.observers, &call_observer<Pointer>, std::move(observer));
}

}  // namespace detail

// ---- EventView, Listener, Operation

inline std::int64_t EventView::time() const noexcept {
  if (time_ == 0) {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    time_ = std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
  }
  return time_;
}

/// Memory for what lives as long as one call: up to SpareBlock::size bytes from the blocks that the thread keeps. nullptr: none.
inline void* detail::take_block(std::size_t size) noexcept {
  if (size > SpareBlock::size) return ::operator new(size, std::nothrow);
  Slot* const me = this_slot();
  if (me->is_busy()) return ::operator new(SpareBlock::size, std::nothrow);
  Busy busy(me);
  if (me->spare_blocks == nullptr) return ::operator new(SpareBlock::size, std::nothrow);
  --me->spare_count;
  return std::exchange(me->spare_blocks, me->spare_blocks->next);
}
/// On any thread.
inline void detail::give_block(void* block, std::size_t size) noexcept {
  Slot* const me = this_slot();
  if (size > SpareBlock::size || me->is_busy() || me->spare_count == SpareBlock::max_kept) return ::operator delete(block);
  Busy busy(me);
  ++me->spare_count;
  me->spare_blocks = new (block) SpareBlock{me->spare_blocks};
}

inline void* Attachment::operator new(std::size_t size, const std::nothrow_t&) noexcept { return detail::take_block(size); }
inline void* Attachment::operator new(std::size_t size) {
  void* const block = operator new(size, std::nothrow);
  return block != nullptr ? block : ::operator new(size);  // which throws, or has been made to find some
}
inline void Attachment::operator delete(void* block, std::size_t size) noexcept { detail::give_block(block, size); }
inline void Attachment::operator delete(void* block, const std::nothrow_t&) noexcept { ::operator delete(block); }

inline bool Listener::remove() { return detail::Dispatch::remove(*this); }

inline bool Operation::unwinding() const noexcept {
  const detail::ExceptionGlobals* const exceptions = detail::this_slot()->exceptions;
  return exceptions != nullptr && exceptions->uncaught > uncaught_;
}
inline std::string_view Operation::name() const noexcept { return info_->name; }
inline SpanKind Operation::kind() const noexcept { return info_->kind; }
inline std::size_t Operation::depth() const noexcept {
  std::size_t nodes = 0;
  for (const Operation* node = parent_; node != nullptr; node = node->parent_) ++nodes;
  return nodes;
}
inline Operation* Operation::current() noexcept {
  const detail::Slot* slot = detail::thread_slot;
  return slot != nullptr ? slot->current : nullptr;
}

template <OperationType T>
Op<T>* Operation::find() noexcept {
  for (Operation* node = this; node != nullptr; node = node->parent_) {
    if (node->info_ == &detail::operation_info<T>) return static_cast<Op<T>*>(node);
    if (node->info_->identity == nullptr) continue;
    const detail::EventType* const type = node->info_->identity();
    if (type != &detail::unresolved && type == detail::event_type<T, detail::Phase::finish>()) return static_cast<Op<T>*>(node);
  }
  return nullptr;
}

template <OperationType T, class F>
Listener Operation::on_start(F&& listener) {
  return detail::add_start<T>(*this, std::forward<F>(listener));
}
template <OperationType T, class F>
Listener Operation::on_finish(F&& listener) {
  return detail::add_finish<T>(*this, std::forward<F>(listener));
}
template <class Data, class F>
Listener Operation::on_data(F&& listener) {
  return detail::add_data<Data>(*this, std::forward<F>(listener));
}
inline Listener Operation::observe(Observer& observer) { return detail::add_observer(*this, &observer); }
template <ObserverPointer Pointer>
Listener Operation::observe(Pointer observer) {
  return detail::add_observer(*this, std::move(observer));
}

template <class Data>
[[gnu::always_inline]] inline void Operation::emit(Data&& data) {
  using Plain = std::remove_cvref_t<Data>;
  static_assert(!std::is_array_v<Plain>, "a data event is an object: emit(std::string_view(...)) for a text");
  if constexpr (std::is_const_v<std::remove_reference_t<Data>>) {
    emit(Plain(data));  // listeners may write
  } else {
    detail::if_listened<Plain, detail::Phase::data>([&](detail::EventType * type) __attribute__((always_inline)) {
      if (!finished())
        detail::Dispatch::emit(this, type, detail::Dispatch::info<Plain, detail::Phase::data>, this, &data, detail::this_slot());
    });
  }
}

inline void Operation::attach(const void* owner, Attachment& state) noexcept {
  state.owner_ = owner;
  state.next_ = (own_ & has_attachments) != 0 ? attachments_ : nullptr;
  attachments_ = &state;
  own_ |= has_attachments;
}
inline Attachment* Operation::attachment(const void* owner) const noexcept {
  Attachment* state = (own_ & has_attachments) != 0 ? attachments_ : nullptr;
  while (state != nullptr && state->owner_ != owner) state = state->next_;
  return state;
}
inline Context Operation::inside(Context outer) const {
  if ((own_ & has_attachments) != 0)
    for (const Attachment* state = attachments_; state != nullptr; state = state->next_) outer = state->inside(std::move(outer));
  return outer;
}

// ---- Op

template <class T>
[[gnu::always_inline]] inline Op<T>::Op(const Args& args) requires std::is_default_constructible_v<T>
    : Operation(detail::fast_slot, &detail::operation_info<T>) {
  begin_in_thread(args);
}
template <class T>
[[gnu::always_inline]] inline Op<T>::Op(const Args& args, T state)
    : Operation(detail::fast_slot, &detail::operation_info<T>), value_(std::move(state)) {
  begin_in_thread(args);
}
template <class T>
inline Op<T>::Op(Under under, const Args& args) requires std::is_default_constructible_v<T>
    : Operation(detail::this_slot(), &detail::operation_info<T>) {
  begin_under(under, args);
}
template <class T>
inline Op<T>::Op(Under under, const Args& args, T state)
    : Operation(detail::this_slot(), &detail::operation_info<T>), value_(std::move(state)) {
  begin_under(under, args);
}

template <class T>
[[gnu::always_inline]] inline void Op<T>::begin_in_thread(const Args& args) {
  if (owner_ == nullptr) [[unlikely]] {
    owner_ = detail::this_slot();
    if (owner_->is_inert()) return detail::Dispatch::give_up(*this);
  }
  detail::Slot* const me = owner_;
  Operation* const around = me->current;
  if (around == nullptr)
    parent_ = detail::acquire_root(me);
  else
    own_ = in_thread | detail::Dispatch::go_under(*this, around, me);
  me->current = this;
  begin(args, me);
}

template <class T>
inline void Op<T>::begin_under(Under under, const Args& args) {
  if (owner_->is_inert()) return detail::Dispatch::give_up(*this);
  own_ = detail::Dispatch::go_under(*this, under, owner_);
  begin(args, owner_);
}

template <class T>
inline Op<T>::Op(SharedTag shared, Under under, T state, detail::Slot* me) noexcept
    : Operation(detail::no_thread, &detail::operation_info<T>), value_(std::move(state)) {
  home_ = &me->shared;
  references_.store(1, std::memory_order_relaxed);
  finisher_.store(0, std::memory_order_relaxed);
  own_ = detail::Dispatch::go_under(*this, under, me);
  if (!shared.current) return;
  own_ |= in_thread;
  me->current = this;
}

template <class T>
[[gnu::always_inline]] inline void Op<T>::begin(const Args& args, detail::Slot* me) {
  uncaught_ = me->exceptions->uncaught;
  detail::if_listened<T, detail::Phase::start>([&](detail::EventType * type) __attribute__((always_inline)) {
    if (parent_ == nullptr) return;
    detail::Unwinding undo([this] { abandon(); });  // the destructor of a half-made object does not run
    detail::Dispatch::emit(parent_, type, detail::Dispatch::info<Args, detail::Phase::start>, this, const_cast<Args*>(&args), me);
    undo.dismiss();
  });
}

template <class T>
[[gnu::always_inline]] inline void Op<T>::finish_with(const Result* result) {
  detail::Slot* const me = detail::fast_slot;
  if (owner_ != me) [[unlikely]]
    return finish_any(result);
  if (state_.load(std::memory_order_acquire) != live) [[unlikely]]
    return void(detail::Dispatch::lose(*this, me));
  state_.store(finishing, std::memory_order_release);
  detail::compiler_barrier();
  if (foreign_.load(std::memory_order_seq_cst) != 0 && !detail::Dispatch::settle(*this, me)) [[unlikely]]
    return;
  emit_finish(result, me);
  detail::Dispatch::complete(*this, me);
}

/// Of another thread, or of none, or without membarrier.
template <class T>
[[gnu::noinline, gnu::cold]] void Op<T>::finish_any(const Result* result) {
  detail::Slot* const me = detail::this_slot();
  if (!detail::Dispatch::claim(*this, me)) return;
  emit_finish(result, me);
  detail::Dispatch::complete_any(*this, me);
}

template <class T>
[[gnu::always_inline]] inline void Op<T>::emit_finish(const Result* result, detail::Slot* me) {
  detail::if_listened<T, detail::Phase::finish>([&](detail::EventType * type) __attribute__((always_inline)) {
    detail::Unwinding complete([this, me] { detail::Dispatch::complete_any(*this, me); });
    detail::Dispatch::emit(this, result != nullptr ? type : nullptr, detail::Dispatch::info<Result, detail::Phase::finish>, this,
                           const_cast<Result*>(result), me);
    complete.dismiss();
  });
}

template <class T>
[[gnu::always_inline]] inline void Op<T>::finish(const Result& result) {
  finish_with(&result);
}

template <class T>
[[gnu::always_inline]] inline void Op<T>::finish_by_itself() {
  if constexpr (std::is_default_constructible_v<Result>) {
    const Result result{};
    finish_with(&result);
  } else {
    finish_with(nullptr);
  }
}

template <class T>
[[gnu::noinline, gnu::cold]] void Op<T>::abandon() {
  if (owner_ != detail::no_thread) close();  // else its handle ends it
}

template <class T>
[[gnu::noinline]] void Op<T>::close() {
  if (state_.load(std::memory_order_acquire) < done) {
    detail::Unwinding end([this] { detail::Dispatch::end_slow(*this); });
    finish_by_itself();
    end.dismiss();
  }
  if (state_.load(std::memory_order_acquire) == settled) [[likely]]
    detail::Dispatch::end(*this);
  else
    detail::Dispatch::end_slow(*this);
}

template <class T>
[[gnu::always_inline]] inline Op<T>::~Op() noexcept(false) {
  if (state_.load(std::memory_order_acquire) == settled) [[likely]]
    detail::Dispatch::end(*this);
  else
    close();
}

// ---- shared operations

template <class T>
Handle<T>::Handle(const Handle& other) noexcept : op_(other.op_) {
  if (op_ != nullptr) op_->references_.fetch_add(1, std::memory_order_relaxed);
}
template <class T>
Handle<T>::~Handle() {
  detail::Dispatch::release_shared(op_);
}

template <OperationType T>
Handle<T> detail::start_shared(Under parent, const typename T::Args& args, T state, bool current) {
  detail::Slot* const me = detail::this_slot();
  if (me->is_inert()) return {};
  void* const memory = detail::allocate_for<Op<T>>(me);
  if (memory == nullptr) return {};
  auto* const op = new (memory) Op<T>(typename Op<T>::SharedTag{current}, parent, std::move(state), me);
  Handle<T> handle(op);
  op->begin(args, me);
  return handle;
}

template <OperationType T>
Handle<T> start(Under parent, const typename T::Args& args, T state) {
  return detail::start_shared<T>(parent, args, std::move(state), false);
}
template <OperationType T>
Handle<T> start(const typename T::Args& args, T state) {
  Operation* const current = Operation::current();
  return start<T>(current != nullptr ? under(*current) : under_root(), args, std::move(state));
}

inline OperationScope::OperationScope(Operation& operation) noexcept : previous_(detail::ContextHooks::exchange_current(&operation)) {}
template <class T>
OperationScope::OperationScope(const Handle<T>& operation) noexcept
    : previous_(detail::ContextHooks::exchange_current(operation ? &*operation : nullptr)) {}
inline OperationScope::~OperationScope() { detail::ContextHooks::leave(previous_); }

// ---- roots

inline Root::Root() : node_(detail::make_root()) {}
inline Root::~Root() {
  if (node_ == nullptr) return;
  detail::RetiredRoots retired;
  detail::ProcessLock lock;
  --node_->handles;
  retired.offer(node_);
}

template <OperationType T, class F>
Listener Root::on_start(F&& listener) {
  return node_ != nullptr ? detail::add_start<T>(*node_, std::forward<F>(listener)) : Listener{};
}
template <OperationType T, class F>
Listener Root::on_finish(F&& listener) {
  return node_ != nullptr ? detail::add_finish<T>(*node_, std::forward<F>(listener)) : Listener{};
}
template <class Data, class F>
Listener Root::on_data(F&& listener) {
  return node_ != nullptr ? detail::add_data<Data>(*node_, std::forward<F>(listener)) : Listener{};
}
inline Listener Root::observe(Observer& observer) { return node_ != nullptr ? detail::add_observer(*node_, &observer) : Listener{}; }
template <ObserverPointer Pointer>
Listener Root::observe(Pointer observer) {
  return node_ != nullptr ? detail::add_observer(*node_, std::move(observer)) : Listener{};
}

inline Root swap_root(Root root) {
  detail::RootNode* previous;
  {
    detail::ProcessLock lock;
    previous = std::exchange(detail::process_state.installed, root.node_);
    if (previous != nullptr) ++previous->handles;
    if (root.node_ != nullptr) --root.node_->handles;
    root.node_ = nullptr;
    detail::process_state.generation.fetch_add(1, std::memory_order_seq_cst);
  }
  detail::heavy_barrier();
  if (detail::process_state.missed_root.load(std::memory_order_relaxed)) [[unlikely]]
    detail::free_missed_roots();
  return Root(previous);
}

inline Under under_root() noexcept { return Under(Under::Named{}, nullptr, true); }
inline Under under(Operation& parent) noexcept { return Under(Under::Named{}, &parent); }
inline Under under(Root& root) noexcept { return Under(Under::Named{}, root.node_); }
template <class T>
inline Under under(const Handle<T>& parent) noexcept {
  return Under(Under::Named{}, parent.op_);
}

inline std::uint64_t refused_emissions() noexcept {
  std::uint64_t sum = detail::process_state.refused.load(std::memory_order_relaxed);
  for (const detail::Slot* s = detail::process_state.slots.load(std::memory_order_acquire); s != nullptr; s = s->next)
    sum += s->refused.load(std::memory_order_relaxed);
  return sum;
}

}  // namespace weir::inline v0
