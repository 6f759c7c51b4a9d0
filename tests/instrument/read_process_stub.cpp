// weir::read_process() for programs that link a weir::instrument without detectors; weak, so that the library's own wins.
#include <cerrno>

#include "weir/instrument/detector.hpp"

namespace weir::inline v0 {

[[gnu::weak]] Result<ProcessEvent> read_process(pid_t, std::span<const std::string>) { return system_error(ESRCH, "no detectors here"); }

}  // namespace weir::inline v0
