#pragma once
// SpanTracker: every activity is a span, child of the span of the context it was started in.
//
//   weir::SpanTracker spans(tracer);                        // main wires it, alone or in a ChainedTracker
//
//   weir::Activity activity = spans.start(context, "update", "user", {{"user_id", id}});
//   ▶ span "update user": operation=update subject=user op_id=17 request_id=r-1 user_id=42
//
//   report_error   error=true, error.message (redacted), error.type where it is known; of several the first, and `errors`
//   report_change  change_id; of several the last, and `changes`
//
// The keys are those of log lines, so that what finds a line finds the span. Of the data of a change a span has nothing: spans
// are kept short, by many, and for everybody to see. Data belongs into an audit trail. An activity that began under the
// thread's ambient context is a failed span, too, when an exception leaves its scope.
//
// Names of spans are kept for the life of the process: 65,536 of them, 16 MiB (trace/detail/name_table.hpp). Whoever puts
// what tells activities apart into `operation` or `subject` gets spans named "…overflow"; their attributes still say it.
//
// OperationTracker with the bridge OperationsToSpans makes spans, too, that say the same: for programs whose listeners want to
// hear of activities. This one is for the others, and takes less time. Both together make two spans of every activity.

#include "weir/activity/redaction.hpp"
#include "weir/activity/tracker.hpp"
#include "weir/trace/tracer.hpp"

namespace weir::inline v0 {

struct SpanTrackerOptions {
  /// What is not written down: the values of attributes with such names, and what looks like a secret in all texts.
  Redactor redactor{};
};

/// Follows no activity of a context that is not sampled. The tracer outlives it; once that is stopped, spans are dropped and
/// counted there. Thread-safety: shared: safe. An activity started under the ambient context that ends on another thread
/// leaves its span the ambient one of its own thread, until what surrounds it there ends.
class SpanTracker final : public ActivityTracker {
 public:
  explicit SpanTracker(Tracer& tracer, SpanTrackerOptions options = {});

 private:
  struct Following;
  void started(ActivityStart& start) override;

  Tracer* const tracer_;
  const Redactor redactor_;
};

}  // namespace weir::inline v0
