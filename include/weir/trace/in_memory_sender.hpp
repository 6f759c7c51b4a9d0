#pragma once
// InMemorySender: keeps finished spans, for tests of instrumented code.
//
//   weir::InMemorySender sink;
//   weir::Tracer tracer{sink};
//   ...
//   CHECK(sink.spans().at(0).name == "HandleRequest");
//
// A handle: copies share what was kept. There is no thread: rings are emptied by spans(), flush() and stop(), and by a
// thread that finds its ring half full.

#include <cstddef>
#include <memory>
#include <vector>

#include "weir/trace/sender.hpp"
#include "weir/trace/span.hpp"

namespace weir::inline v0 {

struct InMemorySenderOptions {
  std::size_t ring_bytes = 1u << 20;  ///< per thread; rounded up to a power of two, from 4 KiB
  std::size_t max_rings = 1024;       ///< threads beyond drop their spans
  std::size_t max_spans = 1'000'000;  ///< kept; later ones stay in the rings, and are dropped when those are full
};

/// Thread-safety: shared: safe.
class InMemorySender final : public Sender {
 public:
  explicit InMemorySender(InMemorySenderOptions options = {});
  ~InMemorySender() override;
  InMemorySender(const InMemorySender&);
  InMemorySender& operator=(const InMemorySender&);

  /// Every span that has ended so far, without children, in the order of ends within each thread.
  std::vector<Span> spans() const;
  /// Those that have begun and not ended, with the unfinished_attribute and no other; their end is now. Not seen: spans of
  /// threads that have ended meanwhile, and beyond 64 of one thread.
  std::vector<Span> open_spans() const;
  /// Forgets the spans that have ended so far.
  void clear();

  void start(const SenderSetup& setup) noexcept override;
  detail::ThreadRing* open_ring() noexcept override;
  void wake() noexcept override;
  FlushResult flush(Deadline deadline) noexcept override;
  FlushResult stop(Deadline deadline) noexcept override;
  TracerStats stats() const noexcept override;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace weir::inline v0
