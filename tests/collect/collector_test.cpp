// The collector over real sockets. Nothing sleeps: tests wait for callbacks, and what must not happen is followed by
// something that does.
#include "weir/collect/collector.hpp"

#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "collect/intake.hpp"
#include "net/unix_socket.hpp"
#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/scratch_dir.hpp"

using namespace weir;
using namespace std::chrono_literals;
using weir::testing::eventually;
using weir::testing::ScratchDir;

namespace {

constexpr auto hang_guard = 60s;

class RecordingLogger final : public Logger {
 public:
  void log(Level, std::string_view message, std::span<const Attribute> attributes) noexcept override {
    std::string line(message);
    for (const Attribute& attribute : attributes) {
      line.append(" ").append(attribute.key.view()).append("=");
      line += attribute.value.type() == AttributeValue::Type::string ? std::string(attribute.value.text())
                                                                     : std::to_string(attribute.value.integer());
    }
    std::lock_guard lock(mutex_);
    lines_.push_back(line);
  }
  std::vector<std::string> lines() const {
    std::lock_guard lock(mutex_);
    return lines_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

/// A service that talks to the collector, or something that pretends to be one.
class Client {
 public:
  explicit Client(const std::string& path) {
    Result<net::Fd> connected = net::connect_unix(path);
    for (int tries = 0; !connected && connected.error().code == std::errc::resource_unavailable_try_again && tries < 100'000; ++tries) {
      std::this_thread::yield();
      connected = net::connect_unix(path);
    }
    if (!connected) throw std::runtime_error(connected.error().message);
    fd_ = *std::move(connected);
  }

  /// False when the collector closed the connection.
  bool send(std::string_view text) {
    while (!text.empty()) {
      const ssize_t sent = net::send_some(fd_.get(), text.data(), text.size());
      if (sent == -EAGAIN) {
        pollfd writable{fd_.get(), POLLOUT, 0};
        if (::poll(&writable, 1, 30'000) != 1) return false;
      } else if (sent < 0) {
        return false;
      } else {
        text.remove_prefix(static_cast<std::size_t>(sent));
      }
    }
    return true;
  }
  bool send(const Event& event) { return send(to_json(event) + "\n"); }
  bool send_span(const std::string& id, const std::string& trace = "t", const std::string& parent = "") {
    return send(start_of(id, trace, parent)) && send(end_of(id, trace));
  }
  void close() { fd_.reset(); }
  /// Waits for the collector to close the connection.
  bool closed_by_peer() {
    pollfd readable{fd_.get(), POLLIN, 0};
    char byte = 0;
    return ::poll(&readable, 1, 60'000) == 1 && net::receive_some(fd_.get(), &byte, 1) <= 0;
  }

  static Event start_of(const std::string& id, const std::string& trace = "t", const std::string& parent = "") {
    return Event::span_start(id, trace, parent, "name of " + id, SpanKind::http, Timestamp{1s});
  }
  static Event end_of(const std::string& id, const std::string& trace = "t") { return Event::span_end(id, trace, Timestamp{2s}); }

 private:
  net::Fd fd_;
};

/// A collector that serves on a thread of its own until stop() or the end of the test.
class Running {
 public:
  explicit Running(CollectorOptions options = {}, std::function<void(std::string_view, const Span&)> on_span = {})
      : collector_(dir_ / "weir.sock", with_logger(options)) {
    collector_.on_span_complete([this, on_span](std::string_view trace_id, const Span& span) {
      {
        std::lock_guard lock(mutex_);
        spans_.push_back(span);
        changed_.notify_all();
      }
      if (on_span) on_span(trace_id, span);
    });
    collector_.on_trace_complete([this](const Trace& trace) {
      std::lock_guard lock(mutex_);
      traces_.push_back(trace);
      changed_.notify_all();
    });
    const Result<void> bound = collector_.listen();
    if (!bound) throw std::runtime_error(bound.error().message);
    thread_ = std::thread([this] { served_ = collector_.serve(stop_.token()).has_value(); });
  }
  ~Running() { stop(); }

  bool stop() {
    stop_.request_stop();
    if (thread_.joinable()) thread_.join();
    return served_;
  }
  void request_stop() { stop_.request_stop(); }
  bool wait_for_spans(std::size_t count) {
    return wait([&] { return spans_.size() >= count; });
  }
  bool wait_for_span(std::string_view id) {
    return wait([&] { return std::any_of(spans_.begin(), spans_.end(), [&](const Span& span) { return span.id == id; }); });
  }
  bool wait_for_traces(std::size_t count) {
    return wait([&] { return traces_.size() >= count; });
  }
  std::vector<Span> spans() {
    std::lock_guard lock(mutex_);
    return spans_;
  }
  std::vector<Trace> traces() {
    std::lock_guard lock(mutex_);
    return traces_;
  }
  Collector& operator*() { return collector_; }
  Collector* operator->() { return &collector_; }
  const std::string& path() const { return collector_.socket_path(); }
  std::vector<std::string> logged() const { return logger_.lines(); }

 private:
  CollectorOptions with_logger(CollectorOptions options) {
    options.logger = &logger_;
    return options;
  }
  template <class Condition>
  bool wait(Condition condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, hang_guard, condition);
  }

  ScratchDir dir_;
  RecordingLogger logger_;
  Collector collector_;
  StopSource stop_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Span> spans_;
  std::vector<Trace> traces_;
  bool served_ = false;
  std::thread thread_;
};

CollectorOptions settling_at_once() {
  CollectorOptions options;
  options.store.settle = 0ms;
  return options;
}

std::string own_process_name() {
  std::ifstream file("/proc/self/comm");
  std::string name;
  std::getline(file, name);
  return name;
}

}  // namespace

TEST_CASE("what a service sends comes out as spans and as a tree") {
  Running collector(settling_at_once());
  Client service(collector.path());
  service.send("[\"weir\",1,{\"service\":\"checkout\",\"pid\":1}]\n");
  service.send(Client::start_of("root"));
  service.send_span("child", "t", "root");
  service.send(Client::end_of("root"));
  REQUIRE(collector.wait_for_traces(1));
  const Trace trace = collector.traces()[0];
  CHECK(trace.service == "checkout");
  CHECK(trace.spans == 2);
  REQUIRE(trace.roots.size() == 1);
  CHECK(trace.roots[0].name == "name of root");
  REQUIRE(trace.roots[0].children.size() == 1);
  CHECK(collector.spans()[0].id == "child");
  CHECK(collector->traces().at("t") == trace.roots);
  CHECK(collector.stop());
  CHECK(collector->stats().rejected_malformed == 0);
  CHECK(collector->stats().lines == 5);
}

TEST_CASE("a service that does not say its name is called as its process") {
  Running collector(settling_at_once());
  Client service(collector.path());
  service.send("[\"weir\",1,{\"service\":\"\"}]\n[\"weir\",7]\n");  // says nothing either
  service.send_span("a");
  REQUIRE(collector.wait_for_traces(1));
  CHECK(collector.traces()[0].service == own_process_name());
}

TEST_CASE("a hello of an unknown version is taken, a service name of any length and bytes too") {
  Running collector(settling_at_once());
  Client service(collector.path());
  service.send("[\"weir\",2,{\"service\":\"caf\xff" + std::string(300, 'x') + "\",\"more\":[]},null]\n");
  service.send_span("a");
  REQUIRE(collector.wait_for_traces(1));
  CHECK(collector.traces()[0].service == "caf\ufffd" + std::string(250, 'x'));
}

TEST_CASE("a line of 2 MiB is skipped and counted, and its connection lives") {
  Running collector;
  Client service(collector.path());
  service.send(std::string(2u << 20, 'x') + "\n");
  service.send_span("a");
  REQUIRE(collector.wait_for_span("a"));
  CHECK(collector->stats().rejected_too_long == 1);
  CHECK(collector->stats().rejected_malformed == 0);
  CHECK(collector->stats().lines == 3);
}

TEST_CASE("a line of max_line bytes is taken, one more is too many") {
  CollectorOptions options;
  options.max_line = 200'000;
  Running collector(options);
  Client service(collector.path());
  for (const std::size_t size : {options.max_line, options.max_line + 1}) {
    std::string line = to_json(Client::start_of("s" + std::to_string(size)));
    line.append(size - line.size(), ' ');
    service.send(line + "\n");
  }
  service.send(Client::end_of("s200000"));
  service.send_span("last");
  REQUIRE(collector.wait_for_span("last"));
  CHECK(collector.spans()[0].id == "s200000");
  CHECK(collector->stats().rejected_too_long == 1);
}

TEST_CASE("garbage is counted and skipped, and shown in the log once, escaped") {
  Running collector;
  Client service(collector.path());
  const std::vector<std::string> garbage = {"\x1b[31mred\x7f",
                                            "",
                                            "  \r",
                                            "null",
                                            "GET / HTTP/1.1\r",
                                            "{",
                                            "}",
                                            "\"text\"",
                                            std::string(3, '\0'),
                                            std::string(100'000, '['),
                                            "{\"type\":0,\"x\":" + std::string(17, '[') + std::string(17, ']') + "}",
                                            "[]",
                                            "[1,2]",
                                            "[\"weir\"]",
                                            "[\"weir\",\"1\",{}]",
                                            "[\"dropped\",-1]",
                                            "[\"dropped\",1.5]",
                                            "[\"dropped\"",
                                            "[\"other\",1]",
                                            "[\"weir\",1,{}" + std::string(5000, ' ') + "]"};
  for (const std::string& line : garbage) service.send(line + "\n");
  service.send_span("a");
  REQUIRE(collector.wait_for_span("a"));
  CHECK(collector->stats().rejected_malformed == garbage.size());
  CHECK(collector->stats().lines == garbage.size() + 2);
  const std::vector<std::string> logged = collector.logged();
  REQUIRE_FALSE(logged.empty());
  CHECK(logged.size() < garbage.size() / 2);
  CHECK(logged[0] == "the collector refused a line reason=not valid JSON at byte 1 service=" + own_process_name() +
                         " line=\\x1b[31mred\\x7f suppressed=0");
}

TEST_CASE("an excerpt is at most 80 printable characters") {
  CHECK(detail::excerpt_of("plain") == "plain");
  CHECK(detail::excerpt_of(std::string(80, 'x')) == std::string(80, 'x'));
  CHECK(detail::excerpt_of(std::string(81, 'x')) == std::string(77, 'x') + "...");
  CHECK(detail::excerpt_of("\u202e\n") == "\\xe2\\x80\\xae\\x0a");
  CHECK(detail::excerpt_of(std::string(1000, '\n')).size() <= 80);
}

TEST_CASE("the log limiter says how many messages it held back") {
  detail::LogLimiter limiter;
  const detail::TimePoint now{};
  std::uint64_t suppressed = 99;
  CHECK(limiter.allow(now, suppressed));
  CHECK(suppressed == 0);
  CHECK_FALSE(limiter.allow(now + 999ms, suppressed));
  CHECK_FALSE(limiter.allow(now + 999ms, suppressed));
  CHECK(limiter.allow(now + 1s, suppressed));
  CHECK(suppressed == 2);
}

TEST_CASE("events with a wrong field are counted as such") {
  Running collector;
  Client service(collector.path());
  const std::string rest = R"(,"trace_id":"t","name":"n","kind":0,"time":"2026-01-01T00:00:00Z"})";
  const std::vector<std::string> wrong = {R"({"type":2,"span_id":"s")" + rest,
                                          R"({"type":"0","span_id":"s")" + rest,
                                          R"({"type":0,"span_id":7)" + rest,
                                          R"({"type":0,"span_id":"")" + rest,
                                          R"({"type":0.0,"span_id":"s")" + rest,
                                          R"({"type":0,"span_id":null)" + rest,
                                          R"({"type":0,"attrs":[],"span_id":"s")" + rest,
                                          R"({"type":0,"time":1,"span_id":"s")" + rest,
                                          "{}"};
  for (const std::string& line : wrong) service.send(line + "\n");
  service.send_span("a");
  REQUIRE(collector.wait_for_span("a"));
  CHECK(collector->stats().rejected_field == wrong.size());
  CHECK(collector->stats().rejected_malformed == 0);
  CHECK(collector->stats().store.events == 2);
}

TEST_CASE("invalid UTF-8 is repaired and counted") {
  Running collector;
  Client service(collector.path());
  service.send("{\"type\":0,\"span_id\":\"a\",\"trace_id\":\"t\",\"name\":\"\xff\xfe\",\"kind\":0,\"time\":\"2026-01-01T00:00:00Z\"}\n");
  service.send(Client::end_of("a"));
  REQUIRE(collector.wait_for_span("a"));
  CHECK(collector.spans()[0].name == "\ufffd\ufffd");
  CHECK(collector->stats().repaired_utf8 == 1);
  CHECK(collector->stats().rejected_malformed == 0);
}

TEST_CASE("the original's ids and times with offsets are accepted") {
  Running collector;
  Client service(collector.path());
  service.send(
      "{\"type\":0,\"span_id\":\"0123456789abcdef\",\"trace_id\":\"fedcba9876543210\",\"name\":\"n\",\"kind\":2,"
      "\"time\":\"2026-01-01T05:30:00.000000001+05:30\"}\n"
      "{\"type\":1,\"span_id\":\"0123456789abcdef\",\"trace_id\":\"fedcba9876543210\",\"name\":\"\",\"kind\":0,"
      "\"time\":\"2025-12-31T16:00:01-08:00\",\"attrs\":{\"db\":\"orders\"}}\r\n");
  REQUIRE(collector.wait_for_span("0123456789abcdef"));
  const Span span = collector.spans()[0];
  CHECK(format_time(span.start_time) == "2026-01-01T00:00:00.000000001Z");
  CHECK(format_time(span.end_time) == "2026-01-01T00:00:01Z");
  CHECK(span.kind == SpanKind::sql);
  CHECK(span.attrs == StringAttributes{{"db", "orders"}});
}

TEST_CASE("an end before its start, on another connection, waits for it") {
  Running collector;
  Client one(collector.path()), other(collector.path());
  one.send(Client::end_of("a"));
  one.send_span("between");
  REQUIRE(collector.wait_for_span("between"));
  other.send(Client::start_of("a"));
  REQUIRE(collector.wait_for_span("a"));
}

TEST_CASE("halves alone, duplicates and cycles are seen for what they are when the collector stops") {
  Running collector;
  Client service(collector.path());
  service.send(Client::start_of("open"));
  service.send(Client::end_of("end alone"));
  service.send_span("x", "cycle", "y");
  service.send_span("y", "cycle", "x");
  service.send_span("self", "self", "self");
  service.send(Client::start_of("x", "cycle"));
  service.send(Client::end_of("x", "cycle"));
  service.send_span("last", "last");
  REQUIRE(collector.wait_for_span("last"));
  REQUIRE(collector.stop());
  const TraceStoreStats stats = collector->stats().store;
  CHECK(stats.unfinished == 1);
  CHECK(stats.ends_without_start == 1);
  CHECK(stats.duplicates == 2);
  CHECK(stats.cycles == 2);
  CHECK(stats.pending == 0);
  CHECK(collector.traces().size() == 4);
  CHECK(collector->traces().at("t")[0].attrs == StringAttributes{{"weir.unfinished", "true"}});
}

TEST_CASE("lines may come in any pieces, the last one without its newline") {
  Running collector;
  Client service(collector.path());
  const std::string lines = to_json(Client::start_of("a")) + "\n" + to_json(Client::end_of("a"));
  for (const char c : lines) service.send({&c, 1});
  service.close();
  REQUIRE(collector.wait_for_span("a"));
  Client(collector.path()).send("{\"type\":");
  REQUIRE(eventually([&] { return collector->stats().rejected_malformed == 1; }));
  REQUIRE(eventually([&] { return collector->stats().open_connections == 0; }));
}

TEST_CASE("spans that services report as dropped are added up, without overflow") {
  Running collector;
  Client service(collector.path());
  service.send("[\"dropped\",3]\n [\"dropped\",4,\"more\"]\n");
  service.send_span("a");
  REQUIRE(collector.wait_for_span("a"));
  CHECK(collector->stats().reported_drops == 7);
  service.send("[\"dropped\",18446744073709551615]\n");
  service.send_span("b");
  REQUIRE(collector.wait_for_span("b"));
  CHECK(collector->stats().reported_drops == UINT64_MAX);
}

TEST_CASE("losses are told with the service's name, and counted by the reasons that it gives") {
  std::mutex mutex;
  std::map<std::string, std::uint64_t> lost;
  Running collector;
  collector->on_loss([&](std::string_view service, std::uint64_t spans) {
    (void)collector->stats();  // no lock is held
    std::lock_guard lock(mutex);
    lost[std::string(service)] += spans;
  });
  Client one(collector.path()), other(collector.path());
  one.send("[\"weir\",1,{\"service\":\"one\"}]\n[\"dropped\",5,{\"full\":3,\"no_ring\":1,\"reentrant\":1}]\n");
  one.send("[\"dropped\",2,{\"too_large\":2,\"full\":-1,\"other\":{}}]\n[\"dropped\",0,{}]\n");
  other.send("[\"weir\",1,{\"service\":\"other\"}]\n[\"dropped\",1]\n");
  one.send_span("a");
  other.send_span("b");
  REQUIRE(collector.wait_for_spans(2));
  const CollectorStats stats = collector->stats();
  CHECK(stats.reported_drops == 8);
  CHECK(stats.reported_full == 3);
  CHECK(stats.reported_too_large == 2);
  CHECK(stats.reported_no_ring == 1);
  CHECK(stats.reported_reentrant == 1);
  std::lock_guard lock(mutex);
  CHECK(lost == std::map<std::string, std::uint64_t>{{"one", 7}, {"other", 1}});
}

TEST_CASE("spans that were sent here and never read are counted at the next hello") {
  const auto hello = [](int pid, const std::string& sequence) {
    return "[\"weir\",1,{\"service\":\"s\",\"pid\":" + std::to_string(pid) +
           ",\"start_time\":\"2026-01-01T00:00:00Z\",\"sequence\":" + sequence + "}]\n";
  };
  Running collector;
  auto service = std::make_unique<Client>(collector.path());
  const auto reconnect = [&] {
    service.reset();
    REQUIRE(eventually([&] { return collector->stats().open_connections == 0; }));
    service = std::make_unique<Client>(collector.path());
  };
  const auto lost_after = [&](const std::string& span) {
    service->send_span(span);
    REQUIRE(collector.wait_for_span(span));
    return collector->stats().lost_spans;
  };
  service->send(hello(1, "100"));  // to the collector before us: no loss of ours
  CHECK(lost_after("a") == 0);
  CHECK(lost_after("b") == 0);
  reconnect();
  service->send(hello(1, "102"));
  CHECK(lost_after("c") == 0);
  service->send(hello(1, "200"));  // only the first of a connection counts
  CHECK(lost_after("d") == 0);
  reconnect();
  service->send(hello(1, "107"));
  CHECK(lost_after("e") == 3);
  reconnect();
  service->send(hello(1, "108"));
  CHECK(lost_after("f") == 3);
  reconnect();
  service->send(hello(1, "0"));  // nonsense
  CHECK(lost_after("g") == 3);
  reconnect();
  service->send(hello(2, "50"));  // another service
  CHECK(lost_after("h") == 3);
  reconnect();
  service->send(hello(2, "18446744073709551615"));
  CHECK(lost_after("i") == UINT64_MAX - 48);
  reconnect();
  service->send(hello(1, "18446744073709551615"));
  CHECK(lost_after("k") == UINT64_MAX);
  for (const std::string wrong : {"-1", "1.5", "\"7\"", "null"}) {
    reconnect();
    service->send(hello(3, wrong));
    CHECK(lost_after("j" + wrong) == UINT64_MAX);
  }
  CHECK(collector->stats().rejected_malformed == 0);
}

TEST_CASE("a gap is not counted while earlier connections may still fill it") {
  detail::GapTracker gaps;
  const detail::GapTracker::Key key{1, "then"};
  detail::GapTracker::Place first, second, third;
  CHECK(gaps.hello(first, key, 0) == 0);
  detail::GapTracker::read_spans(first, 1);
  CHECK(gaps.hello(second, key, 3) == 0);
  detail::GapTracker::read_spans(second, 1);  // is not one of the three
  detail::GapTracker::read_spans(first, 1);
  SECTION("the earlier one ends first") {
    CHECK(gaps.ended(first) == 1);
    CHECK(gaps.ended(second) == 0);
    CHECK(gaps.hello(third, key, 4) == 0);
  }
  SECTION("the later one ends first") {
    CHECK(gaps.ended(second) == 0);
    CHECK(gaps.ended(first) == 1);
    CHECK(gaps.hello(third, key, 5) == 1);
  }
  SECTION("a third comes before the first has ended") {
    CHECK(gaps.hello(third, key, 5) == 0);
    CHECK(gaps.ended(second) == 0);
    detail::GapTracker::read_spans(first, 1);
    CHECK(gaps.ended(first) == 1);
  }
}

TEST_CASE("of services whose gaps are watched, those heard least recently are forgotten") {
  detail::GapTracker gaps;
  detail::GapTracker::Place kept, place;
  CHECK(gaps.hello(kept, {0, ""}, 0) == 0);
  for (std::uint64_t pid = 1; pid <= detail::GapTracker::max_services; ++pid) {
    place = {};
    CHECK(gaps.hello(place, {pid, ""}, 0) == 0);
    gaps.ended(place);
  }
  CHECK(gaps.hello(place, {1, ""}, 7) == 0);  // forgotten: begins anew
  gaps.ended(place);
  CHECK(gaps.hello(place, {3, ""}, 7) == 7);
  gaps.ended(place);
  CHECK(gaps.ended(kept) == 0);
  CHECK(gaps.hello(kept, {0, ""}, 7) == 7);  // its connection was open
}

TEST_CASE("many connections are served side by side") {
  Running collector;
  constexpr int count = 200;
  std::vector<std::unique_ptr<Client>> services;
  for (int i = 0; i < count; ++i) {
    services.push_back(std::make_unique<Client>(collector.path()));
    services.back()->send(Client::start_of(std::to_string(i)));
  }
  for (int i = 0; i < count; ++i) services[static_cast<std::size_t>(i)]->send(Client::end_of(std::to_string(i)));
  REQUIRE(collector.wait_for_spans(count));
  CHECK(collector->stats().connections == count);
  CHECK(collector->stats().open_connections == count);
  services.clear();
  CHECK(eventually([&] { return collector->stats().open_connections == 0; }));
}

TEST_CASE("a flood on one connection does not keep others from being served") {
  Running collector;
  std::atomic<bool> enough{false};
  std::thread flood([&] {
    Client service(collector.path());
    std::string garbage;
    while (garbage.size() < 100'000) garbage += "no event at all\n";
    while (!enough && service.send(garbage)) {}
  });
  Client honest(collector.path());
  bool served = eventually([&] { return collector->stats().rejected_malformed > 0; });
  for (int i = 0; i < 50 && served; ++i) {
    const std::string id = std::to_string(i);
    served = honest.send_span(id) && collector.wait_for_span(id);
  }
  enough = true;
  flood.join();
  CHECK(served);
}

TEST_CASE("however much others have sent, each connection has its turn after 64 KiB of each of them") {
  std::mutex mutex;
  std::condition_variable changed;
  bool go_on = false;
  Collector* asked = nullptr;
  std::uint64_t at_gate = 0, at_trickle = 0;
  Running collector({}, [&](std::string_view, const Span& span) {
    if (span.id == "trickle") at_trickle = asked->stats().bytes;
    if (span.id != "gate") return;
    at_gate = asked->stats().bytes;
    std::unique_lock lock(mutex);  // the collector is busy here while everything else arrives
    changed.wait_for(lock, hang_guard, [&] { return go_on; });
  });
  asked = &*collector;
  constexpr std::size_t floods = 100;  // more than are read in one turn
  std::vector<std::unique_ptr<Client>> flooding;
  for (std::size_t i = 0; i < floods; ++i) flooding.push_back(std::make_unique<Client>(collector.path()));
  Client gate(collector.path()), trickle(collector.path());
  REQUIRE(eventually([&] { return collector->stats().open_connections == floods + 2; }));
  gate.send_span("gate");
  REQUIRE(collector.wait_for_span("gate"));
  std::string garbage;
  while (garbage.size() < 192'000) garbage += "no event at all\n";
  for (const auto& client : flooding) REQUIRE(client->send(garbage));  // the kernel takes that much
  trickle.send_span("trickle");
  {
    std::lock_guard lock(mutex);
    go_on = true;
  }
  changed.notify_all();
  REQUIRE(collector.wait_for_span("trickle"));
  CHECK(collector.stop());
  CHECK(at_trickle - at_gate <= (floods + 2) * (64u << 10));
  CHECK(at_trickle - at_gate < floods * garbage.size() / 2);
  CHECK(collector->stats().bytes >= floods * garbage.size());
}

TEST_CASE("a stop takes what has arrived, from connections not yet let in too, and removes the socket") {
  std::mutex mutex;
  std::condition_variable changed;
  bool go_on = false;
  Running collector({}, [&](std::string_view, const Span& span) {
    if (span.id != "first") return;
    std::unique_lock lock(mutex);  // the collector is busy here while everything else arrives
    changed.wait_for(lock, hang_guard, [&] { return go_on; });
  });
  Client service(collector.path());
  service.send_span("first");
  REQUIRE(collector.wait_for_span("first"));
  std::string much;
  for (int i = 0; i < 400; ++i) {
    much += to_json(Client::start_of(std::to_string(i))) + "\n" + to_json(Client::end_of(std::to_string(i))) + "\n";
  }
  REQUIRE(much.size() > 64u << 10);
  REQUIRE(service.send(much));  // at once: small pieces would fill the kernel's buffer
  Client late(collector.path()), silent(collector.path());
  late.send_span("late");
  late.send(Client::start_of("open"));
  collector.request_stop();
  {
    std::lock_guard lock(mutex);
    go_on = true;
  }
  changed.notify_all();
  REQUIRE(collector.stop());
  CHECK(collector.spans().size() == 403);
  CHECK(collector->stats().store.unfinished == 1);
  CHECK(collector->stats().open_connections == 0);
  CHECK(collector.traces().size() == 1);
  CHECK(collector->traces().at("t").size() == 403);
  CHECK_FALSE(std::filesystem::exists(collector.path()));
  CHECK(silent.closed_by_peer());
}

TEST_CASE("a stop is not held up by a service that never stops sending") {
  Running collector;
  std::atomic<bool> sending{false};
  std::thread flood([&] {
    Client service(collector.path());
    std::string garbage(100'000, '\n');
    while (service.send(garbage)) sending = true;
  });
  REQUIRE(eventually([&] { return sending.load(); }));
  CHECK(collector.stop());
  flood.join();
}

TEST_CASE("beyond max_connections services wait until one leaves") {
  CollectorOptions options;
  options.max_connections = 2;
  Running collector(options);
  auto one = std::make_unique<Client>(collector.path());
  Client two(collector.path());
  one->send_span("one");
  two.send_span("two");
  REQUIRE(collector.wait_for_spans(2));
  Client three(collector.path());
  three.send_span("three");
  REQUIRE(eventually([&] { return collector->stats().listener_pauses == 1; }));
  two.send_span("two again");
  REQUIRE(collector.wait_for_span("two again"));
  CHECK(collector.spans().size() == 3);
  CHECK(collector->stats().connections == 2);
  one.reset();
  REQUIRE(collector.wait_for_span("three"));
  CHECK(collector->stats().listener_pauses == 1);
}

TEST_CASE("out of descriptors the listener rests for longer and longer, and lets services in when there are some again") {
  Running collector;
  Client first(collector.path());
  first.send_span("first");
  REQUIRE(collector.wait_for_span("first"));

  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  net::Fd lowest(::dup(STDIN_FILENO));
  const rlimit low{static_cast<rlim_t>(lowest.get()) + 20, before.rlim_max};
  lowest.reset();
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &low) == 0);
  std::vector<net::Fd> hoard;
  for (net::Fd fd(::dup(STDIN_FILENO)); fd; fd = net::Fd(::dup(STDIN_FILENO))) hoard.push_back(std::move(fd));
  hoard.pop_back();
  const auto begin = std::chrono::steady_clock::now();
  Client second(collector.path());  // takes the last one
  const bool rested = eventually([&] { return collector->stats().listener_pauses >= 4; });
  const auto waited = std::chrono::steady_clock::now() - begin;
  hoard.clear();
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
  CHECK(rested);
  CHECK(waited >= 5ms + 10ms + 20ms);
  second.send_span("second");
  CHECK(collector.wait_for_span("second"));
  CHECK_FALSE(collector.logged().empty());
}

TEST_CASE("near max_connections those that send nothing of use make room, and those that do stay") {
  CollectorOptions options;
  options.max_connections = 4;
  options.idle_limit = 20ms;
  Running collector(options);
  Client honest(collector.path());
  honest.send_span("honest");
  REQUIRE(collector.wait_for_span("honest"));
  Client silent(collector.path()), half(collector.path()), garbage(collector.path()), waiting(collector.path());
  half.send("{\"type\":");
  garbage.send("nothing of use\n");
  waiting.send_span("waiting");
  REQUIRE(collector.wait_for_span("waiting"));
  REQUIRE(eventually([&] { return collector->stats().dropped_idle >= 1; }));
  honest.send_span("honest again");
  REQUIRE(collector.wait_for_span("honest again"));
}

TEST_CASE("half lines together are bounded by max_buffered") {
  CollectorOptions options;
  options.max_buffered = 300'000;
  Running collector(options);
  Client big(collector.path()), bigger(collector.path());
  big.send(std::string(130'000, ' '));
  bigger.send(std::string(600'000, 'x'));
  REQUIRE(eventually([&] { return collector->stats().rejected_no_room == 1; }));
  bigger.send("\n");
  bigger.send_span("a");
  REQUIRE(collector.wait_for_span("a"));
  big.send(Client::start_of("b"));
  big.send(Client::end_of("b"));
  REQUIRE(collector.wait_for_span("b"));
  CHECK(collector->stats().rejected_malformed == 0);
}

TEST_CASE("a line that came in pieces takes no room once others have followed") {
  CollectorOptions options;
  options.max_buffered = 300'000;
  Running collector(options);
  Client before(collector.path()), after(collector.path());
  const std::string name(200'000, 'n');
  before.send(to_json(Event::span_start("0123456789abcdef", "t", "", name, SpanKind::http, Timestamp{})) + '\n');
  before.send_span("a");
  REQUIRE(collector.wait_for_span("a"));
  after.send(to_json(Event::span_start("fedcba9876543210", "t", "", name, SpanKind::http, Timestamp{})) + '\n');
  after.send_span("b");
  REQUIRE(collector.wait_for_span("b"));
  CHECK(collector->stats().rejected_no_room == 0);
  CHECK(collector->stats().lines == 6);
}

TEST_CASE("callbacks may ask the collector, and what they throw goes no further") {
  std::atomic<Collector*> asked{nullptr};
  std::atomic<std::size_t> seen{0};
  Running collector({}, [&](std::string_view, const Span&) {
    if (Collector* const self = asked) seen = self->traces().size() + self->stats().store.spans;
    throw std::runtime_error("from a callback");
  });
  asked = &*collector;
  Client service(collector.path());
  service.send_span("a");
  service.send_span("b");
  REQUIRE(collector.wait_for_spans(2));
  CHECK(collector.stop());
  CHECK(seen == 3);
  CHECK(collector->stats().store.failed_callbacks == 2);
  CHECK(collector.logged().at(0).starts_with("a callback of the collector threw, on_span_complete: from a callback"));
}

TEST_CASE("snapshots may be taken from any thread while spans come in") {
  Running collector(settling_at_once());
  std::atomic<bool> done{false}, consistent{true};
  std::thread reader([&] {
    while (!done) {
      for (const auto& [id, roots] : collector->traces()) consistent = consistent && roots.size() == 1;
      consistent = consistent && collector->stats().store.traces <= 200;
    }
  });
  Client service(collector.path());
  for (int i = 0; i < 200; ++i) service.send_span("a", std::to_string(i));
  CHECK(collector.wait_for_traces(200));
  done = true;
  reader.join();
  CHECK(consistent);
}

TEST_CASE("serving takes a listen first, listening twice is an error, and a live socket is left alone") {
  ScratchDir dir;
  Collector collector(dir / "weir.sock");
  StopSource stop;
  const Result<void> unbound = collector.serve(stop.token());
  REQUIRE_FALSE(unbound);
  CHECK(unbound.error().message.find("listen()") != std::string::npos);
  REQUIRE(collector.listen());
  CHECK(collector.listen().error().code == std::errc::already_connected);
  Collector other(dir / "weir.sock");
  CHECK(other.start(stop.token()).error().code == std::errc::address_in_use);
  CHECK(collector.socket_path() == dir / "weir.sock");
  CHECK(std::filesystem::exists(dir / "weir.sock"));
}

TEST_CASE("a stop before serving ends it at once, and the collector may listen again") {
  ScratchDir dir;
  Collector collector(dir / "weir.sock");
  StopSource stop;
  stop.request_stop();
  for (int round = 0; round < 2; ++round) {
    REQUIRE(collector.listen());
    Client service(dir / "weir.sock");
    service.send_span(std::to_string(round));
    CHECK(collector.serve(stop.token()));
    CHECK_FALSE(std::filesystem::exists(dir / "weir.sock"));
  }
  CHECK(collector.traces().at("t").size() == 2);
  CHECK(collector.start(stop.token()));
}

TEST_CASE("destruction ends a serve that nobody stopped") {
  ScratchDir dir;
  auto collector = std::make_unique<Collector>(dir / "weir.sock");
  std::promise<void> called;
  collector->on_span_complete([&](std::string_view, const Span&) { called.set_value(); });
  REQUIRE(collector->listen());
  bool served = false;
  std::thread server([&, self = collector.get()] { served = self->serve({}).has_value(); });
  Client service(dir / "weir.sock");
  service.send_span("a");
  called.get_future().wait();
  collector.reset();
  server.join();
  CHECK(served);
  CHECK_FALSE(std::filesystem::exists(dir / "weir.sock"));
}

TEST_CASE("the counters are one line of JSON, every one under its name") {
  CollectorStats stats;
  stats.lines = 7;
  stats.store.late = 9;
  const std::string json = stats.to_json();
  CHECK(json.find('\n') == std::string::npos);
  const nlohmann::json parsed = nlohmann::json::parse(json);
  CHECK(parsed["lines"] == 7);
  CHECK(parsed["store"]["late"] == 9);
  CHECK(parsed["store"].size() * sizeof(std::uint64_t) == sizeof(TraceStoreStats));
  CHECK((parsed.size() - 1) * sizeof(std::uint64_t) == sizeof(CollectorStats) - sizeof(TraceStoreStats));
}
