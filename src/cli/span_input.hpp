#pragma once
// Spans from a file or a pipe, as `weir view --json` and `weir collect --print json` write them.

#include <cstdint>
#include <functional>
#include <string>

#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"
#include "weir/trace/span.hpp"

namespace weir::cli {

/// Calls `on_span` for each line of the file ("-": of stdin) that is one, until it ends or stop is requested. How many lines were
/// skipped: those over 16 MiB and those that are no spans. Errors: the file cannot be opened or read, as the system says it.
Result<std::uint64_t> read_spans(const std::string& path, const StopToken& stop, const std::function<void(const Span&)>& on_span);

}  // namespace weir::cli
