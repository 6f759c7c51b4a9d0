#pragma once
// SHA-256 as FIPS 180-4 defines it, for fingerprints of what was cut. Of our own, because OpenSSL is optional.

#include <string>
#include <string_view>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// 64 lower-case hex digits. Thread-safe.
std::string sha256_hex(std::string_view message);

}  // namespace weir::inline v0::detail
