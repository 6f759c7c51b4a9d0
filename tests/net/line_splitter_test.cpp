#include "net/line_splitter.hpp"

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "support/catch.hpp"

using weir::net::BufferBudget;
using weir::net::LineSplitter;
using Got = LineSplitter::Got;

namespace {

/// What comes out of a splitter: its lines, and "<long>" and "<room>" for those it skipped.
struct Output {
  std::vector<std::string> lines;

  void feed(LineSplitter& splitter, std::string_view data) {
    while (!data.empty()) {
      std::string_view line;
      take(splitter.next(data, line), line);
    }
  }
  void take(Got got, std::string_view line) {
    if (got == Got::line) lines.emplace_back(line);
    if (got == Got::too_long) lines.emplace_back("<long>");
    if (got == Got::no_room) lines.emplace_back("<room>");
  }
};

}  // namespace

TEST_CASE("lines come out whole, however the stream is cut") {
  std::mt19937 random(1);
  for (int round = 0; round < 3000; ++round) {
    const std::size_t max_line = 1 + random() % 20;
    std::string stream;
    std::vector<std::string> expected;
    for (auto count = random() % 20; count > 0; --count) {
      const std::string line(random() % 24, static_cast<char>('a' + random() % 26));
      stream += line + '\n';
      expected.push_back(line.size() > max_line ? "<long>" : line);
    }
    const std::string rest(random() % 24, 'z');
    stream += rest;
    if (!rest.empty()) expected.push_back(rest.size() > max_line ? "<long>" : rest);

    BufferBudget budget{1 << 20, 0};
    {
      LineSplitter splitter(max_line, budget);
      Output output;
      std::string_view data = stream;
      while (!data.empty()) {
        const std::size_t piece = 1 + random() % 30;
        const std::string copy(data.substr(0, piece));  // so that a view kept too long is seen by the sanitizer
        data.remove_prefix(copy.size());
        output.feed(splitter, copy);
      }
      REQUIRE(splitter.incomplete() == !rest.empty());
      std::string_view line;
      output.take(splitter.finish(line), line);
      REQUIRE(output.lines == expected);
    }
    REQUIRE(budget.used == 0);
  }
}

TEST_CASE("a buffer grows with its line and goes with it") {
  BufferBudget budget{1 << 20, 0};
  LineSplitter splitter(100'000, budget);
  Output output;
  output.feed(splitter, "whole lines\nneed no buffer\n");
  CHECK(budget.used == 0);
  output.feed(splitter, std::string(20, 'x'));
  CHECK(budget.used >= 4096);
  CHECK(budget.used < 5000);
  output.feed(splitter, std::string(50'000, 'x'));
  CHECK(budget.used >= 50'020);
  CHECK(budget.used <= 100'000);
  output.feed(splitter, "\n");
  output.feed(splitter, "\n");
  CHECK(budget.used == 0);
  CHECK(output.lines.size() == 4);
}

TEST_CASE("a buffer goes as soon as nobody looks at its line, and not before its line has come") {
  BufferBudget budget{1 << 20, 0};
  LineSplitter splitter(100'000, budget);
  Output output;
  output.feed(splitter, std::string(50'000, 'x'));
  splitter.let_go();
  CHECK(budget.used >= 50'000);
  output.feed(splitter, "y\n");
  CHECK(output.lines == std::vector<std::string>{std::string(50'000, 'x') + 'y'});
  splitter.let_go();
  CHECK(budget.used == 0);
  output.feed(splitter, "z\n");
  CHECK(output.lines.back() == "z");
}

TEST_CASE("a line that the budget has no room for is skipped, and the next one taken") {
  BufferBudget budget{10'000, 0};
  LineSplitter first(1 << 20, budget), second(1 << 20, budget);
  Output output;
  output.feed(first, std::string(6'000, 'a'));
  output.feed(second, std::string(20, 'b'));
  CHECK(output.lines == std::vector<std::string>{"<room>"});
  CHECK(second.incomplete());
  output.feed(second, "bbb\nwhole\n");
  output.feed(first, "\n");
  output.feed(first, "x\n");
  output.feed(second, std::string(20, 'c'));
  output.feed(second, "\n");
  CHECK(output.lines == std::vector<std::string>{"<room>", "whole", std::string(6'000, 'a'), "x", std::string(20, 'c')});
}

TEST_CASE("whatever comes in whatever pieces, the budget is what is kept, within its limit, and nothing in the end") {
  for (unsigned seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    BufferBudget budget{random() % 3 == 0 ? 0 : random() % 60'000, 0};
    std::vector<std::unique_ptr<LineSplitter>> splitters(1 + random() % 5);
    const std::size_t max_line = 1 + random() % 30'000;
    for (auto& splitter : splitters) splitter = std::make_unique<LineSplitter>(max_line, budget);
    for (int step = 0; step < 400; ++step) {
      auto& splitter = splitters[random() % splitters.size()];
      std::string data(random() % (random() % 4 == 0 ? 20'000 : 40), 'x');
      for (auto newlines = random() % 3; newlines > 0 && !data.empty(); --newlines) data[random() % data.size()] = '\n';
      Output output;
      switch (random() % 20) {
        case 0: splitter = std::make_unique<LineSplitter>(max_line, budget); break;  // another connection
        case 1: {
          std::string_view line;
          output.take(splitter->finish(line), line);
          splitter = std::make_unique<LineSplitter>(max_line, budget);
          break;
        }
        default: output.feed(*splitter, data);
      }
      REQUIRE(budget.used <= budget.limit);
      const auto holds = [](const auto& one) { return one->incomplete(); };
      if (std::none_of(splitters.begin(), splitters.end(), holds)) {
        // What is left is a buffer that was handed out, one for each at most.
        REQUIRE(budget.used <= splitters.size() * std::max<std::size_t>(max_line, 4097));
      }
    }
    splitters.clear();
    REQUIRE(budget.used == 0);
  }
}
