// RFC 3339, in and out.
#include "text/time.hpp"
#include "weir/trace/span.hpp"

namespace weir::inline v0 {

namespace {

constexpr std::int64_t nanos_per_second = 1'000'000'000;

/// Reads fixed-width decimal fields from the front of a text.
class Fields {
 public:
  explicit Fields(std::string_view text) : rest_(text) {}

  bool digits(std::size_t count, int& value) {
    if (rest_.size() < count) return false;
    value = 0;
    for (std::size_t i = 0; i < count; ++i) {
      if (!is_digit(rest_[i])) return false;
      value = value * 10 + (rest_[i] - '0');
    }
    rest_.remove_prefix(count);
    return true;
  }
  /// Takes the next character if it is one of `choices`; returns it, or 0.
  char one_of(std::string_view choices) {
    if (rest_.empty() || choices.find(rest_.front()) == std::string_view::npos) return 0;
    const char taken = rest_.front();
    rest_.remove_prefix(1);
    return taken;
  }
  /// At least one digit; digits beyond nanoseconds are cut.
  bool fraction(std::int64_t& nanos) {
    std::size_t count = 0;
    nanos = 0;
    std::int64_t unit = nanos_per_second;
    for (; count < rest_.size() && is_digit(rest_[count]); ++count) {
      unit /= 10;
      nanos += unit * (rest_[count] - '0');
    }
    rest_.remove_prefix(count);
    return count > 0;
  }
  bool done() const { return rest_.empty(); }

 private:
  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  std::string_view rest_;
};

Error time_error(const char* message) { return {std::make_error_code(std::errc::invalid_argument), message}; }

}  // namespace

std::string format_time(Timestamp time) {
  std::string out;
  detail::append_time(out, time);
  return out;
}

Result<Timestamp> parse_time(std::string_view text) {
  Fields fields(text);
  int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0;
  const bool shaped = fields.digits(4, year) && fields.one_of("-") && fields.digits(2, month) && fields.one_of("-") &&
                      fields.digits(2, day) && fields.one_of("Tt") && fields.digits(2, hour) && fields.one_of(":") &&
                      fields.digits(2, minute) && fields.one_of(":") && fields.digits(2, second);
  if (!shaped) return time_error("not an RFC 3339 time");
  std::int64_t nanos = 0;
  if (fields.one_of(".") && !fields.fraction(nanos)) return time_error("not an RFC 3339 time: no digits after the point");
  int offset = 0;
  if (const char sign = fields.one_of("+-")) {
    int hours = 0, minutes = 0;
    if (!fields.digits(2, hours) || !fields.one_of(":") || !fields.digits(2, minutes) || hours > 23 || minutes > 59) {
      return time_error("not an RFC 3339 time: bad offset");
    }
    offset = (hours * 60 + minutes) * (sign == '-' ? -60 : 60);
  } else if (!fields.one_of("Zz")) {
    return time_error("not an RFC 3339 time: no offset");
  }
  if (!fields.done()) return time_error("not an RFC 3339 time: text after its end");

  const std::chrono::year_month_day date{std::chrono::year{year}, std::chrono::month{static_cast<unsigned>(month)},
                                         std::chrono::day{static_cast<unsigned>(day)}};
  if (!date.ok() || hour > 23 || minute > 59 || second > 59) return time_error("no such date or time of day");

  std::int64_t total = std::chrono::sys_seconds{std::chrono::sys_days{date}}.time_since_epoch().count();
  total += hour * 3600 + minute * 60 + second - offset;
  if (total < 0 && nanos > 0) {  // towards zero, so that the earliest times do not overflow on the way
    total += 1;
    nanos -= nanos_per_second;
  }
  std::int64_t result = 0;
  if (__builtin_mul_overflow(total, nanos_per_second, &result) || __builtin_add_overflow(result, nanos, &result)) {
    return time_error("a time before 1677 or after 2262");
  }
  return Timestamp{std::chrono::nanoseconds{result}};
}

}  // namespace weir::inline v0
