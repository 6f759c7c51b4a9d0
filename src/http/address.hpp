#pragma once
// Where an HTTP server listens: "4318", "127.0.0.1:4318", "[::1]:4318", "collector.internal:4318", "unix:/run/weir/http.sock"; and which
// Host and Origin headers it takes for its own. Without that rule a page from anywhere could have its visitor's browser talk to
// a server on localhost, under a name of its own (DNS rebinding).

#include <cstdint>
#include <string>
#include <string_view>

#include "weir/core/result.hpp"

namespace weir::inline v0::http {

/// Thread-safety: a value.
struct Address {
  std::string path;  ///< of a Unix socket; empty: TCP
  std::string host;  ///< in lower case, an IPv6 address without its brackets
  std::uint16_t port = 0;

  /// A port alone is one of 127.0.0.1; port 0 is any that is free. Error: anything else than the above.
  static Result<Address> parse(std::string_view text);
  /// As it is written.
  std::string to_string() const;
};

/// Whether the value of a Host header names a server at `address`: as 127.0.0.1, [::1], localhost or `address.host`, with its port,
/// which may be absent where it is 80, and may be any at a Unix socket.
bool names_host(const Address& address, std::string_view host);
/// Whether the value of an Origin header is that of a page of a server at `address`.
bool names_origin(const Address& address, std::string_view origin);

}  // namespace weir::inline v0::http
