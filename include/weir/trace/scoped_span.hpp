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
  /// `attributes` are as if set() at once; samplers see them, too.
  [[gnu::always_inline]] ScopedSpan(Tracer& tracer, Name name, SpanKind kind = SpanKind::function) noexcept;
  ScopedSpan(Tracer& tracer, Name name, SpanKind kind, Attributes attributes) noexcept;
  /// A child of `parent`, or a root if that belongs to no trace. The ambient context stays as it is.
  ScopedSpan(Tracer& tracer, const Context& parent, Name name, SpanKind kind = SpanKind::function) noexcept;
  ScopedSpan(Tracer& tracer, const Context& parent, Name name, SpanKind kind, Attributes attributes) noexcept;
  [[gnu::always_inline]] ~ScopedSpan() {
    if (state_ > State::done) destroy();
  }
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
  void end() noexcept {
    if (state_ > State::with_parent) finish();
  }

  /// For its children, here, on other threads, in other processes. Of a span that is not recorded: its parent's; of the first
  /// span of a trace that is not sampled: of that trace.
  /// What is not of the span (request id, deadline, baggage, operation) is its parent's; of one in the ambient context, what
  /// is ambient when this is called.
  Context context() const noexcept;
  /// False: attributes need not be computed.
  bool recording() const noexcept { return state_ > State::root_not_sampled; }

 private:
  enum class State : std::uint8_t {
    off,               // in the ambient context, of a tracer that is off
    done,              // ended, or never recorded
    with_parent,       // the same, but what it holds of its explicit parent has to be released
    not_sampled,       // the first of a trace that is not sampled, in the ambient context
    root_not_sampled,  // the same, and nothing was ambient before: it restores what every thread begins with
    plain,             // has a slot, its attributes are in inline_, none of them was cut or left out
    special,           // anything else: ends on the slow path
  };
  struct Parent {
    detail::ContextDataRef data;
    detail::OperationRef operation;
  };
  static constexpr std::uint32_t inline_bytes = detail::inline_attribute_bytes;
  static constexpr std::size_t max_attribute_bytes = detail::max_record_bytes - sizeof(detail::SpanRecord) - 16;

  void start(Tracer& tracer, Name name, SpanKind kind) noexcept;
  bool begin_child(std::uint64_t tracer_id, Name name, SpanKind kind) noexcept;
  void start_child(Tracer& tracer, Name name, SpanKind kind) noexcept;
  void start_root(Tracer& tracer, Name name, SpanKind kind) noexcept;
  void start_sampled_root(Tracer& tracer, Name name, SpanKind kind) noexcept;
  bool begin_not_sampled(std::uint64_t tracer_id, std::uint64_t word) noexcept;
  bool begin_sampled_root(std::uint64_t tracer_id, std::uint64_t word, Name name, SpanKind kind) noexcept;
  void start_slowly(Tracer& tracer, Name name, SpanKind kind, const Attributes* attributes) noexcept;
  void start_under(const Context& parent, Tracer& tracer, Name name, SpanKind kind, const Attributes* attributes) noexcept;
  void begin(detail::ThreadRing& ring, TraceId trace, SpanId parent, std::uint32_t name, SpanKind kind, SpanId span) noexcept;
  void begin_without_slot(std::uint64_t tracer_id) noexcept;
  void decline(const detail::Position& parent) noexcept;
  void refuse(const detail::SpanSection& section, const detail::Position& parent) noexcept;
  void become_special() noexcept;
  void set_all(const Attributes& attributes) noexcept;
  void put_text(Name key, std::string_view text) noexcept;
  void put_word(Name key, AttributeValue::Type type, std::uint64_t word) noexcept;
  std::byte* take_room(Name key, AttributeValue::Type type, std::size_t size) noexcept;
  std::byte* append(std::uint32_t key, AttributeValue::Type type, std::size_t size, std::size_t end) noexcept;
  /// size_, once a value of `size` bytes has been appended.
  std::size_t size_with(std::size_t size) const noexcept { return detail::padded(size_ + 8 + size); }
  void put_text_slowly(Name key, std::string_view text) noexcept;
  void put_word_slowly(Name key, AttributeValue::Type type, std::uint64_t word) noexcept;
  std::byte* take_room_slowly(Name key, AttributeValue::Type type, std::size_t size) noexcept;
  bool make_room(std::uint32_t key, std::size_t size) noexcept;
  bool grow(std::size_t needed) noexcept;
  void merge_equal_keys() noexcept;
  std::size_t find(std::uint32_t key, std::size_t from) noexcept;
  std::uint64_t word_at(std::size_t at) noexcept;
  std::uint32_t key_at(std::size_t at) noexcept { return detail::attribute_key(word_at(at)); }
  std::size_t bytes_at(std::size_t at) noexcept { return 8 + detail::padded(detail::attribute_bytes(word_at(at))); }
  bool quick() const noexcept;
  bool end_quickly(State next) noexcept;
  void write(detail::ThreadRing& ring, const std::byte* attributes) noexcept;
  std::uint64_t record_bytes() const noexcept {
    return (sizeof record_ + size_ + detail::record_alignment - 1) & ~(detail::record_alignment - 1);
  }
  void finish() noexcept;
  void finish_slowly() noexcept;
  void destroy() noexcept;
  void destroy_not_sampled() noexcept;
  void destroy_recorded() noexcept;
  void destroy_slowly() noexcept;
  void restore_context(detail::ThreadState& thread) noexcept;
  void restore_context_slowly() noexcept;

  State ended() const noexcept { return thread_ != nullptr ? State::done : State::with_parent; }
  std::uint32_t capacity() const noexcept { return begin_ == inline_ ? inline_bytes : heap_bytes_; }
  const detail::AttributeLimits& limits() const noexcept { return state_ == State::special ? limits_ : ring_->limits(); }

  // A constructor writes what its span needs, and no more.
  State state_ = State::off;
  std::uint8_t flags_;  // of its context
  std::uint8_t slot_;
  bool first_;                      // of its trace here: it changed the ambient context's flags
  bool root_;                       // and its trace; only if first_
  std::uint8_t previous_flags_;     // only if first_
  std::uint32_t size_;              // of its attributes: bytes, a multiple of 8
  std::byte* begin_;                // of its attributes: inline_, or of a special one on the heap
  std::uint32_t count_;             // of its attributes. Not beside size_: GCC would add to both at once, which takes longer
  std::uint32_t quick_end_;         // attributes that end here at the latest fit, and are within the tracer's limits
  detail::AttributeLimits limits_;  // of a special one, whose ring may be gone
  std::uint32_t truncated_;         // of a special one: attributes, cut or left out
  std::uint32_t heap_bytes_;        // if that is where they are
  detail::ThreadRing* ring_;        // where its slot is; alive as long as the slot is taken
  std::uint64_t tracer_id_;         // without a slot
  std::uint64_t generation_;        // without a slot: of the process it began in
  detail::ThreadState* thread_;     // whose ambient context it is; nullptr: nobody's
  union {
    Parent parent_;  // of one with an explicit parent
  };
  alignas(16) detail::SpanRecord record_;
  alignas(16) std::byte inline_[inline_bytes + 16];  // 16 more: zeros after the last attribute
};

}  // namespace weir::inline v0

#include "weir/trace/tracer.hpp"
