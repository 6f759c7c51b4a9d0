#include "trace/simd_reader.hpp"

#include <simdjson.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <limits>
#include <optional>
#include <string>

namespace weir::inline v0::detail {

namespace {

using simdjson::dom::element;
using simdjson::dom::element_type;

constexpr std::size_t first_capacity = 4096, max_line = 64u << 10;  // what the parser keeps is 15 times as much
constexpr std::size_t parser_depth = 17;                            // containers, with the event itself; decode_event() allows as many

/// simdjson 3.0 refuses half a surrogate pair, but does not promise that.
bool names_surrogates(std::string_view line) noexcept {
  if (line.find('\\') == std::string_view::npos) return false;
  return line.find("\\ud") != std::string_view::npos || line.find("\\uD") != std::string_view::npos;
}

bool read_text(const element& value, std::string_view& out) noexcept {
  if (value.is_null()) {
    out = {};
    return true;
  }
  return value.get_string().get(out) == simdjson::SUCCESS;
}

/// nullopt: wrong.
std::optional<std::int32_t> read_integer(const element& value) noexcept {
  std::int64_t number = 0;
  if (value.type() != element_type::INT64 || value.get_int64().get(number) != simdjson::SUCCESS) return std::nullopt;
  if (number < std::numeric_limits<std::int32_t>::min() || number > std::numeric_limits<std::int32_t>::max()) return std::nullopt;
  return static_cast<std::int32_t>(number);
}

}  // namespace

struct SimdReader::Impl {
  simdjson::dom::parser parser{max_line};
  std::size_t capacity = 0;
  std::vector<char> padded;  // simdjson reads beyond the end of a line
  std::string numbers;       // the texts of attributes that are numbers; has room for the line, so that it does not move

  bool make_room(std::size_t size) {
    if (size <= capacity) return true;
    const std::size_t wanted = std::max(first_capacity, std::bit_ceil(size));
    capacity = 0;
    if (parser.allocate(wanted, parser_depth) != simdjson::SUCCESS) return false;
    padded.resize(wanted + simdjson::SIMDJSON_PADDING);
    numbers.reserve(wanted);
    capacity = wanted;
    return true;
  }

  template <class Number>
  std::string_view text_of(Number number) {
    char digits[24];
    const std::size_t size = static_cast<std::size_t>(std::to_chars(digits, digits + sizeof digits, number).ptr - digits);
    const std::size_t begin = numbers.size();
    numbers.append(digits, size);
    return std::string_view(numbers).substr(begin);
  }

  bool read_attribute(const simdjson::dom::key_value_pair& attribute, std::vector<AttributeView>& attributes) {
    AttributeView view{attribute.key, {}};
    switch (attribute.value.type()) {
      case element_type::STRING: view.value = attribute.value.get_string().value_unsafe(); break;
      case element_type::INT64: view.value = text_of(attribute.value.get_int64().value_unsafe()); break;
      case element_type::UINT64: view.value = text_of(attribute.value.get_uint64().value_unsafe()); break;
      case element_type::BOOL: view.value = attribute.value.get_bool().value_unsafe() ? "true" : "false"; break;
      case element_type::NULL_VALUE: view.value = "null"; break;
      default: return false;  // their JSON text is needed as it was
    }
    attributes.push_back(view);
    return true;
  }

  bool read_attributes(const element& value, std::vector<AttributeView>& attributes) {
    attributes.clear();
    if (value.is_null()) return true;
    simdjson::dom::object object;
    if (value.get_object().get(object) != simdjson::SUCCESS) return false;
    for (const simdjson::dom::key_value_pair attribute : object) {
      if (!read_attribute(attribute, attributes)) return false;
    }
    return true;
  }
};

const bool SimdReader::available = true;

SimdReader::SimdReader() : impl_(std::make_unique<Impl>()) {}
SimdReader::~SimdReader() = default;

bool SimdReader::read(std::string_view line, TimeCache& times, EventView& event, std::vector<AttributeView>& attributes) {
  Impl& impl = *impl_;
  if (line.empty() || line.size() > max_line || names_surrogates(line) || !impl.make_room(line.size())) return false;
  std::memcpy(impl.padded.data(), line.data(), line.size());
  std::memset(impl.padded.data() + line.size(), ' ', simdjson::SIMDJSON_PADDING);
  impl.numbers.clear();
  attributes.clear();
  event = {};
  simdjson::dom::object object;
  if (impl.parser.parse(impl.padded.data(), line.size(), false).get_object().get(object) != simdjson::SUCCESS) return false;
  bool has_type = false, has_time = false;
  for (const auto [key, value] : object) {  // of fields that come twice the last counts, and null takes back what there was
    if (key == "span_id") {
      if (!read_text(value, event.span_id)) return false;
    } else if (key == "trace_id") {
      if (!read_text(value, event.trace_id)) return false;
    } else if (key == "parent_id") {
      if (!read_text(value, event.parent_id)) return false;
    } else if (key == "name") {
      if (!read_text(value, event.name)) return false;
    } else if (key == "type" || key == "kind") {
      const bool is_null = value.is_null();
      const std::optional<std::int32_t> number = is_null ? 0 : read_integer(value);
      if (!number) return false;
      if (key == "kind") {
        event.kind = static_cast<SpanKind>(*number);
      } else {
        event.type = static_cast<EventType>(*number);
        has_type = !is_null;
      }
    } else if (key == "time") {
      has_time = !value.is_null();
      std::string_view text;
      if (has_time && (!read_text(value, text) || !times.parse(text, event.time))) return false;
    } else if (key == "attrs") {
      if (!impl.read_attributes(value, attributes)) return false;
    }
  }
  event.attributes = attributes;
  return has_type && has_time && !event.span_id.empty() && !event.trace_id.empty();
}

}  // namespace weir::inline v0::detail
