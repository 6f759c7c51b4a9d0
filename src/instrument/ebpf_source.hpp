#pragma once
// The eBPF source of process events: three tracepoints of the kernel, whose programs (bpf/process_events.bpf.c) write to a ring buffer.
// (private to src)
//
//   exec, fork ──────────────────────────▶ pid as our pid namespace has it ─▶ ring buffer ─▶ read()
//   opened file ─▶ watched process, path ─▶ ┘     not visible there: nothing     full: counted in lost()
//
// Built where clang, bpftool and libbpf are; else make_ebpf_source (no_ebpf_source.cpp) says that they were not.

#include <memory>

#include "instrument/raw_source.hpp"
#include "weir/core/result.hpp"
#include "weir/instrument/detector.hpp"

namespace weir::inline v0::instrument {

/// A source that is not attached yet. Of the options: `files` (openings are told by those processes that are watched, when they succeed,
/// with the path exactly so), `receive_buffer` (raised to a page and a power of two; at most 1 GiB; an event takes 24 bytes), `logger`.
/// Errors: invalid_argument for files beyond ProcessFilters's limits, empty, or longer than any path; function_not_supported in a weir
/// that was built without eBPF.
///
/// attach() fails without root or CAP_BPF and CAP_PERFMON, without the kernel's BTF, or on one before 5.8, and says which.
/// Where only openings cannot be seen, it succeeds, logs why, and file_open() is false. lost() counts what the ring buffer had no room for;
/// on a preemptible kernel it may also count an opening by others that came in the middle of one. At most 65,536 processes are watched;
/// that one is not is logged. Before attach() and after detach(), fd() is -1, and watch() is remembered.
Result<std::unique_ptr<RawSource>> make_ebpf_source(const DetectorOptions& options);

}  // namespace weir::inline v0::instrument
