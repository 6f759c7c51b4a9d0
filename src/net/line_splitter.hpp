#pragma once
// LineSplitter: lines out of the pieces of a stream, without copying those that come in one piece. Keeps only the beginning
// of a line whose end has not come, so a connection that sends nothing costs no buffer. Thread-safety: shared: unsafe.

#include <cstddef>
#include <string>
#include <string_view>

#include "weir/core/version.hpp"

namespace weir::inline v0::net {

/// What several splitters may keep together, in bytes.
struct BufferBudget {
  std::size_t limit = 0;
  std::size_t used = 0;
};

class LineSplitter {
 public:
  enum class Got {
    line,      // a whole line, without its newline
    nothing,   // the data is used up (or was part of a line that is skipped)
    too_long,  // a line over max_line: what is left of it will be skipped
    no_room    // the budget is used up: what is left of this line will be skipped
  };

  LineSplitter(std::size_t max_line, BufferBudget& budget) : max_line_(max_line), budget_(budget) {}
  ~LineSplitter() { release(); }
  LineSplitter(const LineSplitter&) = delete;
  LineSplitter& operator=(const LineSplitter&) = delete;

  /// Nobody looks at the last line any more: what it took may go. next() does so, too; for who takes lines elsewhere meanwhile.
  void let_go() {
    if (handed_out_) forget();
  }
  /// Takes from the front of `data`; call until it is empty. `line` is valid until the next call and while `data` is.
  Got next(std::string_view& data, std::string_view& line);
  /// The stream has ended: the last line, if it had no newline.
  Got finish(std::string_view& line);
  /// True while the end of a line has not come.
  bool incomplete() const { return skipping_ || (!partial_.empty() && !handed_out_); }

 private:
  void forget();
  bool keep(std::string_view piece);
  std::size_t counted() const;
  void release();

  std::size_t max_line_;
  BufferBudget& budget_;
  std::string partial_;
  bool handed_out_ = false;  // partial_ is the line that the last call returned
  bool skipping_ = false;    // up to the next newline
};

}  // namespace weir::inline v0::net
