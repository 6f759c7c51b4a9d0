#pragma once
// ScopedSpan: a span that is open. Made by Tracer::enter, ended by its destructor; service code holds it on the stack.
//
//   { weir::ScopedSpan span = tracer.enter("HandleRequest", weir::SpanKind::http);   // child of the ambient context
//     span.set("method", "GET"); span.set("status", 200); }                          // and current until here
//
// What happens: the start reads the clock and enters the span into the table of its thread's ring; attributes gather in the
// object; the end reads the clock and writes one record into the ring of the thread that ends it. No lock, no allocation
// (up to 448 bytes of attributes), no system call.
//
// Spans of one thread may end in any order: what is current afterwards is the innermost that is still open. A span made with
// an explicit parent does not touch the ambient context and may end on another thread. Up to 64 open spans of a thread
// can be seen while they are open; those beyond are seen when they have ended.
//
// A bridge that wants a span current for only a part of its life gives it an explicit parent and opens
// weir::ContextScope{span.context()} where it should be current.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "weir/core/attribute.hpp"
#include "weir/core/context.hpp"
#include "weir/core/kind.hpp"
#include "weir/core/name.hpp"
#include "weir/trace/detail/attach.hpp"

namespace weir::inline v0 {

class Tracer;

/// Pinned: neither copied nor moved, but returned by enter() all the same (the copy is elided), and at home in a
/// std::unique_ptr or as a member. A span without a ring (not sampled, tracer off or stopped, bounds reached) does nothing.
/// Thread-safety: Distinct objects: safe. Shared: unsafe. One made in the ambient context ends on the thread it began on.
class ScopedSpan {
 public:
  /// A child of the calling thread's ambient context, or a root if that belongs to no trace; current until it ends.
  ScopedSpan(Tracer& tracer, Name name, SpanKind kind = SpanKind::function) noexcept;
  /// A child of `parent`, or a root if that belongs to no trace. The ambient context stays as it is.
  ScopedSpan(Tracer& tracer, const Context& parent, Name name, SpanKind kind = SpanKind::function) noexcept;
  ~ScopedSpan() { end(); }
  ScopedSpan(const ScopedSpan&) = delete;
  ScopedSpan& operator=(const ScopedSpan&) = delete;

  /// Copies key and value. The last value of a key counts. Beyond the tracer's limits attributes are left out and strings
  /// cut (both are counted). Nothing happens after end().
  [[gnu::always_inline]] void set(Name key, AttributeValue value) noexcept;
  /// Marks the span as failed: the attributes error = true and error.message = `message`.
  void fail(std::string_view message) noexcept {
    set("error", true);
    set("error.message", message);
  }
  /// Ends the span now. Idempotent.
  void end() noexcept;

  /// For its children, here, on other threads, in other processes. Of a span that is not recorded: its parent's.
  /// What is not of the span (request id, deadline, baggage, operation) is its parent's; of one in the ambient context, what
  /// is ambient when this is called.
  Context context() const noexcept;
  /// False: attributes need not be computed.
  bool recording() const noexcept { return state_ > State::done; }

 private:
  enum class State : std::uint8_t {
    off,      // in the ambient context, of a tracer that is off
    done,     // ended, or never recorded
    plain,    // has a slot, its attributes are in inline_, none of them was cut
    special,  // anything else: ends on the slow path
  };
  static constexpr std::size_t inline_bytes = 448, max_attribute_bytes = detail::max_record_bytes - sizeof(detail::SpanRecord) - 16;

  void begin(detail::ThreadRing& ring, TraceId trace, SpanId parent, const Name& name, SpanKind kind) noexcept;
  void decline(const detail::Position& parent) noexcept;
  void put_text(std::uint32_t key, std::string_view text) noexcept;
  void put_word(std::uint32_t key, AttributeValue::Type type, std::uint64_t word) noexcept;
  bool make_room_slowly(std::uint32_t key, std::size_t bytes) noexcept;
  bool make_room(std::size_t bytes) noexcept;
  void merge_equal_keys() noexcept;
  bool write(detail::ThreadRing& ring) noexcept;
  void end_slowly() noexcept;
  void restore_context(detail::ThreadState& thread) const noexcept;

  State state_ = State::off;
  std::uint8_t flags_ = detail::new_trace_flags;
  bool root_ = false;  // of the ambient context: there was no trace before
  std::uint8_t slot_ = detail::no_slot;
  std::uint32_t count_ = 0;  // attributes
  std::uint32_t size_ = 0;   // bytes of attributes, a multiple of 8
  std::uint32_t capacity_ = inline_bytes;
  std::uint32_t truncated_ = 0;  // attributes
  detail::AttributeLimits limits_;
  std::uint64_t tracer_id_ = 0;
  detail::ThreadRing* ring_ = nullptr;     // where its slot is; alive as long as the slot is taken
  detail::ThreadState* thread_ = nullptr;  // whose ambient context it is; nullptr: nobody's
  detail::ContextDataRef data_;            // of an explicit parent
  detail::OperationRef operation_;         // of an explicit parent
  std::byte* attributes_;                  // inline_ or the heap
  alignas(16) detail::SpanRecord record_;
  alignas(16) std::byte inline_[inline_bytes + 16];  // 16 more: zeros after the last attribute
};

}  // namespace weir::inline v0

#include "weir/trace/tracer.hpp"
