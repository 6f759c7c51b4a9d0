#include "weir/activity/operation_tracker.hpp"

#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <utility>

#include "activity/description.hpp"
#include "weir/operation/operation.hpp"

namespace weir::inline v0 {

// ---- the events

namespace {

const Redactor& or_default(const Redactor* redactor) {
  static const Redactor* const by_default = new Redactor;  // observers may hear of activities until the process ends
  return redactor != nullptr ? *redactor : *by_default;
}

}  // namespace

std::string ActivityOperation::Args::title() const {
  std::string title;
  title.reserve(operation.size() + 1 + subject.size());
  return title.append(operation).append(" ").append(subject);
}

void ActivityOperation::Args::describe(AttributeSink& sink) const {
  detail::describe_start(operation, subject, id, context != nullptr ? context->request_id() : std::string_view(), attributes,
                         or_default(redactor), [&sink](Name key, AttributeValue value) { sink.set(key, value); });
}

void ActivityOperation::Result::describe(AttributeSink& sink) const {
  if (errors != 0) sink.set("error", true);
  if (!error.empty()) sink.set("error.message", error);
  if (!error_type.empty()) sink.set("error.type", error_type);
  if (errors > 1) sink.set("errors", errors);
  if (change_id) sink.set("change_id", *change_id);
  if (changes > 1) sink.set("changes", changes);
}

void ActivityChanged::describe(AttributeSink& sink) const {
  std::string buffer;
  sink.set("change_id", detail::redacted(or_default(redactor), id, buffer));
}

namespace {

// ---- one activity

/// What was reported.
struct Outcome {
  ActivityOperation::Result result() const noexcept {
    ActivityOperation::Result result{errors, changes, error, error_type, change_id};
    if (change_id && change_id->type() == AttributeValue::Type::string) result.change_id = std::string_view(change_text);
    return result;
  }

  std::uint64_t errors = 0, changes = 0;
  std::string error, error_type;
  std::optional<AttributeValue> change_id;  // a string is in change_text
  std::string change_text;
};

/// An activity's operation. One that is to be current on its thread is under that thread's current operation, which may be on
/// the stack, or under one that is. Then nobody but that thread may walk up from it, and it must go before that operation
/// does: a closure among the listeners of that operation, which go when it finishes, sees to it (Guard).
struct Running {
  bool here() const noexcept { return thread == detail::thread_slot; }
  /// Whether the calling thread may use `operation`.
  bool reachable() const noexcept { return !on_stack || here(); }

  /// Finishes it, if nobody has, and lets go of it. On its thread, if it has one.
  void close() {
    const Handle<ActivityOperation> open = std::exchange(operation, {});
    if (open) finish(*open);
  }
  void finish(Op<ActivityOperation>& open) {
    Outcome reported;
    if (const std::unique_lock lock(mutex, std::try_to_lock); lock) reported = std::move(outcome);  // else another thread is at it still
    open.finish(reported.result());
  }

  Handle<ActivityOperation> operation;
  const detail::Slot* thread = nullptr;  // where it is current; nullptr: nowhere
  bool on_stack = false;                 // an operation above it is on the stack of `thread`
  Listener guard;                        // on the nearest of those
  std::mutex mutex;
  Outcome outcome;                // guarded by mutex
  std::shared_ptr<Running> self;  // while in `strays`
  Running* next = nullptr;        // in `strays`
};

/// A listener for what is never emitted.
struct Never {};
struct Guard {
  explicit Guard(std::shared_ptr<Running> guarded) noexcept : running(std::move(guarded)) {}
  Guard(Guard&&) noexcept = default;
  Guard& operator=(Guard&&) = delete;
  ~Guard() {
    if (running == nullptr || !running->here()) return;
    const detail::NoCancellation no_cancellation;
    running->close();
  }
  void operator()() const noexcept {}

  std::shared_ptr<Running> running;
};

// ---- those that ended on another thread than the one where they are current

/// They stay until that thread comes by, because it may still go through them. A thread's number of strays is bounded by what it
/// started since it last came by.
constinit std::atomic<Running*> strays{nullptr};

void push_stray(std::shared_ptr<Running> running) noexcept {
  Running& stray = *running;
  stray.self = std::move(running);
  stray.next = strays.load(std::memory_order_relaxed);
  while (!strays.compare_exchange_weak(stray.next, &stray, std::memory_order_release, std::memory_order_relaxed)) {}
}

void close_strays() {
  if (strays.load(std::memory_order_relaxed) == nullptr) return;
  Running* list = strays.exchange(nullptr, std::memory_order_acquire);
  while (list != nullptr) {
    const std::shared_ptr<Running> stray = std::move(list->self);
    list = list->next;
    if (stray->here()) {
      stray->close();
      stray->guard.remove();
    } else {
      push_stray(stray);
    }
  }
}

}  // namespace

// ---- the tracker

class OperationTracker::Following final : public Tracking {
 public:
  explicit Following(const Redactor& redactor) : redactor_(redactor), running_(std::make_shared<Running>()) {}

  void begin(const ActivityOperation::Args& args) {
    const Operation* const around = detail::ContextAccess::operation(*args.context).get();
    std::optional<OperationScope> operation_scope;
    if (around != nullptr) operation_scope.emplace(const_cast<Operation&>(*around));
    const ContextScope context_scope(*args.context);
    begin(around != nullptr ? under(const_cast<Operation&>(*around)) : under_root(), args, false);
  }

  void begin_here(const ActivityOperation::Args& args) {
    close_strays();
    Operation* around = detail::Dispatch::nearest_unfinished(Operation::current());
    Operation* const on_stack = detail::ContextHooks::on_stack(around);
    if (on_stack != nullptr) {
      running_->guard = on_stack->on_data<Never>(Guard(running_));
      running_->on_stack = running_.use_count() > 1;
      if (!running_->on_stack) around = detail::ContextAccess::operation(*args.context).get();  // refused: not under that one
    }
    begin(around != nullptr ? under(*around) : under_root(), args, true);
    running_->thread = detail::thread_slot;
    if (running_->on_stack && on_stack->finished()) running_->close();  // by a listener
  }

  void failed(const ActivityError& error) override {
    const std::string text = redactor_.redact_text(error.text);
    std::string type = detail::error_type(error);
    {
      std::lock_guard lock(running_->mutex);
      Outcome& outcome = running_->outcome;
      if (outcome.errors++ == 0) {
        outcome.error_type = std::move(type);
        outcome.error = text;
      }
    }
    emit(Failure{text});
  }

  void changed(ActivityChange& change) override {
    std::string buffer;
    const AttributeValue id = detail::redacted(redactor_, change.id(), buffer);
    {
      std::lock_guard lock(running_->mutex);
      Outcome& outcome = running_->outcome;
      ++outcome.changes;
      outcome.change_id.reset();
      if (id.type() == AttributeValue::Type::string) outcome.change_text = id.text();
      outcome.change_id = id;
    }
    emit(ActivityChanged{change.id(), change, &redactor_});
  }

  void ended() override {
    Running& running = *running_;
    if (running.thread == nullptr || running.here()) {
      running.close();
      running.guard.remove();
      return close_strays();
    }
    if (running.reachable() && running.operation) running.finish(*running.operation);
    push_stray(std::move(running_));
  }

  Context inside(Context outer) const override {
    const Handle<ActivityOperation> open = operation();
    if (!open) return outer;
    const Context within = open->inside(std::move(outer));
    if (running_->on_stack) return within;
    Operation& shared = *open;
    detail::ContextHooks::retain(&shared);
    return detail::ContextAccess::make(detail::ContextAccess::position(within), detail::ContextAccess::data(within),
                                       detail::OperationRef::adopt(&shared));
  }

 private:
  void begin(Under parent, const ActivityOperation::Args& args, bool current) {
    ActivityOperation state{std::string(args.operation), std::string(args.subject), args.id};
    running_->operation = detail::start_shared<ActivityOperation>(parent, args, std::move(state), current);
    if (!running_->operation) throw std::bad_alloc();
  }

  Handle<ActivityOperation> operation() const { return running_->reachable() ? running_->operation : Handle<ActivityOperation>(); }
  /// Listeners may end what is around the activity: it stays until they are through.
  template <class Data>
  void emit(Data&& data) {
    if (const Handle<ActivityOperation> open = operation()) open->emit(std::forward<Data>(data));
  }

  const Redactor& redactor_;
  std::shared_ptr<Running> running_;
};

OperationTracker::OperationTracker(OperationTrackerOptions options) : redactor_(std::move(options.redactor)) {}

void OperationTracker::started(ActivityStart& start) {
  auto& following = start.follow<Following>(redactor_);
  const ActivityOperation::Args args{start.operation(), start.subject(), start.id(), start.attributes(), &start.context(), &redactor_};
  if (start.current())
    following.begin_here(args);
  else
    following.begin(args);
}

}  // namespace weir::inline v0
