// kill -9 of a program that writes an audit trail, again and again on the same file.
#include <sys/wait.h>
#include <csignal>
#include <map>
#include <random>
#include <sstream>

#include "activity/audit_checksum.hpp"
#include "support/audit_trail.hpp"
#include "support/catch.hpp"
#include "support/process.hpp"
#include "support/scratch_dir.hpp"
#include "weir/activity/audit_tracker.hpp"

using namespace weir;
using namespace weir::testing;

TEST_CASE("a program that is killed 100 times at any moment loses no acknowledged entry and leaves no torn line") {
  constexpr int kills = 100;
  const unsigned seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937 random(seed);
  ScratchDir dir;
  const std::string path = dir / "audit.jsonl";
  std::map<std::uint64_t, std::uint64_t> acknowledged;  // checksum by seq
  for (int i = 0; i < kills; ++i) {
    CAPTURE(i);
    Process program({WEIR_AUDIT_PROGRAM, path});
    std::string output;
    for (unsigned lines = random() % 100; lines > 0; --lines) {
      const auto line = program.line(1);
      REQUIRE(line);
      output += *line + "\n";
    }
    // Another moment of what the writer's thread does.
    for (unsigned spin = random() % 300'000; spin > 0; --spin) asm volatile("");
    program.signal(SIGKILL);
    CHECK(program.wait() == 1000 + SIGKILL);
    output += program.out();
    output.erase(output.rfind('\n') + 1);
    std::istringstream lines(output);
    for (std::uint64_t seq = 0, sum = 0; lines >> seq >> sum;) {
      if (!acknowledged.emplace(seq, sum).second) FAIL("seq " << seq << " was acknowledged twice");
    }
  }
  REQUIRE(acknowledged.size() > kills);
  {
    RecordingLogger logger;
    REQUIRE(AuditTracker::open(path, {.logger = &logger}));  // cuts off what the last kill has torn
  }
  std::uint64_t found = 0, seq = 0;
  for (const std::string& line : lines_of(contents_of(path))) {
    ++seq;
    const std::string expected = "\"seq\":" + std::to_string(seq) + ",";
    if (line.find(expected) == line.npos || line.front() != '{' || line.back() != '}')
      FAIL("line " << seq << " is " << line.substr(0, 200));
    const auto known = acknowledged.find(seq);
    if (known == acknowledged.end()) continue;
    if (known->second != checksum(line + "\n")) FAIL("line " << seq << " is not what was acknowledged: " << line.substr(0, 200));
    ++found;
  }
  CHECK(found == acknowledged.size());
  CHECK(read_trail(path).size() == seq);
}
