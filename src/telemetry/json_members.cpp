#include "telemetry/json_members.hpp"

#include <nlohmann/json.hpp>
#include <utility>

namespace weir::inline v0::detail {

namespace {

using Type = JsonMember::Type;
using nlohmann::json;

class Reader final : public nlohmann::json_sax<json> {
 public:
  explicit Reader(std::span<JsonMember> members) : members_(members) {}

  bool too_deep() const noexcept { return too_deep_; }
  bool is_object() const noexcept { return is_object_; }

  bool null() override { return take(Type::absent); }
  bool boolean(bool given) override {
    if (JsonMember* const member = taker()) member->boolean = given;
    return take(Type::boolean);
  }
  bool number_integer(json::number_integer_t given) override { return take_integer(given); }
  bool number_unsigned(json::number_unsigned_t given) override {
    return take_integer(given <= INT64_MAX ? static_cast<std::int64_t>(given) : 0);
  }
  bool number_float(json::number_float_t given, const std::string&) override {
    if (JsonMember* const member = taker()) member->real = given;
    return take(Type::real);
  }
  bool string(std::string& given) override {
    if (JsonMember* const member = taker()) member->text = std::move(given);
    if (JsonMember* const list = list_taker()) {
      if (list->texts.size() < max_texts) list->texts.push_back(std::move(given));
      ++list->size;
      return true;
    }
    return take(Type::text);
  }
  bool binary(json::binary_t&) override { return false; }
  bool start_object(std::size_t) override {
    if (depth_ == 0) is_object_ = true;
    return open(Type::other);
  }
  bool key(std::string& given) override {
    if (depth_ != 1) return true;
    current_ = nullptr;
    for (JsonMember& member : members_) {
      if (member.name != given) continue;
      current_ = &member;
      member = {.name = member.name};
    }
    return true;
  }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(Type::list); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t, const std::string&, const json::exception&) override { return false; }

 private:
  /// Who gets the value that comes now.
  JsonMember* taker() const noexcept { return depth_ == 1 ? current_ : nullptr; }
  JsonMember* list_taker() const noexcept {
    return depth_ == 2 && current_ != nullptr && current_->type == Type::list ? current_ : nullptr;
  }

  bool take(Type type) noexcept {
    if (JsonMember* const member = taker()) member->type = type;
    if (JsonMember* const list = list_taker()) {
      list->only_texts = false;
      ++list->size;
    }
    return true;
  }
  bool take_integer(std::int64_t given) noexcept {
    if (JsonMember* const member = taker()) member->integer = given;
    return take(Type::integer);
  }
  bool open(Type type) noexcept {
    take(type);
    if (++depth_ > max_json_depth) too_deep_ = true;
    return true;
  }
  bool close() noexcept {
    --depth_;
    return true;
  }

  std::span<JsonMember> members_;
  JsonMember* current_ = nullptr;
  std::size_t depth_ = 0;
  bool is_object_ = false, too_deep_ = false;
};

}  // namespace

JsonProblem read_members(std::string_view text, std::span<JsonMember> members) {
  Reader reader(members);
  if (!json::sax_parse(text, &reader)) return JsonProblem::no_json;
  if (reader.too_deep()) return JsonProblem::too_deep;
  return reader.is_object() ? JsonProblem::none : JsonProblem::no_object;
}

}  // namespace weir::inline v0::detail
