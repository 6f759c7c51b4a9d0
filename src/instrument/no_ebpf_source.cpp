#include "instrument/ebpf_source.hpp"

namespace weir::inline v0::instrument {

Result<std::unique_ptr<RawSource>> make_ebpf_source(const DetectorOptions&) {
  return Error{std::make_error_code(std::errc::function_not_supported),
               "eBPF: this weir was built without it. Build it with clang, bpftool and libbpf (WEIR_WITH_BPF)"};
}

}  // namespace weir::inline v0::instrument
