#include "weir/trace/socket_sender.hpp"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "nlohmann/json.hpp"
#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/fork_memory.hpp"
#include "support/scratch_dir.hpp"
#include "support/test_collector.hpp"
#include "weir/trace/event.hpp"
#include "weir/trace/tracer.hpp"

using namespace std::chrono_literals;
using weir::Event;
using weir::EventType;
using weir::ScopedSpan;
using weir::SocketSender;
using weir::Tracer;
using weir::testing::eventually;
using weir::testing::ScratchDir;
using weir::testing::TestCollector;
using weir::testing::TestConnection;

namespace {

class Recorder final : public weir::Logger {
 public:
  void log(Level level, std::string_view message, std::span<const weir::Attribute>) noexcept override {
    std::lock_guard lock(mutex_);
    lines_.push_back(std::string(to_string(level)) + ": " + std::string(message));
  }
  std::vector<std::string> lines() const {
    std::lock_guard lock(mutex_);
    return lines_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

void check_invariant(const weir::TracerStats& stats) { CHECK(stats.emitted == stats.delivered + stats.dropped() + stats.in_flight); }

/// What one connection carried.
struct Heard {
  nlohmann::json hello;
  std::set<std::string> started, ended;
  std::map<std::string, weir::StringAttributes> attributes;
  std::uint64_t dropped = 0;
};

/// Every line must parse, the first must be the hello.
Heard listen_to(const TestConnection& connection) {
  Heard heard;
  for (const std::string& line : connection.lines()) {
    const nlohmann::json parsed = nlohmann::json::parse(line, nullptr, false);
    REQUIRE_FALSE(parsed.is_discarded());
    if (heard.hello.is_null()) {
      REQUIRE(parsed.is_array());
      REQUIRE(parsed.at(0) == "weir");
      heard.hello = parsed;
    } else if (parsed.is_array()) {
      REQUIRE(parsed.at(0) == "dropped");
      heard.dropped += parsed.at(1).get<std::uint64_t>();
    } else {
      const auto event = weir::parse_event(line);
      REQUIRE(event);
      if (event->type == EventType::span_start) {
        heard.started.insert(event->span_id);
      } else {
        heard.ended.insert(event->span_id);
        heard.attributes[event->span_id] = event->attrs;
      }
    }
  }
  return heard;
}

std::size_t count_lines(const std::string& text) { return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')); }

}  // namespace

TEST_CASE("a known span becomes exactly these lines") {
  ScratchDir dir;
  TestCollector collector(dir / "s");
  weir::ManualClock clock{weir::Timestamp{1'700'000'000s + 5ms}};
  Tracer tracer{SocketSender{dir / "s"}, {.service_name = "check\"out", .clock = &clock}};
  TestConnection connection = collector.accept();
  const weir::Context parent{weir::TraceId{0x0102030405060708, 0x090a0b0c0d0e0f10}, weir::SpanId{0xabcdef}};
  std::string id;
  {
    ScopedSpan span = tracer.enter(parent, "GET <x>", weir::SpanKind::http);
    id = span.context().span_id().hex();
    clock.advance(1234567ns);
    span.set("line", "one\n\"two\"");
    span.set("status", 200);
    span.set("ok", true);
    span.set("ratio", 0.25);
    span.set("status", 500);
  }
  CHECK(tracer.flush().pending == 0);
  connection.read_until([](const std::string& text) { return count_lines(text) == 3; });
  const auto lines = connection.lines();
  REQUIRE(lines.size() == 3);
  const nlohmann::json hello = nlohmann::json::parse(lines[0]);
  CHECK(hello.at(0) == "weir");
  CHECK(hello.at(1) == 1);
  CHECK(hello.at(2).at("service") == "check\"out");
  CHECK(hello.at(2).at("pid") == ::getpid());
  CHECK(hello.at(2).at("sequence") == 0);
  CHECK(weir::parse_time(hello.at(2).at("start_time").get<std::string>()));
  CHECK(lines[1] == R"({"type":0,"span_id":")" + id +
                        R"(","trace_id":"0102030405060708090a0b0c0d0e0f10","parent_id":"0000000000abcdef",)"
                        R"("name":"GET \u003cx\u003e","kind":1,"time":"2023-11-14T22:13:20.005Z"})");
  CHECK(lines[2] == R"({"type":1,"span_id":")" + id +
                        R"(","trace_id":"0102030405060708090a0b0c0d0e0f10","name":"","kind":0,"time":"2023-11-14T22:13:20.006234567Z",)"
                        R"("attrs":{"line":"one\n\"two\"","status":"500","ok":"true","ratio":"0.25"}})");
  CHECK(weir::parse_event(lines[1]).value().name == "GET <x>");
}

TEST_CASE("a root without attributes has neither parent_id nor attrs") {
  ScratchDir dir;
  TestCollector collector(dir / "s");
  Tracer tracer{SocketSender{dir / "s"}};
  TestConnection connection = collector.accept();
  { ScopedSpan span = tracer.enter("x"); }
  (void)tracer.flush();
  connection.read_until([](const std::string& text) { return count_lines(text) == 3; });
  CHECK(connection.text().find("parent_id") == std::string::npos);
  CHECK(connection.text().find("attrs") == std::string::npos);
  CHECK(connection.text().find(R"("name":"","kind":0)") != std::string::npos);
}

TEST_CASE("everything that four threads emit arrives") {
  ScratchDir dir;
  TestCollector collector(dir / "s");
  Tracer tracer{SocketSender{dir / "s"}};
  TestConnection connection = collector.accept();
  std::thread reader([&] { connection.read_to_end(); });
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 5000; ++i) {
        ScopedSpan span = tracer.enter("x");
        span.set("i", i);
        span.set("text", "some text of some length");
        if (i % 500 == 0) (void)tracer.flush();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(tracer.stop(10s).pending == 0);
  reader.join();
  const auto stats = tracer.stats();
  check_invariant(stats);
  CHECK(stats.emitted == 20'000);
  CHECK(stats.in_flight == 0);
  const Heard heard = listen_to(connection);
  CHECK(heard.ended.size() == stats.delivered);
  CHECK(heard.started == heard.ended);
  CHECK(heard.dropped == stats.dropped());
}

TEST_CASE("a collector that comes later gets what the rings kept") {
  ScratchDir dir;
  Recorder recorder;
  Tracer tracer{SocketSender{dir / "s", {.logger = &recorder}}};
  for (int i = 0; i < 100; ++i) ScopedSpan span = tracer.enter("x");
  CHECK(tracer.stats().in_flight == 100);
  CHECK(tracer.flush(0ms).pending == 100);
  TestCollector collector(dir / "s");
  TestConnection connection = collector.accept();
  CHECK(tracer.flush(10s).pending == 0);
  CHECK(tracer.stop().pending == 0);
  connection.read_to_end();
  CHECK(listen_to(connection).ended.size() == 100);
  CHECK(recorder.lines().empty());  // merely absent is no news
}

TEST_CASE("without a collector spans are kept, then dropped, and stop does not wait") {
  ScratchDir dir;
  Tracer tracer{SocketSender{dir / "s", {.ring_bytes = 4096}}};
  for (int i = 0; i < 1000; ++i) ScopedSpan span = tracer.enter("x");
  auto stats = tracer.stats();
  check_invariant(stats);
  CHECK(stats.in_flight + stats.dropped_full == 1000);
  CHECK(stats.dropped_full > 900);
  CHECK(stats.delivered == 0);
  const auto begin = std::chrono::steady_clock::now();
  CHECK(tracer.stop(60s).dropped == 1000);
  CHECK(std::chrono::steady_clock::now() - begin < 30s);  // a hang guard
  stats = tracer.stats();
  check_invariant(stats);
  CHECK(stats.in_flight == 0);
}

TEST_CASE("drops are told to whoever asked, each once") {
  ScratchDir dir;
  std::mutex mutex;
  weir::DroppedSpans told;
  std::uint64_t calls = 0;
  const auto on_drop = [&](const weir::DroppedSpans& dropped) {
    std::lock_guard lock(mutex);
    ++calls;
    told.full += dropped.full, told.too_large += dropped.too_large, told.no_ring += dropped.no_ring, told.reentrant += dropped.reentrant;
    throw std::runtime_error("nobody's business");
  };
  Tracer tracer{SocketSender{dir / "s", {.ring_bytes = 4096, .max_rings = 1, .on_drop = on_drop}}};
  const auto drop = [&] {
    for (int i = 0; i < 1000; ++i) ScopedSpan span = tracer.enter("x");
  };
  drop();
  CHECK(eventually([&] {
    std::lock_guard lock(mutex);
    return told.full > 0;
  }));
  drop();                    // told within a second
  std::thread(drop).join();  // has no ring
  (void)tracer.stop();
  std::lock_guard lock(mutex);
  const auto stats = tracer.stats();
  CHECK(told.full == stats.dropped_full);
  CHECK(told.no_ring == stats.dropped_no_ring);
  CHECK(told.no_ring == 1000);
  CHECK(told.total() == told.full + told.no_ring);
  CHECK(calls >= 2);
}

TEST_CASE("drops are told to the collector") {
  ScratchDir dir;
  Tracer tracer{SocketSender{dir / "s", {.ring_bytes = 4096}}};
  for (int i = 0; i < 1000; ++i) ScopedSpan span = tracer.enter("x");
  const std::uint64_t dropped = tracer.stats().dropped_full;
  TestCollector collector(dir / "s");
  TestConnection connection = collector.accept();
  CHECK(tracer.flush(10s).pending == 0);
  (void)tracer.stop();
  connection.read_to_end();
  CHECK(listen_to(connection).dropped == dropped);
}

TEST_CASE("a collector that closes in mid-stream is replaced by the next one, with whole lines from a hello on") {
  ScratchDir dir;
  TestCollector collector(dir / "s");
  Recorder recorder;
  Tracer tracer{SocketSender{dir / "s", {.logger = &recorder}}};
  std::set<std::string> emitted, heard_starts, heard_ends;
  std::uint64_t last_sequence = 0;
  for (int round = 0; round < 5; ++round) {
    TestConnection connection = collector.accept();
    REQUIRE(connection.open());
    for (int i = 0; i < 2500; ++i) {  // more than the socket's buffer
      ScopedSpan span = tracer.enter("x");
      span.set("text", std::string(100, 'x'));
      emitted.insert(span.context().span_id().hex());
    }
    connection.read_until([](const std::string& text) { return text.size() > 50'000; });
    connection.read_some(777);
    const Heard heard = listen_to(connection);
    CHECK(heard.hello.at(2).at("sequence").get<std::uint64_t>() >= last_sequence);
    last_sequence = heard.hello.at(2).at("sequence").get<std::uint64_t>();
    heard_starts.insert(heard.started.begin(), heard.started.end());
    heard_ends.insert(heard.ended.begin(), heard.ended.end());
    connection.close();
  }
  TestConnection last = collector.accept();
  std::thread reader([&] { last.read_to_end(); });
  CHECK(tracer.stop(20s).pending == 0);
  reader.join();
  const Heard heard = listen_to(last);
  heard_ends.insert(heard.ended.begin(), heard.ended.end());
  for (const std::string& id : heard.ended) CHECK(heard.started.count(id) == 1);
  for (const std::string& id : heard_ends) CHECK(emitted.count(id) == 1);
  const auto stats = tracer.stats();
  check_invariant(stats);
  CHECK(stats.in_flight == 0);
  CHECK(stats.connects == 6);
  CHECK(stats.dropped_stopped == 0);
  CHECK(stats.delivered + stats.dropped() == emitted.size());
  CHECK(heard_ends.size() + stats.unacknowledged + stats.dropped() >= emitted.size());  // what is missing was at risk
  const auto lines = recorder.lines();
  REQUIRE(lines.size() == 2);
  CHECK(lines[0].find("warning: lost the collector") == 0);
  CHECK(lines[1].find("info: recovered") == 0);
}

TEST_CASE("a collector that never reads costs drops, not time, and is given up") {
  ScratchDir dir;
  TestCollector collector(dir / "s");
  Recorder recorder;
  Tracer tracer{SocketSender{dir / "s", {.ring_bytes = 65536, .stall_timeout = 200ms, .logger = &recorder}}};
  TestConnection stalled = collector.accept();
  std::uint64_t emitted = 0;
  const auto guard = std::chrono::steady_clock::now() + 60s;
  while (tracer.stats().connects < 2 && std::chrono::steady_clock::now() < guard) {  // until the first is given up
    for (int i = 0; i < 2000; ++i, ++emitted) {
      ScopedSpan span = tracer.enter("x");
      span.set("text", "some text of some length");
    }
    std::this_thread::yield();
  }
  check_invariant(tracer.stats());
  TestConnection next = collector.accept();  // it connects again
  REQUIRE(next.open());
  std::thread reader([&] { next.read_to_end(); });
  CHECK(tracer.stop(20s).pending == 0);
  reader.join();
  stalled.read_to_end();
  (void)listen_to(next);
  const auto stats = tracer.stats();
  check_invariant(stats);
  CHECK(stats.emitted == emitted);
  CHECK(stats.dropped_full > 0);
  CHECK(stats.unacknowledged > 0);
}

TEST_CASE("stop keeps its deadline while the collector does not read") {
  ScratchDir dir;
  TestCollector collector(dir / "s");
  Tracer tracer{SocketSender{dir / "s"}};
  TestConnection stalled = collector.accept();
  for (int i = 0; i < 8000; ++i) {
    ScopedSpan span = tracer.enter("x");
    span.set("text", "some text of some length");
  }
  CHECK(tracer.stop(50ms).dropped > 0);
  const auto stats = tracer.stats();
  check_invariant(stats);
  CHECK(stats.in_flight == 0);
  CHECK(stats.dropped_stopped > 0);
}

TEST_CASE("the start of a long span is sent before its end, once") {
  ScratchDir dir;
  TestCollector collector(dir / "s");
  Tracer tracer{SocketSender{dir / "s", {.send_ahead_after = 1ms}}};
  TestConnection connection = collector.accept();
  {
    ScopedSpan span = tracer.enter("long");
    connection.read_until([](const std::string& text) { return count_lines(text) == 2; });
    CHECK(connection.lines().at(1).find(R"({"type":0)") == 0);
  }
  (void)tracer.stop();
  connection.read_to_end();
  REQUIRE(connection.lines().size() == 3);
  const Heard heard = listen_to(connection);
  CHECK(heard.started.size() == 1);
  CHECK(heard.started == heard.ended);
}

TEST_CASE("a start that an earlier collector got is sent to the next one too") {
  ScratchDir dir;
  TestCollector collector(dir / "s");
  Tracer tracer{SocketSender{dir / "s", {.send_ahead_after = 1ms}}};
  TestConnection first = collector.accept();
  auto span = std::make_unique<ScopedSpan>(tracer, weir::Name("long"));
  first.read_until([](const std::string& text) { return count_lines(text) == 2; });
  first.close();
  { ScopedSpan other = tracer.enter("other"); }
  TestConnection second = collector.accept();
  span.reset();
  CHECK(tracer.flush(10s).pending == 0);
  (void)tracer.stop();
  second.read_to_end();
  const Heard heard = listen_to(second);
  CHECK(heard.ended.size() >= 1);
  CHECK(heard.started == heard.ended);
}

TEST_CASE("a line longer than a collector reads is dropped and counted") {
  ScratchDir dir;
  TestCollector collector(dir / "s");
  Tracer tracer{SocketSender{dir / "s"}, {.max_attribute_bytes = 250'000}};
  TestConnection connection = collector.accept();
  {
    ScopedSpan span = tracer.enter("x");
    span.set("controls", std::string(240'000, '\x01'));
  }
  { ScopedSpan span = tracer.enter("y"); }
  CHECK(tracer.stop().pending == 0);
  connection.read_to_end();
  CHECK(listen_to(connection).ended.size() == 1);
  CHECK(tracer.stats().dropped_too_large == 1);
  check_invariant(tracer.stats());
}

TEST_CASE("a path that cannot be is an error once, and its spans are counted drops") {
  const std::string path = GENERATE(std::string("relative/path"), std::string(), "/" + std::string(107, 'x'));
  Recorder recorder;
  Tracer tracer{SocketSender{path, {.logger = &recorder}}};
  for (int i = 0; i < 10; ++i) ScopedSpan span = tracer.enter("x");
  (void)tracer.flush();
  REQUIRE(recorder.lines().size() == 1);
  CHECK(recorder.lines()[0].find("error: the collector's socket path") == 0);
  CHECK(tracer.stats().dropped_no_ring == 10);
  check_invariant(tracer.stats());
}

#if !defined(__SANITIZE_THREAD__)
TEST_CASE("a collector of another user gets nothing, unless it is named") {
  if (::geteuid() != 0) {
    WARN("skipped: only root can listen as another user");
    return;
  }
  constexpr uid_t somebody = 65534;
  ScratchDir dir;
  REQUIRE(::chmod(dir.path().c_str(), 0777) == 0);
  int ready[2], results[2];
  REQUIRE(::pipe(ready) == 0);
  REQUIRE(::pipe(results) == 0);
  const pid_t child = ::fork();
  if (child == 0) {  // accepts and reads to the end until something comes: tells how many bytes each time
    ::close(results[0]);
    if (::setuid(somebody) != 0) ::_exit(1);
    TestCollector theirs(dir / "s");
    (void)!::write(ready[1], "", 1);
    for (std::size_t bytes = 0; bytes == 0;) {
      TestConnection connection = theirs.accept();
      if (!connection.open()) ::_exit(2);
      bytes = connection.read_to_end().size();
      (void)!::write(results[1], &bytes, sizeof bytes);
    }
    ::_exit(0);
  }
  ::close(results[1]);
  ::close(ready[1]);
  char byte;
  REQUIRE(::read(ready[0], &byte, 1) == 1);
  std::size_t bytes = 1;
  const std::vector<uid_t> allowed = {4711, somebody};
  {
    Recorder recorder;
    Tracer tracer{SocketSender{dir / "s", {.logger = &recorder}}};
    { ScopedSpan span = tracer.enter("secret"); }
    CHECK(tracer.flush(0ms).pending == 1);
    REQUIRE(::read(results[0], &bytes, sizeof bytes) == sizeof bytes);
    CHECK(bytes == 0);
    CHECK(tracer.stats().in_flight == 1);  // it waits for a better one
    CHECK(tracer.stats().connects == 0);
    CHECK(tracer.stop().pending == 0);
    CHECK(tracer.stats().dropped_stopped == 1);
    check_invariant(tracer.stats());
    REQUIRE(recorder.lines().size() == 1);
    CHECK(recorder.lines()[0].find("warning: refused the collector at " + (dir / "s") + ": uid 65534 ") == 0);
  }
  Tracer tracer{SocketSender{dir / "s", {.allow_uids = allowed}}};
  { ScopedSpan span = tracer.enter("for them too"); }
  CHECK(tracer.stop(10s).pending == 0);
  CHECK(tracer.stats().delivered == 1);
  do REQUIRE(::read(results[0], &bytes, sizeof bytes) == sizeof bytes);
  while (bytes == 0);  // the first tracer tried more than once
  ::close(results[0]);
  ::close(ready[0]);
  int status = 1;
  ::waitpid(child, &status, 0);
  CHECK(status == 0);
}
#endif

TEST_CASE("without a thread to send them spans are refused at once, until there is one") {
  ScratchDir dir;
  TestCollector collector(dir / "s");
  Recorder recorder;
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  const rlimit none{0, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);  // no eventfd
  Tracer tracer{SocketSender{dir / "s", {.logger = &recorder}}};
  for (int i = 0; i < 1000; ++i) ScopedSpan span = tracer.enter("x");
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
  CHECK(tracer.stats().dropped_no_ring == 1000);
  CHECK(tracer.stats().in_flight == 0);
  CHECK(tracer.flush().pending == 0);
  REQUIRE(recorder.lines().size() == 1);
  CHECK(recorder.lines()[0].find("error: cannot make an eventfd") == 0);
  std::thread([&] {
    for (int i = 0; i < 256; ++i) ScopedSpan span = tracer.enter("y");
  }).join();
  TestConnection connection = collector.accept();
  CHECK(tracer.stop(10s).pending == 0);
  connection.read_to_end();
  const auto stats = tracer.stats();
  CHECK(stats.delivered > 0);
  CHECK(listen_to(connection).ended.size() == stats.delivered);
  check_invariant(stats);
}

TEST_CASE("tracers are made and stopped again and again beside threads that write") {
  ScratchDir dir;
  TestCollector collector(dir / "s");
  for (int round = 0; round < 100; ++round) {
    Tracer tracer{SocketSender{dir / "s", {.ring_bytes = 4096}}};
    std::thread thread([&] {
      for (int i = 0; i < 50; ++i) ScopedSpan span = tracer.enter("x");
    });
    { ScopedSpan span = tracer.enter("x"); }
    if (round % 2 == 0) (void)tracer.flush(10s);
    thread.join();
    TestConnection connection = collector.accept();
    CHECK(tracer.stop(10s).pending == 0);
    const auto stats = tracer.stats();
    CHECK(stats.emitted == 51);
    CHECK(stats.in_flight == 0);
    check_invariant(stats);
  }
}

#if !defined(__SANITIZE_THREAD__)
TEST_CASE("the child of a fork sends its own spans on its own connection, and none of its parent's") {
  ScratchDir dir;
  TestCollector collector(dir / "s");
  Tracer tracer{SocketSender{dir / "s"}};
  TestConnection parent = collector.accept();
  { ScopedSpan span = tracer.enter("of the parent"); }
  int go_on[2];
  REQUIRE(::pipe(go_on) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(go_on[1]);
    { ScopedSpan span = tracer.enter("of the child"); }
    const bool good = tracer.stop(10s).pending == 0 && tracer.stats().delivered == 1;
    char byte;
    (void)!::read(go_on[0], &byte, 1);  // until the parent closes its end
    ::_exit(good ? 0 : 1);
  }
  ::close(go_on[0]);
  TestConnection theirs = collector.accept();
  theirs.read_to_end();
  CHECK(tracer.stop(10s).pending == 0);
  parent.read_to_end();
  CHECK(parent.ended());  // the child, which is still there, does not hold it open
  ::close(go_on[1]);
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(status == 0);
  CHECK(listen_to(parent).ended.size() == 1);
  CHECK(parent.text().find("of the child") == std::string::npos);
  const Heard heard = listen_to(theirs);
  CHECK(heard.ended.size() == 1);
  CHECK(theirs.text().find("of the parent") == std::string::npos);
  CHECK(heard.hello.at(2).at("pid") == child);
}
#endif

TEST_CASE("the default path comes from the environment") {
  ::setenv("WEIR_SOCKET", "/a/b.sock", 1);
  CHECK(SocketSender::default_path() == "/a/b.sock");
  ::unsetenv("WEIR_SOCKET");
  ::setenv("XDG_RUNTIME_DIR", "/run/user/1", 1);
  CHECK(SocketSender::default_path() == "/run/user/1/weir/weir.sock");
  ::unsetenv("XDG_RUNTIME_DIR");
  CHECK(SocketSender::default_path() == "/tmp/weir-" + std::to_string(::getuid()) + "/weir.sock");
  CHECK(weir::view_socket_path("/run/user/1/weir/weir.sock") == "/run/user/1/weir/weir-view.sock");
}
