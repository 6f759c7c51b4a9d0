#pragma once
// The listeners of one node: a chain of lanes, each a contiguous run of entries for one event type. Append-only while
// anyone may read; a removed entry's call becomes a no-op, and a lane all of whose entries are removed is unlinked once
// nobody stands on the node.

#include <type_traits>
#include <utility>

#include "weir/operation/detail/slot.hpp"

namespace weir::inline v0::detail {

/// One listener. Closures of up to 24 bytes live inside; larger ones on the heap, with the pointer inside.
struct Entry {
  using Call = void (*)(Entry*, Operation*, void* event);
  static constexpr std::size_t closure_size = 24;

  std::atomic<Call> call{nullptr};
  alignas(8) unsigned char closure[closure_size];
};

inline void removed_listener(Entry*, Operation*, void*) {}  // compare with process_state.removed: libraries may have their own

/// What is rarely needed of a listener. (by, number) identifies it for ever.
struct Stamp {
  const Slot* by;
  std::uint64_t number;     // which registration of that thread
  void (*destroy)(Entry*);  // the closure; null: trivial
  bool removed = false;
  // Once it is removed inside a listener.
  Lane* lane = nullptr;
  Stamp* next = nullptr;          // in its remover's list (Slot::retired)
  const Slot* look_at = nullptr;  // the next thread that must have been outside the node since its `rounds` were so many
  std::int64_t rounds = 0;
};

struct Lane {
  static constexpr std::uint32_t first_capacity = 4, largest_capacity = 64;

  EventType* const type;
  const Operation* const node;
  NodeList* const home;  // whose lock guards what below is not atomic
  std::atomic<Lane*> next{nullptr};
  std::atomic<Entry*> end;  // of the entries in use: at least one once the lane is linked
  std::uint32_t capacity;
  std::uint32_t removed = 0;
  std::uint32_t pins = 0;            // removals at work on an entry: the lane must outlive them
  bool orphaned = false;             // its node let go of it; the last pin frees it
  std::atomic<bool> suspect{false};  // a listener of this lane has thrown

  Entry* entries() { return reinterpret_cast<Entry*>(this + 1); }
  Stamp* stamps() { return reinterpret_cast<Stamp*>(entries() + capacity); }
  Stamp& stamp_of(const Entry* entry) { return stamps()[entry - entries()]; }
  Entry* entry_of(const Stamp* stamp) { return entries() + (stamp - stamps()); }
  std::uint32_t count() { return static_cast<std::uint32_t>(end.load(std::memory_order_relaxed) - entries()); }
  bool holds(const Entry* entry) { return entry >= entries() && entry < end.load(std::memory_order_relaxed); }

  static Lane* make(EventType* type, const Operation& node, NodeList& home, std::uint32_t capacity) noexcept {
    void* memory = ::operator new(sizeof(Lane) + capacity * (sizeof(Entry) + sizeof(Stamp)), std::nothrow);
    return memory != nullptr ? new (memory) Lane(type, node, home, capacity) : nullptr;
  }
  void free(Slot* me) {
    this->~Lane();
    deallocate(me, this);
  }

  Lane(EventType* t, const Operation& n, NodeList& h, std::uint32_t c) : type(t), node(&n), home(&h), end(entries()), capacity(c) {}
};
static_assert(sizeof(Lane) % alignof(Entry) == 0);

void forget_suspects(Lane* lane);

/// A removal is done with a lane; the last one frees it if its node has let go of it.
[[gnu::noinline]] inline void unpin(Lane* lane, Slot* me) {
  bool last;
  {
    ListLock lock(*lane->home, me);
    last = --lane->pins == 0 && lane->orphaned;
  }
  if (!last) return;
  if (lane->suspect.load(std::memory_order_relaxed)) forget_suspects(lane);
  lane->free(me);
}

/// Destroys the closures of a detached chain nobody reads any more, then its lanes.
[[gnu::noinline]] inline void destroy_lanes(Lane* lane, Slot* me) {
  while (lane != nullptr) {
    Lane* next = lane->next.load(std::memory_order_relaxed);
    for (Entry *entry = lane->entries(), *end = lane->end.load(std::memory_order_acquire); entry != end; ++entry)
      if (const Stamp& stamp = lane->stamp_of(entry); !stamp.removed && stamp.destroy != nullptr) stamp.destroy(entry);
    if (lane->orphaned) {
      unpin(lane, me);
    } else {
      if (lane->suspect.load(std::memory_order_relaxed)) forget_suspects(lane);
      lane->free(me);
    }
    lane = next;
  }
}

/// A closure of type F in an entry.
template <class F>
struct Closure {
  static constexpr bool inside = sizeof(F) <= Entry::closure_size && alignof(F) <= 8 && std::is_nothrow_move_constructible_v<F>;

  static F& of(Entry* entry) noexcept {
    if constexpr (inside)
      return *std::launder(reinterpret_cast<F*>(entry->closure));
    else
      return **std::launder(reinterpret_cast<F**>(entry->closure));
  }
  static void destroy(Entry* entry) noexcept {
    F& f = of(entry);
    f.~F();
    if constexpr (!inside) deallocate_for<F>(this_slot(), &f);
  }
};

/// A closure on its way into an entry.
template <class F, bool Inside = Closure<F>::inside>
class Made {
 public:
  template <class G>
  explicit Made(G&& g) : f_(std::forward<G>(g)) {}
  static constexpr bool valid() noexcept { return true; }
  void move_to(Entry* entry) noexcept { new (entry->closure) F(std::move(f_)); }

 private:
  F f_;
};
template <class F>
class Made<F, false> {
 public:
  template <class G>
  explicit Made(G&& g) {
    struct Memory {
      void* address = allocate_for<F>(this_slot());
      ~Memory() {
        if (address != nullptr) deallocate_for<F>(this_slot(), address);
      }
    } memory;
    if (memory.address == nullptr) return;
    f_ = new (memory.address) F(std::forward<G>(g));  // may throw
    memory.address = nullptr;
  }
  ~Made() {
    if (f_ == nullptr) return;
    f_->~F();
    deallocate_for<F>(this_slot(), f_);
  }
  Made(const Made&) = delete;
  Made& operator=(const Made&) = delete;
  bool valid() const noexcept { return f_ != nullptr; }
  void move_to(Entry* entry) noexcept { new (entry->closure) F*(std::exchange(f_, nullptr)); }

 private:
  F* f_ = nullptr;
};

}  // namespace weir::inline v0::detail
