#pragma once
// KernelEvents: what the kernel tells of all processes over its proc connector, a netlink multicast group (private to src).

#include <cstddef>
#include <cstdint>
#include <memory>

#include "instrument/raw_source.hpp"

namespace weir::inline v0::instrument {

/// `receive_buffer` in bytes, as asked of the kernel: an event takes about 820.
std::unique_ptr<RawSource> make_kernel_events(std::size_t receive_buffer);

}  // namespace weir::inline v0::instrument
