// An event line of any content: each path that decodes it makes of it what decode_event() makes, or leaves it.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "support/event_lines.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static weir::detail::EventDecoder decoder;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  std::string problem = weir::testing::disagreement(decoder, input);
  if (const std::size_t newline = input.find('\n'); problem.empty() && newline != input.npos) {
    std::size_t pairs = 0;
    problem = weir::testing::disagreement_on_pair(decoder, input.substr(0, newline), std::string(input.substr(newline + 1)), 256, pairs);
  }
  if (problem.empty()) problem = weir::testing::disagreement_on_next(decoder, std::string(input), size / 2);
  if (problem.empty()) problem = weir::testing::disagreement_on_next(decoder, std::string(input) + '\n', size);
  if (problem.empty()) return 0;
  std::fprintf(stderr, "paths disagree: %s\n", problem.c_str());
  std::abort();
}
