#pragma once
// PackedSpan: a span as the native format has it. Who reads rings fills one in and hands it to SpanStore (span_store.hpp).

#include <cstddef>
#include <cstdint>
#include <span>

#include "weir/core/clock.hpp"
#include "weir/core/ids.hpp"
#include "weir/core/kind.hpp"

namespace weir::inline v0::detail {

/// A view, good for the call; everything in it was checked. Thread-safety: a value.
struct PackedSpan {
  TraceId trace_id;
  SpanId span_id, parent_id;  // parent: 0 none
  std::uint32_t name = 0;     // of SpanStore::intern()
  SpanKind kind{};
  Timestamp start_time{}, end_time{};  // end_time: of a finished span
  unsigned attribute_count = 0;
  std::span<const std::byte> attributes{};  // as in trace/detail/ring_layout.hpp; keys are of SpanStore::intern()
};

}  // namespace weir::inline v0::detail
