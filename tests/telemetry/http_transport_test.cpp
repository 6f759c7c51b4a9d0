// HttpTransport against a server that does everything wrong. Nothing sleeps: servers say when they have come to where a test
// wants them, and a result says what ended a wait.
#include "weir/telemetry/http_transport.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "net/unix_socket.hpp"
#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/eventually.hpp"
#include "support/fault_server.hpp"
#include "support/fork_memory.hpp"
#include "support/scratch_dir.hpp"
#if defined(WEIR_TEST_OPENSSL)
#include "support/tls.hpp"
#endif

using namespace weir;
using namespace std::chrono_literals;
using weir::testing::Channel;
using weir::testing::Connection;
using weir::testing::eventually;
using weir::testing::FaultServer;
using weir::testing::in_a_child;
using weir::testing::ScratchDir;
using weir::testing::Signal;

namespace {

/// What the look-up of names does in this program, for names that end in ".hangs" and ".unknown".
struct Names {
  Signal asked, go_on;
};
std::shared_ptr<Names> names = std::make_shared<Names>();

/// Set when this thread begins to wait for longer than libcurl does at first, with timers of its own.
thread_local Signal* long_wait = nullptr;

}  // namespace

extern "C" int poll(pollfd* entries, nfds_t count, int timeout) {
  using Function = int (*)(pollfd*, nfds_t, int);
  static const auto next = reinterpret_cast<Function>(::dlsym(RTLD_NEXT, "poll"));
  if (long_wait != nullptr && timeout > 500) long_wait->set();
  return next(entries, count, timeout);
}

extern "C" int getaddrinfo(const char* node, const char* service, const addrinfo* hints, addrinfo** result) {
  const std::string_view name = node == nullptr ? "" : node;
  if (name.ends_with(".hangs")) {
    const std::shared_ptr<Names> now = names;
    now->asked.set();
    now->go_on.wait();
    return EAI_AGAIN;
  }
  if (name.ends_with(".unknown")) return EAI_NONAME;
  using Function = int (*)(const char*, const char*, const addrinfo*, addrinfo**);
  static const auto next = reinterpret_cast<Function>(::dlsym(RTLD_NEXT, "getaddrinfo"));
  return next(node, service, hints, result);
}

namespace {

constexpr auto hang_guard = 60s;
constexpr std::string_view instance = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
constexpr std::size_t mebibyte = 1 << 20;

Update update(std::string_view body = R"({"data":{}})") { return {instance, "0123456789abcdef0123456789abcdef", body}; }
Delivery send(Transport& transport, std::string_view body = R"({"data":{}})") { return transport.send(update(body), StopToken()); }

bool is(const Delivery& delivery, std::errc code) { return delivery.error.code == code; }
bool says(const Delivery& delivery, std::string_view part) { return delivery.error.message.find(part) != std::string::npos; }

/// An answer from the first connection's script, and what the transport made of it.
Delivery one_try(FaultServer::Script script, HttpTransportOptions options = {}) {
  FaultServer server{std::move(script)};
  HttpTransport transport{server.url(), std::move(options)};
  return send(transport);
}
/// The server reads the request, says this, and closes.
Delivery answered_with(std::string text) {
  return one_try([text](Connection& c) {
    c.request();
    c.send(text);
  });
}

using Outcome = Delivery::Outcome;

std::size_t open_descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

/// Environment variables of a test, taken back at its end.
class Environment {
 public:
  void set(const char* name, const std::string& value) {
    names_.push_back(name);
    ::setenv(name, value.c_str(), 1);
  }
  ~Environment() {
    for (const char* name : names_) ::unsetenv(name);
  }

 private:
  std::vector<const char*> names_;
};

}  // namespace

TEST_CASE("An update is posted as JSON to the endpoint and the id of the instance") {
  std::string request;
  FaultServer server{[&](Connection& c) {
    request = c.request();
    c.answer(200, R"({"next_update":1})");
  }};
  HttpTransport transport{server.url(), {.headers = {{"Authorization", "Bearer abc"}, {"X-Empty", ""}}}};
  const Delivery delivery = send(transport, R"({"a":1})");
  REQUIRE(delivery.outcome == Outcome::answered);
  CHECK(delivery.answer.status == 200);
  CHECK(delivery.answer.content_type == "application/json");
  CHECK(delivery.answer.body == R"({"next_update":1})");
  CHECK(delivery.answer.retry_after.empty());
  CHECK(request == "POST /v1/update/" + std::string(instance) + " HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(server.port()) +
                       "\r\nUser-Agent: weir/" WEIR_VERSION_STRING
                       "\r\nContent-Type: application/json\r\nAccept: application/json\r\nAuthorization: Bearer abc\r\nX-Empty:\r\n"
                       "Content-Length: 7\r\n\r\n{\"a\":1}");
  CHECK(transport.endpoint() == server.url());
}

TEST_CASE("An update of megabytes arrives whole, without waiting for leave to send it") {
  const std::string body(5 * mebibyte, 'x');
  std::string request;
  FaultServer server{[&](Connection& c) {
    request = c.request();
    c.answer(200, "{}");
  }};
  HttpTransport transport{server.url()};
  CHECK(send(transport, body).outcome == Outcome::answered);
  CHECK(request.ends_with("\r\n\r\n" + body));
  CHECK(request.find("Expect") == std::string::npos);
  CHECK(request.find("Accept-Encoding") == std::string::npos);
}

TEST_CASE("The id may be a part of a query, which messages do not show") {
  std::string request;
  FaultServer server{[&](Connection& c) {
    request = c.request();
    c.answer(200, "{}");
  }};
  HttpTransport transport{server.origin() + "/update?token=secret&id="};
  CHECK(send(transport).outcome == Outcome::answered);
  CHECK(request.starts_with("POST /update?token=secret&id=" + std::string(instance) + " HTTP/1.1\r\n"));
  CHECK(transport.endpoint() == server.origin() + "/update");
}

TEST_CASE("Every status is an answer") {
  for (const int status : {200, 202, 400, 404, 410, 451, 500, 503, 599}) {
    const Delivery delivery = one_try([status](Connection& c) {
      c.request();
      c.answer(status, "why", "Content-Type: text/plain; charset=utf-8\r\n");
    });
    REQUIRE(delivery.outcome == Outcome::answered);
    CHECK(delivery.answer.status == status);
    CHECK(delivery.answer.content_type == "text/plain; charset=utf-8");
    CHECK(delivery.answer.body == "why");
  }
}

TEST_CASE("An answer without a body, a type or a length is one") {
  for (const char* text : {"HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n"}) {
    const Delivery delivery = answered_with(text);
    REQUIRE(delivery.outcome == Outcome::answered);
    CHECK(delivery.answer.content_type.empty());
    CHECK(delivery.answer.body.empty());
  }
}

TEST_CASE("Retry-After comes with the answer, as it was said") {
  for (const std::string value : {"120", "Fri, 31 Dec 1999 23:59:59 GMT", "99999999999999999999", "-1"}) {
    const Delivery delivery = answered_with("HTTP/1.1 429 Slow Down\r\nretry-AFTER: \t" + value + "  \r\nContent-Length: 0\r\n\r\n");
    REQUIRE(delivery.outcome == Outcome::answered);
    CHECK(delivery.answer.retry_after == value);
  }
  CHECK(answered_with("HTTP/1.1 429 Slow Down\r\nRetry-After:\r\nContent-Length: 0\r\n\r\n").answer.retry_after.empty());
  CHECK(answered_with("HTTP/1.1 429 Slow Down\r\nRetry-After: " + std::string(10'000, '9') + "\r\nContent-Length: 0\r\n\r\n")
            .answer.retry_after.size() <= 1024);
}

TEST_CASE("A redirect is answered, not followed") {
  FaultServer elsewhere{[](Connection& c) {
    c.request();
    c.answer(200, "{}");
  }};
  for (const int status : {301, 302, 303, 307, 308}) {
    const Delivery delivery = one_try([&](Connection& c) {
      c.request();
      c.answer(status, "", "Location: " + elsewhere.url() + "\r\n");
    });
    REQUIRE(delivery.outcome == Outcome::answered);
    CHECK(delivery.answer.status == status);
  }
  CHECK(elsewhere.connections() == 0);
}

TEST_CASE("A chunked answer is put together, and what follows it is not taken for headers") {
  const Delivery delivery = answered_with(
      "HTTP/1.1 429 No\r\nTransfer-Encoding: chunked\r\nTrailer: Retry-After\r\n\r\n3\r\n{\"a\r\n4;x=y\r\n\":1}\r\n0\r\nRetry-After: "
      "5\r\n\r\n");
  REQUIRE(delivery.outcome == Outcome::answered);
  CHECK(delivery.answer.body == R"({"a":1})");
  CHECK(delivery.answer.retry_after.empty());
}

TEST_CASE("Interim answers are passed over") {
  const Delivery delivery = answered_with(
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nRetry-After: 5\r\n\r\nHTTP/1.1 200 "
      "OK\r\nContent-Length: 2\r\n\r\n{}");
  REQUIRE(delivery.outcome == Outcome::answered);
  CHECK(delivery.answer.status == 200);
  CHECK(delivery.answer.body == "{}");
  CHECK(delivery.answer.retry_after.empty());
}

TEST_CASE("Nothing is uncompressed") {
  for (const std::string encoding : {"Content-Encoding: gzip\r\n", "Content-Encoding: br\r\n", "Content-Encoding: nonsense\r\n"}) {
    const Delivery delivery = one_try([&](Connection& c) {
      c.request();
      c.answer(200, "\x1f\x8b pretended", encoding);
    });
    REQUIRE(delivery.outcome == Outcome::answered);
    CHECK(delivery.answer.body == "\x1f\x8b pretended");
  }
}

TEST_CASE("What is no whole answer leaves it open whether the update was taken") {
  const std::string ok = "HTTP/1.1 200 OK\r\n";
  const std::pair<const char*, std::string> cases[] = {
      {"nothing", ""},
      {"half a status", "HTTP/1.1 2"},
      {"a status", ok},
      {"half the headers", ok + "Content-Type: application/json\r\nContent-Le"},
      {"headers without their end", ok + "Content-Length: 2\r\n"},
      {"headers without a body", ok + "Content-Length: 2\r\n\r\n"},
      {"half a body", ok + "Content-Length: 10\r\n\r\n{\"a\":"},
      {"half a chunk", ok + "Transfer-Encoding: chunked\r\n\r\n10\r\n{\"a\":"},
      {"chunks without an end", ok + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"},
      {"chunks of no size", ok + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n"},
      {"a chunk of a size without bound", ok + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}"},
      {"only an interim answer", "HTTP/1.1 100 Continue\r\n\r\n"},
      {"another protocol's switch", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"},
      {"garbage", "\x01\x02\xff garbage\r\n\r\n"},
      {"another protocol", "220 mail.example.com ESMTP\r\n"},
      {"a body without headers", "{\"next_update\":1}"},
      {"a status of no number", "HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n"},
      {"a length of no number", ok + "Content-Length: abc\r\n\r\n{}"},
      {"a length below zero", ok + "Content-Length: -5\r\n\r\n{}"},
      {"a version that is not ours", "HTTP/7.3 200 OK\r\nContent-Length: 0\r\n\r\n"},
  };
  for (const auto& [what, text] : cases) {
    INFO(what);
    const Delivery delivery = answered_with(text);
    INFO(delivery.answer.status << " " << delivery.error.message);
    CHECK(delivery.outcome == Outcome::unknown);
    CHECK(delivery.error.code);
    CHECK(says(delivery, "no whole answer from http://127.0.0.1:"));
  }
}

TEST_CASE("A connection that is closed or reset instead of an answer is a failed try") {
  CHECK(one_try([](Connection&) {}).outcome != Outcome::answered);
  CHECK(one_try([](Connection& c) { c.reset(); }).outcome != Outcome::answered);
  const Delivery reset = one_try([](Connection& c) {
    c.request();
    c.reset();
  });
  CHECK(reset.outcome == Outcome::unknown);
  const Delivery in_the_body = one_try([](Connection& c) {
    c.request();
    c.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}");
    c.reset();
  });
  CHECK(in_the_body.outcome == Outcome::unknown);
}

TEST_CASE("A server that closes in the middle of the update leaves the program alive") {
  const std::string body(16 * mebibyte, 'x');
  for (int i = 0; i < 5; ++i) {
    FaultServer server{[](Connection& c) {
      c.head();
      c.reset();
    }};
    HttpTransport transport{server.url()};
    CHECK(send(transport, body).outcome == Outcome::unknown);
  }
}

TEST_CASE("An answer that comes before the update was read counts") {
  const std::string body(16 * mebibyte, 'x');
  FaultServer server{[](Connection& c) {
    c.head();
    c.answer(413, "too large", "Connection: close\r\n");
    c.wait_until_closed();
  }};
  HttpTransport transport{server.url()};
  const Delivery delivery = send(transport, body);
  REQUIRE(delivery.outcome == Outcome::answered);
  CHECK(delivery.answer.status == 413);
  CHECK(delivery.answer.body == "too large");
}

TEST_CASE("An answer may have 64 KiB") {
  const Delivery delivery = answered_with("HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n" + std::string(max_answer_bytes, 'x'));
  REQUIRE(delivery.outcome == Outcome::answered);
  CHECK(delivery.answer.body == std::string(max_answer_bytes, 'x'));
}

TEST_CASE("An answer of more than 64 KiB is none, whatever it says of its length") {
  const std::string body(max_answer_bytes + 1, 'x');
  const std::string cases[] = {
      "HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n" + body,
      "HTTP/1.1 200 OK\r\n\r\n" + body,
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10001\r\n" + body + "\r\n0\r\n\r\n",
  };
  for (const std::string& text : cases) {
    const Delivery delivery = answered_with(text);
    CHECK(delivery.outcome == Outcome::unknown);
    CHECK(is(delivery, std::errc::message_size));
    CHECK(says(delivery, "longer than 64 KiB"));
  }
}

TEST_CASE("An answer without end is given up, and so is its connection") {
  const std::pair<std::string, std::string> cases[] = {
      {"HTTP/1.1 200 OK\r\n\r\n", std::string(8192, 'x')},                                                              // until it closes
      {"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n", std::string(8192, 'x')},                                 // 100 MiB
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "2000\r\n" + std::string(8192, 'x') + "\r\n"},          // chunks
      {"HTTP/1.1 200 OK\r\n", "X-Header: " + std::string(1000, 'x') + "\r\n"},                                          // headers
      {"HTTP/1.1 200 OK\r\nX-Header: ", std::string(8192, 'x')},                                                        // one header
      {"", "HTTP/1.1 100 Continue\r\n\r\n"},                                                                            // interim answers
      {"", std::string(8192, 'x')},                                                                                     // garbage
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X-Trailer: " + std::string(1000, 'x') + "\r\n"},  // trailers
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "0000000000000000"},                                    // a chunk's size
  };
  for (const auto& [start, part] : cases) {
    INFO(start << part.substr(0, 30));
    constexpr std::size_t all = 100 * mebibyte;
    std::size_t sent = all;
    Delivery delivery;
    {
      FaultServer server{[&, start = start, part = part](Connection& c) {
        c.request();
        c.send(start);
        c.send_endlessly(part, all);
        sent = c.sent();
      }};
      HttpTransport transport{server.url()};
      delivery = send(transport);
    }
    CHECK(delivery.outcome == Outcome::unknown);
    CHECK_FALSE(is(delivery, std::errc::timed_out));
    CHECK(sent < all);
  }
}

TEST_CASE("Of a long answer that the update was not taken, the status counts and the body is cut") {
  const Delivery delivery = one_try([](Connection& c) {
    c.request();
    c.send("HTTP/1.1 410 Gone\r\nContent-Length: 104857600\r\n\r\n");
    c.send_endlessly(std::string(8192, 'x'), 100 * mebibyte);
  });
  REQUIRE(delivery.outcome == Outcome::answered);
  CHECK(delivery.answer.status == 410);
  CHECK(delivery.answer.body == std::string(max_answer_bytes, 'x'));
}

TEST_CASE("A body beyond its length is not taken for the next answer") {
  FaultServer server{{[](Connection& c) {
                        c.request();
                        c.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n");
                        c.wait_until_closed();
                      },
                      [](Connection& c) {
                        c.request();
                        c.answer(202, "second");
                      }}};
  HttpTransport transport{server.url()};
  const Delivery first = send(transport);
  REQUIRE(first.outcome == Outcome::answered);
  CHECK(first.answer.body == "{}");
  const Delivery second = send(transport);
  REQUIRE(second.outcome == Outcome::answered);
  CHECK(second.answer.status == 202);
}

TEST_CASE("Tries share a connection, and do not take over anything else from each other") {
  FaultServer server{[](Connection& c) {
    c.request();
    c.answer(429, "first", "Retry-After: 7\r\nContent-Type: text/plain\r\n");
    c.request();
    c.answer(200, "second", "");
    c.wait_until_closed();
  }};
  HttpTransport transport{server.url()};
  CHECK(send(transport).answer.retry_after == "7");
  const Delivery second = send(transport);
  CHECK(second.answer.body == "second");
  CHECK(second.answer.retry_after.empty());
  CHECK(second.answer.content_type.empty());
  CHECK(server.connections() == 1);
}

TEST_CASE("An idle connection that the server has closed is replaced") {
  Signal closed;
  FaultServer server{{[](Connection& c) {
                        c.request();
                        c.answer(200, "{}");
                      },
                      [](Connection& c) {
                        c.request();
                        c.answer(200, "again");
                        c.wait_until_closed();
                      }}};
  HttpTransport transport{server.url()};
  CHECK(send(transport).outcome == Outcome::answered);
  const Delivery delivery = send(transport);
  REQUIRE(delivery.outcome == Outcome::answered);
  CHECK(delivery.answer.body == "again");
  CHECK(server.connections() == 2);
}

TEST_CASE("An idle connection that closes under the next request is replaced within the same try") {
  FaultServer server{{[](Connection& c) {
                        c.request();
                        c.answer(200, "{}");
                        c.request();
                      },
                      [](Connection& c) {
                        c.request();
                        c.answer(200, "again");
                      }}};
  HttpTransport transport{server.url()};
  CHECK(send(transport).outcome == Outcome::answered);
  const Delivery delivery = send(transport);
  REQUIRE(delivery.outcome == Outcome::answered);
  CHECK(delivery.answer.body == "again");
  CHECK(server.connections() == 2);
}

TEST_CASE("What an idle connection took with it may have arrived, even if the next one is refused") {
  FaultServer server{{[](Connection& c) {
                        c.request();
                        c.answer(200, "{}");
                        c.request();
                      },
                      [](Connection& c) { c.reset(); }}};
  HttpTransport transport{server.url()};
  CHECK(send(transport).outcome == Outcome::answered);
  CHECK(send(transport).outcome == Outcome::unknown);
  CHECK(server.connections() == 2);
}

TEST_CASE("A server that says nothing is given up when the time is over") {
  const Delivery delivery = one_try(
      [](Connection& c) {
        c.request();
        c.wait_until_closed();
      },
      {.timeout = 100ms});
  CHECK(delivery.outcome == Outcome::unknown);
  CHECK(is(delivery, std::errc::timed_out));
  CHECK(says(delivery, "waiting for its answer took longer than the 100 ms"));
}

TEST_CASE("A server that says a byte at a time is given up when the time is over") {
  const std::pair<std::string, std::string> cases[] = {
      {"", "HTTP/1.1 200 OK\r\n" + std::string("X-Header: ") + std::string(10'000, 'x')},
      {"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n", std::string(10'000, 'x')},
      {"HTTP/1.1 200 OK\r\n\r\n", std::string(10'000, 'x')},
  };
  for (const auto& [start, rest] : cases) {
    const Delivery delivery = one_try(
        [start = start, rest = rest](Connection& c) {
          c.request();
          c.send(start);
          for (const char byte : rest)
            if (c.closed_soon() || !c.send({&byte, 1})) return;
        },
        {.timeout = 200ms});
    CHECK(delivery.outcome == Outcome::unknown);
    CHECK(is(delivery, std::errc::timed_out));
  }
}

TEST_CASE("A server that does not read is given up when the time is over") {
  const std::string body(32 * mebibyte, 'x');
  Signal over;
  FaultServer::Options options;
  options.receive_buffer = 4096;
  FaultServer server{options, {[&](Connection& c) {
                       c.head();
                       over.wait();
                     }}};
  HttpTransport transport{server.url(), {.timeout = 300ms}};
  const Delivery delivery = send(transport, body);
  over.set();
  CHECK(delivery.outcome == Outcome::unknown);
  CHECK(is(delivery, std::errc::timed_out));
  CHECK(says(delivery, "sending the update"));
}

TEST_CASE("Where nobody listens nothing was sent") {
  std::string url;
  {
    url = FaultServer{[](Connection&) {}}.url();
  }
  HttpTransport transport{url};
  const Delivery delivery = send(transport);
  CHECK(delivery.outcome == Outcome::not_sent);
  CHECK(is(delivery, std::errc::connection_refused));
  CHECK(says(delivery, "cannot reach " + url));
}

TEST_CASE("A name that nobody knows is not sent to") {
  HttpTransport transport{"http://telemetry.unknown/v1/update/"};
  const Delivery delivery = send(transport);
  CHECK(delivery.outcome == Outcome::not_sent);
  CHECK(is(delivery, std::errc::host_unreachable));
  CHECK(says(delivery, "telemetry.unknown"));
}

TEST_CASE("A look-up that hangs is given up when the time is over") {
  for (const HttpTransportOptions& options : {HttpTransportOptions{.timeout = 100ms}, HttpTransportOptions{.connect_timeout = 100ms}}) {
    names = std::make_shared<Names>();
    HttpTransport transport{"http://telemetry.hangs/v1/update/", options};
    const Delivery delivery = send(transport);
    CHECK(delivery.outcome == Outcome::not_sent);
    CHECK(is(delivery, std::errc::timed_out));
    CHECK(says(delivery, "looking up its name took longer than 100 ms"));
    names->go_on.set();
  }
}

namespace {

/// A server whose queue of connections is full: another one hangs.
class FullServer {
 public:
  FullServer() : server_({.backlog = 0, .accepting = false}, {[](Connection&) {}}) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(server_.port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < 8; ++i) {
      clients_.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
      (void)!::connect(clients_.back().get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
    }
    before_ = connecting();
  }
  std::string url() const { return server_.url(); }
  /// Whether somebody else is about to connect.
  bool reached() const { return connecting() > before_; }

 private:
  std::size_t connecting() const {
    char port[32];
    std::snprintf(port, sizeof port, "0100007F:%04X 02", static_cast<unsigned>(server_.port()));  // 127.0.0.1, SYN_SENT
    std::ifstream table("/proc/net/tcp");
    std::size_t count = 0;
    for (std::string line; std::getline(table, line);) count += line.find(port) != std::string::npos;
    return count;
  }

  FaultServer server_;
  std::vector<net::Fd> clients_;
  std::size_t before_ = 0;
};

}  // namespace

TEST_CASE("A server that takes no connection is given up when the time is over") {
  const FullServer server;
  HttpTransport transport{server.url(), {.connect_timeout = 100ms}};
  const Delivery delivery = send(transport);
  CHECK(delivery.outcome == Outcome::not_sent);
  CHECK(is(delivery, std::errc::timed_out));
  CHECK(says(delivery, "connecting took longer than 100 ms"));
}

namespace {

/// Sends, requests a stop once `reached`, and returns what came of it. The call has ten times as long as it promises.
template <class Reached>
Delivery stopped_when(Transport& transport, Reached reached, std::string_view body = "{}") {
  StopSource stop;
  std::future<Delivery> sent = std::async(std::launch::async, [&] { return transport.send(update(body), stop.token()); });
  const bool there = reached();
  stop.request_stop();
  const bool soon = sent.wait_for(2s) == std::future_status::ready;
  const Delivery delivery = sent.get();
  INFO(delivery.error.message);
  CHECK(there);
  CHECK(soon);
  CHECK(is(delivery, std::errc::operation_canceled));
  return delivery;
}

}  // namespace

TEST_CASE("A stop ends a try in each of its phases") {
  Signal reached;
  const auto there = [&] { return reached.wait(); };

  SECTION("looking up the name") {
    names = std::make_shared<Names>();
    HttpTransport transport{"http://telemetry.hangs/v1/update/"};
    const Delivery delivery = stopped_when(transport, [] { return names->asked.wait(); });
    CHECK(delivery.outcome == Outcome::not_sent);
    CHECK(says(delivery, "stopped while looking up its name"));
    {
      std::future<void> gone = std::async(std::launch::async, [&] { const HttpTransport last = std::move(transport); });
      CHECK(gone.wait_for(2s) == std::future_status::ready);  // nor does the destructor wait for the look-up
      names->go_on.set();
    }
  }
  SECTION("connecting") {
    const FullServer server;
    HttpTransport transport{server.url()};
    const Delivery delivery = stopped_when(transport, [&] { return eventually([&] { return server.reached(); }); });
    CHECK(delivery.outcome == Outcome::not_sent);
    CHECK(says(delivery, "stopped while connecting"));
  }
  SECTION("the TLS handshake") {
    FaultServer server{[&](Connection& c) {
      c.more();
      reached.set();
      c.wait_until_closed();
    }};
    HttpTransport transport{"https://127.0.0.1:" + std::to_string(server.port()) + "/"};
    const Delivery delivery = stopped_when(transport, there);
    CHECK(delivery.outcome == Outcome::not_sent);
    CHECK(says(delivery, "stopped while its TLS handshake"));
  }
  SECTION("sending the update") {
    const std::string body(32 * mebibyte, 'x');
    Signal over;
    FaultServer::Options options;
    options.receive_buffer = 4096;
    FaultServer server{options, {[&](Connection& c) {
                         c.head();
                         reached.set();
                         over.wait();
                       }}};
    HttpTransport transport{server.url()};
    const Delivery delivery = stopped_when(transport, there, body);
    over.set();
    CHECK(delivery.outcome == Outcome::unknown);
    CHECK(says(delivery, "stopped while sending the update"));
  }
  SECTION("waiting for the answer") {
    FaultServer server{[&](Connection& c) {
      c.request();
      reached.set();
      c.wait_until_closed();
    }};
    HttpTransport transport{server.url()};
    const Delivery delivery = stopped_when(transport, there);
    CHECK(delivery.outcome == Outcome::unknown);
    CHECK(says(delivery, "stopped while waiting for its answer"));
  }
  SECTION("half the headers") {
    FaultServer server{[&](Connection& c) {
      c.request();
      c.send("HTTP/1.1 200 OK\r\nContent-Le");
      reached.set();
      c.wait_until_closed();
    }};
    HttpTransport transport{server.url()};
    CHECK(stopped_when(transport, there).outcome == Outcome::unknown);
  }
  SECTION("half the body") {
    FaultServer server{[&](Connection& c) {
      c.request();
      c.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"a\":");
      reached.set();
      c.wait_until_closed();
    }};
    HttpTransport transport{server.url()};
    CHECK(stopped_when(transport, there).outcome == Outcome::unknown);
  }
  SECTION("an interim answer") {
    FaultServer server{[&](Connection& c) {
      c.request();
      c.send("HTTP/1.1 100 Continue\r\n\r\n");
      reached.set();
      c.wait_until_closed();
    }};
    HttpTransport transport{server.url()};
    CHECK(stopped_when(transport, there).outcome == Outcome::unknown);
  }
}

TEST_CASE("A stop wakes a try that waits, which libcurl alone would do a second later") {
  constexpr int rounds = 4;
  FaultServer server{[](Connection& c) { c.wait_until_closed(); }};
  std::chrono::nanoseconds taken{0};
  for (int i = 0; i < rounds; ++i) {
    Signal waiting;
    StopSource stop;
    HttpTransport transport{server.url()};
    std::future<Delivery> sent = std::async(std::launch::async, [&] {
      long_wait = &waiting;
      return transport.send(update(), stop.token());
    });
    CHECK(waiting.wait());
    const auto began = std::chrono::steady_clock::now();
    stop.request_stop();
    CHECK(is(sent.get(), std::errc::operation_canceled));
    taken += std::chrono::steady_clock::now() - began;
  }
  CHECK(taken < rounds * 500ms);  // five times what is promised
}

TEST_CASE("After a stop the next try begins anew") {
  Signal reached;
  FaultServer server{{[&](Connection& c) {
                        c.request();
                        c.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"a\":");
                        reached.set();
                        c.wait_until_closed();
                      },
                      [](Connection& c) {
                        c.request();
                        c.answer(200, "whole");
                      }}};
  HttpTransport transport{server.url()};
  stopped_when(transport, [&] { return reached.wait(); });
  CHECK(send(transport).answer.body == "whole");
}

TEST_CASE("What is stopped before it began makes no connection") {
  FaultServer server{[](Connection& c) { c.request(); }};
  HttpTransport transport{server.url()};
  StopSource stop;
  stop.request_stop();
  const Delivery delivery = transport.send(update(), stop.token());
  CHECK(delivery.outcome == Outcome::not_sent);
  CHECK(is(delivery, std::errc::operation_canceled));
  CHECK(server.connections() == 0);
}

TEST_CASE("A URL that cannot be an endpoint is refused, by create and by every try") {
  const std::pair<std::string, const char*> cases[] = {
      {"", "no URL of HTTP"},
      {"telemetry.example.com/v1/", "no URL of HTTP"},
      {"ftp://telemetry.example.com/", "no URL of HTTP"},
      {"file:///etc/passwd/", "no URL of HTTP"},
      {"https://", "no URL"},
      {"https:///v1/update/", "no URL"},
      {"https://telemetry.example.com", "does not end in '/'"},
      {"https://telemetry.example.com/v1/update", "does not end in '/'"},
      {"https://telemetry.example.com/?id", "does not end in '/'"},
      {"https://telemetry.example.com/#/", "fragment"},
      {"https://user:hunter2@telemetry.example.com/", "user or a password"},
      {"https://user@telemetry.example.com/", "user or a password"},
      {"https://telemetry.example.com:99999/", "no URL"},
      {"https://telemetry example.com/", "no URL"},
      {"https://telemetry.example.com/\r\nX: y/", "no URL"},
      {std::string("https://telemetry.example.com/\0/", 33), "no URL"},
      {"https://[::1/", "no URL"},
  };
  for (const auto& [url, why] : cases) {
    INFO(url);
    const Result<HttpTransport> created = HttpTransport::create(url);
    REQUIRE_FALSE(created);
    CHECK(created.error().code == std::errc::invalid_argument);
    INFO(created.error().message);
    CHECK(created.error().message.find(why) != std::string::npos);
    CHECK(created.error().message.find("hunter2") == std::string::npos);
    HttpTransport transport{url};
    const Delivery delivery = send(transport);
    CHECK(delivery.outcome == Outcome::not_sent);
    CHECK(delivery.error.message == created.error().message);
    CHECK(transport.endpoint().find("hunter2") == std::string::npos);
  }
  CHECK(HttpTransport::create("HTTPS://telemetry.example.com:8443/v1/update/"));
  CHECK(HttpTransport::create("http://[::1]:80/"));
  CHECK(HttpTransport::create("http://telemetry.example.com/people@home/"));
}

TEST_CASE("Options that cannot be meant are refused") {
  const std::string url = "https://telemetry.example.com/";
  const auto refused = [&](HttpTransportOptions options) {
    const auto created = HttpTransport::create(url, std::move(options));
    if (created) return std::string();
    INFO(created.error().message);
    return created.error().message;
  };
  CHECK(refused({}).empty());
  CHECK_FALSE(refused({.timeout = 0ms}).empty());
  CHECK_FALSE(refused({.timeout = 10'001ms}).empty());
  CHECK_FALSE(refused({.connect_timeout = 0ms}).empty());
  CHECK(refused({.connect_timeout = 1h}).empty());
  CHECK_FALSE(refused({.ca_file = "/nowhere/ca.pem"}).empty());
  CHECK_FALSE(refused({.headers = {{"", "x"}}}).empty());
  CHECK_FALSE(refused({.headers = {{"X Y", "x"}}}).empty());
  CHECK_FALSE(refused({.headers = {{"X:", "x"}}}).empty());
  CHECK_FALSE(refused({.headers = {{"X", "a\r\nInjected: b"}}}).empty());
  CHECK_FALSE(refused({.headers = {{"X", std::string("a\0b", 3)}}}).empty());
  CHECK_FALSE(refused({.headers = {{"Content-LENGTH", "5"}}}).empty());
  CHECK_FALSE(refused({.headers = {{"Transfer-Encoding", "chunked"}}}).empty());
  CHECK_FALSE(refused({.headers = {{"Accept-Encoding", "gzip"}}}).empty());
  CHECK_FALSE(refused({.user_agent = "a\nb"}).empty());
  CHECK(refused({.headers = {{"X", "secret\n"}}}).find("secret") == std::string::npos);
}

TEST_CASE("An id that would change the URL is not sent") {
  FaultServer server{[](Connection& c) { c.request(); }};
  HttpTransport transport{server.url()};
  for (const std::string_view id : {"", "../admin", "a b", "a?b", "a\r\nb", "a%2fb"}) {
    const Delivery delivery = transport.send({id, "0", "{}"}, StopToken());
    CHECK(delivery.outcome == Outcome::not_sent);
    CHECK(is(delivery, std::errc::invalid_argument));
  }
  CHECK(server.connections() == 0);
}

TEST_CASE("A transport can be moved, and says so when it is used after that") {
  FaultServer server{[](Connection& c) {
    while (!c.request().empty()) c.answer(200, "{}");
  }};
  HttpTransport first{server.url()};
  CHECK(send(first).outcome == Outcome::answered);
  HttpTransport second = std::move(first);
  CHECK(send(second).outcome == Outcome::answered);
  CHECK(server.connections() == 1);
  const Delivery delivery = send(first);
  CHECK(delivery.outcome == Outcome::not_sent);
  CHECK(says(delivery, "moved from"));
  CHECK_FALSE(first.endpoint().empty());
  first = std::move(second);
  CHECK(send(first).outcome == Outcome::answered);
}

TEST_CASE("An update goes over a Unix socket") {
  const ScratchDir dir;
  std::string request;
  FaultServer::Options options;
  options.unix_path = dir / "http.sock";
  FaultServer server{options, {[&](Connection& c) {
                       request = c.request();
                       c.answer(200, "{}");
                     }}};
  Environment environment;
  environment.set("http_proxy", "http://127.0.0.1:1");
  environment.set("all_proxy", "http://127.0.0.1:1");
  UnixSocketTransport transport{dir / "http.sock"};
  const Delivery delivery = send(transport);
  INFO(delivery.error.message);
  REQUIRE(delivery.outcome == Outcome::answered);
  CHECK(request.starts_with("POST /v1/update/" + std::string(instance) + " HTTP/1.1\r\nHost: localhost\r\n"));
  CHECK(transport.endpoint().find(dir / "http.sock") != std::string::npos);
}

TEST_CASE("A Unix socket that is not there, does not listen or is busy was sent nothing") {
  const ScratchDir dir;
  SECTION("not there") {
    UnixSocketTransport transport{dir / "http.sock"};
    const Delivery delivery = send(transport);
    CHECK(delivery.outcome == Outcome::not_sent);
    CHECK(is(delivery, std::errc::no_such_file_or_directory));
    CHECK(says(delivery, dir / "http.sock"));
  }
  SECTION("a file") {
    std::ofstream(dir / "http.sock") << "x";
    UnixSocketTransport transport{dir / "http.sock"};
    const Delivery delivery = send(transport);
    CHECK(delivery.outcome == Outcome::not_sent);
    CHECK(is(delivery, std::errc::connection_refused));
  }
  SECTION("its queue is full") {
    FaultServer server{{.unix_path = dir / "http.sock", .backlog = 0, .accepting = false}, {[](Connection&) {}}};
    std::vector<net::Fd> clients;
    while (auto client = net::connect_unix(dir / "http.sock")) clients.push_back(*std::move(client));
    UnixSocketTransport transport{dir / "http.sock"};
    const Delivery delivery = send(transport);
    INFO(delivery.error.message);
    CHECK(delivery.outcome == Outcome::not_sent);
  }
}

TEST_CASE("The path of a Unix socket may have 107 bytes and must be absolute") {
  const auto path_of = [](std::size_t size) { return "/" + std::string(size - 1, 'x'); };
  CHECK(UnixSocketTransport::create(path_of(107)));
  const auto refused = UnixSocketTransport::create(path_of(108));
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == std::errc::filename_too_long);
  for (const std::string& path : {std::string(), std::string("http.sock"), std::string("/run/"), std::string("/run/a\0b", 8)}) {
    CHECK_FALSE(UnixSocketTransport::create(path));
    UnixSocketTransport transport{path};
    CHECK(send(transport).outcome == Outcome::not_sent);
    CHECK_FALSE(send(transport).error.message.empty());
  }
  CHECK_FALSE(UnixSocketTransport::create("/run/http.sock", "/v1/update"));
  CHECK(UnixSocketTransport::create("/run/http.sock", "v1/"));
}

TEST_CASE("A proxy that the environment names is used for other machines") {
  std::string request;
  FaultServer proxy{[&](Connection& c) {
    request = c.head();
    c.answer(407, "no", "Proxy-Authenticate: Basic\r\n");
  }};
  Environment environment;
  for (const char* name : {"http_proxy", "https_proxy"}) environment.set(name, proxy.origin());
  SECTION("plain") {
    HttpTransport transport{"http://telemetry.unknown/v1/"};
    const Delivery delivery = send(transport);
    CHECK(delivery.outcome == Outcome::answered);
    CHECK(delivery.answer.status == 407);
    CHECK(request.starts_with("POST http://telemetry.unknown/v1/" + std::string(instance)));
  }
  SECTION("with TLS, of which a proxy understands nothing") {
    HttpTransport transport{"https://telemetry.unknown/v1/"};
    const Delivery delivery = send(transport);
    CHECK(delivery.outcome == Outcome::not_sent);
    CHECK(request.starts_with("CONNECT telemetry.unknown:443"));
  }
  SECTION("but not for this one") {
    FaultServer server{[](Connection& c) {
      c.request();
      c.answer(200, "{}");
    }};
    HttpTransport transport{server.url()};
    CHECK(send(transport).answer.status == 200);
    CHECK(proxy.connections() == 0);
  }
}

TEST_CASE("Programs that the service executes do not inherit connections") {
  FaultServer server{[](Connection& c) {
    c.request();
    c.answer(200, "{}");
    c.wait_until_closed();
  }};
  HttpTransport transport{server.url()};
  CHECK(send(transport).outcome == Outcome::answered);
  int found = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const int fd = std::atoi(entry.path().filename().c_str());
    sockaddr_in peer{};
    socklen_t size = sizeof peer;
    if (::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0 || ntohs(peer.sin_port) != server.port()) continue;
    ++found;
    CHECK((::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
  }
  CHECK(found == 1);
}

TEST_CASE("Tries that fail leave no descriptors behind") {
  const auto fail = [] {
    for (const char* text : {"", "garbage", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"}) {
      CHECK(answered_with(text).outcome == Outcome::unknown);
    }
    HttpTransport unknown{"http://telemetry.unknown/"};
    CHECK(send(unknown).outcome == Outcome::not_sent);
  };
  fail();  // what is opened once
  const std::size_t before = open_descriptors();
  for (int i = 0; i < 20; ++i) fail();
  CHECK(open_descriptors() == before);
}

TEST_CASE("Transports of several threads do not disturb each other") {
  FaultServer server{[](Connection& c) {
    while (!c.request().empty()) c.answer(200, "{}");
  }};
  std::vector<std::thread> threads;
  std::atomic<int> answered = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 10; ++n) {
        HttpTransport transport{server.url()};
        for (int m = 0; m < 3; ++m) answered += send(transport).outcome == Outcome::answered;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(answered == 4 * 10 * 3);
}

#if !defined(__SANITIZE_THREAD__)
TEST_CASE("The child of a fork makes connections of its own and leaves its parent's alone") {
  FaultServer server{[](Connection& c) {
    while (!c.request().empty()) c.answer(200, "{}");
  }};
  HttpTransport transport{server.url()};
  CHECK(send(transport).outcome == Outcome::answered);
  const auto child = in_a_child([&] {
    HttpTransport own = std::move(transport);
    return send(own).outcome == Outcome::answered && send(own).outcome == Outcome::answered ? 0 : 1;
  });
  CHECK(child.code() == 0);
  CHECK(server.connections() == 2);
  const auto idle = in_a_child([&] { const HttpTransport dropped = std::move(transport); });
  CHECK(idle.code() == 0);
  CHECK(send(transport).outcome == Outcome::answered);
  CHECK(server.connections() == 2);
}
#endif

#if defined(WEIR_TEST_OPENSSL)

using weir::testing::Certificate;
using weir::testing::tls_with;

namespace {

void answer_all(Connection& c) {
  while (!c.request().empty()) c.answer(200, "{}");
}

}  // namespace

TEST_CASE("An endpoint with TLS is trusted if ca_file says so, and nothing else is") {
  const ScratchDir dir;
  const Certificate good, other;
  good.write(dir / "good.pem");
  other.write(dir / "other.pem");
  FaultServer server{tls_with(good), {answer_all}};
  {
    HttpTransport transport{server.url(), {.ca_file = dir / "good.pem"}};
    CHECK(send(transport).answer.status == 200);
    CHECK(send(transport).answer.status == 200);
    CHECK(server.connections() == 1);
  }
  for (const std::string& ca_file : {std::string(), dir / "other.pem"}) {
    HttpTransport transport{server.url(), {.ca_file = ca_file}};
    const Delivery delivery = send(transport);
    CHECK(delivery.outcome == Outcome::not_sent);
    CHECK(is(delivery, std::errc::permission_denied));
    CHECK(says(delivery, "its certificate is not trusted (SSL certificate problem: self"));
    CHECK(says(delivery, "Set ca_file"));
  }
}

TEST_CASE("A certificate of another name, or of the past, is not trusted even if ca_file names it") {
  const ScratchDir dir;
  for (const Certificate& certificate :
       {Certificate("DNS:telemetry.example.com"), Certificate("IP:127.0.0.2"), Certificate("IP:127.0.0.1", -1)}) {
    certificate.write(dir / "ca.pem");
    std::atomic<std::size_t> received{0};  // bytes of a request
    FaultServer server{tls_with(certificate), {[&](Connection& c) { received = c.request().size(); }}};
    HttpTransport transport{server.url(), {.ca_file = dir / "ca.pem"}};
    const Delivery delivery = send(transport);
    INFO(delivery.error.message);
    CHECK(delivery.outcome == Outcome::not_sent);
    CHECK(is(delivery, std::errc::permission_denied));
    CHECK(received == 0);
  }
}

TEST_CASE("A ca_file that is not there or holds nothing is said to be the reason") {
  const ScratchDir dir;
  std::ofstream(dir / "empty.pem") << "nothing\n";
  const Certificate certificate;
  FaultServer server{tls_with(certificate), {answer_all}};
  for (const std::string& ca_file : {dir / "none.pem", dir / "empty.pem"}) {
    HttpTransport transport{server.url(), {.ca_file = ca_file}};
    const Delivery delivery = send(transport);
    CHECK(delivery.outcome == Outcome::not_sent);
    CHECK(says(delivery, ca_file));
  }
}

TEST_CASE("A server that speaks no TLS, or breaks off its handshake, was sent nothing") {
  for (const FaultServer::Script& script :
       {FaultServer::Script([](Connection& c) {
          c.more();
          c.send("HTTP/1.1 400 This is no TLS\r\nContent-Length: 0\r\n\r\n");
        }),
        FaultServer::Script([](Connection& c) { c.more(); }), FaultServer::Script([](Connection&) {})}) {
    FaultServer server{script};
    HttpTransport transport{"https://127.0.0.1:" + std::to_string(server.port()) + "/"};
    const Delivery delivery = send(transport);
    INFO(delivery.error.message);
    CHECK(delivery.outcome == Outcome::not_sent);
    CHECK_FALSE(delivery.error.message.empty());
  }
}

TEST_CASE("Over TLS, too, half an answer is none, and a stop ends the wait") {
  const ScratchDir dir;
  const Certificate certificate;
  certificate.write(dir / "ca.pem");
  Signal reached;
  FaultServer server{tls_with(certificate),
                     {[](Connection& c) {
                        c.request();
                        c.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}");
                      },
                      [](Connection& c) { c.request(); },
                      [&](Connection& c) {
                        c.request();
                        reached.set();
                        c.wait_until_closed();
                      }}};
  HttpTransport transport{server.url(), {.ca_file = dir / "ca.pem"}};
  CHECK(send(transport).outcome == Outcome::unknown);
  CHECK(send(transport).outcome == Outcome::unknown);
  CHECK(stopped_when(transport, [&] { return reached.wait(); }).outcome == Outcome::unknown);
}

TEST_CASE("Over TLS, too, what an idle connection took with it may have arrived, even if the next one fails") {
  const ScratchDir dir;
  const Certificate certificate;
  certificate.write(dir / "ca.pem");
  auto options = tls_with(certificate);
  const auto with_tls = options.channel;
  std::atomic<int> channels = 0;
  options.channel = [&channels, with_tls](int fd) { return channels++ == 0 ? with_tls(fd) : std::make_unique<Channel>(fd); };
  FaultServer server{options,
                     {[](Connection& c) {
                        c.request();
                        c.answer(200, "{}");
                        c.request();
                      },
                      [](Connection&) {}}};
  HttpTransport transport{server.url(), {.ca_file = dir / "ca.pem"}};
  CHECK(send(transport).outcome == Outcome::answered);
  CHECK(send(transport).outcome == Outcome::unknown);
  CHECK(server.connections() == 2);
}

TEST_CASE("Over TLS, too, a server that closes in the middle of the update leaves the program alive") {
  const ScratchDir dir;
  const Certificate certificate;
  certificate.write(dir / "ca.pem");
  const std::string body(16 * mebibyte, 'x');
  FaultServer server{tls_with(certificate), {[](Connection& c) {
                       c.head();
                       c.reset();
                     }}};
  HttpTransport transport{server.url(), {.ca_file = dir / "ca.pem"}};
  for (int i = 0; i < 5; ++i) CHECK(send(transport, body).outcome == Outcome::unknown);
}

#if !defined(__SANITIZE_THREAD__)
TEST_CASE("The child of a fork says nothing on its parent's TLS connection") {
  const ScratchDir dir;
  const Certificate certificate;
  certificate.write(dir / "ca.pem");
  FaultServer server{tls_with(certificate), {answer_all}};
  HttpTransport transport{server.url(), {.ca_file = dir / "ca.pem"}};
  CHECK(send(transport).outcome == Outcome::answered);
  const auto child = in_a_child([&] {
    HttpTransport own = std::move(transport);
    return send(own).outcome == Outcome::answered ? 0 : 1;
  });
  CHECK(child.code() == 0);
  CHECK(server.connections() == 2);
  CHECK(send(transport).outcome == Outcome::answered);
  CHECK(server.connections() == 2);
}
#endif

#else

TEST_CASE("TLS is not tested: there is no OpenSSL 3 to make a server and certificates with") { WARN("install libssl-dev"); }

#endif
