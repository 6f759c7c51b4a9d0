#include <httplib.h>
#include <csignal>
#include <cstring>
#include <utility>

#include "http/engine.hpp"
#include "text/ascii.hpp"

namespace weir::inline v0::http {

namespace {

constexpr const char* json_type = "application/json";

/// A request in memory, and the answer to it. Newer versions of cpp-httplib ask streams for more than older ones, so that nothing says
/// `override` here.
class MemoryStream final : public httplib::Stream {
 public:
  MemoryStream(std::string_view head, std::string_view body) : parts_{head, body} {}

  bool is_readable() const { return true; }
  bool is_writable() const { return true; }
  bool wait_readable() const { return true; }
  bool wait_writable() const { return true; }
  ssize_t read(char* data, std::size_t size) {
    std::string_view& part = parts_[0].empty() ? parts_[1] : parts_[0];
    size = std::min(size, part.size());
    if (size > 0) std::memcpy(data, part.data(), size);
    part.remove_prefix(size);
    return static_cast<ssize_t>(size);
  }
  ssize_t write(const char* data, std::size_t size) {
    answer_.append(data, size);
    return static_cast<ssize_t>(size);
  }
  void get_remote_ip_and_port(std::string&, int&) const {}
  void get_local_ip_and_port(std::string&, int&) const {}
  socket_t socket() const { return -1; }
  time_t duration() const { return 0; }

  std::string&& answer() { return std::move(answer_); }

 private:
  std::string_view parts_[2];
  std::string answer_;
};

/// The constructor of httplib::Server ignores SIGPIPE, in the whole process; that is the program's own to decide.
class KeepsSigpipe {
 public:
  KeepsSigpipe() { ::sigaction(SIGPIPE, nullptr, &before_); }
  ~KeepsSigpipe() { ::sigaction(SIGPIPE, &before_, nullptr); }
  KeepsSigpipe(const KeepsSigpipe&) = delete;
  KeepsSigpipe& operator=(const KeepsSigpipe&) = delete;

 private:
  struct sigaction before_ {};
};

class HttplibEngine final : public Engine, private httplib::Server {
 public:
  HttplibEngine(http::Handler& handler, const Address& address, std::size_t max_body)
      : handler_(handler), address_(address), max_body_(max_body) {
    httplib::Headers headers;
    for (const auto& [name, value] : fixed_headers) headers.emplace(std::string(name), std::string(value));
    set_default_headers(std::move(headers));
    set_payload_max_length(max_body);
    set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
      return begin(request, response) ? HandlerResponse::Handled : HandlerResponse::Unhandled;
    });
    Post("[^]*", [this](const httplib::Request& request, httplib::Response& response, const httplib::ContentReader& reader) {
      finish(request, response, reader);
    });
    set_exception_handler([](const httplib::Request&, httplib::Response& response, std::exception_ptr) {
      put(error_response(500, "the request could not be answered"), response);
    });
    set_error_handler([](const httplib::Request&, httplib::Response& response) {
      if (response.body.empty()) put(error_response(response.status, "the request is malformed, or there is nothing here"), response);
    });
  }

  std::string answer(std::string_view head, std::string_view body) override {
    MemoryStream stream(head, body);
    bool closed = true;
    process(*this, stream, closed);
    std::string answer = stream.answer();
    return answer.empty() ? rendered(error_response(400, "the request is malformed")) : answer;
  }

 private:
  /// process_request got more parameters in version 0.16.
  template <class Server>
  static void process(Server& server, MemoryStream& stream, bool& closed) {
    if constexpr (requires { server.process_request(stream, true, closed, nullptr); }) {
      server.process_request(stream, true, closed, nullptr);
    } else {
      server.process_request(stream, std::string(), 0, std::string(), 0, true, closed, nullptr);
    }
  }

  static void put(Response&& from, httplib::Response& to) {
    to.status = from.status;
    to.body = std::move(from.body);
    to.headers.erase("Content-Type");
    to.set_header("Content-Type", json_type);
    for (const auto& [name, value] : from.headers) to.set_header(name, value);
  }

  static Request head_of(const httplib::Request& from) {
    Request request{
        .method = from.method, .path = from.path, .parameters = {from.params.begin(), from.params.end()}, .content_type = {}, .body = {}};
    std::string type = from.get_header_value("Content-Type");
    type.resize(std::min(type.size(), type.find(';')));
    while (!type.empty() && (type.back() == ' ' || type.back() == '\t')) type.pop_back();
    request.content_type = detail::lower(type);
    return request;
  }

  /// True: it is answered.
  bool begin(const httplib::Request& request, httplib::Response& response) {
    const bool own = request.get_header_value_count("Host") == 1 && names_host(address_, request.get_header_value("Host"));
    const std::size_t origins = request.get_header_value_count("Origin");
    if (!own || origins > 1 || (origins == 1 && !names_origin(address_, request.get_header_value("Origin")))) {
      put(error_response(403, own ? "Origin is not this server's" : "Host is not this server's"), response);
      return true;
    }
    std::optional<Response> answer = handler_.begin(head_of(request));
    if (!answer) return false;
    put(std::move(*answer), response);
    return true;
  }

  void finish(const httplib::Request& request, httplib::Response& response, const httplib::ContentReader& reader) {
    const std::string encoding = request.get_header_value("Content-Encoding");
    if (!encoding.empty() && encoding != "gzip" && encoding != "deflate" && encoding != "br" && encoding != "identity")
      return put(error_response(415, "the Content-Encoding is not known"), response);
    Request whole = head_of(request);
    bool too_large = false;
    const bool read = reader([&](const char* data, std::size_t size) {
      too_large = whole.body.size() + size > max_body_;
      if (!too_large) whole.body.append(data, size);
      return !too_large;
    });
    if (too_large) return put(error_response(413, "the body is too large"), response);
    if (!read && response.status == 415) return put(error_response(415, "the Content-Encoding is not known"), response);
    if (!read) return put(error_response(400, "the body cannot be read"), response);
    put(handler_.finish(whole), response);
  }

  http::Handler& handler_;
  const Address address_;
  const std::size_t max_body_;
};

}  // namespace

Result<std::unique_ptr<Engine>> Engine::create(Handler& handler, const Address& address, std::size_t max_body) {
  const KeepsSigpipe keeps;
  auto engine = std::make_unique<HttplibEngine>(handler, address, max_body);
  // The library makes its tables with the first request. This one is for nobody, so that the threads to come find them made:
  // ThreadSanitizer does not see how a library that was built without it keeps them apart.
  (void)engine->answer("GET / HTTP/1.1\r\n\r\n", "");
  return std::unique_ptr<Engine>(std::move(engine));
}

}  // namespace weir::inline v0::http
