#include "cli/parse.hpp"

#include <pwd.h>
#include <charconv>
#include <limits>

namespace weir::cli {

Result<double> parse_ratio(const std::string& text) {
  double ratio = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), ratio);
  if (error == std::errc{} && end == text.data() + text.size() && ratio >= 0 && ratio <= 1) return ratio;
  return detail::wrong_value(text, "is not a number from 0 to 1");
}

Result<uid_t> parse_user(const std::string& text) {
  std::string_view rest = text;
  const auto number = detail::take_number(rest);
  if (number && rest.empty() && *number < std::numeric_limits<uid_t>::max()) return static_cast<uid_t>(*number);
  if (const passwd* const user = ::getpwnam(text.c_str())) return user->pw_uid;
  return detail::wrong_value(text, "is neither a uid nor the name of a user of this system");
}

}  // namespace weir::cli
