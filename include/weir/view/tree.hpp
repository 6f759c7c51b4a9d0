#pragma once
// Trees as text: what `weir collect` prints and `weir view` streams.
//
//   GET /orders [http] 12.3ms
//   ├── select orders [sql] 1.20ms
//   └── render [function] 250µs error: template missing

#include <chrono>
#include <string>
#include <string_view>

#include "weir/trace/span.hpp"

namespace weir::inline v0 {

struct TreeStyle {
  bool colour = false;  ///< ANSI colours by kind, errors in red
};

/// The tree under `root`, one line per span, each ended by a newline, children in the order they are in. Iterative: depth
/// costs no stack. Indentation stops at 64 levels; deeper spans say their depth instead, "(depth 65) name …". Text from
/// services is shown, never executed (see printable()). A span that never ended says "unfinished"; a
/// failed one ends with its error message (the attribute error.message).
std::string format_tree(const Span& root, TreeStyle style = {});

/// Three significant digits: "250ns", "250µs", "12.3ms", "1.20s"; from a minute on "2m05s", from an hour on "3h02m".
std::string format_duration(std::chrono::nanoseconds duration);

/// `text` with C0 and DEL shown as \xNN, C1, bidirectional controls and line separators as \u{NNNN}, and each byte that is
/// not UTF-8 as U+FFFD, so that it is one line and moves no cursor.
std::string printable(std::string_view text);

}  // namespace weir::inline v0
