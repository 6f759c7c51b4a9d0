// RFC 3339, in and out.
#include <charconv>
#include <cstring>
#include <limits>

#include "trace/text.hpp"

namespace weir::inline v0 {

namespace {

using std::chrono::days;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr std::int64_t nanos_per_second = 1'000'000'000;

void put_digits(char* out, unsigned value, int count) {
  for (int i = count - 1; i >= 0; --i, value /= 10) out[i] = static_cast<char>('0' + value % 10);
}

/// "2006-01-02T15:04:05" of one second, kept because the next time is most likely of the same second.
struct CachedSecond {
  std::int64_t second = std::numeric_limits<std::int64_t>::min();
  char text[19];
};

const CachedSecond& render_second(std::int64_t second) {
  static thread_local CachedSecond cached;
  if (cached.second != second) {
    const std::chrono::sys_seconds point{seconds{second}};
    const auto day = std::chrono::floor<days>(point);
    const std::chrono::year_month_day date{day};
    const auto in_day = static_cast<unsigned>((point - day).count());
    std::memcpy(cached.text, "0000-00-00T00:00:00", sizeof cached.text);
    put_digits(cached.text, static_cast<unsigned>(static_cast<int>(date.year())), 4);
    put_digits(cached.text + 5, static_cast<unsigned>(date.month()), 2);
    put_digits(cached.text + 8, static_cast<unsigned>(date.day()), 2);
    put_digits(cached.text + 11, in_day / 3600, 2);
    put_digits(cached.text + 14, in_day / 60 % 60, 2);
    put_digits(cached.text + 17, in_day % 60, 2);
    cached.second = second;
  }
  return cached;
}

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

void detail::append_time(std::string& out, Timestamp time) {
  const auto second = std::chrono::floor<seconds>(time);
  const auto rest = time.time_since_epoch().count() % 1'000'000'000;  // not time - second: `second` may lie before the earliest time
  const auto nanos = static_cast<unsigned>(rest < 0 ? rest + 1'000'000'000 : rest);
  const CachedSecond& cached = render_second(second.time_since_epoch().count());
  char text[sizeof cached.text + 11];
  std::memcpy(text, cached.text, sizeof cached.text);
  std::size_t size = sizeof cached.text;
  if (nanos != 0) {
    text[size] = '.';
    put_digits(text + size + 1, nanos, 9);
    size += 10;
    while (text[size - 1] == '0') --size;
  }
  text[size++] = 'Z';
  out.append(text, size);
}

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
  return Timestamp{nanoseconds{result}};
}

}  // namespace weir::inline v0
