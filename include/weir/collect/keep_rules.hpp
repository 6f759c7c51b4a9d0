#pragma once
// KeepRule: which completed traces a collector keeps. TraceStoreOptions has a list of them; the first rule that matches a trace when it
// completes decides, and where none does, a ratio. What a sampler cannot know when a trace begins is known then: how it went.
//
//   options.keep = {{.error = true}, {.min_duration = 250ms}, {.name = "GET /health*", .part = 0}};
//   options.keep_ratio = 0.1;
//
// A trace that is not kept is handed to no on_trace_complete, and is not in traces() and last_traces(). Its spans were handed to
// on_span_complete before anybody could know, so viewers have seen them.

#include <chrono>
#include <string>
#include <string_view>

#include "weir/core/result.hpp"

namespace weir::inline v0 {

/// All that is said must hold. `*` stands for any text, `?` for any byte; patterns of more than 255 bytes, stars not counted, match
/// nothing. Thread-safety: a value.
struct KeepRule {
  /// Of its spans one has failed (the attribute `error` is `true`, or `otel.status_code` is `ERROR`), or has not ended.
  bool error = false;
  std::chrono::nanoseconds min_duration{0};  ///< from the first start to the last end
  /// Of its root: the span without a parent; of several the one that started first; if each has a parent, of those whose parent is
  /// not there, else of all.
  std::string name = "*";
  std::string service = "*";  ///< of the sender of its first event
  std::string key{};          ///< of an attribute of any of its spans; empty: any or none
  std::string value = "*";    ///< of that attribute, as text
  /// This part of the traces that match is kept, the others are dropped; 0: none. Chosen by trace id, as Sampler::ratio does, so that
  /// all collectors and samplers choose alike.
  double part = 1;

  /// "error", "duration>=250ms", "name=GLOB", "service=GLOB", "KEY=GLOB", or several of them with " && " between. `part` is 1.
  static Result<KeepRule> parse(std::string_view text);
};

}  // namespace weir::inline v0
