#include "weir/core/name.hpp"

#include <string>

#include "support/catch.hpp"

using weir::Name;

TEST_CASE("a name remembers whether it was a literal") {
  const Name literal = "literal";
  CHECK(literal.literal());
  CHECK(literal.view() == "literal");
  const std::string text = "text";
  CHECK_FALSE(Name(text).literal());
  CHECK(Name(text).view() == "text");
  CHECK_FALSE(Name(std::string_view("view")).literal());
  const char* pointer = "pointer";
  CHECK_FALSE(Name(pointer).literal());
  char buffer[] = "buffer";
  CHECK_FALSE(Name(buffer).literal());
  CHECK(Name(buffer).view() == "buffer");
  CHECK(Name("").view().empty());
}
