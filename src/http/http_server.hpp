#pragma once
// HttpServer: serves small answers to small requests, on TCP or a Unix socket, to clients that it does not trust (private to src).
//
//   accept ─▶ reading ─whole request─▶ working ─answer─▶ writing ─▶ draining ─▶ closed
//               └─ too slow, too large: 408, 413 … ────────▲
//
// One thread reads, writes and keeps the time; a few others parse (with cpp-httplib) and call the handler. A thread is busy
// with whole requests only: what a client sends slowly, or not at all, waits in a bounded buffer until its time is over.
// When there is no room for a new connection, or for its bytes, the one leaves that has been sending its request, or reading its
// answer, for longest.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "http/address.hpp"
#include "http/framing.hpp"
#include "weir/core/logger.hpp"
#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"

namespace weir::inline v0::http {

struct Request {
  std::string method;
  std::string path;  ///< decoded
  std::multimap<std::string, std::string> parameters;
  std::string content_type;  ///< in lower case, without parameters
  std::string body;

  const std::string* parameter(const std::string& name) const {
    const auto found = parameters.find(name);
    return found == parameters.end() ? nullptr : &found->second;
  }
};

struct Response {
  int status = 200;
  std::string body{};  ///< JSON
  std::vector<std::pair<std::string, std::string>> headers{};
};

/// {"error":"<message>"} with a status.
Response error_response(int status, std::string_view message);

/// What answers. Called by several threads at once, when Host and Origin are the server's own. What it throws is answered 500.
class Handler {
 public:
  virtual ~Handler() = default;
  /// A request without its body: its answer, or nothing if the body is wanted, of a POST.
  virtual std::optional<Response> begin(const Request& head) = 0;
  virtual Response finish(const Request& whole) = 0;
};

struct ServerOptions {
  RequestLimits limits;
  std::size_t max_connections = 256;
  std::size_t max_buffered = 64u << 20;  ///< bytes of requests and answers
  std::size_t threads = 2;
  std::chrono::milliseconds request_time{10'000};  ///< for the whole request, from the connection on
  std::chrono::milliseconds answer_time{10'000};   ///< for reading the answer
  Logger* logger = nullptr;                        ///< nullptr: stderr_logger()
};

struct ServerStats {
  std::uint64_t connections = 0, requests = 0;
  std::uint64_t refused_hosts = 0;     ///< answered 403: a Host or Origin that is not ours
  std::uint64_t refused_requests = 0;  ///< too large, or malformed
  std::uint64_t timed_out = 0;         ///< requests and answers that took too long
  std::uint64_t dropped = 0;           ///< unfinished requests and answers that made room for others
  std::uint64_t listener_pauses = 0;   ///< times that nobody was let in
  std::size_t open_connections = 0;
};

/// Thread-safety: shared: safe.
class HttpServer {
 public:
  /// The handler must outlive it.
  HttpServer(Address address, Handler& handler, ServerOptions options = {});
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  /// Error: the address is in use or not this machine's, a rule of net::UnixListener is broken, or weir is built without cpp-httplib.
  Result<void> listen();
  /// Serves until stop is requested; requests that are whole are answered then, within a second. Error: not listening; no
  /// thread; no memory; the listener is of no use any more.
  Result<void> serve(const StopToken& stop);

  /// The port is the one that was found, once listen() has succeeded.
  const Address& address() const noexcept;
  ServerStats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir::inline v0::http
