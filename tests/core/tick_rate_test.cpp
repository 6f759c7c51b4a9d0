#include "weir/core/detail/tick_rate.hpp"

#include <chrono>
#include <cstdint>

#include "support/catch.hpp"

using namespace weir;
using namespace std::chrono_literals;
using weir::detail::TickRate;

using Steady = std::chrono::steady_clock;

namespace {

double seconds(Steady::duration time) { return std::chrono::duration<double>(time).count(); }

}  // namespace

TEST_CASE("a duration is right however little the rate knew when it was first asked") {
  constexpr double between_clocks = 2e-6;
  for (int i = 0; i < 50; ++i) {
    TickRate rate;
    const std::uint64_t first = rate.now();
    CHECK(rate.seconds(first, rate.now()) >= 0);  // some nanoseconds after it was made
    const Steady::time_point before = Steady::now();
    const std::uint64_t begin = rate.now();
    const Steady::time_point inside = Steady::now();
    while (Steady::now() - inside < 1ms) {}
    const double least = seconds(Steady::now() - inside);
    const std::uint64_t end = rate.now();
    const double most = seconds(Steady::now() - before);
    const double measured = rate.seconds(begin, end);
    CHECK(measured >= least - between_clocks);
    CHECK(measured <= most + between_clocks);
  }
}

TEST_CASE("a clock's own nanoseconds are taken as they are") {
  ManualClock clock(Timestamp{1h});
  TickRate rate(&clock);
  const std::uint64_t begin = rate.now();
  clock.advance(1500ms);
  CHECK(rate.seconds(begin, rate.now()) == 1.5);
  clock.advance(-1h);
  CHECK(rate.seconds(begin, rate.now()) == 0);
}
