#pragma once
// HttpTransport and UnixSocketTransport: take an update to an endpoint that speaks HTTP/1.1, over TCP, TLS or a Unix socket. They
// are in the library weir::http, which is there when libcurl was.
//
//   weir::Emitter emitter{*telemetry, weir::HttpTransport{"https://telemetry.example.com/v1/update/"}};
//   weir::Emitter local{*telemetry, weir::UnixSocketTransport{"/run/telemetry/http.sock"}};
//
//   POST <URL><instance id>     Content-Type and Accept: application/json
//
//   look up ─▶ connect ─▶ TLS ─▶ send ─▶ wait ─▶ read ─▶ answered
//   └──────────── not_sent ────┘ └──── unknown ─────┘       every arrow ends at once when a stop is requested
//
// The endpoint is not trusted: its certificate and its name are verified, and there is no way around that but to name who is to be
// trusted; its answer is bounded in time and in bytes; redirects are not followed but answered; nothing is uncompressed.
// An idle connection is used again within two minutes. One that turns out to be dead is replaced within the same try, so that a
// server that took the update and then closed without a word may see it again: by its update_id it knows.
//
// A proxy is used where the environment names one, as it does for curl: https_proxy, http_proxy, all_proxy, no_proxy. Never for
// this machine (localhost, 127.*, ::1) and never for a Unix socket.
//
// fork(): the child makes connections of its own.

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"
#include "weir/core/version.hpp"
#include "weir/telemetry/transport.hpp"

namespace weir::inline v0 {

struct HttpTransportOptions {
  /// For a whole try, from the look-up of the name to the last byte of the answer; at most ten seconds.
  std::chrono::milliseconds timeout{10'000};
  /// For the part of it until the connection is made, TLS included.
  std::chrono::milliseconds connect_timeout{5'000};
  /// PEM file of the certificates that are trusted, instead of the system's. Empty: the system's.
  std::string ca_file{};
  /// A Unix socket to connect to, whatever host the URL names: absolute, at most 107 bytes. Empty: the URL's host.
  std::string unix_socket{};
  /// Sent with each update, {"Authorization", "Bearer …"}. Never logged.
  std::vector<std::pair<std::string, std::string>> headers{};
  std::string user_agent{"weir/" WEIR_VERSION_STRING};
};

/// Thread-safety: Distinct objects: safe. Shared: unsafe, but for endpoint().
class HttpTransport final : public Transport {
 public:
  /// The id of the instance is appended to `url` as it is, so that it ends in '/' (or, in a query, in '='). A URL or option that
  /// create() would refuse is reported by every send(), as not_sent.
  explicit HttpTransport(std::string url, HttpTransportOptions options = {});
  /// Connects to nothing yet. Error: std::errc::invalid_argument (the URL is no http:// or https:// URL, holds a user or password or a
  /// fragment, or does not end in '/'; a header that cannot be sent, or is weir's to set; a timeout out of range),
  /// filename_too_long (the path of the socket), or as reading ca_file fails.
  static Result<HttpTransport> create(std::string url, HttpTransportOptions options = {});
  ~HttpTransport() override;
  HttpTransport(HttpTransport&&) noexcept;
  HttpTransport& operator=(HttpTransport&&) noexcept;

  /// Errors, by code: operation_canceled (a stop was requested), timed_out, host_unreachable (its name is not known), permission_denied
  /// (its certificate is not trusted), message_size (its answer is too long), protocol_error (what it sent is no answer),
  /// not_enough_memory, what connecting failed with, and as for create().
  /// An answer of more than max_answer_bytes is unknown if its status is 2xx; of others, which say themselves that the update was not
  /// taken, the body is cut.
  Delivery send(const Update& update, const StopToken& stop) noexcept override;
  /// The URL without its query, and the socket.
  std::string endpoint() const override;

 private:
  struct State;
  explicit HttpTransport(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

/// HTTP over the Unix socket at `path`. Whoever listens there gets the updates: keep it in a directory that only they can write.
/// Thread-safety: Distinct objects: safe. Shared: unsafe, but for endpoint().
class UnixSocketTransport final : public Transport {
 public:
  /// `url_path`: begins and ends with '/'; the id of the instance follows. What is wrong is reported by every send(), as not_sent.
  explicit UnixSocketTransport(std::string path, std::string url_path = "/v1/update/", HttpTransportOptions options = {});
  /// Connects to nothing yet. Error: as HttpTransport::create.
  static Result<UnixSocketTransport> create(std::string path, std::string url_path = "/v1/update/", HttpTransportOptions options = {});

  /// As HttpTransport::send.
  Delivery send(const Update& update, const StopToken& stop) noexcept override { return http_.send(update, stop); }
  std::string endpoint() const override { return http_.endpoint(); }

 private:
  explicit UnixSocketTransport(HttpTransport http) noexcept : http_(std::move(http)) {}
  HttpTransport http_;
};

}  // namespace weir::inline v0
