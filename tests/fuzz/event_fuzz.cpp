// An event line of any content: each path that decodes it makes of it what decode_event() makes, or leaves it.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "support/event_lines.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static weir::detail::EventDecoder decoder;
  const std::string problem = weir::testing::disagreement(decoder, {reinterpret_cast<const char*>(data), size});
  if (problem.empty()) return 0;
  std::fprintf(stderr, "paths disagree: %s\n", problem.c_str());
  std::abort();
}
