#pragma once
// JsonMembers: what a JSON object says at its top level, read without a tree: one of nlohmann::json's needs memory to be destroyed, and
// a service must not end where there is none.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/json_depth.hpp"
#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

struct JsonMember {
  enum class Type : std::uint8_t { absent, boolean, integer, real, text, list, other };

  std::string_view name;
  Type type = Type::absent;  ///< absent, too, for null, as Go writes what is empty
  bool boolean = false;
  std::int64_t integer = 0;  ///< 0 for one that has more than 63 bits
  double real = 0;
  std::string text{};
  std::vector<std::string> texts{};  ///< of a list, at most `max_texts`
  std::size_t size = 0;              ///< of a list
  bool only_texts = true;            ///< of a list
};

/// What a text is that is no object of members.
enum class JsonProblem : std::uint8_t { none, no_json, too_deep, no_object };

inline constexpr std::size_t max_texts = 10'000;

/// Fills in the members that are asked for by their names; the last of a name counts. Throws std::bad_alloc.
JsonProblem read_members(std::string_view text, std::span<JsonMember> members);

}  // namespace weir::inline v0::detail
