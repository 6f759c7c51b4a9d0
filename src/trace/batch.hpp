#pragma once
// Batch: the lines, or raw records, that go out with the next sends, and which ring space is given back as the kernel accepts them.
//
//   fill() ─ records to lines ─▶ unsent() ─ send ─▶ accept(bytes) ─▶ tails move; empty again: fill()
//                                              └─ connection lost ─▶ rewind(): rings are read again from their tails
//
// Only whole lines are ever added, and a span's two lines count as one: they are repeated unless both were accepted.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "text/text_buffer.hpp"
#include "trace/ring_set.hpp"
#include "trace/span_lines.hpp"
#include "weir/core/clock.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class Batch {
 public:
  static constexpr std::size_t target_bytes = 64 * 1024;
  static constexpr std::size_t max_line_bytes = 1u << 20;  // what a collector reads
  static constexpr std::size_t max_sent_ahead = 65'536;    // spans remembered

  struct Accepted {
    std::uint64_t spans = 0;
    std::uint64_t too_large = 0;  // spans left out: a line over max_line_bytes
    bool reported = false;        // the line of add_report() went out with it
  };

  bool empty() const noexcept { return sent_ == text_.size() && acknowledged_ == spans_.size(); }
  std::string_view unsent() const noexcept { return text_.view().substr(sent_); }

  /// Adds a line (without its newline) that no span stands behind.
  void add_line(std::string_view line);
  /// Adds a line that tells of dropped spans; accept() says when it is out.
  void add_report(std::string_view line);
  /// Adds the start lines of spans that have been open since before `before`, those it added earlier excepted.
  void add_open_spans(const std::vector<ReaderRing*>& rings, const TickCalibration& calibration, Timestamp before);
  /// Adds spans until there are target_bytes. Requires: empty(), or only lines were added since.
  void fill(const std::vector<ReaderRing*>& rings, const TickCalibration& calibration);
  /// The same, of records as they are: ["records",bytes] and the bytes; before them the names from id `next_name` on that
  /// they may use, ["names",bytes] and the bytes.
  void fill_records(const std::vector<ReaderRing*>& rings, std::uint32_t& next_name);

  /// The kernel took the first `bytes` of unsent().
  Accepted accept(std::size_t bytes) noexcept;
  /// The connection is gone: forgets all lines, and whose start was sent ahead.
  void rewind(const std::vector<ReaderRing*>& rings) noexcept;

 private:
  struct SpanEnd {
    std::size_t end;  // of its lines in text_
    ReaderRing* ring;
    std::uint64_t position;  // behind its record
    bool too_large;
    std::uint64_t count = 1;
  };

  void add_raw(std::string_view name, std::string_view bytes);
  void add_names(std::uint32_t& next);

  TextBuffer text_;
  std::string raw_;
  SpanLines lines_;
  std::size_t sent_ = 0;
  std::vector<SpanEnd> spans_;
  std::size_t acknowledged_ = 0;  // of spans_
  std::size_t report_end_ = 0;    // of the line of add_report(); 0: none
  std::size_t first_ring_ = 0;    // fill() begins with another ring each time
  std::unordered_set<std::uint64_t> sent_ahead_;
};

}  // namespace weir::inline v0::detail
