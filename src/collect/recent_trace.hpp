#pragma once
// RecentTrace: what the span store remembers of the trace that last got a span. The next span's record begins where that one's ended;
// and whether a trace is tidy (no orphans, no cycles, nothing too deep) is told as it comes.
//
// Native spans come children before parents. So nobody waits for a parent at the end, and what somebody waited for was never put
// below a span that was there. All that comes in another order is looked through when the trace completes, or not tidy.

#include <cstdint>
#include <iterator>

#include "collect/kept_trace.hpp"
#include "collect/packed_record.hpp"
#include "collect/trace_memory.hpp"
#include "weir/collect/trace_store.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class RecentTrace {
 public:
  /// Makes the trace the recent one. What of its last record goes into the next: nothing, if it was not.
  RecordContext& context_of(KeptTrace& trace) noexcept {
    if (trace_ != &trace) {
      if (count_ > 0) trace_->tidy = false;
      trace_ = &trace;
      context_.base = trace.base;  // one by one: as a whole it would go through memory, behind all that is being written
      context_.parent_known = false;
      count_ = 0;
    }
    return context_;
  }
  /// The record that was written last is not kept.
  void forget_parent() noexcept { context_.parent_known = false; }
  /// A span was not kept, halfway: what is remembered may be of it. Requires: the trace is the recent one.
  void spoil(KeptTrace& trace) noexcept {
    context_.parent_known = false;
    count_ = 0;
    trace.tidy = false;
  }
  /// The trace goes.
  void forget(const KeptTrace& trace) noexcept {
    if (trace_ == &trace) *this = {};
  }

  /// A span comes. Requires: the trace is tidy and the recent one; the span is not stored yet.
  void relate(const TraceMemory& memory, KeptTrace& trace, const IdRef& id, const IdRef& parent) {
    std::uint64_t* const end = awaited_ + count_;
    if (id.form != IdRef::Form::hex || parent.form == IdRef::Form::text || trace.stored >= tidy_at_most) {
      trace.tidy = false;
    } else {
      std::uint64_t* own = awaited_;
      while (own != end && *own != id.value) ++own;
      const bool waited = own != end;
      if (waited) *own = awaited_[--count_];
      if (parent.form == IdRef::Form::none) return;
      for (unsigned i = 0; i < count_; ++i) {
        if (awaited_[i] == parent.value) return;
      }
      if (memory.contains(trace, parent, memory.hash_of(parent))) {
        trace.tidy = !waited;
      } else if (count_ < std::size(awaited_)) {
        awaited_[count_++] = parent.value;
      } else {
        trace.tidy = false;
      }
    }
    if (!trace.tidy) count_ = 0;
  }
  bool is_tidy(const KeptTrace& trace) const noexcept {
    return trace.tidy && TraceMemory::halves_of(trace) == 0 && (trace_ != &trace || count_ == 0);
  }

 private:
  static constexpr std::uint32_t tidy_at_most = max_span_depth - 1;  // spans; so nothing is too deep

  KeptTrace* trace_ = nullptr;
  RecordContext context_;
  std::uint64_t awaited_[8] = {};  // parents that have not come
  unsigned count_ = 0;
};

}  // namespace weir::inline v0::detail
