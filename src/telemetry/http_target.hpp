#pragma once
// HttpTarget: where an HttpTransport sends to and what it sends along, checked once so that no try has to. Without libcurl's handles:
// those are http_transport.cpp's.

#include <string>
#include <string_view>
#include <vector>

#include "weir/core/result.hpp"
#include "weir/telemetry/http_transport.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: a value.
struct HttpTarget {
  std::string url;   ///< the id of the instance is appended
  std::string name;  ///< for messages: without the query, which may hold a secret
  HttpTransportOptions options;
  std::vector<std::string> header_lines;  ///< as libcurl takes them
  bool tls = false;
  bool never_proxied = false;  ///< this machine

  /// Error: as HttpTransport::create, but that ca_file is not looked at.
  static Result<HttpTarget> check(std::string url, HttpTransportOptions options);
};

/// What may stand in a URL wherever an id does.
bool is_plain_id(std::string_view id) noexcept;

}  // namespace weir::inline v0::detail
