#pragma once
// SimdReader: an event of any JSON by simdjson, for EventDecoder. It takes a line only where it surely reads it as decode_event()
// does, and leaves every other: those that are wrong in any way, escaped surrogates, deep nesting, attribute values
// whose text simdjson does not keep. Without simdjson it leaves all of them (no_simd_reader.cpp).

#include <memory>
#include <string_view>
#include <vector>

#include "trace/event_view.hpp"
#include "trace/time_cache.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class SimdReader {
 public:
  /// Whether there is simdjson.
  static const bool available;

  SimdReader();
  ~SimdReader();

  /// False: left to others; `event` and `attributes` are anything. A key may be there twice; then the last is the one. The views are
  /// good until the next call. Allocates only for a line that is longer than those before.
  bool read(std::string_view line, TimeCache& times, EventView& event, std::vector<AttributeView>& attributes);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir::inline v0::detail
