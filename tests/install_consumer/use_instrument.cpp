// Uses weir::instrument: finds itself among the processes, and the eBPF backend works or says why not.
#include <unistd.h>
#include <weir/instrument/detector.hpp>

int main() {
  const auto self = weir::read_process(::getpid());
  if (!self || self->executable.empty()) return 1;
  const auto kernel = weir::ProcessDetector::ebpf({.filters = {.executables = {"/nowhere"}}});
  if (!kernel && kernel.error().message.empty()) return 1;
  return weir::ProcessDetector::proc_scan() ? 0 : 1;
}
