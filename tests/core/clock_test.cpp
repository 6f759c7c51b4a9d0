#include "weir/core/clock.hpp"

#include "support/catch.hpp"

using namespace std::chrono_literals;
using weir::Timestamp;
using weir::detail::TickCalibration;
using weir::detail::Ticker;

TEST_CASE("a manual clock stands still until it is told otherwise, and its ticks are its time") {
  weir::ManualClock clock{Timestamp{5s}};
  CHECK(clock.now() == Timestamp{5s});
  clock.advance(3ns);
  const Ticker ticker(&clock);
  CHECK(ticker.now() == 5'000'000'003);
  const TickCalibration calibration(ticker);
  CHECK(calibration.to_time(ticker.now()) == clock.now());
  clock.set(Timestamp{1s});
  CHECK(calibration.to_time(ticker.now()) == Timestamp{1s});
}

TEST_CASE("ticks turn into wall time") {
  TickCalibration calibration{Ticker{}};
  calibration.update();
  // Hang guards, not figures: on a quiet machine the error is well under a microsecond.
  const auto before = std::chrono::system_clock::now();
  const Timestamp converted = calibration.to_time(calibration.ticker().now());
  const auto after = std::chrono::system_clock::now();
  CHECK(converted > before - 1s);
  CHECK(converted < after + 1s);
}

TEST_CASE("ticks and the times made of them never run backwards") {
  TickCalibration calibration{Ticker{}};
  calibration.update();
  std::uint64_t last = 0;
  Timestamp last_time{};
  for (int i = 0; i < 10'000; ++i) {
    const std::uint64_t now = calibration.ticker().now();
    CHECK(now >= last);
    CHECK(calibration.to_time(now) >= last_time);
    last = now;
    last_time = calibration.to_time(now);
  }
}

TEST_CASE("ticks from before the anchor are converted too") {
  const Ticker ticker;
  const std::uint64_t early = ticker.now();
  TickCalibration calibration{ticker};
  calibration.update();
  CHECK(calibration.to_time(early) <= calibration.to_time(ticker.now()));
}
