#pragma once
// EventDecoder: the event of a JSON line, for the collector, which has one for all lines it gets. What it answers is what
// decode_event() answers, to the byte; it only gets there sooner, by the first of three paths that takes the line:
//
//   plain     the fields in the order and form in which the original and our tracers write them, texts without escapes
//   simdjson  any other line that is surely right (simd_reader.hpp)
//   whole     decode_event(): all that is left, and every error
//
// The first two allocate nothing once they have seen lines of the size.

#include <cstdint>
#include <string_view>
#include <vector>

#include "trace/event_view.hpp"
#include "trace/simd_reader.hpp"
#include "trace/time_cache.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class EventDecoder {
 public:
  /// The event, good until the next call and while `line` is. Errors: those of decode_event().
  Result<const EventView*> decode(std::string_view line);
  /// Whether the last line only parsed after its invalid UTF-8 was repaired.
  bool repaired() const noexcept { return repaired_; }

  // One path alone. nullptr: it leaves the line to the next one.
  const EventView* decode_plain(std::string_view line);
  const EventView* decode_simdjson(std::string_view line);
  Result<const EventView*> decode_whole(std::string_view line);

 private:
  const EventView* finish();
  bool has_equal_keys() const noexcept;
  void keep_last_of_equal();
  void give_back();

  bool repaired_ = false;
  EventView event_;
  std::vector<AttributeView> attributes_;
  std::vector<std::uint32_t> order_;  // of attributes, by key
  std::vector<AttributeView> unique_;
  TimeCache times_;
  SimdReader simd_;
  Event whole_;
};

}  // namespace weir::inline v0::detail
