#include "text/time.hpp"

#include <cstring>

namespace weir::inline v0::detail {

namespace {

constexpr std::int64_t nanos_per_second = 1'000'000'000;

constexpr std::array<char, 200> two_digits = [] {
  std::array<char, 200> digits{};
  for (std::size_t i = 0; i < 100; ++i) {
    digits[2 * i] = static_cast<char>('0' + i / 10);
    digits[2 * i + 1] = static_cast<char>('0' + i % 10);
  }
  return digits;
}();

/// Requires: `value` is below 100.
void put_two(char* out, unsigned value) noexcept { std::memcpy(out, &two_digits[2 * value], 2); }

void render_second(char* out, std::int64_t second) noexcept {
  const std::chrono::sys_seconds point{std::chrono::seconds{second}};
  const auto day = std::chrono::floor<std::chrono::days>(point);
  const std::chrono::year_month_day date{day};
  const auto year = static_cast<unsigned>(static_cast<int>(date.year()));
  const auto in_day = static_cast<unsigned>((point - day).count());
  std::memcpy(out, "0000-00-00T00:00:00", SecondCache::text_size);
  put_two(out, year / 100 % 100);
  put_two(out + 2, year % 100);
  put_two(out + 5, static_cast<unsigned>(date.month()));
  put_two(out + 8, static_cast<unsigned>(date.day()));
  put_two(out + 11, in_day / 3600);
  put_two(out + 14, in_day / 60 % 60);
  put_two(out + 17, in_day % 60);
}

/// The digits of `value` as they lie in memory: halves to quarters to digits, all at once. Requires: it is below 100'000'000.
std::uint64_t eight_digits(std::uint32_t value) noexcept {
  const std::uint64_t halves = value / 10'000 | static_cast<std::uint64_t>(value % 10'000) << 32;
  const std::uint64_t hundreds = (halves * 10'486 >> 20) & 0x0000007f0000007f;
  const std::uint64_t quarters = hundreds | (halves - 100 * hundreds) << 16;
  const std::uint64_t tens = (quarters * 103 >> 10) & 0x000f000f000f000f;
  return 0x3030303030303030 + (tens | (quarters - 10 * tens) << 8);
}

/// The fraction, if there is one, and the zone.
char* put_fraction(char* out, unsigned nanos) noexcept {
  if (nanos != 0) {
    const std::uint64_t digits = eight_digits(nanos % 100'000'000);
    *out = '.';
    out[1] = static_cast<char>('0' + nanos / 100'000'000);
    std::memcpy(out + 2, &digits, sizeof digits);
    out += 10;
    while (out[-1] == '0') --out;
  }
  *out = 'Z';
  return out + 1;
}

struct Split {
  std::int64_t second;
  unsigned nanos;  // since it
};

Split split(Timestamp time) noexcept {
  const std::int64_t total = time.time_since_epoch().count();
  std::int64_t second = total / nanos_per_second, fraction = total % nanos_per_second;
  if (fraction < 0) {  // the second that begins before it; std::chrono::floor would overflow at the earliest times
    --second;
    fraction += nanos_per_second;
  }
  return {second, static_cast<unsigned>(fraction)};
}

}  // namespace

// A sequence lock of atomics alone: who reads a word of a later change sees that `changes_` has moved.
void SecondCache::write(char* out, std::int64_t second) noexcept {
  const std::uint64_t changes = changes_.load(std::memory_order_acquire);
  if ((changes & 1) == 0 && second_.load(std::memory_order_acquire) == second) {
    const std::uint64_t front = text_[0].load(std::memory_order_acquire), middle = text_[1].load(std::memory_order_acquire),
                        back = text_[2].load(std::memory_order_acquire);
    if (changes_.load(std::memory_order_relaxed) == changes) {
      std::memcpy(out, &front, 8);
      std::memcpy(out + 8, &middle, 8);
      for (unsigned i = 0; i < text_size - 16; ++i) out[16 + i] = static_cast<char>(back >> 8 * i);
      return;
    }
  }
  render_second(out, second);
  std::uint64_t before = changes;
  if ((before & 1) != 0 || !changes_.compare_exchange_strong(before, before + 1, std::memory_order_relaxed)) return;
  std::array<std::uint64_t, 3> words{};
  std::memcpy(words.data(), out, text_size);
  second_.store(second, std::memory_order_release);
  for (std::size_t i = 0; i < words.size(); ++i) text_[i].store(words[i], std::memory_order_release);
  changes_.store(changes + 2, std::memory_order_release);
}

char* write_time(char* out, Timestamp time, SecondCache& cache) noexcept {
  const auto [second, nanos] = split(time);
  cache.write(out, second);
  return put_fraction(out + SecondCache::text_size, nanos);
}

char* write_time_millis(char* out, Timestamp time, SecondCache& cache) noexcept {
  const auto [second, nanos] = split(time);
  cache.write(out, second);
  out += SecondCache::text_size;
  *out = '.';
  put_two(out + 1, nanos / 10'000'000);
  out[3] = static_cast<char>('0' + nanos / 1'000'000 % 10);
  out[4] = 'Z';
  return out + 5;
}

char* TimeWriter::write(char* out, Timestamp time) noexcept {
  const std::int64_t total = time.time_since_epoch().count();
  std::int64_t nanos = 0, begin = 0;
  if (!__builtin_sub_overflow(total, begin_, &nanos) && nanos >= 0 && nanos < nanos_per_second) [[likely]] {
    std::memcpy(out, second_, SecondCache::text_size);
  } else {
    const Split parts = split(time);
    nanos = parts.nanos;
    render_second(out, parts.second);
    if (!__builtin_sub_overflow(total, nanos, &begin)) {  // the earliest second of all is not kept
      begin_ = begin;
      std::memcpy(second_, out, SecondCache::text_size);
    }
  }
  return put_fraction(out + SecondCache::text_size, static_cast<unsigned>(nanos));
}

void append_time(std::string& out, Timestamp time) {
  constinit static thread_local TimeWriter times;
  char text[max_time_size];
  out.append(text, static_cast<std::size_t>(times.write(text, time) - text));
}

}  // namespace weir::inline v0::detail
