#include "weir/core/ids.hpp"

#include <set>

#include "support/catch.hpp"

using weir::SpanId;
using weir::TraceId;

TEST_CASE("ids are written as lower-case hex of full width and read back") {
  CHECK(SpanId{0x0123456789abcdef}.hex() == "0123456789abcdef");
  CHECK(SpanId{0xfedcba9876543210}.hex() == "fedcba9876543210");
  CHECK(SpanId{1}.hex() == "0000000000000001");
  CHECK(TraceId{1, 0xa}.hex() == "0000000000000001000000000000000a");
  for (std::uint64_t i = 1; i != 0; i <<= 1) {
    CHECK(SpanId::from_hex(SpanId{i * 7}.hex()) == SpanId{i * 7});
    CHECK(TraceId::from_hex(TraceId{i, i - 1}.hex()) == TraceId{i, i - 1});
  }
}

TEST_CASE("anything else is no id") {
  CHECK_FALSE(SpanId::from_hex("").valid());
  CHECK_FALSE(SpanId::from_hex("0123456789abcde").valid());
  CHECK_FALSE(SpanId::from_hex("0123456789ABCDEF").valid());
  CHECK_FALSE(SpanId::from_hex("0123456789abcdeg").valid());
  CHECK_FALSE(TraceId::from_hex("0123456789abcdef").valid());
  CHECK_FALSE(TraceId::from_hex(std::string(32, '0')).valid());
  CHECK_FALSE(TraceId::from_hex(std::string(31, '0') + "-").valid());
}

TEST_CASE("seeds differ") {
  std::set<std::uint64_t> seeds;
  for (int i = 0; i < 1000; ++i) seeds.insert(weir::detail::random_seed());
  CHECK(seeds.size() == 1000);
}
