#include "telemetry/sending.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>

#include "text/ascii.hpp"
#include "text/utf8.hpp"

namespace weir::inline v0::detail {

namespace {

constexpr std::string_view spaces = " \t";

std::string_view trimmed(std::string_view text) noexcept {
  const std::size_t begin = text.find_first_not_of(spaces);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(spaces) - begin + 1);
}

struct Date {
  char month[4] = {};
  int year = 0, day = 0, hour = 0, minute = 0, second = 0;
};

std::optional<Timestamp> time_of(const Date& date) {
  constexpr std::array<std::string_view, 12> months = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const auto month = std::find(months.begin(), months.end(), std::string_view(date.month));
  if (month == months.end() || date.year < 1970 || date.year > 2200) return std::nullopt;  // what a Timestamp can hold
  if (date.hour < 0 || date.hour > 23 || date.minute < 0 || date.minute > 59 || date.second < 0 || date.second > 60) return std::nullopt;
  if (date.day < 1) return std::nullopt;
  const std::chrono::year_month_day day{std::chrono::year{date.year}, std::chrono::month{static_cast<unsigned>(month - months.begin() + 1)},
                                        std::chrono::day{static_cast<unsigned>(date.day)}};
  if (!day.ok()) return std::nullopt;
  return Timestamp{std::chrono::sys_days{day}.time_since_epoch() + std::chrono::hours{date.hour} + std::chrono::minutes{date.minute} +
                   std::chrono::seconds{date.second}};
}

std::optional<Timestamp> http_date(const std::string& text) {
  Date date;
  int end = -1;
  const auto whole = [&](int fields) { return fields == 6 && end >= 0 && static_cast<std::size_t>(end) == text.size(); };
  const char* const c = text.c_str();
  // Sun, 06 Nov 1994 08:49:37 GMT
  if (whole(std::sscanf(c, "%*3[A-Za-z], %2d %3[A-Za-z] %4d %2d:%2d:%2d GMT%n", &date.day, date.month, &date.year, &date.hour, &date.minute,
                        &date.second, &end))) {
    return time_of(date);
  }
  // Sunday, 06-Nov-94 08:49:37 GMT
  end = -1;
  if (whole(std::sscanf(c, "%*9[A-Za-z], %2d-%3[A-Za-z]-%2d %2d:%2d:%2d GMT%n", &date.day, date.month, &date.year, &date.hour, &date.minute,
                        &date.second, &end))) {
    date.year += date.year < 70 ? 2000 : 1900;
    return time_of(date);
  }
  // Sun Nov  6 08:49:37 1994
  end = -1;
  if (whole(std::sscanf(c, "%*3[A-Za-z] %3[A-Za-z] %2d %2d:%2d:%2d %4d%n", date.month, &date.day, &date.hour, &date.minute, &date.second,
                        &date.year, &end))) {
    return time_of(date);
  }
  return std::nullopt;
}

/// What the endpoint had to say for itself.
void append_error(std::string& why, const std::optional<Response>& response) {
  if (response && !response->error.empty()) why.append(": ").append(shortened(response->error));
}

}  // namespace

std::string shortened(std::string_view text) {
  constexpr std::size_t max_bytes = 512;
  if (text.size() <= max_bytes) return std::string(text);
  std::size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return std::string(text.substr(0, end)) + "...";
}

std::optional<std::chrono::nanoseconds> retry_after(std::string_view header, Timestamp now) {
  constexpr std::size_t max_bytes = 64;
  const std::string_view text = trimmed(header);
  if (text.empty() || text.size() > max_bytes) return std::nullopt;
  if (text.find_first_not_of("0123456789") == text.npos) {
    std::int64_t seconds = 0;
    const bool fits = std::from_chars(text.data(), text.data() + text.size(), seconds).ec == std::errc();
    if (!fits || std::chrono::nanoseconds{max_wish} <= std::chrono::seconds{std::min<std::int64_t>(seconds, 1'000'000'000)})
      return max_wish;
    return std::max<std::chrono::nanoseconds>(min_wish, std::chrono::seconds{seconds});
  }
  const std::optional<Timestamp> date = http_date(std::string(text));
  if (!date) return std::nullopt;
  return std::clamp<std::chrono::nanoseconds>(*date - now, min_wish, max_wish);
}

bool is_json_type(std::string_view content_type) noexcept {
  constexpr std::string_view json = "application/json";
  const std::string_view type = trimmed(content_type.substr(0, content_type.find(';')));
  return std::equal(type.begin(), type.end(), json.begin(), json.end(), [](char a, char b) { return lower(a) == b; });
}

Verdict judge(const Delivery& delivery, Timestamp now) {
  Verdict verdict;
  if (delivery.outcome != Delivery::Outcome::answered) {
    verdict.kind = delivery.outcome == Delivery::Outcome::not_sent ? Verdict::Kind::refused : Verdict::Kind::unclear;
    verdict.why = shortened(delivery.error.message.empty() ? delivery.error.code.message() : delivery.error.message);
    return verdict;
  }
  const Answer& answer = delivery.answer;
  std::optional<Response> response;
  std::string unreadable;
  if (!is_json_type(answer.content_type)) {
    unreadable = " of type \"" + shortened(answer.content_type) + "\", not application/json";
  } else if (Result<Response> read = Response::from_json(answer.body)) {
    response = std::move(read).value();
  } else {
    unreadable = ", but " + read.error().message;
  }

  verdict.why = "it answered " + std::to_string(answer.status);
  if (answer.status >= 200 && answer.status <= 299) {
    if (response) {
      verdict.kind = Verdict::Kind::taken;
      verdict.response = std::move(*response);
    } else {
      verdict.why += unreadable;
    }
    return verdict;
  }
  append_error(verdict.why, response);
  if (answer.status < 400 || answer.status > 499) return verdict;
  verdict.kind = answer.status == 410 || answer.status == 451 ? Verdict::Kind::ended : Verdict::Kind::refused;
  if (answer.status == 429) {
    verdict.busy = true;
    if (response) verdict.wait = wish_of(*response);
    if (!verdict.wait) verdict.wait = retry_after(answer.retry_after, now);
  }
  return verdict;
}

std::optional<std::chrono::nanoseconds> Tries::after(const Verdict& verdict, double dice) noexcept {
  if (verdict.kind == Verdict::Kind::ended || pauses_.empty()) return std::nullopt;
  const std::chrono::nanoseconds pause = pauses_.front() + part_of(pauses_.front(), pause_jitter_ * dice);
  pauses_ = pauses_.subspan(1);
  return verdict.wait ? *verdict.wait : pause;
}

}  // namespace weir::inline v0::detail
