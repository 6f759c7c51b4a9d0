#pragma once
// What the span store knows of a trace, and of spans that are not whole. Each lies in a chunk of the store's arena.
//
//   KeptTrace ─ records of complete spans (packed_record.hpp), a chain of chunks
//       └ Extra, if it needs one ─ Half: a span with one half, or given up without its end
//                                └ index of the records, once they are many

#include <chrono>
#include <cstdint>
#include <type_traits>

#include "collect/chunk_arena.hpp"
#include "weir/core/clock.hpp"

namespace weir::inline v0::detail {

struct Half;

enum class TraceIdForm : std::uint8_t {
  hex32,  // 128 bits
  hex16,  // the lower 64
  text    // in Extra; high and low are hashes of it
};

/// What few traces have.
struct Extra {
  std::uint32_t unfinished = 0, late = 0, open_roots = 0;  // spans given up without their end; see Trace; roots without an end
  std::uint32_t halves = 0;
  Half *first = nullptr, *last = nullptr;  // by arrival
  std::uint64_t* index = nullptr;          // of records, by hash: 16 bits of it, chunk, offset; 0: free
  std::uint32_t index_mask = 0;
  std::uint32_t id_bytes = 0;  // of a text id, which begins behind this object
};

/// 128 bytes.
struct KeptTrace {
  using TimePoint = std::chrono::steady_clock::time_point;
  using Chunk = ChunkArena::Chunk;

  std::uint64_t id_high = 0, id_low = 0;
  std::uint32_t service = 0;
  std::uint32_t stored = 0;  // complete spans
  std::uint32_t chunks = 1;  // all that are this trace's
  TraceIdForm form = TraceIdForm::hex32;
  bool root_ended : 1, completed : 1, settling : 1, changed : 1;
  bool dropped : 1;  // completed, and not kept: it has no records and gets none
  bool tidy : 1;     // no span came before one that is below it, none but the recent ones waits for its parent: see RecentTrace
  std::uint8_t tail_used = 0;
  TimePoint first{}, last{};                                      // of events; completed: last is when that was, first of its change
  Timestamp latest{}, base{};                                     // of all times in its events; what records count from
  KeptTrace *previous = nullptr, *next = nullptr;                 // in open_, completed_ or dropped_
  KeptTrace *settles_before = nullptr, *settles_after = nullptr;  // in settling_ or changed_
  Chunk *head = nullptr, *tail = nullptr;                         // of the records
  std::uint64_t seen = 0;                                         // a bit for the hash of each complete span
  Extra* extra = nullptr;

  KeptTrace() noexcept : root_ended(false), completed(false), settling(false), changed(false), dropped(false), tidy(true) {}
};

/// A span of which one half has come, or that was given up without its end. What is known is a record behind this object.
struct Half {
  enum class State : std::uint8_t {
    started,    // pending: waits for its end
    ended,      // pending: waits for its start
    unfinished  // given up without its end, which may still come
  };

  KeptTrace* trace = nullptr;
  Half *previous = nullptr, *next = nullptr;             // in its trace
  Half *waits_before = nullptr, *waits_after = nullptr;  // in pending_
  std::uint64_t hash = 0;
  KeptTrace::TimePoint arrived{};
  Timestamp given_up{};  // its end time, when it was given up
  std::uint32_t chunks = 0;
  State state = State::started;
  bool root = false;  // a start without a parent

  bool pending() const noexcept { return state != State::unfinished; }
};

static_assert(sizeof(KeptTrace) == ChunkArena::chunk_bytes && sizeof(Extra) < 64 && sizeof(Half) <= 80);
static_assert(std::is_trivially_destructible_v<KeptTrace> && std::is_trivially_destructible_v<Extra> &&
              std::is_trivially_destructible_v<Half>);

/// A list through its elements.
template <class T, T* T::*Before, T* T::*After>
struct Chain {
  T *front = nullptr, *back = nullptr;
  std::size_t size = 0;

  void push_back(T& element) noexcept {
    element.*Before = back;
    element.*After = nullptr;
    (back != nullptr ? back->*After : front) = &element;
    back = &element;
    ++size;
  }
  void erase(T& element) noexcept {
    (element.*Before != nullptr ? element.*Before->*After : front) = element.*After;
    (element.*After != nullptr ? element.*After->*Before : back) = element.*Before;
    --size;
  }
};

}  // namespace weir::inline v0::detail
