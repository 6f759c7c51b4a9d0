#include "weir/view/view_client.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/line_socket.hpp"
#include "support/scratch_dir.hpp"
#include "weir/view/tree_assembler.hpp"
#include "weir/view/view_server.hpp"

using weir::Result;
using weir::Span;
using weir::StopSource;
using weir::ViewClient;
using weir::testing::eventually;
using weir::testing::LineSocket;
using weir::testing::ScratchDir;

namespace {

std::string line_of(const std::string& id) {
  Span span;
  span.id = id;
  span.trace_id = "trace-of-" + id;
  span.name = "work";
  return weir::to_json(span) + "\n";
}

/// A server that sends exactly `data` to the first client, then closes.
class Script {
 public:
  explicit Script(std::string data) {
    auto bound = weir::net::UnixListener::bind(path());
    REQUIRE(bound);
    listener_ = std::move(*bound);
    thread_ = std::thread([this, bytes = std::move(data)] {
      pollfd entry{listener_.fd(), POLLIN, 0};
      if (::poll(&entry, 1, 60'000) != 1) return;
      LineSocket client(std::move(listener_.accept().peer.fd));
      (void)client.send(bytes);
    });
  }
  ~Script() { thread_.join(); }
  std::string path() const { return dir_ / "view.sock"; }

 private:
  ScratchDir dir_;
  weir::net::UnixListener listener_;
  std::thread thread_;
};

struct Received {
  std::vector<std::string> ids;
  std::vector<std::uint64_t> drops;
  std::uint64_t skipped = 0, dropped = 0;
};

Received receive(const std::string& data) {
  Script server(data);
  ViewClient client(server.path());
  Received received;
  client.on_dropped([&](std::uint64_t count) { received.drops.push_back(count); });
  const Result<void> ended = client.run(StopSource{}.token(), [&](std::string_view trace_id, const Span& span) {
    CHECK(trace_id == "trace-of-" + span.id);
    received.ids.push_back(span.id);
  });
  REQUIRE(ended);
  received.skipped = client.skipped_lines();
  received.dropped = client.dropped_lines();
  return received;
}

using Ids = std::vector<std::string>;

}  // namespace

TEST_CASE("spans arrive until the server closes") {
  const Received received = receive(line_of("a") + line_of("b") + line_of("c"));
  CHECK(received.ids == Ids{"a", "b", "c"});
  CHECK(received.skipped == 0);
}

TEST_CASE("lines that do not parse are skipped and counted") {
  const Received received = receive("garbage\n" + line_of("a") +
                                    "{\"id\":1}\n[1,2]\n[\"dropped\"]\n[\"dropped\",-1]\n[\"dropped\",\"x\"]\n[\"dropped\",3\n\n \r\n" +
                                    std::string("\0\xff\n", 3) + line_of("b"));
  CHECK(received.ids == Ids{"a", "b"});
  CHECK(received.drops.empty());
  CHECK(received.skipped == 8);
}

TEST_CASE("a line over 1 MiB is skipped, whole, and one of 1 MiB is not") {
  const auto padded = [](const std::string& id, std::size_t size) {
    Span span;
    span.id = id;
    span.trace_id = "trace-of-" + id;
    span.attrs["x"] = "";
    span.attrs["x"] = std::string(size - weir::to_json(span).size(), 'x');
    REQUIRE(weir::to_json(span).size() == size);
    return weir::to_json(span) + "\n";
  };
  const Received received = receive(padded("fits", 1u << 20) + padded("too long", (1u << 20) + 1) + line_of("a") +
                                    std::string(5u << 20, '{') + "\n" + line_of("b"));
  CHECK(received.ids == Ids{"fits", "a", "b"});
  CHECK(received.skipped == 2);
}

TEST_CASE("the server's word on dropped lines is passed on") {
  const Received received = receive("[\"dropped\",3]\n" + line_of("a") + "[\"dropped\",4]\n");
  CHECK(received.drops == std::vector<std::uint64_t>{3, 4});
  CHECK(received.dropped == 7);
  CHECK(received.skipped == 0);
}

TEST_CASE("what services lost is passed on, whatever they are called") {
  ScratchDir dir;
  weir::ViewServer server(dir / "view.sock");
  REQUIRE(server.listen());
  StopSource stop;
  std::thread serving([&] { (void)server.serve(stop.token()); });
  ViewClient client(dir / "view.sock");
  std::vector<std::pair<std::string, std::uint64_t>> lost;
  client.on_loss([&](std::string_view service, std::uint64_t spans) { lost.emplace_back(service, spans); });
  std::thread viewing([&] { (void)client.run(StopSource{}.token(), {}); });
  REQUIRE(eventually([&] { return server.conn_count() == 1; }));
  server.broadcast_loss("check\"out\n", 12);
  server.broadcast_loss("", UINT64_MAX);
  CHECK(server.stats().queued == 2);
  stop.request_stop();
  serving.join();
  viewing.join();
  CHECK(lost == std::vector<std::pair<std::string, std::uint64_t>>{{"check\"out\n", 12}, {"", UINT64_MAX}});
  CHECK(client.skipped_lines() == 0);
}

TEST_CASE("news of losses that are none are skipped") {
  CHECK(receive("[\"lost\",1]\n[\"lost\",{\"service\":1,\"spans\":2}]\n[\"lost\",{\"service\":\"a\"}]\n[\"lost\",\n").skipped == 4);
}

TEST_CASE("a last line without a newline counts if it is whole") {
  std::string last = line_of("b");
  last.pop_back();
  CHECK(receive(line_of("a") + last).ids == Ids{"a", "b"});
  last.pop_back();
  const Received torn = receive(line_of("a") + last);
  CHECK(torn.ids == Ids{"a"});
  CHECK(torn.skipped == 1);
}

TEST_CASE("nothing to connect to is an error that names the path") {
  ScratchDir dir;
  ViewClient client(dir / "missing.sock");
  const Result<void> ended = client.run(weir::StopToken{}, {});
  REQUIRE_FALSE(ended);
  CHECK(ended.error().code == std::errc::no_such_file_or_directory);
  CHECK(ended.error().message.find("missing.sock") != std::string::npos);
}

TEST_CASE("a request to stop ends a run that waits, and one that is busy") {
  ScratchDir dir;
  weir::ViewServer server(dir / "view.sock");
  REQUIRE(server.listen());
  StopSource stop_server;
  std::thread serving([&] { (void)server.serve(stop_server.token()); });
  StopSource stop;
  ViewClient client(dir / "view.sock");
  SECTION("waiting") {
    bool ended = false;
    std::thread thread([&] { ended = static_cast<bool>(client.run(stop.token(), {})); });
    CHECK(eventually([&] { return server.conn_count() == 1; }));
    stop.request_stop();
    thread.join();
    CHECK(ended);
  }
  SECTION("busy: no span after the request") {
    int count = 0;
    bool known = false;
    client.on_connected([&] {
      known = eventually([&] { return server.conn_count() == 1; });
      for (int i = 0; i < 100; ++i) {
        Span span;
        span.id = std::to_string(i);
        span.trace_id = "t";
        server.broadcast(span);
      }
    });
    CHECK(client.run(stop.token(), [&](std::string_view, const Span&) {
      if (++count == 10) stop.request_stop();
    }));
    CHECK(known);
    CHECK(count == 10);
  }
  SECTION("stopped before it began") {
    stop.request_stop();
    CHECK(client.run(stop.token(), {}));
  }
  stop_server.request_stop();
  serving.join();
}

TEST_CASE("a client that asks for the last traces gets them, as trees with what comes") {
  ScratchDir dir;
  weir::ViewServer server(dir / "view.sock");
  const auto span = [](const std::string& id, const std::string& parent) {
    Span made;
    made.id = id;
    made.trace_id = "t";
    made.parent_id = parent;
    return made;
  };
  std::atomic<std::size_t> asked{0};
  server.on_replay([&](std::size_t traces, std::size_t) {
    asked = traces;
    return weir::Replay{{span("leaf", "middle"), span("middle", "root"), span("root", "")}, 0};
  });
  REQUIRE(server.listen());
  StopSource stop_server;
  std::thread serving([&] { (void)server.serve(stop_server.token()); });

  StopSource stop;
  ViewClient client(dir / "view.sock");
  client.replay(3);
  std::vector<std::string> shown;
  weir::TreeAssembler trees([&](const Span& tree) {
    shown.push_back(tree.id);
    for (const Span* at = &tree; !at->children.empty(); at = &at->children[0]) shown.back() += ">" + at->children[0].id;
  });
  Ids ids;
  CHECK(client.run(stop.token(), [&](std::string_view, const Span& got) {
    ids.push_back(got.id);
    trees.add(got);
    if (got.id == "root" && ids.size() == 3) {  // what is live comes after, and may come twice
      for (const char* id : {"middle", "root"}) server.broadcast(span(id, ""));
      server.broadcast(span("late", "root"));
    }
    if (got.id == "late") stop.request_stop();
  }));
  CHECK(asked == 3);
  CHECK(ids == Ids{"leaf", "middle", "root", "middle", "root", "late"});
  CHECK(shown == std::vector<std::string>{"root>middle>leaf", "late"});
  CHECK(trees.stats().duplicates == 2);
  stop_server.request_stop();
  serving.join();
}

TEST_CASE("a client says nothing unless it asks") {
  ScratchDir dir;
  auto listener = weir::net::UnixListener::bind(dir / "view.sock");
  REQUIRE(listener);
  const std::size_t last = GENERATE(0u, 12u);
  StopSource stop;
  ViewClient client(dir / "view.sock");
  client.replay(last);
  client.on_connected([&] { stop.request_stop(); });
  CHECK(client.run(stop.token(), {}));
  LineSocket server(std::move(listener->accept().peer.fd));
  CHECK(server.rest() == (last == 0 ? std::vector<std::string>{} : std::vector<std::string>{"[\"last\",12]"}));
}

TEST_CASE("a full backlog is waited for") {
  ScratchDir dir;
  auto listener = weir::net::UnixListener::bind(dir / "view.sock", {.allow_uids = {}, .backlog = 0});
  REQUIRE(listener);
  std::vector<weir::net::Fd> waiting;
  for (;;) {
    auto connected = weir::net::connect_unix(dir / "view.sock");
    if (!connected) break;
    waiting.push_back(std::move(*connected));
  }
  std::atomic<bool> connected{false};
  bool ended = false;
  StopSource stop;
  ViewClient client(dir / "view.sock");
  client.on_connected([&] { connected = true; });
  std::thread thread([&] { ended = static_cast<bool>(client.run(stop.token(), {})); });
  CHECK_FALSE(connected);
  std::vector<weir::net::Accepted> accepted;
  CHECK(eventually([&] {
    accepted.push_back(listener->accept());
    return connected.load();
  }));
  stop.request_stop();
  thread.join();
  CHECK(ended);
}

TEST_CASE("an exception of the callback ends the run with an error") {
  Script server(line_of("a") + line_of("b"));
  ViewClient client(server.path());
  const Result<void> ended = client.run(weir::StopToken{}, [](std::string_view, const Span&) { throw std::runtime_error("disk full"); });
  REQUIRE_FALSE(ended);
  CHECK(ended.error().message.find("disk full") != std::string::npos);
}
