#include "control/request.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "text/json_depth.hpp"

namespace weir::inline v0::control {

namespace {

using nlohmann::json;
using Type = ControlValue::Type;

/// Depth 1: the members of the request; 2: those of "set"; 3: the items of a list there.
class Reader final : public nlohmann::json_sax<json> {
 public:
  explicit Reader(ControlRequest& request) : request_(request) {}

  bool is_object() const noexcept { return is_object_; }
  const std::optional<std::string>& problem() const noexcept { return problem_; }

  bool null() override { return scalar(Type::null); }
  bool boolean(bool) override { return scalar(Type::boolean); }
  bool number_integer(json::number_integer_t given) override {
    if (member_ == Member::id && depth_ == 1) request_.id = given;
    return number(static_cast<double>(given));
  }
  bool number_unsigned(json::number_unsigned_t given) override {
    if (member_ == Member::id && depth_ == 1 && given <= INT64_MAX) request_.id = static_cast<std::int64_t>(given);
    return number(static_cast<double>(given));
  }
  bool number_float(json::number_float_t given, const std::string&) override { return number(given); }
  bool string(std::string& given) override {
    if (member_ == Member::get && depth_ == 1) request_.get = std::move(given);
    if (value_ != nullptr && depth_ == 3 && value_->type == Type::texts) {
      if (++texts_ > max_texts) return refuse("it has more than " + std::to_string(max_texts) + " texts");
      value_->texts.push_back(std::move(given));
      return true;
    }
    if (value_ != nullptr && depth_ == 2) value_->text = std::move(given);
    return scalar(Type::text);
  }
  bool binary(json::binary_t&) override { return false; }
  bool start_object(std::size_t) override {
    if (depth_ == 0) is_object_ = true;
    if (depth_ == 1 && member_ == Member::set) request_.has_set = true;
    (void)scalar(Type::other);
    ++depth_;
    return true;
  }
  bool key(std::string& given) override {
    if (depth_ == 1) {
      member_ = given == "id" ? Member::id : given == "set" ? Member::set : given == "get" ? Member::get : Member::other;
      value_ = nullptr;
    } else if (depth_ == 2 && member_ == Member::set && request_.has_set) {
      const auto there = std::find_if(request_.set.begin(), request_.set.end(), [&](const auto& each) { return each.first == given; });
      if (there == request_.set.end() && request_.set.size() >= max_keys) {
        return refuse("it has more than " + std::to_string(max_keys) + " keys");
      }
      auto& pair = there != request_.set.end() ? *there : request_.set.emplace_back(std::move(given), ControlValue{});
      pair.second = {};
      value_ = &pair.second;
    }
    return true;
  }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override {
    (void)scalar(depth_ == 2 ? Type::texts : Type::other);
    ++depth_;
    return true;
  }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t, const std::string&, const json::exception&) override { return false; }

 private:
  enum class Member : std::uint8_t { other, id, set, get };

  bool refuse(std::string why) {
    problem_ = std::move(why);
    return false;
  }
  bool number(double given) {
    if (value_ != nullptr && depth_ == 2) value_->number = given;
    return scalar(Type::number);
  }
  /// A value of the type is here. Among texts, anything else makes the list something else.
  bool scalar(Type type) noexcept {
    if (value_ == nullptr) return true;
    if (depth_ == 2) value_->type = type;
    if (depth_ >= 3) value_->type = Type::other;
    return true;
  }
  bool close() noexcept {
    --depth_;
    return true;
  }

  ControlRequest& request_;
  Member member_ = Member::other;
  ControlValue* value_ = nullptr;  // of "set", the one being read
  std::size_t depth_ = 0, texts_ = 0;
  bool is_object_ = false;
  std::optional<std::string> problem_;
};

}  // namespace

std::optional<std::string> parse_request(std::string_view line, ControlRequest& request) {
  if (detail::json_depth(line) > max_depth) return "the request is nested deeper than " + std::to_string(max_depth);
  Reader reader(request);
  if (!json::sax_parse(line, &reader)) return "the request is refused: " + reader.problem().value_or("it is no JSON");
  if (!reader.is_object()) return "the request is no JSON object";
  return std::nullopt;
}

}  // namespace weir::inline v0::control
