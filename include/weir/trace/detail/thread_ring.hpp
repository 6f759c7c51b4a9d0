#pragma once
// ThreadRing: the writing side of one thread's ring, and what else a thread needs to make a span: identifiers, the cache of
// name ids, the slots for open spans. The reading side is the sender's (src/trace/ring_set.hpp).
//
//   owner  ─ reserve(bytes) ─ copy ─ commit(bytes) ─▶ page.head ─▶ reader ─▶ tail ─▶ owner reserves again
//
// The owner remembers how far it may write without looking (`limit_`): the nearest of the reader's position, the end of the
// data, and the half-full mark. Only there it looks at the reader's position, pads the end, asks for a drain, or drops.
//
// A ring belongs to its thread and to its sender; the last of the two to let go returns it to where its memory came from. A
// sender gives a ring whose thread has let go to the next thread: positions and counts go on from where they were.

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "weir/core/clock.hpp"
#include "weir/core/ids.hpp"
#include "weir/core/name.hpp"
#include "weir/trace/detail/name_table.hpp"
#include "weir/trace/detail/ring_layout.hpp"
#include "weir/trace/sampler.hpp"

namespace weir::inline v0::detail {

struct AttributeLimits {
  std::uint32_t count, bytes;  // at most 255 and max_record_bytes

  /// After `taken` attributes, which end at `size`, those that end here at the latest are within the limits, whatever they are.
  std::uint32_t safe_end(std::uint32_t taken, std::uint32_t size) const noexcept {
    return size + std::min(8 * (count - std::min(count, taken)), 8 + bytes);
  }
  friend bool operator==(const AttributeLimits&, const AttributeLimits&) = default;
};

inline constexpr unsigned no_slot = open_slots;
inline constexpr std::uint32_t inline_attribute_bytes = 448;  // that a ScopedSpan has room for

/// Thread-safety: the owning thread, unless a function says otherwise.
class alignas(128) ThreadRing {
 public:
  using Release = void (*)(ThreadRing*) noexcept;
  using Wake = void (*)(std::uint64_t tracer_id) noexcept;

  /// `data`: `capacity` bytes, a power of two, 16-byte aligned. `release` gets the ring when nobody owns it any more.
  ThreadRing(RingPage* page, std::byte* data, std::uint64_t capacity, Release release) noexcept
      : data_(data), mask_(capacity - 1), page_(page), release_(release) {
    page->capacity = capacity;
    seed_ids(0);
  }

  /// Its ids follow from `seed`; 0: from the machine's randomness.
  void seed_ids(std::uint64_t seed) noexcept {
    fixed_ids_ = seed != 0;
    const auto draw = [&] { return fixed_ids_ ? split_mix(seed) : random_seed(); };
    do span_key_ = draw();
    while (span_key_ * inverse_step >> 63 == 0);
    trace_keys_[0] = draw();
    trace_keys_[1] = draw();
    span_count_ = 0;
  }
  bool has_fixed_ids() const noexcept { return fixed_ids_; }

  /// Makes the ring the calling thread's, for one tracer. `fork_generation`: of the process it is used in.
  void adopt(std::uint64_t tracer_id, const Ticker& ticker, const AttributeLimits& limits, std::uint64_t fork_generation,
             Wake wake_reader) noexcept {
    // A thread that has a span of the ring's last owner may just be reading these three. Then they stay as they are.
    if (tracer_id_ != tracer_id) tracer_id_ = tracer_id;
    if (generation_ != fork_generation) generation_ = fork_generation;
    if (limits_ != limits) limits_ = limits;
    quick_end_ = std::min(limits.safe_end(0, 0), inline_attribute_bytes);
    ticker_ = ticker;
    wake_ = wake_reader;
  }

  std::uint64_t tracer_id() const noexcept { return tracer_id_; }
  std::uint64_t generation() const noexcept { return generation_; }
  const AttributeLimits& limits() const noexcept { return limits_; }
  /// Attributes that end here at the latest are within them, and fit into a ScopedSpan.
  std::uint32_t quick_end() const noexcept { return quick_end_; }
  std::uint64_t ticks() const noexcept { return ticker_.now(); }

  /// Distinct in this ring: an odd multiple of a counter, xor a key of the ring's own, for which 0 would come after 2^63 of them.
  SpanId next_span_id() noexcept { return SpanId{++span_count_ * id_step ^ span_key_}; }
  /// What next_span_id() will give; then take_span_id() is enough.
  SpanId peek_span_id() const noexcept { return SpanId{(span_count_ + 1) * id_step ^ span_key_}; }
  void take_span_id() noexcept { ++span_count_; }
  /// Of the trace that begins with `root`. The high half is as distinct as that, the low half, by which samplers decide, random
  /// (as wyrand makes a number of its counter: both halves of a product). Nothing but the counter is kept between two: what
  /// each trace reads and writes would be a chain that the next one waits for.
  TraceId trace_id_of(SpanId root) const noexcept {
    __extension__ using Product = unsigned __int128;
    const std::uint64_t mixed = root.value ^ trace_keys_[1];
    const Product product = Product{mixed} * (mixed ^ 0xE7037ED1A0B428DBu);
    return {root.value ^ trace_keys_[0], static_cast<std::uint64_t>(product >> 64) ^ static_cast<std::uint64_t>(product)};
  }

  /// An entry of the cache is written once, its text last: a signal handler may come in between.
  /// The name's id if it is in the cache, at its place; else nullptr.
  [[gnu::always_inline]] const std::uint32_t* known_name(Name name) const noexcept {
    const CachedName& cached = names_[name.hash()];
    if (cached.text != name.view().data()) [[unlikely]]
      return nullptr;
    if (cached.word != static_cast<std::uint32_t>(name.word())) [[unlikely]]
      return nullptr;
    return &cached.id;
  }
  [[gnu::always_inline]] std::uint32_t name_id(Name name) noexcept {
    const std::uint32_t* const known = known_name(name);
    return known != nullptr ? *known : find_name(name);
  }

  /// Enters an open span into the table; no_slot when 64 are open already, or were when this was asked last.
  unsigned try_open_slot(const SpanRecord& record) noexcept {
    if (free_ == 0) [[unlikely]]
      return no_slot;
    const auto slot = static_cast<unsigned>(std::countr_zero(free_));
    free_ &= free_ - 1;
    OpenSpan& open = page_->open[slot];
    constexpr auto release = std::memory_order_release;  // a reader that sees a field of this span sees that the last one ended
    open.start.store(record.start, release);
    open.trace_high.store(record.trace_high, release);
    open.trace_low.store(record.trace_low, release);
    open.parent.store(record.parent, release);
    open.name_and_kind.store(record.name | static_cast<std::uint64_t>(static_cast<std::uint32_t>(record.kind)) << 32, release);
    open.span.store(record.span, release);  // the other fields are complete
    return slot;
  }
  /// By the owner: the slot is free again at once.
  void close_slot(unsigned slot) noexcept {
    abandon_slot(slot);
    free_ |= std::uint64_t{1} << slot;
  }
  /// By any thread: the owner finds out when it needs a slot. The ring must not be touched afterwards.
  void abandon_slot(unsigned slot) noexcept {
    page_->open[slot].span.store(0, std::memory_order_release);  // after the span's record was committed
  }

  /// The same, when others have abandoned slots, too.
  [[gnu::noinline, gnu::cold]] unsigned open_slot(const SpanRecord& record) noexcept {
    if (free_ == 0) reclaim_slots();
    return try_open_slot(record);
  }

  /// Whether `bytes` can be written at place() without looking at the reader's position.
  bool has_room(std::uint64_t bytes) const noexcept { return limit_ - position_ >= bytes; }
  std::byte* place() const noexcept { return data_ + (position_ & mask_); }
  /// Room for a record of `bytes` (a multiple of 16), or nullptr: dropped, and counted.
  std::byte* reserve(std::uint64_t bytes) noexcept {
    if (!has_room(bytes)) [[unlikely]] {
      if (!make_room(bytes)) return nullptr;
    }
    return place();
  }
  void commit(std::uint64_t bytes) noexcept {
    position_ += bytes;
    add(page_->written, 1);
    page_->head.store(position_, std::memory_order_release);  // the record is complete
  }
  void count_truncated(std::uint64_t attributes) noexcept { add(page_->truncated, attributes); }
  void count_not_sampled() noexcept { add(page_->not_sampled, 1); }
  /// In a signal handler, while its thread is in the middle of another span's begin or end.
  void count_reentrant() noexcept { page_->dropped_reentrant.fetch_add(1, std::memory_order_relaxed); }

  /// Any thread.
  RingPage& page() noexcept { return *page_; }
  const std::byte* data() const noexcept { return data_; }
  std::uint64_t capacity() const noexcept { return mask_ + 1; }
  bool has_open_spans() const noexcept {
    for (const OpenSpan& open : page_->open) {
      if (open.span.load(std::memory_order_acquire) != 0) return true;  // pairs with abandon_slot
    }
    return false;
  }
  /// Asked by one of the two owners: the other has let go, and all that it did is seen.
  bool orphaned() const noexcept { return owners_.load(std::memory_order_acquire) == 1; }
  /// By the sender, of a ring whose thread has let go: makes it ready for another.
  void reopen() noexcept {
    owners_.store(2, std::memory_order_relaxed);
    limit_ = position_;
    woken_at_ = UINT64_MAX;
    free_ = 0;
    reclaim_slots();
  }
  /// By each of the two owners, once.
  void let_go() noexcept {
    if (owners_.fetch_sub(1, std::memory_order_acq_rel) == 1) release_(this);  // the last one sees all that the other did
  }

  ThreadRing* next = nullptr;  ///< of the thread's rings
  /// Of its tracer, as its thread has seen it last; a thread that does nothing keeps an old one alive.
  Sampler sampler;
  std::uint64_t sampler_version = UINT64_MAX;

 private:
  struct CachedName {
    const char* text = nullptr;
    std::uint32_t word = UINT32_MAX, id = 0;  // no name has this word; one that is empty may have no text either
  };
  static constexpr std::size_t max_name_probes = 8;
  static constexpr std::uint64_t id_step = 0x9E3779B97F4A7C15, inverse_step = 0xF1DE83E19937733D;  // 2^64 / golden ratio; times it, 1
  static_assert(id_step * inverse_step == 1);

  static void add(std::atomic<std::uint64_t>& counter, std::uint64_t n) noexcept {  // one writer
    counter.store(counter.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }

  /// Near its place in the cache, or in the table; then it is put into the cache, if there is room.
  [[gnu::noinline]] std::uint32_t find_name(Name name) noexcept {
    if (!name.literal()) return name_table().intern(name.view());
    const char* const text = name.view().data();
    const auto word = static_cast<std::uint32_t>(name.word());
    for (std::size_t i = 0; i < max_name_probes; ++i) {
      CachedName& cached = names_[(name.hash() + i) % Name::hashes];
      if (cached.text == text && cached.word == word) return cached.id;
      if (cached.text != nullptr) continue;
      const std::uint32_t id = name_table().intern(name.view());
      if (id == NameTable::overflow || word != name.word() || filling_) return id;
      filling_ = true;
      std::atomic_signal_fence(std::memory_order_seq_cst);
      if (cached.text == nullptr) {
        cached.word = word;
        cached.id = id;
        std::atomic_signal_fence(std::memory_order_seq_cst);
        cached.text = text;
      }
      std::atomic_signal_fence(std::memory_order_seq_cst);
      filling_ = false;
      return id;
    }
    return name_table().intern(name.view());
  }

  void reclaim_slots() noexcept {
    for (unsigned slot = 0; slot < open_slots; ++slot) {
      if (page_->open[slot].span.load(std::memory_order_acquire) == 0) free_ |= std::uint64_t{1} << slot;
    }
  }

  [[gnu::noinline, gnu::cold]] bool make_room(std::uint64_t bytes) noexcept {
    const std::uint64_t capacity = mask_ + 1;
    if (bytes > capacity / 2 || bytes > max_record_bytes) {
      add(page_->dropped_too_large, 1);
      return false;
    }
    const std::uint64_t tail = acknowledged_tail(*page_);
    const std::uint64_t free_end = tail + capacity;
    std::uint64_t lap_end = (position_ | mask_) + 1;
    const std::uint64_t padding = lap_end - position_ < bytes ? lap_end - position_ : 0;
    if (position_ - tail > capacity || free_end - position_ < padding + bytes) {  // the first: a reader's position out of the world
      wake(tail);
      add(page_->dropped_full, 1);
      return false;
    }
    if (padding != 0) {
      const std::uint64_t header = record_header(padding, RecordType::pad, 0, 0);
      std::memcpy(data_ + (position_ & mask_), &header, sizeof header);
      position_ = lap_end;
      lap_end += capacity;
    }
    limit_ = free_end < lap_end ? free_end : lap_end;
    const std::uint64_t half = tail + capacity / 2;
    if (position_ + bytes > half) {
      wake(tail);
    } else if (half < limit_) {
      limit_ = half;
    }
    return true;
  }

  /// At most once for each position of the reader.
  void wake(std::uint64_t tail) noexcept {
    if (woken_at_ == tail || wake_ == nullptr) return;
    woken_at_ = tail;
    wake_(tracer_id_);
  }

  // What every span touches, in one or two cache lines.
  std::uint64_t position_ = 0;  // where the next record goes
  std::uint64_t limit_ = 0;     // records may end here without looking
  std::byte* data_;
  std::uint64_t mask_;
  RingPage* page_;
  std::uint64_t free_ = ~std::uint64_t{0};  // slots of open spans; may miss abandoned ones
  std::uint64_t span_count_ = 0, span_key_ = 0, trace_keys_[2] = {};
  Ticker ticker_;
  AttributeLimits limits_{};
  std::uint32_t quick_end_ = 0;
  bool fixed_ids_ = false;
  std::uint64_t tracer_id_ = 0, generation_ = 0;
  std::uint64_t woken_at_ = UINT64_MAX;
  Wake wake_ = nullptr;
  Release release_;
  std::atomic<int> owners_{2};  // the thread and the sender
  bool filling_ = false;        // names_
  CachedName names_[Name::hashes] = {};
};

}  // namespace weir::inline v0::detail
