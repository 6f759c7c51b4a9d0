#pragma once
// MetricsTracker: how often each kind of activity runs, how long it takes, how often it fails or changes something, as numbers in
// a Telemetry. A kind is what is done to what: the operation and the subject.
//
//   weir::MetricsTracker metrics(telemetry);                // main wires it, alone or in a ChainedTracker
//
//   weir::Activity activity = metrics.start(context, "update", "user");   // counted when it ends
//
//   activity.duration:update user    a histogram of seconds; its count says how often
//   activity.errors:update user      how many have reported an error; an activity that reports several is one
//   activity.changes:update user     how many have reported a change, likewise
//
// An activity that began under the thread's ambient context has failed, too, when an exception leaves its scope: what is an error
// here is a failed span of SpanTracker. All activities are counted, whether their traces are sampled or not.
//
// What stands before the ':' is a family, which a server may disable: "activity.changes", say. There are 1,000 kinds at most;
// activities of further ones, and those whose name is longer than 256 bytes, are counted as "other". What tells activities of
// a kind apart belongs into their attributes.

#include "weir/activity/tracker.hpp"
#include "weir/core/clock.hpp"
#include "weir/telemetry/telemetry.hpp"

namespace weir::inline v0 {

struct MetricsTrackerOptions {
  const Clock* clock = nullptr;  ///< what durations are taken from; nullptr: the machine's ticks. Must outlive the activities
};

/// It need not outlive the activities: those that end later are not counted. Neither is one that there is no room for in the
/// telemetry, which counts that. Thread-safety: shared: safe.
class MetricsTracker final : public ActivityTracker {
 public:
  /// Throws std::bad_alloc.
  explicit MetricsTracker(Telemetry telemetry, MetricsTrackerOptions options = {});
  ~MetricsTracker() override;
  MetricsTracker(const MetricsTracker&) = delete;
  MetricsTracker& operator=(const MetricsTracker&) = delete;

 private:
  struct Following;
  struct State;
  struct States;
  void started(ActivityStart& start) override;

  State* const state_;
};

}  // namespace weir::inline v0
