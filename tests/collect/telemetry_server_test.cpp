#include "weir/collect/telemetry_server.hpp"

#include "support/catch.hpp"

#if WEIR_HAVE_HTTPLIB

#include <sys/stat.h>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "support/eventually.hpp"
#include "support/http_client.hpp"
#include "support/scratch_dir.hpp"

using nlohmann::json;
using weir::InstanceId;
using weir::TelemetryPolicyFile;
using weir::TelemetryServer;
using weir::TelemetryServerOptions;
using weir::TelemetryServerStats;
using weir::TelemetryStore;
using weir::Timestamp;
using weir::testing::eventually;
using weir::testing::http_exchange;
using weir::testing::http_get;
using weir::testing::http_post;
using weir::testing::HttpClient;
using weir::testing::HttpReply;
using weir::testing::parse_reply;
using weir::testing::post_of;
using weir::testing::ScratchDir;
using namespace std::chrono_literals;

namespace {

const std::string id = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
const std::string update_path = "/v1/update/" + id;

std::string body_of(json data, const std::string& update_id = "", const std::string& instance = id) {
  json body{{"instance_id", instance}, {"data", data.is_null() ? json::object() : std::move(data)}};
  if (!update_id.empty()) body["update_id"] = update_id;
  return body.dump();
}

/// A server that serves until the end of the test.
class Serving {
 public:
  explicit Serving(const std::string& address = "0", TelemetryServerOptions options = {}, TelemetryPolicyFile* policy = nullptr) {
    options.clock = &clock;
    server.emplace(address, store, policy, options);
    const auto bound = server->listen();
    INFO((bound ? "" : bound.error().message));
    REQUIRE(bound);
    thread_ = std::thread([this] { served_ = server->serve(stop_.token()); });
  }
  ~Serving() {
    if (thread_.joinable()) (void)stop();
  }
  /// Whether it had served well.
  bool stop() {
    stop_.request_stop();
    thread_.join();
    return served_.has_value();
  }
  std::string address() const { return server->address(); }
  TelemetryServerStats stats() const { return server->stats(); }
  HttpReply post(json data, const std::string& update_id = "") {
    return http_post(address(), update_path, body_of(std::move(data), update_id));
  }

  weir::ManualClock clock{Timestamp{std::chrono::seconds{1'800'000'000}}};
  TelemetryStore store = *TelemetryStore::open();
  std::optional<TelemetryServer> server;

 private:
  weir::StopSource stop_;
  weir::Result<void> served_;
  std::thread thread_;
};

/// What every answer has.
void check_form(const HttpReply& reply) {
  CHECK(reply.header("content-type") == "application/json");
  CHECK(reply.header("x-content-type-options") == "nosniff");
  CHECK(reply.header("cache-control") == "no-store");
  CHECK(reply.header("content-security-policy").find("default-src 'none'") == 0);
  CHECK(reply.header("content-length") == std::to_string(reply.body.size()));
  CHECK(reply.json().is_object());
  CHECK(reply.json().contains("error") == (reply.status != 200));
}

}  // namespace

TEST_CASE("an update that is sent is answered with what the policy wishes, and can be read") {
  ScratchDir dir;
  std::ofstream(dir / "policy")
      << R"({"next_update":"30s","disable_keys":["a"],"instances":{"00000000-0000-4000-8000-000000000001":{"stop":true}}})";
  auto policy = TelemetryPolicyFile::open(dir / "policy");
  REQUIRE(policy);
  Serving serving("0", {}, &*policy);
  const HttpReply reply = serving.post({{"n", 5}, {"memory", {{"rss", 1.5}}}}, "u1");
  CHECK(reply.status == 200);
  check_form(reply);
  CHECK(reply.json() == json{{"next_update", 30'000'000'000}, {"disable_keys", {"a"}}});
  const std::string other = "00000000-0000-4000-8000-000000000001";
  CHECK(http_post(serving.address(), "/v1/update/" + other, body_of({}, "", other)).json()["stop"] == true);

  serving.clock.advance(31s);
  const HttpReply list = http_get(serving.address(), "/v1/instances");
  check_form(list);
  REQUIRE(list.json()["instances"].size() == 2);
  const HttpReply one = http_get(serving.address(), "/v1/instances/" + id);
  check_form(one);
  json about = one.json();
  CHECK(about["keys"] == json{"memory.rss", "n"});
  CHECK(about["last_update"] == json{{"instance_id", id},
                                     {"update_id", "u1"},
                                     {"data", {{"n", 5}, {"memory", {{"rss", 1.5}}}}},
                                     {"expect_next", "2027-01-15T08:00:30Z"}});
  CHECK(about["late"] == true);
  CHECK(about["updates"] == 1);
  const HttpReply series = http_get(serving.address(), "/v1/instances/" + id + "/series?key=memory.rss");
  check_form(series);
  CHECK(
      series.json() ==
      json{{"instance_id", id}, {"key", "memory.rss"}, {"points", {{{"time", "2027-01-15T08:00:00Z"}, {"value", 1.5}}}}, {"more", false}});
}

TEST_CASE("an update that is sent again is answered again and stored once") {
  Serving serving;
  const HttpReply first = serving.post({{"n", 1}}, "u"), second = serving.post({{"n", 1}}, "u");
  CHECK(second.status == 200);
  CHECK(second.body == first.body);
  CHECK(http_get(serving.address(), "/v1/instances/" + id + "/series?key=n").json()["points"].size() == 1);
  CHECK(json::parse(serving.stats().to_json())["duplicates"] == 1);
}

TEST_CASE("what is read comes in pages") {
  Serving serving;
  for (int i = 0; i < 5; ++i) {
    const std::string instance = "00000000-0000-4000-8000-00000000000" + std::to_string(i);
    serving.clock.advance(1s);
    CHECK(http_post(serving.address(), "/v1/update/" + instance, body_of({{"n", i}}, "", instance)).status == 200);
    CHECK(serving.post({{"a b&c", i}}).status == 200);
  }
  const json page = http_get(serving.address(), "/v1/instances?limit=2&offset=1").json();
  CHECK(page["more"] == true);
  REQUIRE(page["instances"].size() == 2);
  CHECK(page["instances"][0]["instance_id"] == id);
  CHECK(page["instances"][1]["instance_id"] == "00000000-0000-4000-8000-000000000003");
  CHECK(http_get(serving.address(), "/v1/instances?limit=2&offset=4").json()["more"] == false);
  const auto series = [&](const std::string& query) {
    return http_get(serving.address(), "/v1/instances/" + id + "/series?key=a%20b%26c" + query).json();
  };
  CHECK(series("")["points"].size() == 5);
  CHECK(series("&limit=2")["points"][0]["value"] == 3);
  CHECK(series("&limit=2")["more"] == true);
  CHECK(series("&since=2027-01-15T08:00:04Z")["points"].size() == 2);
  CHECK(series("&since=2027-01-15T09:00:02%2B01:00&limit=1")["points"][0]["value"] == 1);
}

TEST_CASE("each wrong request has its status, and its error as JSON") {
  Serving serving;
  REQUIRE(serving.post({{"n", 1}}).status == 200);
  const std::string host = "Host: " + serving.address() + "\r\n", type = "Content-Type: application/json\r\n";
  const auto get = [&](const std::string& target) { return "GET " + target + " HTTP/1.1\r\n" + host + "\r\n"; };
  const auto post = [&](const std::string& target, const std::string& headers, const std::string& body) {
    return "POST " + target + " HTTP/1.1\r\n" + host + headers + "\r\n" + body;
  };
  const std::string instance = "/v1/instances/" + id;
  const std::vector<std::pair<int, std::string>> cases{
      {404, get("/nothing")},
      {404, get("/v1")},
      {404, get("/v1/instances/" + id + "/series/more")},
      {404, get("/v1/instances/" + id + "/metrics")},
      {404, get("//v1/instances")},
      {404, post("/v2/update/" + id, type + "Content-Length: 2\r\n", "{}")},
      {404, get("/v1/instances/00000000-0000-4000-8000-000000000009")},
      {404, get("/v1/instances/00000000-0000-4000-8000-000000000009/series?key=n")},
      {400, get("/v1/instances/me")},
      {400, get("/v1/instances/")},
      {400, get(instance + "/series")},
      {400, get(instance + "/series?key=")},
      {400, get(instance + "/series?key=n&limit=0")},
      {400, get(instance + "/series?key=n&limit=10001")},
      {400, get(instance + "/series?key=n&limit=ten")},
      {400, get(instance + "/series?key=n&since=yesterday")},
      {400, get("/v1/instances?offset=-1")},
      {405, get(update_path)},
      {405, post("/v1/instances", type + "Content-Length: 2\r\n", "{}")},
      {405, "PUT " + update_path + " HTTP/1.1\r\n" + host + type + "Content-Length: 2\r\n\r\n{}"},
      {405, "DELETE /v1/instances HTTP/1.1\r\n" + host + "\r\n"},
      {405, "OPTIONS " + update_path + " HTTP/1.1\r\n" + host + "\r\n"},
      {405, "TRACE / HTTP/1.1\r\n" + host + "\r\n"},
      {415, post(update_path, "Content-Length: 2\r\n", "{}")},
      {415, post(update_path, "Content-Type: text/plain\r\nContent-Length: 2\r\n", "{}")},
      {415, post(update_path, "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 2\r\n", "{}")},
      {415, post(update_path, type + "Content-Encoding: zstd\r\nContent-Length: 2\r\n", "{}")},
      {400, post(update_path, type + "Content-Encoding: gzip\r\nContent-Length: 2\r\n", "{}")},
      {400, post(update_path, type + "Content-Length: 2\r\n", "{}")},
      {400, post("/v1/update/me", type + "Content-Length: 2\r\n", "{}")},
      {400, post("/v1/update/00000000-0000-4000-8000-000000000009", type + "Content-Length: 56\r\n", "{\"instance_id\":\"" + id + "\"}  ")},
      {400, post(update_path, type, "")},
      {413, post(update_path, type + "Content-Length: 4194305\r\n", "")},
      {413, post(update_path, type + "Content-Length: 18446744073709551615\r\n", "")},
      {413, post(update_path, type + "Transfer-Encoding: chunked\r\n", "ffffffffffffffff\r\n")},
      {414, get("/" + std::string(5000, 'x'))},
      {414, get("/" + std::string(600, 'x'))},
      {431, "GET / HTTP/1.1\r\n" + host + "X: " + std::string(17'000, 'x') + "\r\n\r\n"},
      {501, post(update_path, type + "Transfer-Encoding: gzip, chunked\r\n", "")},
      {400, post(update_path, type + "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", "")},
      {400, post(update_path, type + "Content-Length: 2\r\nContent-Length: 2\r\n", "{}")},
      {400, post(update_path, type + "Content-Length: -2\r\n", "{}")},
      {400, post(update_path, type + "Content-Length: 2, 2\r\n", "{}")},
      {400, post(update_path, type + "Transfer-Encoding: chunked\r\n", "zz\r\n")},
      {400, post(update_path, type + "Transfer-Encoding: chunked\r\n", "2\r\n{}{}\r\n")},
      {400, "GET / HTTP/1.1\r\n" + host + "no colon\r\n\r\n"},
      {400, "GET / HTTP/1.1\r\n" + host + "Host : x\r\n\r\n"},
      {400, std::string("GET /\0 HTTP/1.1\r\n", 17) + host + "\r\n"},
      {400, "GET /\r\n\r\n"},
      {400, "GET / HTTP/3.0\r\n" + host + "\r\n"},
      {400, "BREW / HTTP/1.1\r\n" + host + "\r\n"},
      {400, "\x16\x03\x01\x02\r\n\r\n"},  // as TLS begins
  };
  for (const auto& [status, request] : cases) {
    INFO(request.substr(0, 200));
    const HttpReply reply = http_exchange(serving.address(), request);
    CHECK(reply.status == status);
    check_form(reply);
  }
  CHECK(http_exchange(serving.address(), get(update_path)).header("allow") == "POST");
  CHECK(http_exchange(serving.address(), post("/v1/instances", "", "")).header("allow") == "GET");
  CHECK(serving.stats().store.updates == 1);
  CHECK(serving.post({{"n", 1}}).status == 200);
}

TEST_CASE("a content type may have parameters, in letters of any case") {
  Serving serving;
  const std::string body = body_of({});
  const auto reply = http_exchange(serving.address(), "POST " + update_path + " HTTP/1.1\r\nHost: " + serving.address() +
                                                          "\r\ncontent-TYPE:Application/JSON; charset=utf-8\r\nContent-Length: " +
                                                          std::to_string(body.size()) + "\r\n\r\n" + body);
  CHECK(reply.status == 200);
}

TEST_CASE("requests under a foreign name, or for a foreign page, are refused before anything else") {
  Serving serving;
  const std::string port = serving.address().substr(serving.address().find(':'));
  const auto status = [&](const std::string& headers, const std::string& target = "/") {
    return http_exchange(serving.address(), "GET " + target + " HTTP/1.1\r\n" + headers + "\r\n").status;
  };
  for (const std::string& name : std::vector<std::string>{"127.0.0.1", "localhost", "[::1]", "LOCALHOST"}) {
    INFO(name);
    CHECK(status("Host: " + name + port + "\r\n") == 200);
    CHECK(status("Host: " + name + port + "\r\nOrigin: http://" + name + port + "\r\n") == 200);
    CHECK(status("Host: " + name + "\r\n") == 403);
    CHECK(status("Host: " + name + ":1\r\n") == 403);
    CHECK(status("Host: " + name + port + "0\r\n") == 403);
  }
  for (const std::string& host : std::vector<std::string>{"evil.example", "evil.example" + port, "127.0.0.1.evil.example" + port,
                                                          "127.0.0.2" + port, "localhost." + port, "user@localhost" + port, "[::1",
                                                          "::1" + port, "[::1]" + port + port, port, std::string("")}) {
    INFO(host);
    CHECK(status("Host: " + host + "\r\n") == 403);
    CHECK(status("Host: " + host + "\r\n", "/nothing") == 403);
  }
  CHECK(status("") == 403);
  CHECK(status("Host: localhost" + port + "\r\nHost: localhost" + port + "\r\n") == 403);
  for (const std::string& origin : std::vector<std::string>{"null", "http://evil.example", "https://localhost" + port, "http://localhost:1",
                                                            "http://localhost" + port + "/", "http://localhost" + port + ".evil.example"}) {
    INFO(origin);
    CHECK(status("Host: localhost" + port + "\r\nOrigin: " + origin + "\r\n") == 403);
    CHECK(http_post(serving.address(), update_path, body_of({}), "Origin: " + origin + "\r\n").status == 403);
  }
  CHECK(serving.stats().store.updates == 0);
  CHECK(serving.stats().refused_hosts > 0);
  const HttpReply reply = http_exchange(serving.address(), "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n");
  check_form(reply);
}

TEST_CASE("a name that the server was given is its own") {
  Serving serving("localhost:0");
  CHECK(serving.address().find("localhost:") == 0);
  CHECK(http_exchange("127.0.0.1" + serving.address().substr(9), "GET / HTTP/1.1\r\nHost: " + serving.address() + "\r\n\r\n").status ==
        200);
}

TEST_CASE("a body may come in chunks, in pieces, after 100 Continue, or compressed") {
  Serving serving;
  const std::string head = "POST " + update_path + " HTTP/1.1\r\nHost: " + serving.address() + "\r\nContent-Type: application/json\r\n";
  const std::string body = body_of({{"n", 1}});
  char size[16];
  std::snprintf(size, sizeof size, "%zx", body.size() - 1);
  const std::string chunked =
      head + "Transfer-Encoding: Chunked\r\n\r\n1;x=y\r\n{\r\n" + size + "\r\n" + body.substr(1) + "\r\n0\r\nTrailer: x\r\n\r\n";
  CHECK(http_exchange(serving.address(), chunked).status == 200);
  {
    HttpClient client(serving.address());
    for (const char byte : chunked) REQUIRE(client.send({&byte, 1}));
    CHECK(parse_reply(client.rest()).status == 200);
  }
  {
    HttpClient client(serving.address());
    REQUIRE(client.send(head + "Expect: 100-continue\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n"));
    CHECK(client.until("\r\n\r\n") == "HTTP/1.1 100 Continue\r\n\r\n");
    REQUIRE(client.send(body));
    CHECK(parse_reply(client.rest()).status == 200);
  }
  {
    HttpClient client(serving.address());  // refused before it is sent
    REQUIRE(client.send(head + "Expect: 100-continue\r\nContent-Length: 5000000\r\n\r\n"));
    CHECK(parse_reply(client.rest()).status == 413);
  }
  CHECK(serving.stats().store.updates == 3);
}

TEST_CASE("a compressed body counts as what it becomes") {
  const auto gzip = [](const std::string& command) {
    std::string bytes;
    std::FILE* const pipe = ::popen((command + " | gzip -c").c_str(), "r");
    REQUIRE(pipe != nullptr);
    char some[4096];
    for (std::size_t size; (size = std::fread(some, 1, sizeof some, pipe)) > 0;) bytes.append(some, size);
    REQUIRE(::pclose(pipe) == 0);
    return bytes;
  };
  Serving serving;
  const auto reply = http_post(serving.address(), update_path, gzip("printf '{\"instance_id\":\"" + id + "\",\"data\":{\"n\":1}}'"),
                               "Content-Encoding: gzip\r\n");
  if (reply.status == 415) return;  // cpp-httplib without zlib
  CHECK(reply.status == 200);
  CHECK(serving.stats().store.updates == 1);
  CHECK(http_post(serving.address(), update_path, gzip("head -c 5000000 /dev/zero"), "Content-Encoding: gzip\r\n").status == 413);
}

TEST_CASE("a body of the largest size is taken, and a byte more is not") {
  TelemetryServerOptions options;
  options.max_body = 100'000;
  Serving serving("0", options);
  const std::string rest = body_of({{"text", ""}});
  const auto sized = [&](std::size_t size) { return body_of({{"text", std::string(size - rest.size(), 'x')}}); };
  CHECK(http_post(serving.address(), update_path, sized(100'000)).status == 200);
  CHECK(http_post(serving.address(), update_path, sized(100'001)).status == 413);
  const std::string head = "POST " + update_path + " HTTP/1.1\r\nHost: " + serving.address() +
                           "\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
  const auto chunks = [](const std::string& body) {
    std::string text;
    for (std::size_t i = 0; i < body.size(); i += 4096) {
      char size[16];
      std::snprintf(size, sizeof size, "%zx\r\n", std::min<std::size_t>(4096, body.size() - i));
      text += size + body.substr(i, 4096) + "\r\n";
    }
    return text + "0\r\n\r\n";
  };
  CHECK(http_exchange(serving.address(), head + chunks(sized(100'000))).status == 200);
  CHECK(http_exchange(serving.address(), head + chunks(sized(100'001))).status == 413);
}

TEST_CASE("an answer that is longer than a socket holds arrives whole, whatever else is sent meanwhile") {
  Serving serving;
  const std::string text(3'000'000, 'x');
  REQUIRE(serving.post({{"text", text}}).status == 200);
  HttpClient client(serving.address());
  REQUIRE(client.send("GET /v1/instances/" + id + " HTTP/1.1\r\nHost: " + serving.address() + "\r\n\r\n"));
  const std::string begun = client.until("HTTP/1.1 200 OK\r\n");
  REQUIRE(client.send("GET / HTTP/1.1\r\n\r\n"));
  const HttpReply reply = parse_reply(begun + client.rest());
  CHECK(reply.json()["last_update"]["data"]["text"] == text);
}

TEST_CASE("200 idle connections, and more than there is room for, do not keep an honest client out") {
  for (const std::size_t room : {std::size_t{256}, std::size_t{32}}) {
    TelemetryServerOptions options;
    options.max_connections = room;
    options.request_time = 1h;  // nobody is helped by the time
    Serving serving("0", options);
    std::vector<std::unique_ptr<HttpClient>> idle;
    for (int i = 0; i < 200; ++i) {
      idle.push_back(std::make_unique<HttpClient>(serving.address()));
      REQUIRE(idle.back()->connected());
      if (i % 2 == 0) (void)idle.back()->send(post_of(serving.address(), update_path, "{}").substr(0, 60));
    }
    for (int i = 0; i < 20; ++i) CHECK(serving.post({{"n", i}}).status == 200);
    CHECK(serving.stats().store.updates == 20);
    CHECK((serving.stats().dropped > 0) == (room < 200));
    CHECK(serving.stats().open_connections <= room);
    CHECK(serving.stop());
  }
}

TEST_CASE("half bodies beyond the room for them leave, the oldest first") {
  TelemetryServerOptions options;
  options.max_buffered = (4u << 20) + (1u << 19);  // for four of 1,000,000 bytes, whatever memory they are in, and not for five
  options.request_time = 1h;
  Serving serving("0", options);
  const std::string begun = post_of(serving.address(), update_path, std::string(2'000'000, 'x')).substr(0, 1'000'000);
  std::vector<std::unique_ptr<HttpClient>> halves;
  for (int i = 0; i < 12; ++i) {
    halves.push_back(std::make_unique<HttpClient>(serving.address()));
    REQUIRE(halves.back()->send(begun));
  }
  CHECK(halves.front()->rest().empty());
  CHECK(eventually([&] { return serving.stats().dropped == 8; }));
  CHECK(serving.post({{"n", 1}}).status == 200);
}

TEST_CASE("a body for which there is no room is answered 503") {
  TelemetryServerOptions options;
  options.max_buffered = 100'000;
  Serving serving("0", options);
  const HttpReply reply = serving.post({{"text", std::string(200'000, 'x')}});
  CHECK(reply.status == 503);
  CHECK(reply.header("retry-after") == "5");
  check_form(reply);
  CHECK(serving.stats().dropped == 1);
  CHECK(serving.post({{"n", 1}}).status == 200);
}

TEST_CASE("answers that nobody reads leave when there is no room, the oldest first") {
  TelemetryServerOptions options;
  options.max_buffered = 10u << 20;
  options.answer_time = 1h;
  Serving serving("0", options);
  REQUIRE(serving.post({{"text", std::string(4'000'000, 'x')}}).status == 200);
  std::vector<std::unique_ptr<HttpClient>> deaf;
  for (int i = 0; i < 8; ++i) {
    deaf.push_back(std::make_unique<HttpClient>(serving.address()));
    const int small = 4096;
    ::setsockopt(deaf.back()->fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    REQUIRE(deaf.back()->send("GET /v1/instances/" + id + " HTTP/1.1\r\nHost: " + serving.address() + "\r\n\r\n"));
  }
  CHECK(eventually([&] { return serving.stats().dropped > 0; }));
  CHECK(http_get(serving.address(), "/").status == 200);
}

TEST_CASE("who sends too slowly is told, and who says nothing is left") {
  TelemetryServerOptions options;
  options.request_time = 50ms;
  Serving serving("0", options);
  HttpClient silent(serving.address()), slow(serving.address());
  REQUIRE(slow.send("GET / HT"));
  const HttpReply reply = parse_reply(slow.rest());
  CHECK(reply.status == 408);
  check_form(reply);
  CHECK(silent.rest().empty());
  CHECK(serving.stats().timed_out == 2);
}

TEST_CASE("who does not read the answer is left") {
  TelemetryServerOptions options;
  options.answer_time = 50ms;
  Serving serving("0", options);
  REQUIRE(serving.post({{"text", std::string(4'000'000, 'x')}}).status == 200);
  // More than the sockets between us hold, however large they are: several of them.
  std::vector<std::unique_ptr<HttpClient>> deaf;
  for (int i = 0; i < 8; ++i) {
    deaf.push_back(std::make_unique<HttpClient>(serving.address()));
    const int small = 4096;
    ::setsockopt(deaf.back()->fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    REQUIRE(deaf.back()->send("GET /v1/instances/" + id + " HTTP/1.1\r\nHost: " + serving.address() + "\r\n\r\n"));
  }
  CHECK(eventually([&] { return serving.stats().timed_out > 0; }));
  CHECK(http_get(serving.address(), "/").status == 200);
}

TEST_CASE("many clients at once are all answered, and each update is stored once") {
  Serving serving;
  constexpr int clients = 6, updates = 30;
  std::vector<std::thread> threads;
  std::atomic<int> answered{0};
  for (int c = 0; c < clients; ++c) {
    threads.emplace_back([&, c] {
      const std::string instance = "00000000-0000-4000-8000-00000000000" + std::to_string(c / 2);  // two clients say the same
      for (int i = 0; i < updates; ++i) {
        const HttpReply reply =
            http_post(serving.address(), "/v1/update/" + instance, body_of({{"n", i}}, "u" + std::to_string(i), instance));
        if (reply.status == 200) ++answered;
        if (i % 10 == 0 && http_get(serving.address(), "/v1/instances/" + instance).status == 200) ++answered;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(answered == clients * (updates + 3));
  CHECK(serving.stats().store.updates == clients / 2 * updates);
  CHECK(serving.stats().store.duplicates == clients / 2 * updates);
  CHECK(serving.stop());
}

TEST_CASE("it stops with connections open, and its port can be had at once") {
  std::string address;
  std::vector<std::unique_ptr<HttpClient>> open;
  {
    Serving serving;
    address = serving.address();
    for (int i = 0; i < 10; ++i) open.push_back(std::make_unique<HttpClient>(address));
    REQUIRE(open.back()->send("POST "));
    CHECK(serving.post({}).status == 200);
    CHECK(serving.stop());
  }
  for (auto& client : open) CHECK(client->rest().empty());
  Serving again(address);
  CHECK(again.address() == address);
  CHECK(http_get(address, "/").status == 200);
}

TEST_CASE("an address that cannot be had is an error that names it") {
  Serving serving;
  TelemetryStore store = *TelemetryStore::open();
  const auto error = [&](const std::string& address) {
    TelemetryServer server(address, store);
    const auto bound = server.listen();
    REQUIRE_FALSE(bound);
    CHECK_FALSE(server.serve({}));
    return bound.error();
  };
  const auto taken = error(serving.address());
  CHECK(taken.code == std::errc::address_in_use);
  CHECK(taken.message.find("cannot listen on " + serving.address() + ": Address already in use") == 0);
  CHECK(error("203.0.113.7:0").message.find("cannot listen on 203.0.113.7:0") == 0);
  CHECK(error("nobody.invalid:0").message.find("cannot listen on nobody.invalid:0") == 0);
  for (const char* const address :
       {"", "http", "65536", "-1", ":80", "127.0.0.1:", "127.0.0.1:x", "::1:80", "[::1]", "unix:", "a b:80", "http://a:80"}) {
    INFO(address);
    CHECK(error(address).message.find("is no address: write it as 4318, 127.0.0.1:4318, [::1]:4318 or unix:") != std::string::npos);
    CHECK_FALSE(TelemetryServer::check_address(address));
  }
}

TEST_CASE("it listens on a Unix socket with the rules of all of them") {
  ScratchDir dir;
  const std::string address = "unix:" + (dir / "http.sock");
  {
    Serving serving(address);
    CHECK(serving.address() == address);
    struct stat status {};
    REQUIRE(::stat((dir / "http.sock").c_str(), &status) == 0);
    CHECK((status.st_mode & 07777) == 0600);
    CHECK(serving.post({{"n", 1}}).status == 200);
    CHECK(http_exchange(address, "GET / HTTP/1.1\r\nHost: localhost:8080\r\n\r\n").status == 200);
    CHECK(http_exchange(address, "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n").status == 403);
    TelemetryStore store = *TelemetryStore::open();
    TelemetryServer second(address, store);
    const auto bound = second.listen();
    REQUIRE_FALSE(bound);
    CHECK(bound.error().code == std::errc::address_in_use);
    CHECK(serving.stop());
  }
  CHECK_FALSE(std::filesystem::exists(dir / "http.sock"));
}

TEST_CASE("a server leaves the program's signals alone") {
  struct sigaction before {
  }, after{}, ours{};
  ours.sa_handler = [](int) {};
  REQUIRE(::sigaction(SIGPIPE, &ours, &before) == 0);
  {
    Serving serving;
    CHECK(serving.post({}).status == 200);
  }
  REQUIRE(::sigaction(SIGPIPE, &before, &after) == 0);
  CHECK(after.sa_handler == ours.sa_handler);
}

#else

TEST_CASE("without cpp-httplib a server cannot listen, and says what is missing") {
  auto store = weir::TelemetryStore::open();
  REQUIRE(store);
  weir::TelemetryServer server("0", *store);
  const auto bound = server.listen();
  REQUIRE_FALSE(bound);
  CHECK(bound.error().message.find("libcpp-httplib-dev") != std::string::npos);
}

#endif
