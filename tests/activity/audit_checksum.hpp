#pragma once
// What both sides of the kill test take of a line: FNV-1a.

#include <cstdint>
#include <string_view>

namespace weir::testing {

inline std::uint64_t checksum(std::string_view line) {
  std::uint64_t sum = 0xcbf29ce484222325;
  for (const char c : line) sum = (sum ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return sum;
}

}  // namespace weir::testing
