#pragma once
// Trees as text: what `weir collect` prints and `weir view` streams.
//
//   GET /orders [http] 12.3ms
//   ├── select orders [sql] 1.20ms
//   └── render [function] 250µs

#include <chrono>
#include <string>
#include <string_view>

#include "weir/trace/span.hpp"

namespace weir::inline v0 {

struct TreeStyle {
  bool colour = false;  ///< ANSI colours by kind, errors in red
};

/// The tree under `root`, one line per span, each ended by a newline. Iterative: depth costs no stack. Text from services
/// is shown, never executed (see printable()). A failed span ends with its error message.
std::string format_tree(const Span& root, TreeStyle style = {});

/// "250ns", "250µs", "12.3ms", "1.20s".
std::string format_duration(std::chrono::nanoseconds duration);

/// `text` with C0, DEL, C1 and bidirectional control characters shown as \xNN or \u{NNNN}, and invalid UTF-8 as U+FFFD, so
/// that it is one line and moves no cursor.
std::string printable(std::string_view text);

}  // namespace weir::inline v0
