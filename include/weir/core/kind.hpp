#pragma once
// SpanKind: what sort of work a span (or the operation behind it) is. The integers are those of the wire formats.

#include <cstdint>
#include <string>

#include "weir/core/version.hpp"

namespace weir::inline v0 {

/// Values outside the named ones occur on the wire and are kept.
enum class SpanKind : std::int32_t { function = 0, http = 1, sql = 2 };

/// "function", "http", "sql"; for any other value "unknown(N)".
inline std::string to_string(SpanKind kind) {
  switch (kind) {
    case SpanKind::function: return "function";
    case SpanKind::http: return "http";
    case SpanKind::sql: return "sql";
  }
  return "unknown(" + std::to_string(static_cast<std::int32_t>(kind)) + ")";
}

}  // namespace weir::inline v0
