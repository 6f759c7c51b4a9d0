#pragma once
// EventDecoder: the event of a JSON line, for the collector, which has one for all lines it gets. What it answers is what
// decode_event() answers, to the byte; it only gets there sooner, by the first of three paths that takes the line:
//
//   plain     the fields in the order and form in which the original and our tracers write them, texts without escapes
//   simdjson  any other line that is surely right (simd_reader.hpp)
//   whole     decode_event(): all that is left, and every error
//
// The first two allocate nothing once they have seen lines of the size.

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "trace/event_view.hpp"
#include "trace/simd_reader.hpp"
#include "trace/time_cache.hpp"

namespace weir::inline v0::detail {

class PlainReader;

/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class EventDecoder {
 public:
  /// The event, good until the next call and while `line` is. Errors: those of decode_event().
  Result<const EventView*> decode(std::string_view line);
  /// The event of the next line of a stream, if that is in the plain form, and whole, of at most `max_line` bytes; it is then taken
  /// from the front of `data`. Else nullptr, and nothing has happened: the line is for decode(), which does not try this way again.
  const EventView* decode_next(std::string_view& data, std::size_t max_line);
  /// The end of the span whose start was decoded last, if both are in the plain form, and it is the whole next line of the stream, of at
  /// most `max_line` bytes; it is then taken from the front of `data`, and the start stays good. Else nullptr, and nothing has happened.
  const EventView* decode_end(std::string_view& data, std::size_t max_line);
  /// Whether the last line only parsed after its invalid UTF-8 was repaired.
  bool repaired() const noexcept { return repaired_; }

  // One path alone. nullptr: it leaves the line to the next one.
  const EventView* decode_plain(std::string_view line);
  const EventView* decode_simdjson(std::string_view line);
  Result<const EventView*> decode_whole(std::string_view line);

 private:
  using Attributes = std::vector<AttributeView>;

  bool read_plain(PlainReader& in, EventView& event, Attributes& attributes);
  bool read_time_and_attributes(PlainReader& in, EventView& event, Attributes& attributes);
  void keep_last_of_equal(Attributes& attributes);
  void give_back();

  bool repaired_ = false;
  const char* not_plain_ = nullptr;  // where the line begins that decode_next() left
  bool plain_start_ = false;         // event_ is a start in the plain form: its ids are as they are in the line
  EventView event_, end_;
  Attributes attributes_, end_attributes_;
  std::vector<std::uint32_t> order_;  // of attributes, by key
  Attributes unique_;
  TimeCache times_;
  SimdReader simd_;
  Event whole_;
};

}  // namespace weir::inline v0::detail
