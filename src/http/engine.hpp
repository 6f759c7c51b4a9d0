#pragma once
// Engine: from the bytes of one request to those of its answer, by way of cpp-httplib, which parses the request line, headers, paths
// and parameters, decompresses bodies and compresses answers. It sees no socket.

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "http/http_server.hpp"

namespace weir::inline v0::http {

/// On every answer.
inline constexpr std::array<std::pair<std::string_view, std::string_view>, 4> fixed_headers{
    {{"Cache-Control", "no-store"},
     {"Content-Security-Policy",
      "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'"},
     {"X-Content-Type-Options", "nosniff"},
     {"Referrer-Policy", "no-referrer"}}};

/// An answer as it is sent, for requests that never get to a handler.
std::string rendered(const Response& response);

/// Thread-safety: shared: safe.
class Engine {
 public:
  /// Error: weir is built without cpp-httplib. The handler must outlive it.
  static Result<std::unique_ptr<Engine>> create(Handler& handler, const Address& address, std::size_t max_body);
  virtual ~Engine() = default;
  /// 403, and nothing else is, if Host or Origin are not ours.
  virtual std::string answer(std::string_view head, std::string_view body) = 0;
};

}  // namespace weir::inline v0::http
