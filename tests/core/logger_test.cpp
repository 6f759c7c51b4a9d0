#include "weir/core/logger.hpp"

#include <unistd.h>

#include <array>
#include <cstdio>
#include <string>

#include "support/catch.hpp"

using namespace weir;

namespace {

/// What `body` writes to stderr.
template <class Body>
std::string stderr_of(Body body) {
  std::fflush(stderr);
  std::FILE* const file = std::tmpfile();
  const int kept = ::dup(STDERR_FILENO);
  ::dup2(::fileno(file), STDERR_FILENO);
  body();
  std::fflush(stderr);
  ::dup2(kept, STDERR_FILENO);
  ::close(kept);
  std::rewind(file);
  std::string text;
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) text += static_cast<char>(c);
  std::fclose(file);
  return text;
}

}  // namespace

TEST_CASE("the default logger writes a warning with its attributes as one line") {
  const std::array<Attribute, 4> attributes{Attribute{"path", "/run/x"}, Attribute{"count", 3}, Attribute{"share", 0.5},
                                            Attribute{"last", true}};
  CHECK(stderr_of([&] { stderr_logger().log(Logger::Level::warning, "lost", attributes); }) ==
        "weir: warning: lost path=/run/x count=3 share=0.5 last=true\n");
}

TEST_CASE("the default logger keeps quiet about what needs no attention") {
  CHECK(stderr_of([] {
          stderr_logger().log(Logger::Level::info, "recovered");
          stderr_logger().log(Logger::Level::debug, "detail");
        }).empty());
}

TEST_CASE("control characters in a message do not reach the terminal, and a long message is cut to one line") {
  CHECK(stderr_of([] { stderr_logger().log(Logger::Level::error, "a\n\x1b[31mb"); }) == "weir: error: a\\x0a\\x1b[31mb\n");
  const std::string line = stderr_of([] { stderr_logger().log(Logger::Level::error, std::string(100'000, 'x')); });
  CHECK(line.size() == 2048);
  CHECK(line.back() == '\n');
}
