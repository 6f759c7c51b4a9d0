#pragma once
// What an answer means and what comes after it: the rules of sending, without a thread, a clock or dice of their own. The
// emitter's thread asks; it does what it is told.
//
//   Delivery ─ judge() ─▶ Verdict ─ Tries::after() ─▶ how long to wait for another try, or no more tries
//
//   verdict    when                                                   the payload
//   taken      200 to 299, application/json, a response               is the endpoint's
//   ended      410, 451                                               was not taken, and none will be
//   refused    any other 400 to 499, or it was never sent             was not taken
//   unclear    anything else                                          may have been taken

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "weir/core/clock.hpp"
#include "weir/telemetry/payload.hpp"
#include "weir/telemetry/transport.hpp"

namespace weir::inline v0::detail {

inline constexpr std::chrono::nanoseconds min_wish = std::chrono::seconds{1}, max_wish = std::chrono::hours{24 * 30};

/// Nothing for a wish that is no wish: under a second, over 30 days.
constexpr std::optional<std::chrono::nanoseconds> wish_of(const Response& response) noexcept {
  if (response.next_update < min_wish || response.next_update > max_wish) return std::nullopt;
  return response.next_update;
}

/// How long a Retry-After header asks to wait, between a second and 30 days. It is a number of seconds or a date in any of the
/// three formats of RFC 9110; nothing for anything else.
std::optional<std::chrono::nanoseconds> retry_after(std::string_view header, Timestamp now);

/// "application/json", with or without parameters.
bool is_json_type(std::string_view content_type) noexcept;

struct Verdict {
  enum class Kind : std::uint8_t { taken, ended, refused, unclear };
  Kind kind = Kind::unclear;
  bool busy = false;                             ///< 429: nothing is wrong, it is too early
  std::optional<std::chrono::nanoseconds> wait;  ///< until the next try, if busy and it said so
  Response response;                             ///< of taken
  std::string why;                               ///< for messages; of all but taken
};

Verdict judge(const Delivery& delivery, Timestamp now);

/// `text` cut to what fits a message.
std::string shortened(std::string_view text);

/// The tries of one update. Thread-safety: Distinct objects: safe. Shared: unsafe.
class Tries {
 public:
  /// One more than there are pauses. Views.
  Tries(std::span<const std::chrono::nanoseconds> pauses, double pause_jitter) noexcept : pauses_(pauses), pause_jitter_(pause_jitter) {}

  /// After a try that is not taken: the pause before the next; nothing if that was the last. `dice`: in [0, 1).
  std::optional<std::chrono::nanoseconds> after(const Verdict& verdict, double dice) noexcept;

 private:
  std::span<const std::chrono::nanoseconds> pauses_;
  double pause_jitter_;
};

/// So much of a time; `part` from 0 on.
inline std::chrono::nanoseconds part_of(std::chrono::nanoseconds time, double part) noexcept {
  return std::chrono::nanoseconds(static_cast<std::int64_t>(static_cast<double>(time.count()) * part));
}

}  // namespace weir::inline v0::detail
