// Redaction of JSON: the tokens of one document are written again as they come. No document tree, no recursion, whatever the
// nesting. nlohmann::json only finds the tokens.
#include <cstdint>
#include <new>
#include <nlohmann/json.hpp>

#include "activity/sha256.hpp"
#include "text/json.hpp"
#include "text/utf8.hpp"
#include "weir/activity/redaction.hpp"

namespace weir::inline v0 {

namespace {

using detail::append_integer;

void append_json_string(std::string& out, std::string_view text) { detail::append_json_string(out, text, detail::JsonEscapes::slog); }

/// Receives tokens, in the order of the document, and writes them to `out`. Every function returns false to end the parse.
class Writer {
 public:
  Writer(const Redactor& redactor, std::string& out) : redactor_(redactor), out_(out) {}

  std::size_t error_position() const { return error_position_; }

  bool null() { return raw("null"); }
  bool boolean(bool value) { return raw(value ? "true" : "false"); }
  bool number_integer(std::int64_t value) {
    if (value == 0) return raw("-0");  // no other zero comes with a sign
    if (begin_value()) append_integer(out_, value);
    return true;
  }
  bool number_unsigned(std::uint64_t value) {
    if (begin_value()) append_integer(out_, value);
    return true;
  }
  bool number_float(double, const std::string& text) {
    if (!begin_value()) return true;
    for (const char c : text)  // the parser may have put the locale's decimal point there
      out_ += (c >= '0' && c <= '9') || c == '-' || c == '+' || c == 'e' || c == 'E' ? c : '.';
    return true;
  }
  bool string(std::string& text) {
    if (begin_value()) append_json_string(out_, redactor_.redact_text(text, redacted_) ? redacted_ : text);
    return true;
  }
  bool binary(std::vector<std::uint8_t>&) { return false; }
  bool start_object(std::size_t) { return open('{'); }
  bool key(std::string& text) {
    if (hidden_ > 0) return true;
    if (comma_) out_ += ',';
    append_json_string(out_, text);
    out_ += ':';
    comma_ = false;
    hide_next_ = redactor_.is_sensitive(text);
    return true;
  }
  bool end_object() { return close('}'); }
  bool start_array(std::size_t) { return open('['); }
  bool end_array() { return close(']'); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) {
    error_position_ = position;
    return false;
  }

 private:
  /// Whether the value that comes is to be written; the mark is, if it is not.
  bool begin_value() {
    if (hidden_ > 0) return false;
    if (comma_) out_ += ',';
    comma_ = true;
    if (!hide_next_) return true;
    hide_next_ = false;
    write_mark();
    return false;
  }
  void write_mark() { out_.append("\"").append(Redactor::mark).append("\""); }
  bool raw(std::string_view text) {
    if (begin_value()) out_ += text;
    return true;
  }
  bool open(char bracket) {
    if (!begin_value()) {
      ++hidden_;
    } else if (depth_ == Redactor::max_depth) {
      write_mark();
      ++hidden_;
    } else {
      ++depth_;
      out_ += bracket;
      comma_ = false;
    }
    return true;
  }
  bool close(char bracket) {
    if (hidden_ > 0) {
      --hidden_;
      return true;
    }
    --depth_;
    out_ += bracket;
    comma_ = true;
    return true;
  }

  const Redactor& redactor_;
  std::string& out_;
  std::string redacted_;    // a buffer
  std::size_t depth_ = 0;   // containers open in `out_`
  std::size_t hidden_ = 0;  // containers open in what the mark stands for
  bool comma_ = false;      // the next key or element follows another
  bool hide_next_ = false;  // the next value belongs to a sensitive key
  std::size_t error_position_ = 0;
};

Error not_json(std::size_t position) {
  return {std::make_error_code(std::errc::bad_message), "not JSON: unexpected text or end at byte " + std::to_string(position)};
}

std::string redacted(const Redactor& redactor, std::string_view json, std::size_t& error_position) {
  std::string repaired, out;
  const bool valid = detail::valid_utf8(json);
  if (!valid) repaired = detail::repair_utf8(json);
  const std::string_view text = valid ? json : repaired;
  out.reserve(text.size());
  Writer writer(redactor, out);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &writer)) {
    error_position = writer.error_position() == 0 ? 1 : writer.error_position();
  } else if (const std::size_t nul = text.find('\0'); nul != text.npos) {  // which ends the text, for the parser
    error_position = nul + 1;
  }
  return out;
}

std::string summary(std::string_view json) {
  std::size_t size = json.size() < Redactor::max_preview_bytes ? json.size() : Redactor::max_preview_bytes;
  while (size > 0 && size < json.size() && (static_cast<unsigned char>(json[size]) & 0xc0) == 0x80) --size;
  std::string out = "{\"truncated\":true,\"original_size\":";
  append_integer(out, json.size());
  out.append(",\"sha256\":\"").append(detail::sha256_hex(json)).append("\",\"preview\":");
  append_json_string(out, json.substr(0, size));
  out += '}';
  return out;
}

Error out_of_memory() noexcept { return {std::make_error_code(std::errc::not_enough_memory), "out of memory"}; }  // short: not allocated

}  // namespace

Result<std::string> Redactor::redact_json(std::string_view json) const noexcept try {
  std::size_t error_position = 0;
  std::string out = redacted(*this, json, error_position);
  if (error_position != 0) return not_json(error_position);
  return out;
} catch (const std::exception&) {
  return out_of_memory();
}

Result<std::string> Redactor::truncate_json(std::string_view json) const noexcept try {
  Result<std::string> out = redact_json(json);
  if (!out || out->size() <= max_json_bytes) return out;
  return summary(*out);
} catch (const std::exception&) {
  return out_of_memory();
}

}  // namespace weir::inline v0
