#pragma once
// The text of the wire, shared by everything that writes or reads JSON lines: strings escaped as Go's encoding/json escapes
// them, times as Go's time.RFC3339Nano, and the repair of text that is not UTF-8. Free functions; thread-safe.

#include <cstddef>
#include <string>
#include <string_view>

#include "weir/core/text.hpp"
#include "weir/trace/event.hpp"

namespace weir::inline v0::detail {

/// Whether < > & are written as \u003c \u003e \u0026 (Go's default) or as they are.
enum class HtmlEscapes { on, off };

/// Appends `text` as a JSON string with its quotes. Each byte that is not part of valid UTF-8 is written as \ufffd.
void append_json_string(std::string& out, std::string_view text, HtmlEscapes html = HtmlEscapes::on);

/// Appends `time` in UTC, with up to nine fractional digits, trailing zeros cut. Cheap for times of the same second.
void append_time(std::string& out, Timestamp time);

void append_integer(std::string& out, std::int64_t number);

/// to_json without the detour over a new string.
void append_json(std::string& out, const Event& event);
void append_json(std::string& out, const Span& span);

bool valid_utf8(std::string_view text) noexcept;

/// `text` with each byte that is not part of valid UTF-8 replaced by U+FFFD.
std::string repair_utf8(std::string_view text);

/// parse_event, telling whether the line only parsed after its invalid UTF-8 was repaired. The error's code says what sort
/// it is: std::errc::bad_message (no JSON object, nested too deep) or std::errc::invalid_argument (a field).
Result<Event> decode_event(std::string_view json, bool& repaired);

}  // namespace weir::inline v0::detail
