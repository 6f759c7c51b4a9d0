#pragma once
// NativeLink: what a service says to a collector that reads its rings itself: where they are, what the clock is, that there is
// something to read. Lines and descriptors wait here until the socket takes them (docs/wire_format.md, "Native").

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "trace/ring_set.hpp"
#include "weir/core/clock.hpp"

namespace weir::inline v0::detail {

/// ["clock",…], with its newline.
std::string clock_line(const TickScale& scale);

/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class NativeLink {
 public:
  /// On a new connection. `names`: the descriptor of shared_names().
  void begin(const TickCalibration& calibration, int names);
  void end() { lines_.clear(); }

  /// One look at the rings: announces new ones, tells the clock, and asks for what is not being read. `urgent`: in any case.
  void look(RingSet& rings, const TickCalibration& calibration, bool urgent);
  /// Adds a line (with its newline).
  void add(std::string line) { lines_.push_back({std::move(line), -1, 0}); }
  /// Sends what waits. 0, -EAGAIN, or what went wrong: -errno.
  int send(int socket) noexcept;
  bool empty() const noexcept { return lines_.empty(); }
  /// The collector knows of so many rings.
  std::size_t told() const noexcept { return told_; }

 private:
  struct Line {
    std::string text;
    int passed;             // -1: none
    std::size_t rings = 0;  // that it tells of
  };
  std::vector<Line> lines_;               // few; not a deque, which takes memory while it is empty, in the child of a fork, too
  std::size_t announced_ = 0, told_ = 0;  // rings: in a line, in a line that was sent
  bool told_memory_ = false;
  std::chrono::steady_clock::time_point told_clock_{};
};

}  // namespace weir::inline v0::detail
