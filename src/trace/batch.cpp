#include "trace/batch.hpp"

#include <cstring>

#include "text/json.hpp"
#include "trace/record.hpp"

namespace weir::inline v0::detail {

void Batch::add_line(std::string_view line) {
  text_.append(line);
  text_.append("\n");
}

void Batch::add_report(std::string_view line) {
  add_line(line);
  report_end_ = text_.size();
}

void Batch::add_open_spans(const std::vector<ReaderRing*>& rings, const TickCalibration& calibration, Timestamp before) {
  const TickScale scale = calibration.scale();
  for (const ReaderRing* ring : rings) {
    for (const OpenSpan& open : ring->ring->page().open) {
      SpanRecord span;
      if (!copy_open_span(open, span) || scale.to_time(span.start) > before) continue;
      if (sent_ahead_.size() >= max_sent_ahead) sent_ahead_.clear();  // repeated starts are ignored by the collector
      if (sent_ahead_.insert(span.span).second) lines_.append_start(text_, span, scale);
    }
  }
}

void Batch::fill(const std::vector<ReaderRing*>& rings, const TickCalibration& calibration) {
  const TickScale scale = calibration.scale();
  for (std::size_t i = 0; i < rings.size() && text_.size() < target_bytes; ++i) {
    ReaderRing* ring = rings[(first_ring_ + i) % rings.size()];
    ring->read_records([&](const std::byte* record, std::uint64_t next) {
      if (text_.size() >= target_bytes) return false;
      const RecordView view(record);
      const std::size_t begin = text_.size();
      spans_.push_back({begin, ring, next, false});
      const bool start_is_out = !sent_ahead_.empty() && sent_ahead_.erase(view.fields().span) != 0;
      if (lines_.append(text_, view, scale, start_is_out) > max_line_bytes) {
        text_.truncate(begin);
        spans_.back().too_large = true;
      }
      spans_.back().end = text_.size();
      return true;
    });
  }
  ++first_ring_;
}

void Batch::add_raw(std::string_view name, std::string_view bytes) {
  add_line("[\"" + std::string(name) + "\"," + std::to_string(bytes.size()) + "]");
  text_.append(bytes);
}

void Batch::fill_records(const std::vector<ReaderRing*>& rings, std::uint32_t& next_name) {
  for (std::size_t i = 0; i < rings.size() && text_.size() < target_bytes; ++i) {
    ReaderRing* ring = rings[(first_ring_ + i) % rings.size()];
    raw_.clear();
    std::uint64_t position = 0, count = 0;
    ring->read_records([&](const std::byte* record, std::uint64_t next) {
      if (text_.size() + raw_.size() >= target_bytes) return false;
      std::uint64_t header = 0;
      std::memcpy(&header, record, sizeof header);
      raw_.append(reinterpret_cast<const char*>(record), record_bytes(header));
      position = next;
      ++count;
      return true;
    });
    if (count == 0) continue;
    add_names(next_name);
    add_raw("records", raw_);
    spans_.push_back({text_.size(), ring, position, false, count});
  }
  ++first_ring_;
}

void Batch::add_names(std::uint32_t& next) {
  const std::uint32_t count = name_table().count();
  std::string entries;
  while (next < count) {
    entries.clear();
    for (; next < count && entries.size() < target_bytes; ++next) {
      const std::string_view text = name_table().text(next);
      const std::uint64_t word = name_word(next, text.size());
      entries.append(reinterpret_cast<const char*>(&word), sizeof word);
      entries += text;
      entries.append(padded(text.size()) - text.size(), '\0');
    }
    add_raw("names", entries);
  }
}

Batch::Accepted Batch::accept(std::size_t bytes) noexcept {
  Accepted accepted;
  sent_ += bytes;
  while (acknowledged_ < spans_.size() && spans_[acknowledged_].end <= sent_) {
    // One ring after the other, as fill() took them: one store of the tail for each.
    ReaderRing* ring = spans_[acknowledged_].ring;
    std::uint64_t position = 0, count = 0;
    for (; acknowledged_ < spans_.size() && spans_[acknowledged_].ring == ring && spans_[acknowledged_].end <= sent_; ++acknowledged_) {
      position = spans_[acknowledged_].position;
      count += spans_[acknowledged_].count;
      (spans_[acknowledged_].too_large ? accepted.too_large : accepted.spans) += spans_[acknowledged_].count;
    }
    ring->take(position, count);
  }
  if (report_end_ != 0 && report_end_ <= sent_) {
    accepted.reported = true;
    report_end_ = 0;
  }
  if (empty()) {
    text_.clear();
    spans_.clear();
    sent_ = acknowledged_ = 0;
    constexpr std::size_t keep = 4 * target_bytes;
    if (text_.capacity() > keep) text_.release();  // one huge span does not cost memory for ever
  }
  return accepted;
}

void Batch::rewind(const std::vector<ReaderRing*>& rings) noexcept {
  text_.clear();
  spans_.clear();
  sent_ = acknowledged_ = report_end_ = 0;
  sent_ahead_.clear();
  for (ReaderRing* ring : rings) ring->read = ring->tail();
}

}  // namespace weir::inline v0::detail
