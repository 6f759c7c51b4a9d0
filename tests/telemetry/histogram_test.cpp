// Histograms: where values go, against a naive model of long double; what quantiles say; that payloads add up.
#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/telemetry.hpp"
#include "weir/telemetry/payload.hpp"
#include "weir/telemetry/telemetry.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

constexpr double smallest = 0x1p-40, largest = 0x1p56;

/// bucket i holds 2^(i/32) < value <= 2^((i+1)/32), the last one everything above.
int naive_bucket(double value) {
  if (value > largest) return 56 * 32 - 1;
  const auto exact = static_cast<long double>(value);
  int bucket = static_cast<int>(std::ceil(std::log2(exact) * 32)) - 1;
  while (exact <= std::exp2(static_cast<long double>(bucket) / 32)) --bucket;
  while (exact > std::exp2(static_cast<long double>(bucket + 1) / 32)) ++bucket;
  return bucket;
}

HistogramData recorded(std::span<const double> values) {
  const Telemetry telemetry = buffer();
  const Histogram all = telemetry.histogram("h");
  for (const double value : values) all.record(value);
  const Payload payload = telemetry.take();
  return payload.empty() ? HistogramData() : histogram(payload, "h");
}

/// Where a value went: its bucket, or nothing if to the zero bucket.
struct Place {
  bool zero = false;
  int bucket = 0;
  friend bool operator==(const Place&, const Place&) = default;
};
Place place(const HistogramData& data) {
  REQUIRE(data.count() == 1);
  if (data.zero_count() == 1) {
    REQUIRE(data.counts().empty());
    return {true, 0};
  }
  REQUIRE(data.counts().size() == 1);
  REQUIRE(data.counts()[0] == 1);
  return {false, data.first_bucket()};
}
Place naive_place(double value) { return value <= smallest ? Place{true, 0} : Place{false, naive_bucket(value)}; }

double exact_quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const auto rank = static_cast<std::size_t>(std::ceil(q * static_cast<double>(values.size())));
  return values[rank == 0 ? 0 : rank - 1];
}

std::vector<double> samples(std::function<double(std::mt19937_64&)> draw, std::size_t count, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::vector<double> made(count);
  for (double& each : made) each = draw(engine);
  return made;
}

const std::vector<std::pair<const char*, std::function<double(std::mt19937_64&)>>> distributions = {
    {"uniform", [](auto& e) { return std::uniform_real_distribution<>(0.001, 1)(e); }},
    {"exponential", [](auto& e) { return std::exponential_distribution<>(100)(e); }},
    {"lognormal", [](auto& e) { return std::lognormal_distribution<>(-5, 2)(e); }},
    {"bytes", [](auto& e) { return std::floor(std::lognormal_distribution<>(10, 3)(e)); }},
    {"one value", [](auto&) { return 0.125; }},
    {"two far apart", [](auto& e) { return e() % 10 == 0 ? 1e9 : 1e-6; }},
    {"every octave", [](auto& e) { return std::exp2(std::uniform_real_distribution<>(-39.9, 55.9)(e)); }},
};

}  // namespace

TEST_CASE("a value goes where the definition says") {
  const Telemetry telemetry = buffer();
  const Histogram all = telemetry.histogram("h");
  int wrong = 0;
  double first_wrong = -1;
  const auto check = [&](double value) {
    all.record(value);
    const HistogramData data = histogram(telemetry.take(), "h");
    const bool in_range = value > smallest && value <= largest;
    const bool right = place(data) == naive_place(value) && data.min() == value && data.max() == value &&
                       (!in_range || std::abs(data.sum() - value) <= 1e-12 * value);
    if (!right && ++wrong == 1) first_wrong = value;
  };
  SECTION("at every bound, and beside it") {
    for (int bucket = -41 * 32; bucket <= 57 * 32; ++bucket) {
      const auto bound = static_cast<double>(std::exp2(static_cast<long double>(bucket) / 32));
      check(bound);
      check(std::nextafter(bound, 0));
      check(std::nextafter(bound, DBL_MAX));
    }
    CHECK(first_wrong == -1);
    CHECK(wrong == 0);
  }
  SECTION("at powers of two, and beside them, subnormal ones and zero included") {
    for (int exponent = -1074; exponent <= 1023; ++exponent) {
      const double bound = std::ldexp(1.0, exponent);
      check(bound);
      check(std::nextafter(bound, 0));
      check(std::nextafter(bound, DBL_MAX));
    }
    check(0.0);
    check(-0.0);
    check(DBL_MAX);
    check(DBL_MIN);
    check(std::numeric_limits<double>::denorm_min());
    CHECK(first_wrong == -1);
    CHECK(wrong == 0);
  }
  SECTION("at random") {
    std::mt19937_64 engine(7);
    for (int i = 0; i < 20'000; ++i) check(std::exp2(std::uniform_real_distribution<>(-42, 58)(engine)));
    for (int i = 0; i < 20'000; ++i) {
      const double value = std::abs(std::bit_cast<double>(engine()));
      if (std::isfinite(value)) check(value);
    }
    CHECK(first_wrong == -1);
    CHECK(wrong == 0);
  }
}

TEST_CASE("a bucket lies between the bounds that it names") {
  for (int bucket = -40 * 32; bucket < 56 * 32; ++bucket) {
    CHECK(HistogramData::lower(bucket) == Approx(static_cast<double>(std::exp2(static_cast<long double>(bucket) / 32))).epsilon(1e-15));
    CHECK(HistogramData::upper(bucket) == HistogramData::lower(bucket + 1));
  }
}

TEST_CASE("a histogram of nothing says 0") {
  const HistogramData nothing;
  CHECK(nothing.count() == 0);
  CHECK(nothing.sum() == 0);
  CHECK(nothing.min() == 0);
  CHECK(nothing.max() == 0);
  CHECK(nothing.quantile(0.5) == 0);
  CHECK(nothing.counts().empty());
  CHECK(recorded({}) == nothing);
}

TEST_CASE("a quantile is wrong by 1.1 percent at most, the extremes by nothing") {
  for (const auto& [name, draw] : distributions) {
    for (const std::size_t count : {std::size_t{1}, std::size_t{2}, std::size_t{10}, std::size_t{1'000}, std::size_t{100'000}}) {
      INFO(name << ", " << count);
      const std::vector<double> values = samples(draw, count, count);
      const HistogramData data = recorded(values);
      CHECK(data.count() == count);
      CHECK(data.min() == *std::min_element(values.begin(), values.end()));
      CHECK(data.max() == *std::max_element(values.begin(), values.end()));
      CHECK(data.sum() == Approx(std::accumulate(values.begin(), values.end(), 0.0)).epsilon(1e-12));
      for (const double q : {0.0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0}) {
        INFO("quantile " << q);
        const double exact = exact_quantile(values, q);
        CHECK(std::abs(data.quantile(q) - exact) <= 0.011 * exact);
      }
      CHECK(data.quantile(-1) == data.quantile(0));
      CHECK(data.quantile(2) == data.quantile(1));
      CHECK(data.quantile(std::numeric_limits<double>::quiet_NaN()) == data.quantile(0));
    }
  }
}

TEST_CASE("values that are too small for a bucket are the smallest there are") {
  const std::vector<double> values = {0, 0, 1e-300, 1e-13, 5};
  const HistogramData data = recorded(values);
  CHECK(data.zero_count() == 4);
  CHECK(data.count() == 5);
  CHECK(data.min() == 0);
  CHECK(data.max() == 5);
  CHECK(data.quantile(0.8) == 0);
  CHECK(data.quantile(0.81) == Approx(5).epsilon(0.011));
  const HistogramData tiny = recorded(std::vector<double>{1e-13, 1e-14});
  CHECK(tiny.min() == 1e-14);
  CHECK(tiny.max() == 1e-13);
  CHECK(tiny.sum() == Approx(1.1e-13));
}

TEST_CASE("values that are too large for a bucket are in the last, and hide no others") {
  const Telemetry telemetry = buffer();
  const Histogram all = telemetry.histogram("h");
  all.record(DBL_MAX);
  all.record(DBL_MAX);
  all.record(1e100);
  all.record(2.0);
  HistogramData data = histogram(telemetry.take(), "h");
  CHECK(data.count() == 4);
  CHECK(data.max() == DBL_MAX);
  CHECK(data.min() == 2);
  CHECK(std::isfinite(data.sum()));
  all.record(3.0);
  all.record(1e-6);
  data = histogram(telemetry.take(), "h");
  CHECK(data.count() == 2);
  CHECK(data.sum() == 3.000001);
  CHECK(data.max() == 3);
  CHECK(data.min() == 1e-6);
}

TEST_CASE("a sum is as exact after large values as before them") {
  const Telemetry telemetry = buffer();
  const Histogram all = telemetry.histogram("h");
  for (int i = 0; i < 100; ++i) all.record(5e16);
  telemetry.take();
  std::thread([&] { all.record(7e16); }).join();
  telemetry.take();
  for (int i = 0; i < 10; ++i) all.record(0.1);
  CHECK(histogram(telemetry.take(), "h").sum() == Approx(1.0).epsilon(1e-12));
  // And after a payload came back.
  for (int i = 0; i < 100; ++i) all.record(5e16);
  telemetry.merge_back(telemetry.take());
  telemetry.take();
  for (int i = 0; i < 10; ++i) all.record(0.1);
  telemetry.merge_back(telemetry.take());
  CHECK(histogram(telemetry.take(), "h").sum() == Approx(1.0).epsilon(1e-12));
}

TEST_CASE("two histograms add up to one that recorded everything") {
  for (const auto& [name, draw] : distributions) {
    for (const auto& [other_name, other_draw] : distributions) {
      INFO(name << " and " << other_name);
      const std::vector<double> one = samples(draw, 500, 1), other = samples(other_draw, 700, 2);
      std::vector<double> both = one;
      both.insert(both.end(), other.begin(), other.end());
      HistogramData sum = recorded(one);
      sum += recorded(other);
      const HistogramData whole = recorded(both);
      CHECK(sum.count() == whole.count());
      CHECK(sum.zero_count() == whole.zero_count());
      CHECK(sum.first_bucket() == whole.first_bucket());
      CHECK(std::equal(sum.counts().begin(), sum.counts().end(), whole.counts().begin(), whole.counts().end()));
      CHECK(sum.min() == whole.min());
      CHECK(sum.max() == whole.max());
      CHECK(sum.sum() == Approx(whole.sum()));
    }
  }
  SECTION("nothing adds nothing, on either side") {
    const HistogramData some = recorded(std::vector<double>{1, 2, 3});
    HistogramData sum = some;
    sum += HistogramData();
    CHECK(sum == some);
    HistogramData empty;
    empty += some;
    CHECK(empty == some);
  }
  SECTION("one of zeros only has no buckets") {
    const HistogramData zeros = recorded(std::vector<double>{0, 0}), some = recorded(std::vector<double>{4});
    HistogramData sum = zeros, other = some;
    sum += some;
    other += zeros;
    CHECK(sum == other);
    CHECK(sum.count() == 3);
    CHECK(sum.min() == 0);
    CHECK(sum.max() == 4);
  }
  SECTION("to itself") {
    HistogramData twice = recorded(std::vector<double>{1, 2, 1000});
    twice += twice;
    CHECK(twice == recorded(std::vector<double>{1, 2, 1000, 1, 2, 1000}));
  }
}

TEST_CASE("the payloads of several cycles and threads add up to everything") {
  const Telemetry telemetry = buffer();
  const Histogram all = telemetry.histogram("h");
  for (const auto& [name, draw] : distributions) {
    INFO(name);
    HistogramData sum;
    std::vector<double> everything;
    for (std::uint64_t cycle = 0; cycle < 6; ++cycle) {
      const std::vector<double> here = samples(draw, 50, cycle), there = samples(draw, 50, cycle + 100);
      everything.insert(everything.end(), here.begin(), here.end());
      everything.insert(everything.end(), there.begin(), there.end());
      for (const double value : here) all.record(value);
      std::thread([&] {
        for (const double value : there) all.record(value);
      }).join();
      Payload payload = telemetry.take();
      std::vector<double> both = here;
      both.insert(both.end(), there.begin(), there.end());
      CHECK(histogram(payload, "h").min() == *std::min_element(both.begin(), both.end()));
      CHECK(histogram(payload, "h").max() == *std::max_element(both.begin(), both.end()));
      CHECK(histogram(payload, "h").sum() == Approx(std::accumulate(both.begin(), both.end(), 0.0)));
      if (cycle % 3 == 1)
        telemetry.merge_back(std::move(payload));  // in the next
      else
        sum += histogram(payload, "h");
      if (cycle % 3 == 1) {
        const Payload again = telemetry.take();
        CHECK(histogram(again, "h").count() == 100);
        CHECK(histogram(again, "h").min() == *std::min_element(both.begin(), both.end()));
        CHECK(histogram(again, "h").max() == *std::max_element(both.begin(), both.end()));
        sum += histogram(again, "h");
      }
    }
    const HistogramData whole = recorded(everything);
    CHECK(sum.count() == whole.count());
    CHECK(std::equal(sum.counts().begin(), sum.counts().end(), whole.counts().begin(), whole.counts().end()));
    CHECK(sum.min() == whole.min());
    CHECK(sum.max() == whole.max());
    CHECK(sum.sum() == Approx(whole.sum()));
  }
}

TEST_CASE("the JSON of a histogram says what it holds") {
  const Telemetry telemetry = buffer();
  const Histogram latency = telemetry.histogram("latency", "ms");
  for (int i = 1; i <= 1'000; ++i) latency.record(static_cast<double>(i));
  telemetry.histogram("none").record(0.0);
  const nlohmann::json taken = data(telemetry.take());
  const nlohmann::json& found = taken.at("latency");
  CHECK(found.at("count") == 1'000);
  CHECK(found.at("sum") == 500'500);
  CHECK(found.at("min") == 1);
  CHECK(found.at("max") == 1'000);
  for (const auto& [name, exact] : {std::pair{"p50", 500.0}, {"p90", 900.0}, {"p95", 950.0}, {"p99", 990.0}, {"p999", 999.0}})
    CHECK(found.at(name).get<double>() == Approx(exact).epsilon(0.011));
  CHECK(found.at("unit") == "ms");
  CHECK(found.size() == 10);
  CHECK_FALSE(taken.at("none").contains("unit"));
}
