#pragma once
// `weir doctor`: tries what weir needs of a machine. One probe for each thing, in a table (doctor.cpp); what they find is printed.

#include <string>
#include <string_view>
#include <vector>

namespace weir::cli {

struct Finding {
  enum class State {
    ok,
    limited,  ///< weir does without, or with less
    missing   ///< what depends on it does not work
  };
  State state = State::ok;
  std::string reason;  ///< what was found
  std::string advice;  ///< what to do; empty: nothing
};

struct Probe {
  std::string_view name;
  bool needed;  ///< where it is missing, services cannot be traced
  Finding (*look)();
  std::string_view purpose{};  ///< what does not work where it is missing; empty: it never is
};

/// In the order in which they are shown.
const std::vector<Probe>& probes();
/// Of them, in doctor_kernel.cpp: what looking at other processes needs, which tracing does not.
void add_kernel_probes(std::vector<Probe>& probes);

/// The first line of a file, without its newline; empty if it cannot be read.
std::string first_line(const std::string& path);
/// What errno says.
std::string error_text(int error);

}  // namespace weir::cli
