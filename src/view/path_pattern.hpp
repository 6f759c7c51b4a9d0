#pragma once
// PathPattern: a regular expression that matches whole texts, run as an automaton in all its states at once: no
// backtracking, no recursion over the text. For weir/view/path_groups.hpp, which says what expressions it knows.

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "weir/core/result.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: a value; shared: safe to read.
class PathPattern {
 public:
  static constexpr std::size_t max_size = 4000;  ///< instructions; {n,m} counts what it repeats m times
  static constexpr std::size_t max_nesting = 100;

  /// Error: "<what> at character N ('<rest>')".
  static Result<PathPattern> compile(std::string_view pattern);
  bool matches(std::string_view text) const;

  struct CharSet {
    std::vector<std::pair<char32_t, char32_t>> ranges;
    bool negated = false;
    bool contains(char32_t c) const;
  };
  struct Instruction {
    enum Op : std::uint8_t {
      one_of,  // a character of sets[set]
      split,   // here + x and here + y
      jump,    // here + x
      begin,
      end,
    };
    Op op;
    std::int32_t x = 0, y = 0;
    std::uint32_t set = 0;
  };

 private:
  std::vector<Instruction> program_;  // behind its last instruction it has matched
  std::vector<CharSet> sets_;
};

}  // namespace weir::inline v0::detail
