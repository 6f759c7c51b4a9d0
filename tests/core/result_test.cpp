#include "weir/core/result.hpp"

#include <cerrno>
#include <memory>

#include "support/catch.hpp"

using weir::Error;
using weir::Result;

TEST_CASE("a result holds a value or an error") {
  Result<int> good = 7;
  REQUIRE(good);
  CHECK(*good == 7);
  CHECK(good.value_or(1) == 7);
  Result<int> bad = Error{std::make_error_code(std::errc::io_error), "no"};
  CHECK_FALSE(bad.has_value());
  CHECK(bad.error().message == "no");
  CHECK(bad.error().code == std::errc::io_error);
  CHECK(bad.value_or(1) == 1);
}

TEST_CASE("values move through") {
  Result<std::unique_ptr<int>> made = std::make_unique<int>(3);
  std::unique_ptr<int> taken = std::move(made).value();
  CHECK(*taken == 3);
}

TEST_CASE("a result of nothing") {
  Result<void> good;
  CHECK(good);
  Result<void> bad = Error{{}, "no"};
  CHECK_FALSE(bad);
  CHECK(bad.error().message == "no");
}

TEST_CASE("a system error says what, why and what to do") {
  const Error error = weir::system_error(ENOENT, "cannot open \"x\"", "Create it");
  CHECK(error.code == std::errc::no_such_file_or_directory);
  CHECK(error.message == "cannot open \"x\": No such file or directory. Create it");
}
