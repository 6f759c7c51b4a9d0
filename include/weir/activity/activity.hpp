#pragma once
// Activities: business code says what it is doing to what, and how that went; what becomes of it is wired elsewhere. This
// header is all that business code includes.
//
//   void rename(weir::ActivityTracker& tracker, const weir::Context& context, UserId id, std::string_view name) {
//     weir::Activity activity = tracker.start(context, "update", "user", {{"user_id", id}, {"attempt", 1}});
//     if (auto saved = store.rename(id, name))
//       activity.report_change(saved->id, [&] { return to_json_text(*saved); });   // called only if a tracker wants it
//     else
//       activity.report_error(saved.error());
//   }                                                                              // it ends, once, at the latest here
//
//   start ─▶ { report_error | report_change }* ─▶ end()
//
// start(context, …) leaves the thread's ambient context alone, and the activity may end on any thread; what belongs to it
// runs under activity.inside(context). start(…) without a context begins under the ambient one and is current until it ends:
// spans, operations and activities that the thread starts meanwhile belong to it. As with weir::Op and Tracer::enter.
//
// Trackers are in tracker.hpp: how to write one, and a chain of several.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

#include "weir/core/attribute.hpp"
#include "weir/core/context.hpp"
#include "weir/core/detail/exceptions.hpp"
#include "weir/core/result.hpp"

namespace weir::inline v0 {

class ActivityStart;
class ActivityTracker;
class ActivityChange;
class Tracking;

namespace detail {
class ActivityRecord;
// `record`: nullptr for none, or over() of Activity.
void report_error(ActivityRecord* record, const std::exception& error) noexcept;
void report_error(ActivityRecord* record, const std::exception_ptr& error) noexcept;
void report_error(ActivityRecord* record, std::error_code error) noexcept;
void report_error(ActivityRecord* record, std::string_view error) noexcept;
void report_error(ActivityRecord* record, const Error& error) noexcept;
void report_change(ActivityRecord* record, ActivityChange& change) noexcept;
void end_activity(ActivityRecord* record) noexcept;
Context inside(const ActivityRecord& record, const Context& outer) noexcept;
}  // namespace detail

/// What an activity changed: the id of what is different now, and what it is like.
/// Thread-safety: shared: unsafe. Borrowed for the call that gets it.
class ActivityChange {
 public:
  using MakeJson = std::string (*)(const void* callable);

  explicit ActivityChange(AttributeValue id) noexcept : id_(id) {}
  ActivityChange(AttributeValue id, AttributeValue data) noexcept : id_(id), value_(data), kind_(Kind::value) {}
  /// `make_json(callable)` returns JSON text, and may throw.
  ActivityChange(AttributeValue id, const void* callable, MakeJson make_json) noexcept
      : id_(id), callable_(callable), make_json_(make_json), kind_(Kind::json) {}
  ActivityChange(const ActivityChange&) = delete;
  ActivityChange& operator=(const ActivityChange&) = delete;

  AttributeValue id() const noexcept { return id_; }
  bool has_data() const noexcept { return kind_ != Kind::none; }
  /// The data if it was reported as a value; else nullptr.
  const AttributeValue* value() const noexcept { return kind_ == Kind::value ? &value_ : nullptr; }
  /// The data as JSON text, made at the first call and kept for the other trackers: nothing of it is checked or redacted.
  /// Error: what the callable threw (its type, not its text, which may be a secret), or out of memory.
  const Result<std::string>& json() noexcept;

 private:
  enum class Kind : std::uint8_t { none, value, json };

  AttributeValue id_;
  AttributeValue value_ = false;
  const void* callable_ = nullptr;
  MakeJson make_json_ = nullptr;
  Kind kind_ = Kind::none;
  bool made_ = false;
  Result<std::string> json_ = std::string();
};

/// One thing that is being done. Not for signal handlers. Move-only; ends when it is destroyed, ended or assigned to. What is reported
/// afterwards is ignored and counted. Nothing is thrown at the caller, whatever trackers throw. All arguments are borrowed for the call.
/// Its thread is not cancelled in here.
/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class [[nodiscard]] Activity {
 public:
  Activity() noexcept = default;  ///< of nobody: everything is ignored
  Activity(Activity&& other) noexcept : record_(std::exchange(other.record_, over())) {}
  Activity& operator=(Activity&& other) noexcept {
    if (this == &other) return *this;
    end();
    record_ = std::exchange(other.record_, over());
    return *this;
  }
  ~Activity() {
    if (running()) detail::end_activity(record_);
  }

  /// It failed. Once is enough; each is passed on. The outcome of an activity that has reported a change, too, is a failure.
  void report_error(const std::exception& error) noexcept { report(error); }
  void report_error(const std::exception_ptr& error) noexcept { report(error); }  ///< null: no error, ignored
  void report_error(std::error_code error) noexcept { report(error); }            ///< value 0: no error, ignored
  void report_error(std::string_view error) noexcept { report(error); }           ///< empty: no error, ignored
  void report_error(const Error& error) noexcept { report(error); }               ///< neither code nor message: no error, ignored

  /// It changed something: `id` names what. `data`, what it is like now: a value, or a callable returning JSON text, which
  /// is called at most once, before this returns, and only if somebody wants the text.
  void report_change(AttributeValue id) noexcept {
    if (!listened()) return;
    ActivityChange change(id);
    detail::report_change(record_, change);
  }
  void report_change(AttributeValue id, AttributeValue data) noexcept {
    if (!listened()) return;
    ActivityChange change(id, data);
    detail::report_change(record_, change);
  }
  template <class F>
  requires std::is_invocable_r_v<std::string, const F&>
  void report_change(AttributeValue id, const F& data) noexcept {
    if (!listened()) return;
    ActivityChange change(id, &data, [](const void* callable) -> std::string { return (*static_cast<const F*>(callable))(); });
    detail::report_change(record_, change);
  }

  /// It is over. Idempotent.
  void end() noexcept {
    if (running()) detail::end_activity(std::exchange(record_, over()));
  }

  /// `outer`, the context it was started with, as it is inside: in the span that a tracker opened for it, say.
  Context inside(const Context& outer) const noexcept { return running() ? detail::inside(*record_, outer) : outer; }
  /// True until it ends if a tracker wants to hear more of it.
  bool tracked() const noexcept { return running(); }

 private:
  friend class ActivityTracker;
  explicit Activity(detail::ActivityRecord* record) noexcept : record_(record) {}

  /// Stands for the record of one that has ended or was moved from.
  static detail::ActivityRecord* over() noexcept { return reinterpret_cast<detail::ActivityRecord*>(std::uintptr_t{1}); }
  bool running() const noexcept { return reinterpret_cast<std::uintptr_t>(record_) > 1; }
  /// What nobody follows is ignored, what has ended is ignored and counted.
  bool listened() const noexcept { return record_ != nullptr; }
  template <class E>
  void report(const E& error) noexcept {
    if (listened()) detail::report_error(record_, error);
  }

  detail::ActivityRecord* record_ = nullptr;  // nullptr: nobody follows it
};

/// Where activities begin. Whoever wires a program decides which: trackers outlive the activities that they follow.
/// Thread-safety: shared: safe, for starting.
class ActivityTracker {
 public:
  virtual ~ActivityTracker() = default;

  /// `operation`: a verb, `subject`: the kind of thing it is done to. Short texts, the same for all activities of a kind:
  /// they become names of metrics. What tells them apart belongs into `attributes`. Throws nothing; that the thread is
  /// cancelled in a tracker passes.
  Activity start(const Context& context, std::string_view operation, std::string_view subject, Attributes attributes = {});
  /// Under the thread's ambient context, and current until it ends: on this thread, in reverse order.
  Activity start(std::string_view operation, std::string_view subject, Attributes attributes = {});

 protected:
  ActivityTracker() = default;
  ActivityTracker(const ActivityTracker&) = default;
  ActivityTracker& operator=(const ActivityTracker&) = default;

 private:
  friend class ActivityStart;
  /// An activity begins: start.follow<…>(…) to hear more of it (tracker.hpp).
  virtual void started(ActivityStart& start) = 0;
};

/// How an activity began, for trackers. What it views is good for the call that gets it.
class ActivityStart {
 public:
  ActivityStart(const Context& context, std::string_view operation, std::string_view subject, Attributes attributes, bool current) noexcept
      : context_(&context),
        operation_(operation.data()),
        subject_(subject.data()),
        attributes_(attributes.begin()),
        operation_size_(static_cast<std::uint32_t>(operation.size())),
        subject_size_(static_cast<std::uint32_t>(subject.size())),
        attribute_count_(static_cast<std::uint32_t>(attributes.size())),
        current_(current) {}
  ActivityStart(const ActivityStart&) = delete;
  ActivityStart& operator=(const ActivityStart&) = delete;

  const Context& context() const noexcept { return *context_; }
  std::string_view operation() const noexcept { return {operation_, operation_size_}; }
  std::string_view subject() const noexcept { return {subject_, subject_size_}; }
  Attributes attributes() const noexcept { return std::span(attributes_, attribute_count_); }
  /// It is to be current on this thread until it ends: started without a context.
  bool current() const noexcept { return current_; }
  /// Of this activity, for all trackers; no other of the process has it. Throws std::bad_alloc.
  std::uint64_t id();

  /// Makes a T (a Tracking, tracker.hpp), which from now on hears of the activity. Its memory is the activity's, and comes
  /// from blocks that the thread keeps for this. Throws what T's constructor throws, and std::bad_alloc.
  template <class T, class... Arguments>
  T& follow(Arguments&&... arguments);
  /// More of that memory: it is there until the activity has ended, aligned for anything. Throws std::bad_alloc.
  void* allocate(std::size_t size);
  /// Lets another tracker know: for trackers that stand before others. What it throws is dropped.
  void pass_to(ActivityTracker& tracker);

 private:
  friend class ActivityTracker;

  detail::ActivityRecord& record();
  void add(Tracking& tracking, bool blocks) noexcept;
  /// In a handler, for what `tracker` threw: drops it. Throws on what unwinds a thread that is cancelled.
  [[gnu::cold]] void threw(const ActivityTracker& tracker);

  // Few and adjacent, because an activity that nobody follows costs these stores and a virtual call.
  const Context* context_;
  const char *operation_, *subject_;
  const Attribute* attributes_;
  std::uint32_t operation_size_, subject_size_, attribute_count_;
  bool current_;
  detail::ActivityRecord* record_ = nullptr;
};

/// What happened in this process so far behind the backs of activities.
struct ActivityStats {
  std::uint64_t late_reports = 0;  ///< reported after the end, or on a moved-from activity: ignored
  std::uint64_t exceptions = 0;    ///< thrown by trackers: dropped; the first of a minute is logged (stderr_logger)
};
ActivityStats activity_stats() noexcept;

/// Follows nothing. What a program uses that has configured no other. Thread-safety: shared: safe.
class NoopTracker final : public ActivityTracker {
  void started(ActivityStart&) noexcept override {}
};
/// One that is never destroyed.
NoopTracker& noop_tracker() noexcept;

namespace detail {
/// Of all activities of the process.
struct Activities {
  std::atomic<std::uint64_t> next_id{1}, late_reports{0}, exceptions{0};
  std::atomic<std::int64_t> next_message{0};  // steady nanoseconds before which no exception is logged
};
WEIR_SHARED_STATE inline constinit Activities activities{};
}  // namespace detail

inline Activity ActivityTracker::start(const Context& context, std::string_view operation, std::string_view subject,
                                       Attributes attributes) {
  ActivityStart start(context, operation, subject, attributes, false);
  WEIR_TRY { started(start); }
  WEIR_CATCH_ALL { start.threw(*this); }
  return Activity(start.record_);
}

inline Activity ActivityTracker::start(std::string_view operation, std::string_view subject, Attributes attributes) {
  const Context context = Context::current();
  ActivityStart start(context, operation, subject, attributes, true);
  WEIR_TRY { started(start); }
  WEIR_CATCH_ALL { start.threw(*this); }
  return Activity(start.record_);
}

}  // namespace weir::inline v0

// IWYU pragma: begin_exports
#include "weir/activity/tracker.hpp"
// IWYU pragma: end_exports
