#pragma once
// OperationTracker: every activity is an operation of one type, ActivityOperation, so that listeners and observers hear it:
//
//   root.on_start<weir::ActivityOperation>([](const weir::ActivityOperation::Args& args) { ... args.subject ... });
//   root.on_data<weir::ActivityChanged>([](const weir::ActivityChanged& change) { ... change.id ... });
//   root.on_finish<weir::ActivityOperation>([](weir::Op<weir::ActivityOperation>& activity,
//                                              const weir::ActivityOperation::Result& result) {
//     if (result.errors != 0) ++failures[activity->subject];
//   });
//
//   start ─▶ Args      report_error ─▶ Failure      report_change ─▶ ActivityChanged      end ─▶ Result
//
// An activity started under a context is under the operation of that context, else under the installed root, and
// inside(context) holds it: with a ContextScope, or in wrap(), it is the current operation where its work runs. One started
// without a context is under the thread's current operation, and is the current one until it ends.
//
// Under a root with the bridge OperationsToSpans an activity thus becomes a span, with the attributes that SpanTracker gives
// it. Use that where activities are operations anyway, and SpanTracker where nobody listens: each makes a span of its own.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "weir/activity/redaction.hpp"
#include "weir/activity/tracker.hpp"
#include "weir/core/attribute.hpp"
#include "weir/core/context.hpp"

namespace weir::inline v0 {

/// An activity as an operation. op->operation and the others tell what it is, in the finish of it and from below:
/// operation.find<weir::ActivityOperation>(). Args and Result are borrowed for the call, as all events are.
struct ActivityOperation {
  static constexpr std::string_view name = "activity";

  struct Args {
    std::string_view operation, subject;
    std::uint64_t id = 0;                ///< of the activity: no other of the process has it
    Attributes attributes{};             ///< as they were given: secrets, too
    const Context* context = nullptr;    ///< that it was started in
    const Redactor* redactor = nullptr;  ///< for describe(); nullptr: as RedactorOptions{} has it

    std::string title() const;  ///< "update user"
    /// operation, subject, op_id, request_id, and the attributes without secrets.
    void describe(AttributeSink& sink) const;
  };

  /// Without secrets.
  struct Result {
    std::uint64_t errors = 0, changes = 0;      ///< how many were reported
    std::string_view error{};                   ///< the text of the first; empty, too, if there was no memory for it
    std::string_view error_type{};              ///< of the first: "std::runtime_error", "generic:2"; empty: not known
    std::optional<AttributeValue> change_id{};  ///< of the last change

    void describe(AttributeSink& sink) const;
  };

  std::string operation, subject;
  std::uint64_t id = 0;
};

/// A data event: an activity, the operation it is emitted on, has changed something.
struct ActivityChanged {
  AttributeValue id;                   ///< as it was given
  ActivityChange& change;              ///< its data: made for the first who asks, secrets and all
  const Redactor* redactor = nullptr;  ///< for describe(); nullptr: as RedactorOptions{} has it

  void describe(AttributeSink& sink) const;  ///< change_id, and nothing of the data
};

struct OperationTrackerOptions {
  /// What observers are not told: the values of attributes with such names, and what looks like a secret in all texts.
  Redactor redactor{};
};

/// Listeners run inside the calls of the activity's thread. Without memory for it an activity is no operation: counted
/// (activity_stats().exceptions).
///
/// An activity started without a context that is under an operation on a stack belongs to the thread of that operation: it
/// finishes with that operation at the latest, its reports on other threads are in its Result alone, and if it ends on one, it
/// finishes when its own thread next starts or ends such an activity. None of this harms the program. Thread-safety: shared: safe.
class OperationTracker final : public ActivityTracker {
 public:
  explicit OperationTracker(OperationTrackerOptions options = {});

 private:
  class Following;
  void started(ActivityStart& start) override;

  const Redactor redactor_;
};

}  // namespace weir::inline v0
