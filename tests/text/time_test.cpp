#include "text/time.hpp"

#include <atomic>
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
