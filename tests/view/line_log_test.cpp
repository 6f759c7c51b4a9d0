#include "view/line_log.hpp"

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <string>

#include "support/catch.hpp"

using weir::detail::LineBlock;
using weir::detail::LineLog;

TEST_CASE("whatever is appended and let go, the log finds its lines and counts its bytes as a list of strings does") {
  for (unsigned seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    LineLog log;
    std::deque<std::string> lines;  // all of them, from the beginning on
    std::uint64_t gone = 0;         // of those the log has no more
    const auto bytes_from = [&](std::uint64_t line) {
      std::size_t bytes = 0;
      for (std::uint64_t i = std::max(line, gone); i < lines.size(); ++i) bytes += lines[i].size();
      return bytes;
    };
    const std::size_t longest = random() % 4 == 0 ? 200'000 : 3000;
    for (int step = 0; step < 300; ++step) {
      switch (random() % 12) {
        case 0: {
          const std::size_t bound = random() % 300'000;
          const std::size_t before = bytes_from(gone);
          log.trim_to_bytes(bound);
          REQUIRE(log.first_line() >= gone);
          gone = log.first_line();
          REQUIRE(bytes_from(gone) >= std::min(before, bound));
          REQUIRE(bytes_from(gone) < bound + LineBlock::usual_bytes + longest);
          break;
        }
        case 1: {
          const std::uint64_t line = gone + random() % (lines.size() - gone + 1);
          log.trim_to_line(line);
          REQUIRE(log.first_line() >= gone);
          REQUIRE(log.first_line() <= line);
          gone = log.first_line();
          break;
        }
        default:
          lines.emplace_back(1 + random() % (random() % 8 == 0 ? longest : 300), static_cast<char>('a' + random() % 26));
          REQUIRE(log.append(lines.back()));
      }
      REQUIRE(log.end_line() == lines.size());
      const std::uint64_t any = random() % (lines.size() + 1);
      REQUIRE(log.bytes_from(any) == bytes_from(any));
      const std::size_t room = random() % 400'000;
      const std::uint64_t first = log.line_with(room);
      REQUIRE(bytes_from(first) <= room);
      REQUIRE((first == gone || bytes_from(first - 1) > room));
      if (any < gone || any == lines.size()) continue;
      const LineLog::Found found = log.find(any);
      const LineBlock& block = **found.block;
      const std::size_t begin = block.begin_of(found.line), end = block.begin_of(found.line + 1);
      REQUIRE(std::string(block.bytes() + begin, end - begin) == lines[any]);
      REQUIRE(block.line_at(begin) == found.line);
      REQUIRE(block.line_at(end - 1) == found.line);
    }
  }
}

TEST_CASE("a block that somebody still sends from is not written over") {
  LineLog log;
  REQUIRE(log.append("first\n"));
  const std::shared_ptr<LineBlock> kept = *log.find(0).block;
  log.trim_to_line(1);
  for (int i = 0; i < 100'000; ++i) {
    REQUIRE(log.append("another\n"));
    log.trim_to_line(log.end_line());
  }
  CHECK(std::string(kept->bytes(), kept->size()) == "first\n");
}
