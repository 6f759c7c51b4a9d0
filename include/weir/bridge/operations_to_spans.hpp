#pragma once
// OperationsToSpans: every operation under a node becomes a span, without knowing its type.
//
//   root.observe(std::make_shared<weir::OperationsToSpans>(tracer));
//
// The span's name is title() of the operation's Args, else the operation's name; its kind is the operation's. What Args,
// Result and the data events emitted on it describe becomes its attributes (a Failure marks it as failed); an exception that
// leaves the operation's scope marks it as failed, too. Where the span is not recorded, nothing is asked to describe itself.
// Its parent is the span of the nearest operation above; where there is none, or a ContextScope is nearer, the thread's ambient
// context. An operation that is its thread's current one makes its span the thread's ambient context, so that spans entered by
// hand nest below it. One bridge per root: two would nest their spans into each other's traces.

#include <memory>
#include <new>
#include <string>
#include <string_view>

#include "weir/operation/observe.hpp"
#include "weir/operation/operation.hpp"
#include "weir/trace/tracer.hpp"

namespace weir::inline v0 {

/// Thread-safety: shared: safe. The tracer must outlive the operations it is told of.
class OperationsToSpans final : public Observer {
 public:
  explicit OperationsToSpans(Tracer& tracer) : tracer_(tracer) {}

  void started(Operation& operation, const EventView& args) override {
    const Open* above = span_above(operation);
    const detail::Position around = detail::position();
    // An implicit parent has made its span the ambient one; a span entered by hand below it is nearer still.
    const bool ambient = above == nullptr || (operation.implicit() && above->thread == &detail::thread_state);
    std::string buffer;
    const std::string_view title = args.title(buffer);
    const Name name = title.empty() ? Name::from_static(operation.name()) : Name(title);
    auto* open = new (std::nothrow)
        Open(tracer_, ambient ? detail::ContextAccess::make(around, {}, {}) : above->span.context(), name, operation.kind());
    if (open == nullptr) return;
    if (open->span.recording()) {
      Attributes attributes(open->span);
      args.describe(attributes);
    }
    if (operation.implicit()) {
      open->thread = &detail::thread_state;
      open->previous = around;
      detail::set_position(detail::ContextAccess::position(open->span.context()));
    }
    operation.attach(this, *open);
  }

  /// What a data event describes becomes attributes of the span it is emitted on: a Failure marks it as failed.
  void data(Operation& operation, const EventView& event) override {
    auto* open = static_cast<Open*>(operation.attachment(this));
    if (open == nullptr || !open->span.recording()) return;
    Attributes attributes(open->span);
    event.describe(attributes);
    open->failed |= attributes.failed;
  }

  void finished(Operation& operation, const EventView& result) override {
    auto* open = static_cast<Open*>(operation.attachment(this));
    if (open == nullptr) return;
    if (open->span.recording()) {
      Attributes attributes(open->span);
      result.describe(attributes);
      if (open->thread == &detail::thread_state && operation.unwinding() && !open->failed) open->span.fail("left by an exception");
    }
    leave(*open);
    open->span.end();
  }

 private:
  struct Open final : Attachment {
    Open(Tracer& tracer, const Context& parent, Name name, SpanKind kind) noexcept
        : span(tracer, parent, name, kind), decided(span.recording() || !span.context().sampled()) {}
    ~Open() override { leave(*this); }  // another thread finished it; its own thread destroys it
    Context inside(Context outer) const override {
      if (!decided) return outer;
      using Access = detail::ContextAccess;
      return Access::make(Access::position(span.context()), Access::data(outer), Access::operation(outer));
    }

    ScopedSpan span;
    const bool decided;  // whether its trace is recorded
    bool failed = false;
    const detail::ThreadState* thread = nullptr;  // whose ambient context it became
    detail::Position previous;                    // of that thread
  };

  class Attributes final : public AttributeSink {
   public:
    explicit Attributes(ScopedSpan& span) : span_(span) {}
    void set(Name key, AttributeValue value) override {
      failed |= key.view() == "error";
      span_.set(key, value);
    }
    bool failed = false;

   private:
    ScopedSpan& span_;
  };

  /// Puts the ambient context back to what it was before `open`. On another thread nothing happens: the operation's own
  /// thread does it when it destroys the operation.
  static void leave(Open& open) noexcept {
    if (open.thread != &detail::thread_state) return;
    open.thread = nullptr;
    detail::leave_ambient(open.span.context().span_id(), open.previous);
  }

  /// nullptr if there is none, or if it is not as near as the thread's ambient context.
  const Open* span_above(const Operation& operation) const {
    const bool here = operation.implicit() || operation.parent() == Operation::current();
    const Operation* const scoped_under = here ? detail::thread_state.scoped_under : nullptr;
    for (const Operation* node = operation.parent(); node != nullptr && node != scoped_under; node = node->parent())
      if (const auto* open = static_cast<const Open*>(node->attachment(this))) return open;
    return nullptr;
  }

  Tracer& tracer_;
};

}  // namespace weir::inline v0
