#include "weir/core/attribute.hpp"

#include <string>

#include "support/catch.hpp"

using weir::AttributeValue;
using Type = weir::AttributeValue::Type;

TEST_CASE("an attribute value knows its type") {
  CHECK(AttributeValue("text").type() == Type::string);
  CHECK(AttributeValue(std::string("text")).text() == "text");
  CHECK(AttributeValue(std::string_view("text")).text() == "text");
  CHECK(AttributeValue(7).integer() == 7);
  CHECK(AttributeValue('c').type() == Type::integer);
  CHECK(AttributeValue(INT64_MIN).integer() == INT64_MIN);
  CHECK(AttributeValue(true).type() == Type::boolean);
  CHECK(AttributeValue(true).boolean());
  CHECK(AttributeValue(1.5f).real() == 1.5);
}

TEST_CASE("unsigned values beyond int64 become doubles") {
  CHECK(AttributeValue(std::uint64_t{INT64_MAX}).type() == Type::integer);
  CHECK(AttributeValue(UINT64_MAX).type() == Type::real);
  CHECK(AttributeValue(UINT64_MAX).real() == Approx(18446744073709551615.0));
}
