#include "weir/view/view_server.hpp"

#include <sys/socket.h>
#include <sys/stat.h>
#include <array>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/line_socket.hpp"
#include "support/running_view_server.hpp"
#include "support/scratch_dir.hpp"

using namespace std::chrono_literals;
using weir::Result;
using weir::Span;
using weir::StopSource;
using weir::ViewServer;
using weir::ViewServerOptions;
using weir::ViewServerStats;
using weir::testing::check_balance;
using weir::testing::eventually;
using weir::testing::LineSocket;
using weir::testing::ScratchDir;

namespace {

struct Running : weir::testing::RunningViewServer {
  using Source = std::function<weir::Replay(std::size_t, std::size_t)>;

  explicit Running(ViewServerOptions options = {}, Source source = {})
      : RunningViewServer(std::move(options), [&](ViewServer& server) {
          if (source) server.on_replay(std::move(source));
        }) {}
};

/// Lines differ to their end, so that one pieced together from two shows.
char letter(std::uint64_t number) { return static_cast<char>('a' + number % 26); }

Span numbered(std::uint64_t number, std::size_t padding = 0) {
  Span span;
  span.id = std::to_string(number);
  span.trace_id = "trace";
  span.name = "work";
  if (padding > 0) span.attrs["padding"] = std::string(padding, letter(number));
  return span;
}

/// What a viewer has learnt: numbers in order, and how many it missed.
struct Tally {
  std::uint64_t received = 0, told = 0;
  std::int64_t last = -1;

  void take(const std::string& line) {
    const auto json = nlohmann::json::parse(line, nullptr, false);
    REQUIRE_FALSE(json.is_discarded());
    if (json.is_array()) {
      REQUIRE(json.size() == 2);
      REQUIRE(json[0] == "dropped");
      told += json[1].get<std::uint64_t>();
      return;
    }
    const std::int64_t number = std::stoll(json.at("id").get<std::string>());
    REQUIRE(number > last);
    if (json.contains("attrs")) {
      const std::string padding = json["attrs"].at("padding").get<std::string>();
      REQUIRE(padding == std::string(padding.size(), letter(static_cast<std::uint64_t>(number))));
    }
    last = number;
    ++received;
  }
  std::uint64_t known() const { return received + told; }
};

std::error_code code_of(const Result<void>& result) { return result ? std::error_code{} : result.error().code; }

}  // namespace

TEST_CASE("every viewer gets every span, in order, as the JSON line of the original") {
  Running view;
  LineSocket first = view.viewer();
  LineSocket second = view.viewer();
  CHECK(view->conn_count() == 2);
  std::vector<std::string> expected;
  for (std::uint64_t i = 0; i < 500; ++i) {
    const Span span = numbered(i);
    expected.push_back(weir::to_json(span));
    view->broadcast(span);
  }
  for (const std::string& line : expected) {
    REQUIRE(first.line() == line);
    REQUIRE(second.line() == line);
  }
  REQUIRE(eventually([&] { return view->stats().waiting == 0; }));
  const ViewServerStats stats = view->stats();
  CHECK(stats.broadcast == 500);
  CHECK(stats.sent == 1000);
  CHECK(stats.dropped == 0);
  check_balance(stats);
}

TEST_CASE("children stay at home") {
  Running view;
  LineSocket viewer = view.viewer();
  const Span parent = numbered(1).with_attr("a", "b").with_parent_id("0");
  view->broadcast(parent.with_child(numbered(2)));
  CHECK(viewer.line() == weir::to_json(parent));
}

TEST_CASE("a viewer that comes later gets what is broadcast from then on") {
  Running view;
  view->broadcast(numbered(1));
  LineSocket viewer = view.viewer();
  view->broadcast(numbered(2));
  CHECK(viewer.line() == weir::to_json(numbered(2)));
}

TEST_CASE("conn_count follows viewers that come and go") {
  Running view;
  CHECK(view->conn_count() == 0);
  LineSocket first = view.viewer();
  {
    LineSocket second = view.viewer();
    CHECK(view->conn_count() == 2);
  }
  CHECK(eventually([&] { return view->conn_count() == 1; }));
  first.close();
  CHECK(eventually([&] { return view->conn_count() == 0; }));
  view->broadcast(numbered(1));
  CHECK(view->stats().clients == 2);
}

TEST_CASE("a viewer that does not read loses its oldest lines and is told, the others get everything") {
  const std::size_t stalled_count = GENERATE(1u, 50u);
  Running view({.max_queued_bytes = 64u << 10, .stall_limit = 1h});
  std::vector<LineSocket> stalled;
  for (std::size_t i = 0; i < stalled_count; ++i) stalled.push_back(view.viewer());
  LineSocket good = view.viewer();

  Tally all;
  const std::uint64_t total = 6000;
  for (std::uint64_t i = 0; i < total;) {
    for (const std::uint64_t end = i + 100; i < end; ++i) view->broadcast(numbered(i, 150));
    while (all.received < i) {
      auto line = good.line();
      REQUIRE(line);
      all.take(*line);
      REQUIRE(all.told == 0);
    }
  }
  CHECK(all.received == total);
  const ViewServerStats during = view->stats();
  check_balance(during);
  CHECK(during.stalled == 0);
  CHECK(during.dropped > 0);
  CHECK(during.waiting <= stalled_count * ((64u << 10) / 150));

  std::uint64_t missed = 0;
  for (LineSocket& viewer : stalled) {
    Tally some;
    while (some.known() < total) {
      auto line = viewer.line();
      REQUIRE(line);
      some.take(*line);
    }
    CHECK(some.known() == total);
    CHECK(some.last == static_cast<std::int64_t>(total) - 1);  // the newest were kept
    CHECK(some.told > 0);
    missed += some.told;
  }
  CHECK(eventually([&] { return view->stats().waiting == 0; }));
  const ViewServerStats after = view->stats();
  CHECK(after.dropped == missed);
  check_balance(after);
}

TEST_CASE("a line that is half sent is never torn, and drops are told of exactly") {
  Running view({.max_queued_bytes = 2'500'000, .stall_limit = 1h});
  LineSocket slow = view.viewer();
  Tally some;
  std::uint64_t sent = 0;
  // Lines that the socket takes in pieces only, many more than the viewer reads.
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 6; ++i) view->broadcast(numbered(sent++, 700'000));
    slow.read_ahead(200'000);  // and stops in mid-line, with a notice waiting behind it
  }
  while (some.known() < sent) {
    auto line = slow.line();
    REQUIRE(line);
    some.take(*line);
  }
  CHECK(some.known() == sent);
  CHECK(some.told > 0);
  CHECK(view->stats().dropped == some.told);
  check_balance(view->stats());
}

TEST_CASE("a viewer that accepts nothing for the stall limit is disconnected, one with nothing to accept is not") {
  Running view({.max_queued_bytes = 32u << 10, .stall_limit = 20ms});
  LineSocket stalled = view.viewer();
  std::uint64_t sent = 0;
  // Until its socket is full and a line waits.
  REQUIRE(eventually([&] {
    view->broadcast(numbered(sent++, 2000));
    return view->stats().dropped > 0 || view->stats().stalled > 0;
  }));
  REQUIRE(eventually([&] { return view->conn_count() == 0; }));
  CHECK(view->stats().stalled == 1);
  CHECK(view->stats().abandoned > 0);
  check_balance(view->stats());

  LineSocket idle = view.viewer();
  LineSocket other = view.viewer();
  for (int i = 0; i < 1000; ++i) {
    if (i % 2 == 0) REQUIRE(view->conn_count() == 2);
    view->broadcast(numbered(sent));
    REQUIRE(other.line() == weir::to_json(numbered(sent)));
    REQUIRE(idle.line() == weir::to_json(numbered(sent++)));
  }
  CHECK(view->stats().stalled == 1);
}

TEST_CASE("fifty viewers that accept nothing are disconnected after the limit, and the good one misses nothing") {
  Running view({.max_queued_bytes = 64u << 10, .stall_limit = 50ms});
  std::vector<LineSocket> stalled;
  for (int i = 0; i < 50; ++i) stalled.push_back(view.viewer());
  LineSocket good = view.viewer();
  Tally all;
  std::uint64_t sent = 0;
  REQUIRE(eventually([&] {
    for (int i = 0; i < 10; ++i) view->broadcast(numbered(sent++, 1000));
    while (all.received < sent) {
      const auto line = good.line();
      REQUIRE(line);
      all.take(*line);
    }
    return view->conn_count() == 1;
  }));
  CHECK(all.told == 0);
  CHECK(view->stats().stalled == 50);
  check_balance(view->stats());
  for (LineSocket& viewer : stalled) {  // whole lines but the last, and then the end
    Tally some;
    std::string text;
    for (std::array<char, 16384> part;;) {
      const ssize_t size = weir::net::receive_some(viewer.fd(), part.data(), part.size());
      if (size <= 0) break;
      text.append(part.data(), static_cast<std::size_t>(size));
    }
    std::size_t begin = 0;
    for (std::size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) some.take(text.substr(begin, end - begin));
    CHECK(some.received > 0);
    CHECK(some.known() < sent);
  }
}

TEST_CASE("a span whose line is too long is dropped, and that is told") {
  Running view;
  LineSocket viewer = view.viewer();
  view->broadcast(numbered(1, 1u << 20));
  CHECK(viewer.line() == "[\"dropped\",1]");
  view->broadcast(numbered(2, 1000));
  CHECK(viewer.line() == weir::to_json(numbered(2, 1000)));
  CHECK(view->stats().dropped == 1);
  check_balance(view->stats());
}

TEST_CASE("viewers beyond the limit are disconnected at once") {
  Running view({.max_clients = 2});
  LineSocket first = view.viewer();
  LineSocket second = view.viewer();
  LineSocket third = LineSocket::connect(view.path());
  CHECK(third.line() == std::nullopt);
  CHECK(view->stats().refused == 1);
  CHECK(view->conn_count() == 2);
  first.close();
  REQUIRE(eventually([&] { return view->conn_count() == 1; }));
  LineSocket fourth = view.viewer();
  view->broadcast(numbered(1));
  CHECK(second.line().has_value());
  CHECK(fourth.line().has_value());
}

TEST_CASE("what viewers send is read, and bounded") {
  Running view;
  LineSocket polite = view.viewer();
  REQUIRE(polite.send("{\"last\":10}\n"));
  LineSocket deaf = view.viewer();
  REQUIRE(::shutdown(deaf.fd(), SHUT_WR) == 0);  // as a pipe into netcat does
  LineSocket endless = view.viewer();
  const std::string junk(1000, 'x');
  REQUIRE(eventually([&] { return !endless.send(junk); }));
  CHECK(eventually([&] { return view->conn_count() == 2; }));
  CHECK(view->stats().flooding == 1);
  view->broadcast(numbered(1));
  CHECK(polite.line() == weir::to_json(numbered(1)));
  CHECK(deaf.line() == weir::to_json(numbered(1)));
}

TEST_CASE("a viewer that asks gets the past before what comes") {
  std::atomic<std::size_t> asked{0};
  Running view({}, [&](std::size_t traces, std::size_t) {
    asked = traces;
    return weir::Replay{{numbered(1), numbered(2)}, 0};
  });
  LineSocket live = view.viewer();
  LineSocket viewer = view.viewer();
  const std::string request = GENERATE("[\"last\",2]\n", " [ \"last\" , 2 ] \r\n", "[\"last\",2]\n[\"last\",3]\njunk");
  for (const char c : request) REQUIRE(viewer.send({&c, 1}));  // in pieces
  REQUIRE(eventually([&] { return view->stats().replays == 1; }));
  view->broadcast(numbered(3));
  for (std::uint64_t i = 1; i <= 3; ++i) CHECK(viewer.line() == weir::to_json(numbered(i)));
  CHECK(live.line() == weir::to_json(numbered(3)));
  CHECK(asked == 2);
  view->close();
  CHECK(viewer.rest().empty());
  CHECK(view->stats().replays == 1);
  check_balance(view->stats());
}

TEST_CASE("more traces than the limit are not asked for") {
  std::atomic<std::size_t> asked{0};
  Running view({.max_replay = 7}, [&](std::size_t traces, std::size_t) {
    asked = traces;
    return weir::Replay{};
  });
  LineSocket viewer = view.viewer();
  REQUIRE(viewer.send("[\"last\",18446744073709551615]\n"));
  REQUIRE(eventually([&] { return view->stats().replays == 1; }));
  CHECK(asked == 7);
}

TEST_CASE("a viewer that asks for the past alone gets that, is told what did not fit, and is disconnected") {
  weir::Replay past{{}, 2};
  std::vector<std::string> expected = {"[\"dropped\",2]"};
  for (int i = 0; i < 3000; ++i) {  // more than a socket takes at once
    past.spans.push_back(numbered(i));
    past.spans.back().attrs["text"] = std::string(200, 'x');
    expected.push_back(weir::to_json(past.spans.back()));
  }
  Running view({}, [&](std::size_t, std::size_t) { return past; });
  LineSocket viewer = view.viewer(), live = view.viewer();
  view->broadcast(numbered(-1));
  REQUIRE(viewer.line() == weir::to_json(numbered(-1)));
  view->broadcast(numbered(-2));
  REQUIRE(live.line() == weir::to_json(numbered(-1)));
  REQUIRE(live.line() == weir::to_json(numbered(-2)));  // so it waits for the other, or is sent
  REQUIRE(viewer.send("[\"last\",5,\"once\"]\n"));
  REQUIRE(eventually([&] { return view->stats().replays == 1; }));
  view->broadcast(numbered(-3));
  std::vector<std::string> got = viewer.rest();
  std::erase(got, weir::to_json(numbered(-2)));
  CHECK(got == expected);
  CHECK(live.line() == weir::to_json(numbered(-3)));
  CHECK(view->conn_count() == 1);
  check_balance(view->stats());
}

TEST_CASE("where there is no past, who asks for that alone is disconnected at once") {
  Running::Source source;
  SECTION("no source") {}
  SECTION("no traces") {
    source = [](std::size_t, std::size_t) { return weir::Replay{}; };
  }
  SECTION("a source that throws") {
    source = [](std::size_t, std::size_t) -> weir::Replay { throw std::runtime_error("no history"); };
  }
  Running view({}, source);
  LineSocket viewer = view.viewer();
  REQUIRE(viewer.send("[\"last\",5,\"once\"]\n"));
  CHECK(viewer.rest().empty());
  check_balance(view->stats());
}

TEST_CASE("a first line that is no request is ignored, and so is a request that is not the first line") {
  const std::string said =
      GENERATE(as<std::string>{}, "\n[\"last\",1]\n", "hello\n[\"last\",1]\n", "[\"last\"]\n", "[\"last\",0]\n", "[\"last\",-1]\n",
               "[\"last\",1.5]\n", "[\"last\",1,\"twice\"]\n", "[\"last\",0,\"once\"]\n", "[\"last\",\"1\"]\n", "[\"last\",1,2]\n",
               "[\"last\",18446744073709551616]\n", "{\"last\":1}\n", "[\"last\",1\n]\n", "[[[[[[[[\n", std::string("\0\xff\n", 3),
               std::string(100, ' ') + "\n[\"last\",1]\n", std::string(60, ' ') + "[\"last\",1]\n");
  Running view({}, [](std::size_t, std::size_t) { return weir::Replay{{numbered(1)}, 0}; });
  LineSocket viewer = view.viewer();
  REQUIRE(viewer.send(said));
  REQUIRE(::shutdown(viewer.fd(), SHUT_WR) == 0);
  LineSocket witness = view.viewer();  // when it is answered, the other has been read
  REQUIRE(witness.send("[\"last\",1]\n"));
  CHECK(witness.line() == weir::to_json(numbered(1)));
  view->broadcast(numbered(2));
  CHECK(viewer.line() == weir::to_json(numbered(2)));
  CHECK(view->stats().replays == 1);
  CHECK(view->conn_count() == 2);
}

TEST_CASE("a request without a source, or whose source throws, leaves a viewer of live spans") {
  Running::Source source;
  SECTION("none") {}
  SECTION("it throws") {
    source = [](std::size_t, std::size_t) -> weir::Replay { throw std::runtime_error("no history"); };
  }
  SECTION("it throws something else") {
    source = [](std::size_t, std::size_t) -> weir::Replay { throw 1; };
  }
  Running view({}, source);
  LineSocket viewer = view.viewer();
  REQUIRE(viewer.send("[\"last\",5]\n"));
  view->broadcast(numbered(1));
  CHECK(viewer.line() == weir::to_json(numbered(1)));
  CHECK(view->stats().replays == 0);
}

TEST_CASE("a replay over the bound begins with the newest that fit, and tells of the others") {
  const std::size_t bound = 10'000;
  std::atomic<std::size_t> of_use{0};
  Running view({.max_queued_bytes = bound}, [&](std::size_t, std::size_t max_bytes) {
    of_use = max_bytes;
    weir::Replay past;
    for (std::uint64_t i = 0; i < 1000; ++i) past.spans.push_back(numbered(i, 150));
    past.left_out = 5;
    return past;
  });
  LineSocket viewer = view.viewer();
  REQUIRE(viewer.send("[\"last\",10]\n"));
  Tally all;
  while (all.known() < 1005) {
    const auto line = viewer.line();
    REQUIRE(line);
    if (all.known() == 0) CHECK(line->starts_with("[\"dropped\","));
    all.take(*line);
  }
  CHECK(all.known() == 1005);
  CHECK(of_use == bound);
  CHECK(all.last == 999);
  CHECK(all.received * (weir::to_json(numbered(999, 150)).size() + 1) <= bound);
  CHECK((all.received + 1) * (weir::to_json(numbered(999, 150)).size() + 1) > bound);
  REQUIRE(eventually([&] { return view->stats().waiting == 0; }));
  CHECK(view->stats().dropped == all.told);
  check_balance(view->stats());
}

TEST_CASE("a viewer that asks for much and does not read stays within its bound, and holds up nobody") {
  const std::size_t bound = 64u << 10;
  Running view({.max_queued_bytes = bound, .stall_limit = 1h}, [](std::size_t, std::size_t) {
    weir::Replay past;
    for (std::uint64_t i = 0; i < 5000; ++i) past.spans.push_back(numbered(i, 150));
    return past;
  });
  LineSocket stalled = view.viewer();
  REQUIRE(stalled.send("[\"last\",1000]\n"));
  REQUIRE(eventually([&] { return view->stats().replays == 1; }));
  LineSocket good = view.viewer();
  const std::uint64_t total = 11'000;
  Tally all;
  for (std::uint64_t i = 5000; i < total;) {
    for (const std::uint64_t end = i + 100; i < end; ++i) view->broadcast(numbered(i, 150));
    while (all.received < i - 5000) {
      const auto line = good.line();
      REQUIRE(line);
      all.take(*line);
    }
  }
  CHECK(all.told == 0);
  CHECK(view->stats().waiting <= bound / 150);
  check_balance(view->stats());
  Tally some;
  while (some.known() < total) {
    const auto line = stalled.line();
    REQUIRE(line);
    some.take(*line);
  }
  CHECK(some.known() == total);
  CHECK(some.last == static_cast<std::int64_t>(total) - 1);
  check_balance(view->stats());
}

TEST_CASE("a viewer that reads nothing of a socket full of live lines may still ask") {
  const std::size_t bound = 64u << 10;
  Running view({.max_queued_bytes = bound, .stall_limit = 1h}, [](std::size_t, std::size_t) {
    return weir::Replay{{numbered(1), numbered(2)}, 0};
  });
  LineSocket stalled = view.viewer();
  std::uint64_t sent = 0;
  REQUIRE(eventually([&] {
    view->broadcast(numbered(10 + sent++, 2000));
    return view->stats().dropped > 0;
  }));
  REQUIRE(stalled.send("[\"last\",1]\n"));
  REQUIRE(eventually([&] { return view->stats().replays == 1; }));
  check_balance(view->stats());
  std::uint64_t known = 0;
  while (known < sent + 2) {  // whole lines, each one received or told of
    const auto line = stalled.line();
    REQUIRE(line);
    const auto json = nlohmann::json::parse(*line, nullptr, false);
    REQUIRE_FALSE(json.is_discarded());
    known += json.is_array() ? json[1].get<std::uint64_t>() : 1;
  }
  CHECK(known == sent + 2);
}

TEST_CASE("closing offers what is queued, disconnects, removes the socket, and can be repeated") {
  Running view;
  LineSocket viewer = view.viewer();
  for (std::uint64_t i = 0; i < 100; ++i) view->broadcast(numbered(i));
  view->close();
  CHECK(view->conn_count() == 0);
  CHECK_FALSE(std::filesystem::exists(view.path()));
  CHECK(viewer.rest().size() == 100);
  CHECK(eventually([&] { return view.served(); }));
  view->close();
  view->broadcast(numbered(1));
  CHECK(view->stats().broadcast == 100);
  CHECK(code_of(view->listen()) == std::errc::invalid_argument);
  CHECK(view->serve(weir::StopToken{}));
  check_balance(view->stats());
}

TEST_CASE("closing does not wait for a viewer that does not read") {
  Running view({.max_queued_bytes = 64u << 10, .stall_limit = 1h});
  LineSocket stalled = view.viewer();
  std::uint64_t sent = 0;
  REQUIRE(eventually([&] {
    view->broadcast(numbered(sent++, 1000));
    return view->stats().dropped > 0;
  }));
  view->close();
  CHECK(view->stats().abandoned > 0);
  CHECK(view->stats().waiting == 0);
  check_balance(view->stats());
}

TEST_CASE("a request to stop ends serving and removes the socket") {
  Running view;
  LineSocket viewer = view.viewer();
  view.stop();
  CHECK(viewer.line() == std::nullopt);
  CHECK(eventually([&] { return view.served(); }));
  CHECK_FALSE(std::filesystem::exists(view.path()));
}

TEST_CASE("a server that only listened removes its socket, too") {
  ScratchDir dir;
  {
    ViewServer server(dir / "view.sock");
    REQUIRE(server.listen());
    CHECK(std::filesystem::is_socket(dir / "view.sock"));
    struct stat status {};
    REQUIRE(::stat(server.socket_path().c_str(), &status) == 0);
    CHECK((status.st_mode & 0777) == 0600);
  }
  CHECK(std::filesystem::is_empty(dir.path()));
  ViewServer never(dir / "view.sock");
  never.close();
  CHECK(code_of(never.listen()) == std::errc::invalid_argument);
}

TEST_CASE("the destructor waits for the thread that serves") {
  ScratchDir dir;
  for (int round = 0; round < 50; ++round) {
    auto server = std::make_unique<ViewServer>(dir / "view.sock");
    REQUIRE(server->listen());
    std::thread thread([raw = server.get()] { (void)raw->serve(weir::StopToken{}); });
    LineSocket viewer = LineSocket::connect(dir / "view.sock");
    REQUIRE(eventually([&] { return server->conn_count() == 1; }));
    server.reset();
    thread.join();
    CHECK(viewer.line() == std::nullopt);
  }
}

TEST_CASE("listening says what is in the way") {
  ScratchDir dir;
  const std::string path = dir / "view.sock";
  ViewServer server(path);
  SECTION("a file") {
    std::ofstream(path) << "precious";
    CHECK(code_of(server.listen()) == std::errc::not_a_socket);
    CHECK(std::filesystem::is_regular_file(path));
    server.close();
    CHECK(std::filesystem::is_regular_file(path));
  }
  SECTION("another server") {
    ViewServer other(path);
    REQUIRE(other.listen());
    CHECK(code_of(server.listen()) == std::errc::address_in_use);
    CHECK(code_of(other.listen()) == std::errc::invalid_argument);
  }
  SECTION("a path that is too long") {
    ViewServer other(dir / std::string(200, 'x'));
    CHECK(code_of(other.listen()) == std::errc::filename_too_long);
  }
  SECTION("serving before listening") { CHECK(code_of(server.serve(weir::StopToken{})) == std::errc::invalid_argument); }
  SECTION("start() reports what listen() would") {
    std::ofstream(path) << "precious";
    CHECK(code_of(server.start(weir::StopToken{})) == std::errc::not_a_socket);
  }
}

TEST_CASE("threads may broadcast while viewers come and go") {
  Running view({.max_queued_bytes = 16u << 10, .stall_limit = 1h});
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      for (std::uint64_t i = 0; i < 3000; ++i) view->broadcast(numbered(i, 50));
    });
  }
  threads.emplace_back([&] {
    while (!done) (void)view->stats();
  });
  for (int round = 0; round < 100; ++round) {
    LineSocket viewer = LineSocket::connect(view.path());
    if (round % 2 == 0) (void)viewer.send("x\n");
  }
  for (std::size_t t = 0; t < 3; ++t) threads[t].join();
  done = true;
  threads.back().join();
  CHECK(eventually([&] { return view->stats().clients == 100 && view->conn_count() == 0; }));
  CHECK(view->stats().broadcast == 9000);
  CHECK(view->stats().waiting == 0);
  check_balance(view->stats());
}

TEST_CASE("the counters are one line of JSON") {
  Running view;
  LineSocket viewer = view.viewer();
  view->broadcast(numbered(1));
  REQUIRE(viewer.line());
  const std::string text = view->stats().to_json();
  CHECK(text.find('\n') == std::string::npos);
  const auto json = nlohmann::json::parse(text);
  CHECK(json.at("broadcast") == 1);
  CHECK(json.at("clients") == 1);
  CHECK(json.at("open_clients") == 1);
  CHECK(json.at("replays") == 0);
  CHECK(json.at("inquiries") == 0);
  CHECK(json.size() == 13);
}
