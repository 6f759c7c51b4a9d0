#pragma once
// TreeAssembler: turns the spans of a view socket, which come one by one and without children, into trees again. For
// viewers, in any process; the collector assembles by itself (collect/trace_store.hpp).
//
//   weir::TreeAssembler trees([](const weir::Span& tree) { std::cout << weir::format_tree(tree); });
//   client.run(stop, [&](std::string_view, const weir::Span& span) { trees.add(span); });
//
//   span without parent ─▶ its tree comes out: it, and everything that waits for it, children by start time
//   parent has come out ─▶ late: it comes out at once, with what waits for it, as a tree of its own (parent_id set)
//   otherwise           ─▶ waits for its parent; given up, as a tree of its own (parent_id set), when nothing came for its
//                          trace for `max_age`, or when a bound is reached and its trace is the one quiet for longest

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "weir/trace/span.hpp"

namespace weir::inline v0 {

struct TreeAssemblerOptions {
  std::size_t max_spans = 200'000;            ///< spans that wait, and ids of spans that came out and may have late children
  std::size_t max_traces = 20'000;            ///< traces with such spans or ids
  std::chrono::milliseconds max_age{60'000};  ///< larger: spans wait longer for their parents, late ones are known as such longer
};

struct TreeAssemblerStats {
  std::uint64_t spans = 0;       ///< taken in
  std::uint64_t trees = 0;       ///< came out, late and given up ones included
  std::uint64_t late = 0;        ///< trees whose parent had come out before
  std::uint64_t given_up = 0;    ///< trees whose parent never came, cycles included
  std::uint64_t duplicates = 0;  ///< spans whose id was there already; the first one counts
  std::size_t waiting = 0;       ///< spans, now
};

/// Thread-safety: Distinct objects: safe. Shared: unsafe. The callback runs inside add(), advance() and finish() and must not
/// call back into the assembler; what it throws comes out of them. Trees can be deep (as deep as the service nested): walk them without
/// recursion.
class TreeAssembler {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit TreeAssembler(std::function<void(const Span& tree)> on_tree, TreeAssemblerOptions options = {});
  ~TreeAssembler();
  TreeAssembler(TreeAssembler&&) noexcept;
  TreeAssembler& operator=(TreeAssembler&&) noexcept;

  /// Takes one span in; children that it already has are kept.
  void add(Span span, TimePoint now = std::chrono::steady_clock::now());
  /// Gives up what is too old. add() does so, too; call it when nothing comes.
  void advance(TimePoint now);
  /// Gives up everything that waits (the stream has ended).
  void finish();

  TreeAssemblerStats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir::inline v0
