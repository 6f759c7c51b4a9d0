// kill -9 of a program that sends updates with a spool, again and again, and a server that drops what it has seen.
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>

#include "support/catch.hpp"
#include "support/process.hpp"
#include "support/scratch_dir.hpp"

using namespace weir::testing;

namespace {

constexpr std::int64_t numbers_each = 1'000'000;  // of one run

class Server {
 public:
  /// Takes the update unless it has it, and returns the first of its numbers.
  std::int64_t receive(const std::string& line, bool take) {
    const std::size_t space = line.find(' ');
    REQUIRE(space == 32);
    const std::string id = line.substr(0, space), body = line.substr(space + 1);
    const auto [known, is_new] = tried_.emplace(id, body);
    CHECK(known->second == body);  // the same for every try, over restarts
    const nlohmann::json update = nlohmann::json::parse(body);
    CHECK(update.at("update_id") == id);
    const auto numbers = update.at("data").at("numbers").get<std::vector<std::int64_t>>();
    REQUIRE_FALSE(numbers.empty());
    if (take && taken_.insert(id).second) {
      for (const std::int64_t number : numbers)
        if (!numbers_.insert(number).second) FAIL("number " << number << " came twice");
    }
    return numbers.front();
  }
  bool has(const std::string& id) const { return taken_.count(id) != 0; }
  const std::map<std::string, std::string>& tried() const { return tried_; }
  const std::set<std::int64_t>& numbers() const { return numbers_; }

 private:
  std::map<std::string, std::string> tried_;  // body by update_id
  std::set<std::string> taken_;
  std::set<std::int64_t> numbers_;
};

void reply(const Process& program, int status) {
  const std::string line = std::to_string(status) + "\n";
  REQUIRE(::write(program.fd(0), line.data(), line.size()) == static_cast<ssize_t>(line.size()));
}

}  // namespace

TEST_CASE("what a program that is killed at any moment had in its spool arrives, and nothing counts twice") {
  constexpr int kills = 40;
  const unsigned seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937 random(seed);
  ScratchDir dir;
  Server server;
  for (int run = 0; run < kills; ++run) {
    CAPTURE(run);
    Process program({WEIR_SPOOL_PROGRAM, dir / "spool", std::to_string(run * numbers_each)});
    const unsigned good = random() % 4;  // of four answers
    for (unsigned tries = random() % 30; tries > 0; --tries) {
      const auto line = program.line(1);
      REQUIRE(line);
      const bool take = random() % 4 < good;
      server.receive(*line, take);
      if (tries > 1) reply(program, take ? 200 : random() % 2 == 0 ? 503 : 404);  // it never hears of the last
    }
    for (unsigned spin = random() % 300'000; spin > 0; --spin) asm volatile("");
    program.signal(SIGKILL);
    CHECK(program.wait() == 1000 + SIGKILL);
    CHECK(program.err().find("spool") == std::string::npos);
  }

  Process last({WEIR_SPOOL_PROGRAM, dir / "spool", std::to_string(kills * numbers_each)});
  std::int64_t first = -1, before = -1;
  do {  // the oldest first, until it comes to its own
    const auto line = last.line(1);
    REQUIRE(line);
    first = server.receive(*line, true);
    CHECK(first > before);
    before = first;
    reply(last, 200);
  } while (first < kills * numbers_each);
  last.signal(SIGKILL);
  CHECK(last.wait() == 1000 + SIGKILL);

  for (const auto& [id, body] : server.tried()) CHECK(server.has(id));
  std::int64_t expected = 0;
  for (const std::int64_t number : server.numbers()) {  // of each run all from its first on
    if (number % numbers_each == 0) expected = number;
    CHECK(number == expected++);
  }
  for (const auto& entry : std::filesystem::directory_iterator(dir / "spool")) CHECK(entry.path().extension() != ".bad");
}
