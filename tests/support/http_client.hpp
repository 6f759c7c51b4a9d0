#pragma once
// HTTP as bytes on a real socket, so that a test can say what no library would.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "net/unix_socket.hpp"

namespace weir::testing {

struct HttpReply {
  int status = 0;                              // 0: closed without an answer
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;

  nlohmann::json json() const { return nlohmann::json::parse(body, nullptr, false); }
  std::string header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? "" : found->second;
  }
};

inline HttpReply parse_reply(const std::string& text) {
  HttpReply reply;
  const std::size_t end = text.find("\r\n\r\n");
  if (!text.starts_with("HTTP/1.1 ") || end == std::string::npos) return reply;
  reply.status = std::atoi(text.c_str() + 9);
  for (std::size_t at = text.find("\r\n") + 2; at < end;) {
    const std::size_t next = text.find("\r\n", at), colon = text.find(": ", at);
    std::string name = text.substr(at, colon - at);
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    reply.headers[name] = text.substr(colon + 2, next - colon - 2);
    at = next + 2;
  }
  reply.body = text.substr(end + 4);
  return reply;
}

/// One connection. Nothing in it fails a test by itself, so that any thread may use it.
class HttpClient {
 public:
  /// "127.0.0.1:PORT" or "unix:PATH", as a server says its address.
  explicit HttpClient(const std::string& address) {
    if (address.starts_with("unix:")) {
      if (auto connected = net::connect_unix(address.substr(5))) fd_ = std::move(*connected);
      return;
    }
    const std::size_t colon = address.rfind(':');
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<std::uint16_t>(std::atoi(address.c_str() + colon + 1)));
    ::inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr);
    fd_ = net::Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) fd_.reset();
  }

  bool connected() const { return static_cast<bool>(fd_); }
  int fd() const { return fd_.get(); }
  /// False: the other side is gone.
  bool send(std::string_view data) {
    while (!data.empty()) {
      const ssize_t size = net::send_some(fd_.get(), data.data(), data.size());
      if (size == -EAGAIN) {
        if (!wait(POLLOUT)) return false;
      } else if (size < 0) {
        return false;
      } else {
        data.remove_prefix(static_cast<std::size_t>(size));
      }
    }
    return true;
  }
  /// Everything until the other side closes.
  std::string rest() {
    while (more()) {}
    return std::exchange(text_, {});
  }
  /// Everything up to the first `part`; what came so far if the other side closes before.
  std::string until(std::string_view part) {
    while (text_.find(part) == std::string::npos && more()) {}
    const std::size_t end = std::min(text_.find(part), text_.size());
    std::string result = text_.substr(0, std::min(end + part.size(), text_.size()));
    text_.erase(0, result.size());
    return result;
  }

 private:
  bool wait(short events) {
    pollfd entry{fd_.get(), events, 0};
    return ::poll(&entry, 1, 60'000) == 1;
  }
  bool more() {
    char some[16384];
    for (;;) {
      if (!fd_ || !wait(POLLIN)) return false;
      const ssize_t size = net::receive_some(fd_.get(), some, sizeof some);
      if (size == -EAGAIN) continue;
      if (size <= 0) return false;
      text_.append(some, static_cast<std::size_t>(size));
      return true;
    }
  }

  net::Fd fd_;
  std::string text_;
};

/// Sends bytes on a new connection and reads until it is closed.
inline HttpReply http_exchange(const std::string& address, std::string_view bytes) {
  HttpClient client(address);
  client.send(bytes);  // an answer may come before all is sent
  return parse_reply(client.rest());
}

inline std::string host_of(const std::string& address) { return address.starts_with("unix:") ? "localhost" : address; }

inline HttpReply http_get(const std::string& address, const std::string& target) {
  return http_exchange(address, "GET " + target + " HTTP/1.1\r\nHost: " + host_of(address) + "\r\n\r\n");
}

inline std::string post_of(const std::string& address, const std::string& target, std::string_view body,
                           const std::string& more_headers = "") {
  return "POST " + target + " HTTP/1.1\r\nHost: " + host_of(address) +
         "\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" + more_headers + "\r\n" +
         std::string(body);
}

inline HttpReply http_post(const std::string& address, const std::string& target, std::string_view body,
                           const std::string& more_headers = "") {
  return http_exchange(address, post_of(address, target, body, more_headers));
}

}  // namespace weir::testing
