#pragma once
// ViewerQueues: what waits for whom. One log of lines for all viewers of a ViewServer, a place in it for each, and what one of them
// alone gets: the past, the counters, how many lines it has missed. It knows no socket: the server fills a batch, sends it, and tells
// how much of it was taken.
//
//   a viewer            [ half a line | how many were dropped | the past | the log, from `next` on ]
//   one that asked for
//   the past alone      [ half a line | how many were dropped | the past ], and then it is disconnected
//   the counters        [ half a line | the answer ], and then it is disconnected

#include <sys/uio.h>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "view/line_log.hpp"
#include "weir/view/view_server.hpp"

namespace weir::inline v0::detail {

/// What waits for one viewer.
struct Viewer {
  std::uint64_t next = 0;  // the first line of the log that is neither sent nor dropped
  std::shared_ptr<LineBlock> past;
  std::size_t past_next = 0;
  std::uint64_t untold = 0;            // dropped lines that it was not told of yet
  std::uint64_t not_logged = 0;        // of ViewerQueues, how many `untold` has
  std::string_view half;               // the rest of a line of which some is sent
  std::shared_ptr<LineBlock> half_of;  // where that is; none: in `notice`
  std::array<char, 48> notice{};
  std::string answer;  // empty: it has not asked for the counters
  bool answered = false;
  bool once = false;     // it gets what it has asked for, and nothing of the log
  bool sending = false;  // without the lock: nothing of the above is dropped meanwhile
};

/// What goes to a viewer with one system call. It keeps the blocks that it names.
struct WriteBatch {
  static constexpr std::size_t max_bytes = 128u << 10;  // about; larger writes get more into the same socket buffer
  static constexpr std::size_t max_pieces = 8;

  enum class What { half, notice, past, log, answer };
  struct Piece {
    What what = What::half;
    std::shared_ptr<LineBlock> block;
    std::size_t line = 0, end_line = 0;  // of the block
  };
  void add(What what, std::string_view bytes);
  /// Lines from `line` on, as many as there is room for. Returns the line behind them.
  std::size_t add(What what, const std::shared_ptr<LineBlock>& block, std::size_t line);
  bool full() const { return count == max_pieces || size >= max_bytes; }
  void clear();

  std::array<iovec, max_pieces> parts;
  std::array<Piece, max_pieces> pieces;
  std::size_t count = 0, size = 0;
  std::array<char, 48> notice;
  std::uint64_t told = 0;  // dropped lines that the notice tells of
};

/// Thread-safety: under the owner's lock, but for a batch and what it names, while its viewer is `sending`.
class ViewerQueues {
 public:
  /// `max_bytes`: for each viewer.
  explicit ViewerQueues(std::size_t max_bytes) : max_bytes_(max_bytes) {}

  /// Gets what comes from now on.
  void join(Viewer& viewer);
  void leave(const Viewer& viewer);
  /// `line`: empty for one that was too long.
  void add(std::string_view line);
  /// The past, before what waits for it already; `lost` lines of it are missing. `once`: and nothing behind it.
  void add_past(Viewer& viewer, std::shared_ptr<LineBlock> past, std::uint64_t lost, bool once);
  /// The counters, instead of all that waits for it.
  void answer(Viewer& viewer, std::string text);

  /// Lines that wait for it.
  std::uint64_t waiting(const Viewer& viewer) const;
  /// Nothing does, and it knows what it has missed.
  bool idle(const Viewer& viewer) const {
    const std::uint64_t untold = viewer.untold + (viewer.once ? 0 : not_logged_ - viewer.not_logged);
    return untold == 0 && waiting(viewer) == 0;
  }
  /// Lets go of what is beyond the bound.
  void drop_oldest(Viewer& viewer);
  void fill(Viewer& viewer, WriteBatch& batch);
  /// The first `sent` bytes of the batch have gone.
  void take_sent(Viewer& viewer, const WriteBatch& batch, std::size_t sent);
  /// The first line of the log that it still needs.
  std::uint64_t needs(const Viewer& viewer) const { return viewer.once ? log_.end_line() : viewer.next; }
  /// Nobody needs what is before `line`.
  void trim(std::uint64_t line) { log_.trim_to_line(line); }
  std::uint64_t end_line() const { return log_.end_line(); }

  ViewServerStats counters;

 private:
  void stop_following(Viewer& viewer);

  const std::size_t max_bytes_;
  LineLog log_;
  std::size_t following_ = 0;     // viewers that get the log
  std::uint64_t not_logged_ = 0;  // lines for which there was no memory, or that were too long
};

}  // namespace weir::inline v0::detail
