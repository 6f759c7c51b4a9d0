#pragma once
// OperationsToMetrics: how often the operations under a node run, by their type, how long they take, and how often they fail, as
// numbers in a Telemetry, without knowing the types.
//
//   root.observe(std::make_shared<weir::OperationsToMetrics>(telemetry));
//
//   operation.duration:sql.query    a histogram of seconds; its count says how often
//   operation.errors:sql.query      how many have failed
//
// The name is that of the operation's type, and never the title of one call: names are few. An operation counts when it
// finishes. It has failed if a data event or its Result describes itself with an attribute `error` that is true, as Failure
// does, or if an exception leaves its scope: then its span, with OperationsToSpans, is a failed one. The two bridges work side
// by side; neither needs the other, and whether a trace is sampled changes no number.
//
// What stands before the ':' is a family, which a server may disable, and so it may one key. There are 1,000 names at most;
// operations of further types, and those whose name is longer than 256 bytes, are counted as "other".

#include <atomic>
#include <cstdint>
#include <new>
#include <utility>

#include "weir/core/clock.hpp"
#include "weir/core/detail/tick_rate.hpp"
#include "weir/operation/observe.hpp"
#include "weir/operation/operation.hpp"
#include "weir/telemetry/detail/metric_kinds.hpp"
#include "weir/telemetry/telemetry.hpp"

namespace weir::inline v0 {

struct OperationsToMetricsOptions {
  const Clock* clock = nullptr;  ///< what durations are taken from; nullptr: the machine's ticks. Must outlive the bridge
};

/// Operations that started before it was registered are not counted, nor those that there is no room for in the telemetry,
/// which counts that. Thread-safety: shared: safe.
class OperationsToMetrics final : public Observer {
 public:
  explicit OperationsToMetrics(Telemetry telemetry, OperationsToMetricsOptions options = {})
      : kinds_(std::move(telemetry), "operation", false), clock_(options.clock) {}

  void started(Operation& operation, const EventView&) override {
    const detail::MetricKind* const kind = kinds_.find(operation.name());
    if (kind == nullptr) return;
    auto* const open = new (std::nothrow) Open(*kind);
    if (open == nullptr) return;
    if (operation.implicit()) open->thread = &detail::thread_state;
    operation.attach(this, *open);
    open->begin = clock_.now();
  }

  void data(Operation& operation, const EventView& event) override {
    if (auto* const open = static_cast<Open*>(operation.attachment(this))) open->look_at(event);
  }

  void finished(Operation& operation, const EventView& result) override {
    auto* const open = static_cast<Open*>(operation.attachment(this));
    if (open == nullptr) return;
    open->kind.duration.record(clock_.seconds(open->begin, clock_.now()));  // first: what describes itself may throw
    open->look_at(result);
    const bool left_by_an_exception = open->thread == &detail::thread_state && operation.unwinding();
    if (open->failed.load(std::memory_order_relaxed) || left_by_an_exception) open->kind.errors.increment();
  }

 private:
  struct Open final : Attachment {
    explicit Open(const detail::MetricKind& its_kind) noexcept : kind(its_kind) {}
    void look_at(const EventView& event) {
      Errors errors(*this);
      event.describe(errors);
    }

    const detail::MetricKind& kind;
    std::uint64_t begin = 0;
    const detail::ThreadState* thread = nullptr;  // whose current operation it became
    std::atomic<bool> failed{false};              // data events may come from several threads at once
  };

  /// Of the attributes, one matters. The last one that is set.
  class Errors final : public AttributeSink {
   public:
    explicit Errors(Open& open) : open_(open) {}
    void set(Name key, AttributeValue value) override {
      if (key.view() != "error") return;
      const bool is_text = value.type() == AttributeValue::Type::string;
      const bool failed = is_text ? value.text() == "true" : value.type() == AttributeValue::Type::boolean && value.boolean();
      open_.failed.store(failed, std::memory_order_relaxed);
    }

   private:
    Open& open_;
  };

  detail::MetricKinds kinds_;
  detail::TickRate clock_;
};

}  // namespace weir::inline v0
