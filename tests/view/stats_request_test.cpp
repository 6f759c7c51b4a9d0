// The request ["stats"] on a view socket: what the server answers, and what ViewClient::stats makes of answers.
#include <poll.h>
#include <sys/socket.h>
#include <algorithm>
#include <atomic>
#include <functional>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <thread>

#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/line_socket.hpp"
#include "support/running_collector.hpp"
#include "support/running_view_server.hpp"
#include "support/scratch_dir.hpp"
#include "weir/view/view_client.hpp"
#include "weir/view/view_server.hpp"

using namespace std::chrono_literals;
using weir::Span;
using weir::StopSource;
using weir::ViewClient;
using weir::ViewServer;
using weir::ViewServerOptions;
using weir::ViewServerStats;
using weir::testing::check_balance;
using weir::testing::eventually;
using weir::testing::LineSocket;
using weir::testing::ScratchDir;

namespace {

struct Running : weir::testing::RunningViewServer {
  explicit Running(std::function<std::string()> source, ViewServerOptions options = {})
      : RunningViewServer(quiet(std::move(options)), [&](ViewServer& server) {
          server.on_stats(std::move(source));
          server.on_replay([](std::size_t, std::size_t) { return weir::Replay{}; });
        }) {}

 private:
  static ViewServerOptions quiet(ViewServerOptions options) {
    options.logger = &weir::testing::silent;
    return options;
  }
};

Span numbered(std::uint64_t number, std::size_t padding = 0) {
  Span span;
  span.id = std::to_string(number);
  span.trace_id = "trace";
  if (padding > 0) span.attrs["padding"] = std::string(padding, 'x');
  return span;
}

/// A server that answers the first client with `data` and closes, or with `stay` goes after it. (Its thread asserts nothing: only the
/// test's own may.)
class Script {
 public:
  explicit Script(std::string data, bool stay = false) {
    auto bound = weir::net::UnixListener::bind(path());
    REQUIRE(bound);
    listener_ = std::move(*bound);
    thread_ = std::thread([this, bytes = std::move(data), stay] {
      pollfd entry{listener_.fd(), POLLIN, 0};
      if (::poll(&entry, 1, 60'000) != 1) return;
      LineSocket client(std::move(listener_.accept().peer.fd));
      said_ = heard(client);
      (void)client.send(bytes);
      while (stay && !heard(client).empty()) {}
    });
  }
  ~Script() {
    if (thread_.joinable()) thread_.join();
  }
  std::string path() const { return dir_ / "view.sock"; }
  const std::string& said() {
    thread_.join();
    return said_;
  }

 private:
  /// What it says next; nothing when it leaves.
  static std::string heard(const LineSocket& client) {
    pollfd entry{client.fd(), POLLIN, 0};
    std::string some(1000, '\0');
    const ssize_t size = ::poll(&entry, 1, 60'000) == 1 ? weir::net::receive_some(client.fd(), some.data(), some.size()) : 0;
    some.resize(static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
    return some;
  }

  ScratchDir dir_;
  weir::net::UnixListener listener_;
  std::string said_;
  std::thread thread_;
};

}  // namespace

TEST_CASE("who asks for the counters gets them in one line, and is disconnected") {
  std::atomic<int> asked{0};
  Running view([&] { return "{\"n\":" + std::to_string(++asked) + "}"; });
  LineSocket live = view.viewer();
  LineSocket client = view.viewer();
  const std::string request = GENERATE("[\"stats\"]\n", " [ \"stats\" ] \r\n", "[\"stats\"]\n[\"stats\"]\n[\"last\",5]\n");
  for (const char c : request) (void)client.send({&c, 1});  // in pieces; it may be gone before the last
  CHECK(client.rest() == std::vector<std::string>{"[\"stats\",{\"n\":1}]"});
  REQUIRE(eventually([&] { return view->conn_count() == 1; }));
  view->broadcast(numbered(1));
  CHECK(live.line() == weir::to_json(numbered(1)));
  CHECK(asked == 1);
  CHECK(view->stats().inquiries == 1);
  CHECK(view->stats().replays == 0);
  REQUIRE(eventually([&] { return view->stats().waiting == 0; }));
  check_balance(view->stats());
}

TEST_CASE("what is no request for the counters gets live spans, and so does one that nobody can answer") {
  std::function<std::string()> source = [] { return std::string("{}"); };
  std::string request = "[\"stats\"]\n";
  ViewServerOptions options;
  SECTION("something else") {
    request = GENERATE(as<std::string>{}, "stats\n", "[\"stats\",1]\n", "[\"Stats\"]\n", "{\"stats\":1}\n", "[[\"stats\"]]\n",
                       "\n[\"stats\"]\n", "hello\n[\"stats\"]\n", std::string(60, ' ') + "[\"stats\"]\n");
  }
  SECTION("no source") { source = {}; }
  SECTION("a source that throws") {
    source = []() -> std::string { throw std::runtime_error("no counters"); };
  }
  SECTION("a source that throws something else") {
    source = []() -> std::string { throw 1; };
  }
  SECTION("a text of two lines") {
    source = [] { return std::string("{}\n{}"); };
  }
  SECTION("no text") {
    source = [] { return std::string(); };
  }
  SECTION("a text over the bound") {
    options.max_queued_bytes = 1000;
    source = [] { return '"' + std::string(1000, 'x') + '"'; };
  }
  SECTION("a text over 1 MiB") {
    options.max_queued_bytes = 8u << 20;
    source = [] { return '"' + std::string(1u << 20, 'x') + '"'; };
  }
  Running view(source, options);
  LineSocket client = view.viewer();
  REQUIRE(client.send(request));
  LineSocket witness = view.viewer();
  REQUIRE(witness.send("[\"last\",1]\n"));
  REQUIRE(eventually([&] { return view->stats().replays == 1; }));  // so the other has been read
  view->broadcast(numbered(1));
  CHECK(client.line() == weir::to_json(numbered(1)));
  CHECK(view->stats().inquiries == 0);
  CHECK(view->conn_count() == 2);
}

TEST_CASE("the counters come instead of what waits, and after a line that is half sent") {
  Running view([] { return std::string("{\"n\":1}"); }, {.stall_limit = 1h});
  LineSocket client = view.viewer();
  std::uint64_t sent = 0;
  REQUIRE(eventually([&] {  // until its socket is full
    view->broadcast(numbered(sent++, 20'000));
    return view->stats().waiting > 3;
  }));
  REQUIRE(client.send("[\"stats\"]\n"));
  REQUIRE(eventually([&] { return view->stats().inquiries == 1; }));
  for (int i = 0; i < 100; ++i) view->broadcast(numbered(sent++, 20'000));
  const std::vector<std::string> lines = client.rest();
  REQUIRE_FALSE(lines.empty());
  CHECK(lines.back() == "[\"stats\",{\"n\":1}]");
  for (std::size_t i = 0; i + 1 < lines.size(); ++i) CHECK(nlohmann::json::parse(lines[i], nullptr, false).is_object());
  CHECK(lines.size() < sent - 50);
  REQUIRE(eventually([&] { return view->conn_count() == 0; }));
  CHECK(view->stats().abandoned > 0);
  CHECK(view->stats().waiting == 0);
  check_balance(view->stats());
}

TEST_CASE("one that asks and does not read is disconnected at the stall limit") {
  Running view([] { return '"' + std::string(900'000, 'x') + '"'; }, {.stall_limit = 50ms});
  LineSocket client = view.viewer();
  REQUIRE(client.send("[\"stats\"]\n"));
  CHECK(eventually([&] { return view->conn_count() == 0; }));
  CHECK(view->stats().inquiries == 1);
  CHECK(view->stats().stalled == 1);
}

TEST_CASE("a client reads the counters of a busy server, also large ones") {
  const std::string text = "{\"text\":\"" + std::string(GENERATE(0u, 1u, 500'000u), 'x') + "\"}";
  Running view([&] { return text; });
  std::atomic<bool> enough{false};
  std::thread busy([&] {
    for (std::uint64_t i = 0; !enough; ++i) view->broadcast(numbered(i, 1000));
  });
  for (int i = 0; i < 20; ++i) {
    const auto stats = ViewClient(view.path()).stats(60s);
    if (!stats) FAIL_CHECK(stats.error().message);
    if (stats) CHECK(*stats == text);
  }
  enough = true;
  busy.join();
  CHECK(view->stats().inquiries == 20);
}

TEST_CASE("a client passes over everything that is not the answer") {
  Script server(weir::to_json(numbered(1)) + "\n[\"dropped\",5]\n[\"stats\"]\n[\"stats\",{\"n\":\n[\"statss\",1]\n" +
                    std::string((1u << 20) + 100, 'x') + "\n[\"stats\",{\"n\":[1]}]\n",
                true);
  const auto stats = ViewClient(server.path()).stats(60s);
  REQUIRE(stats);
  CHECK(*stats == "{\"n\":[1]}");
  CHECK(server.said() == "[\"stats\"]\n");
}

TEST_CASE("a server that does not know the request is told from one that lets nobody in, and from none") {
  SECTION("it goes on with live spans") {
    Script server(weir::to_json(numbered(1)) + "\n", true);
    const auto stats = ViewClient(server.path()).stats(50ms);
    REQUIRE_FALSE(stats);
    CHECK(stats.error().code == std::errc::timed_out);
    CHECK(stats.error().message.find("50ms") != std::string::npos);
    CHECK(stats.error().message.find(server.path()) != std::string::npos);
  }
  SECTION("it closes, or tells a half") {
    Script server(GENERATE("", "[\"stats\",{\"n\":1}"));
    const auto stats = ViewClient(server.path()).stats(60s);
    REQUIRE_FALSE(stats);
    CHECK(stats.error().code == std::errc::connection_reset);
    CHECK(stats.error().message.find("viewers") != std::string::npos);
  }
  SECTION("it is full") {
    Running view([] { return std::string("{}"); }, {.max_clients = 1});
    LineSocket viewer = view.viewer();
    const auto stats = ViewClient(view.path()).stats(60s);
    REQUIRE_FALSE(stats);
    CHECK(stats.error().code == std::errc::connection_reset);
  }
  SECTION("its backlog is full") {
    ScratchDir dir;
    auto listener = weir::net::UnixListener::bind(dir / "view.sock", {.allow_uids = {}, .backlog = 0});
    REQUIRE(listener);
    std::vector<weir::net::Fd> waiting;
    for (;;) {
      auto connected = weir::net::connect_unix(dir / "view.sock");
      if (!connected) break;
      waiting.push_back(std::move(*connected));
    }
    const auto stats = ViewClient(dir / "view.sock").stats(1ms);
    REQUIRE_FALSE(stats);
    CHECK(stats.error().code == std::errc::timed_out);
  }
  SECTION("there is none") {
    const auto stats = ViewClient("/no/such/view.sock").stats(60s);
    REQUIRE_FALSE(stats);
    CHECK(stats.error().code == std::errc::no_such_file_or_directory);
  }
}
