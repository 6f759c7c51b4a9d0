#include "trace/control_line.hpp"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

namespace weir::inline v0::detail {

namespace {

using Type = ControlValue::Type;
using nlohmann::json;

const ControlValue no_value;

/// The array is depth 1, an object in it depth 2; what is deeper is left out.
class ControlReader final : public nlohmann::json_sax<json> {
 public:
  explicit ControlReader(ControlLine& line) : line_(line) {}

  bool null() override { return take({}); }
  bool boolean(bool given) override {
    ControlValue value;
    value.type = Type::boolean;
    value.boolean = given;
    return take(std::move(value));
  }
  bool number_integer(json::number_integer_t given) override {
    return take_number(given < 0 ? Type::negative_integer : Type::unsigned_integer, static_cast<std::uint64_t>(given));
  }
  bool number_unsigned(json::number_unsigned_t given) override { return take_number(Type::unsigned_integer, given); }
  bool number_float(json::number_float_t given, const std::string&) override {
    ControlValue value;
    value.type = Type::real;
    value.real = given;
    return take(std::move(value));
  }
  bool string(std::string& given) override {
    if (depth_ == 1 && !std::exchange(named_, true)) {
      line_.name = std::move(given);
      return true;
    }
    ControlValue value;
    value.type = Type::text;
    value.text = std::move(given);
    return take(std::move(value));
  }
  bool binary(json::binary_t&) override { return false; }
  bool start_object(std::size_t) override {
    if (depth_ == 1) in_object_ = true;
    return open();
  }
  bool key(std::string& given) override {
    if (depth_ == 2 && in_object_) key_ = std::move(given);
    return true;
  }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override {
    if (depth_ == 0) {
      depth_ = 1;
      return true;
    }
    if (depth_ == 1) in_object_ = false;
    return open();
  }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t, const std::string&, const json::exception&) override { return false; }

 private:
  bool open() {
    if (depth_ <= 2 && !take({})) return false;
    ++depth_;
    return true;
  }
  bool close() {
    --depth_;
    return true;
  }
  bool take_number(Type type, std::uint64_t number) {
    ControlValue value;
    value.type = type;
    value.number = number;
    return take(std::move(value));
  }
  /// False: the line does not begin as one does.
  bool take(ControlValue value) {
    if (!named_) return false;
    if (depth_ == 1) line_.values.push_back(std::move(value));
    if (depth_ == 2 && in_object_) line_.options.emplace_back(key_, std::move(value));
    return true;
  }

  ControlLine& line_;
  std::size_t depth_ = 0;
  bool named_ = false, in_object_ = false;
  std::string key_;
};

}  // namespace

std::optional<std::uint64_t> ControlValue::unsigned_integer() const noexcept {
  return type == Type::unsigned_integer ? std::optional(number) : std::nullopt;
}

std::optional<std::int64_t> ControlValue::integer() const noexcept {
  const bool fits = type == Type::negative_integer ||
                    (type == Type::unsigned_integer && number <= std::uint64_t{std::numeric_limits<std::int64_t>::max()});
  return fits ? std::optional(static_cast<std::int64_t>(number)) : std::nullopt;
}

std::optional<double> ControlValue::any_number() const noexcept {
  switch (type) {
    case Type::unsigned_integer: return static_cast<double>(number);
    case Type::negative_integer: return static_cast<double>(static_cast<std::int64_t>(number));
    case Type::real: return real;
    default: return std::nullopt;
  }
}

const ControlValue& ControlLine::value(std::size_t index) const noexcept { return index < values.size() ? values[index] : no_value; }

const ControlValue& ControlLine::option(std::string_view key) const noexcept {
  const auto found = std::find_if(options.rbegin(), options.rend(), [&](const auto& option) { return option.first == key; });
  return found != options.rend() ? found->second : no_value;
}

std::optional<ControlLine> parse_control_line(std::string_view text) {
  ControlLine line;
  ControlReader reader(line);
  if (!json::sax_parse(text.begin(), text.end(), &reader)) return std::nullopt;
  return line;
}

}  // namespace weir::inline v0::detail
