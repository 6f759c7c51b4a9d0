#include "text/time.hpp"

#include <atomic>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"

using namespace weir;
using detail::SecondCache;
using std::chrono::nanoseconds;

namespace {

std::string rfc3339(Timestamp time, SecondCache& cache) {
  char text[detail::max_time_size];
  return {text, detail::write_time(text, time, cache)};
}
std::string millis(Timestamp time, SecondCache& cache) {
  char text[detail::max_time_size];
  return {text, detail::write_time_millis(text, time, cache)};
}

}  // namespace

TEST_CASE("times have as many fractional digits as they need, or three") {
  struct Case {
    std::int64_t nanos;
    const char *all, *three;
  };
  SecondCache cache;
  for (const Case& each : {Case{0, "1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"},
                           {-1, "1969-12-31T23:59:59.999999999Z", "1969-12-31T23:59:59.999Z"},
                           {1, "1970-01-01T00:00:00.000000001Z", "1970-01-01T00:00:00.000Z"},
                           {120'000'000, "1970-01-01T00:00:00.12Z", "1970-01-01T00:00:00.120Z"},
                           {951'868'799'009'999'999, "2000-02-29T23:59:59.009999999Z", "2000-02-29T23:59:59.009Z"},
                           {951'868'799'100'000'000, "2000-02-29T23:59:59.1Z", "2000-02-29T23:59:59.100Z"},
                           {INT64_MIN, "1677-09-21T00:12:43.145224192Z", "1677-09-21T00:12:43.145Z"},
                           {INT64_MAX, "2262-04-11T23:47:16.854775807Z", "2262-04-11T23:47:16.854Z"}}) {
    CHECK(rfc3339(Timestamp{nanoseconds{each.nanos}}, cache) == each.all);
    CHECK(millis(Timestamp{nanoseconds{each.nanos}}, cache) == each.three);
  }
}

TEST_CASE("a time writer writes what write_time does, whichever second comes after which") {
  std::mt19937_64 random(1);
  detail::TimeWriter writer;
  constexpr std::int64_t edges[] = {INT64_MIN,
                                    INT64_MIN + 145'224'191,
                                    INT64_MIN + 145'224'192,
                                    INT64_MAX,
                                    INT64_MAX - 999'999'999,
                                    0,
                                    -1,
                                    1,
                                    999'999'999,
                                    1'000'000'000,
                                    -999'999'999,
                                    -1'000'000'000};
  std::int64_t nanos = 0;
  for (int round = 0; round < 200'000; ++round) {
    switch (random() % 8) {
      case 0: nanos = edges[random() % std::size(edges)]; break;
      case 1: nanos = static_cast<std::int64_t>(random()); break;
      default:
        if (nanos < INT64_MAX - 200'000'000) nanos += static_cast<std::int64_t>(random() % 200'000'000);
        if (random() % 2 == 0) nanos -= nanos % 1000;
    }
    SecondCache cache;
    const Timestamp time{nanoseconds{nanos}};
    char text[detail::max_time_size];
    const std::string written(text, writer.write(text, time));
    if (written != rfc3339(time, cache)) REQUIRE(written == rfc3339(time, cache));
  }
}

TEST_CASE("all nine digits of a fraction are right, and its zeros at the end are cut") {
  std::mt19937 random(1);
  detail::TimeWriter writer;
  for (int round = 0; round < 100'000; ++round) {
    unsigned nanos = random() % 1'000'000'000;
    for (unsigned cut = random() % 10; cut > 0; --cut) nanos -= nanos % static_cast<unsigned>(std::pow(10, cut));
    char digits[16];
    std::snprintf(digits, sizeof digits, ".%09u", nanos);
    std::string expected = digits;
    while (expected.back() == '0') expected.pop_back();
    expected = "1970-01-01T00:00:00" + (expected == "." ? "" : expected) + "Z";
    char text[detail::max_time_size];
    const std::string written(text, writer.write(text, Timestamp{nanoseconds{nanos}}));
    if (written != expected) REQUIRE(written == expected);
  }
}

TEST_CASE("threads that share a cache get the second they ask for, whatever others ask") {
  constexpr int seconds = 3;
  std::vector<std::string> expected;
  for (int i = 0; i < seconds; ++i) {
    SecondCache cache;
    expected.push_back(rfc3339(Timestamp{std::chrono::seconds{i * 100'000'001LL}}, cache));
  }
  SecondCache cache;
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      std::minstd_rand random(seed + 1);
      int i = 0;
      for (int round = 0; round < 50'000; ++round) {
        if (random() % 4 == 0) i = static_cast<int>(random() % seconds);
        if (rfc3339(Timestamp{std::chrono::seconds{i * 100'000'001LL}}, cache) != expected[static_cast<std::size_t>(i)]) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}
