// Our programs and those of go-trace, each with the other's at the far end of the socket.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "interop/counterpart.hpp"
#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/scratch_dir.hpp"
#include "weir/collect/collector.hpp"
#include "weir/trace/event.hpp"
#include "weir/trace/socket_sender.hpp"
#include "weir/trace/tracer.hpp"
#include "weir/view/view_client.hpp"
#include "weir/view/view_server.hpp"

using namespace weir;
using namespace std::chrono_literals;
using nlohmann::json;
using weir::testing::counterpart;
using weir::testing::eventually;
using weir::testing::has_counterpart;
using weir::testing::Peer;
using weir::testing::ScratchDir;

namespace {

/// What JSON, sockets and terminals have trouble with.
const std::string odd_text = "café 日本 \xf0\x9f\x8c\x8a \"q\" \\ / <b>&</b> \x01\x1f\x7f \b\f\n\r\t \xe2\x80\xa8\xe2\x80\xa9";

Timestamp at(std::string_view time) { return parse_time(time).value(); }

/// A thread of its own around what serves until it is told to stop.
template <class Serve>
class Serving {
 public:
  explicit Serving(Serve serve) : thread_([this, serve] { served_ = static_cast<bool>(serve(stop_.token())); }) {}
  ~Serving() { stop(); }
  bool stop() {
    stop_.request_stop();
    if (thread_.joinable()) thread_.join();
    return served_;
  }

 private:
  StopSource stop_;
  bool served_ = false;
  std::thread thread_;
};

/// Our collector, and what it handed on.
class OurCollector {
 public:
  explicit OurCollector(const std::string& path) : collector_(path) {
    collector_.on_span_complete([this](std::string_view trace_id, const Span& span) {
      std::lock_guard lock(mutex_);
      ids_agree_ &= trace_id == span.trace_id;
      spans_.push_back(span);
    });
    collector_.on_trace_complete([this](const Trace& trace) {
      std::lock_guard lock(mutex_);
      trees_.push_back(trace);
    });
    REQUIRE(collector_.listen());
    serving_.emplace([this](const StopToken& stop) { return collector_.serve(stop); });
  }
  /// Reads what has come, and completes all traces.
  void stop() {
    CHECK(serving_->stop());
    CHECK(ids_agree_);
  }
  std::vector<Span> spans() const {
    std::lock_guard lock(mutex_);
    return spans_;
  }
  std::vector<Trace> trees() const {
    std::lock_guard lock(mutex_);
    return trees_;
  }
  CollectorStats stats() const { return collector_.stats(); }

 private:
  using Serve = std::function<Result<void>(const StopToken&)>;
  mutable std::mutex mutex_;
  std::vector<Span> spans_;   // guarded by mutex_
  std::vector<Trace> trees_;  // guarded by mutex_
  bool ids_agree_ = true;     // guarded by mutex_
  Collector collector_;
  std::optional<Serving<Serve>> serving_;
};

/// Its client, sending these events on one connection.
void send(const ScratchDir& dir, const std::vector<Event>& events) {
  Peer client(dir / "sent", {"send", dir / "weir.sock"});
  for (const Event& event : events) client.say(to_json(event));
  client.end();
}

/// What its collector or its view client said of a span.
Span told(const std::string& line) {
  const json parsed = json::parse(line);
  auto span = parse_span(parsed.at("span").dump());
  REQUIRE(span);
  CHECK(parsed.at("trace_id") == span->trace_id);
  return *span;
}

/// Its collector: what it completed, and in the end its trees.
class ItsCollector {
 public:
  ItsCollector(const ScratchDir& dir, const std::string& name) : peer_(dir / name, {"collect", dir / "weir.sock"}) { peer_.ready(); }
  std::size_t completed() const { return peer_.lines().size(); }
  bool has(const std::string& name) const {
    const std::vector<std::string> lines = peer_.lines();
    const auto has_it = [&](const std::string& line) { return line.find("\"name\":\"" + name + '"') != std::string::npos; };
    return std::any_of(lines.rbegin(), lines.rend(), has_it);
  }
  void stop() {
    peer_.terminate();
    std::vector<std::string> lines = peer_.lines();
    REQUIRE_FALSE(lines.empty());
    trees_ = json::parse(lines.back());
    lines.pop_back();
    for (const std::string& line : lines) spans_.push_back(told(line));
  }
  const std::vector<Span>& spans() const { return spans_; }
  const json& trees() const { return trees_; }

 private:
  Peer peer_;
  std::vector<Span> spans_;
  json trees_;
};

Span by_name(const std::vector<Span>& spans, std::string_view name) {
  const auto is_it = [&](const Span& span) { return span.name == name; };
  CAPTURE(name);
  REQUIRE(std::count_if(spans.begin(), spans.end(), is_it) == 1);
  return *std::find_if(spans.begin(), spans.end(), is_it);
}

void check_invariant(const TracerStats& stats) { CHECK(stats.emitted == stats.delivered + stats.dropped() + stats.in_flight); }

}  // namespace

TEST_CASE("its client's spans arrive in our collector with every field") {
  if (!has_counterpart()) return;
  const ScratchDir dir;
  OurCollector ours(dir / "weir.sock");
  const StringAttributes attributes{{"odd", odd_text}, {odd_text, ""}, {"http.route", "/orders/:id"}};
  send(dir, {
                Event::span_start("a", "t", "", odd_text, SpanKind::http, at("2026-01-02T03:04:05.123456789Z")),
                Event::span_start("b", "t", "a", "SELECT 1", SpanKind::sql, at("2026-01-02T03:04:05.000000001Z")),
                Event::span_start("c", "t", "a", "", SpanKind::function, at("1969-12-31T23:59:59.999999999Z")),
                Event::span_start("d", "t", "c", "later kind", static_cast<SpanKind>(7), at("2026-01-02T03:04:06Z")),
                Event::span_end("d", "t", at("2026-01-02T03:04:06.5Z")),
                Event::span_end("c", "t", at("2026-01-02T03:04:07.000001Z")),
                Event::span_end("b", "t", at("2026-01-02T03:04:05.000000002Z"), {}),
                Event::span_end("a", "t", at("2026-01-02T03:04:08Z"), attributes),
            });
  REQUIRE(eventually([&] { return ours.spans().size() == 4; }));
  ours.stop();

  CHECK(ours.stats().rejected_malformed + ours.stats().rejected_field + ours.stats().repaired_utf8 == 0);
  REQUIRE(ours.trees().size() == 1);
  const Span b{"b", "t", "a", "SELECT 1", SpanKind::sql, at("2026-01-02T03:04:05.000000001Z"), at("2026-01-02T03:04:05.000000002Z"),
               {},  {}};
  const Span d{"d", "t", "c", "later kind", static_cast<SpanKind>(7), at("2026-01-02T03:04:06Z"), at("2026-01-02T03:04:06.5Z"), {}, {}};
  const Span c{"c", "t", "a", "", SpanKind::function, at("1969-12-31T23:59:59.999999999Z"), at("2026-01-02T03:04:07.000001Z"), {}, {d}};
  const Span a{"a",        "t",   "", odd_text, SpanKind::http, at("2026-01-02T03:04:05.123456789Z"), at("2026-01-02T03:04:08Z"),
               attributes, {c, b}};
  CHECK(ours.trees()[0].roots == std::vector<Span>{a});
}

TEST_CASE("times with an offset are the same instants here") {
  if (!has_counterpart()) return;
  const ScratchDir dir;
  OurCollector ours(dir / "weir.sock");
  Peer client(dir / "sent", {"send", dir / "weir.sock"});
  client.say(R"({"type":0,"span_id":"1","trace_id":"t","name":"n","kind":0,"time":"2026-06-01T01:30:00.000000007+05:45"})");
  client.say(R"({"type":1,"span_id":"1","trace_id":"t","name":"","kind":0,"time":"2026-05-31T12:45:00.5-07:00"})");
  client.end();
  REQUIRE(eventually([&] { return ours.spans().size() == 1; }));
  CHECK(ours.spans()[0].start_time == at("2026-05-31T19:45:00.000000007Z"));
  CHECK(ours.spans()[0].end_time == at("2026-05-31T19:45:00.5Z"));
}

TEST_CASE("an end that its client sends before the start waits for it") {
  if (!has_counterpart()) return;
  const ScratchDir dir;
  OurCollector ours(dir / "weir.sock");
  const Timestamp begin = at("2026-01-02T03:04:05Z");
  send(dir, {Event::span_end("1", "t", begin + 1s, {{"k", "v"}}), Event::span_start("1", "t", "", "late", SpanKind::http, begin)});
  REQUIRE(eventually([&] { return ours.spans().size() == 1; }));
  CHECK(ours.spans()[0] == Span{"1", "t", "", "late", SpanKind::http, begin, begin + 1s, {{"k", "v"}}, {}});
}

TEST_CASE("100,000 spans over four of its connections arrive whole") {
  if (!has_counterpart()) return;
  constexpr std::size_t count = 100'000;
  const ScratchDir dir;
  OurCollector ours(dir / "weir.sock");
  Peer client(dir / "sent", {"load", dir / "weir.sock", std::to_string(count), "4"});
  client.end();
  REQUIRE(eventually([&] { return ours.stats().store.spans == count; }));
  ours.stop();
  const CollectorStats stats = ours.stats();
  CHECK(stats.lines == 2 * count);
  CHECK(stats.connections == 4);
  CHECK(stats.rejected_malformed + stats.rejected_field + stats.rejected_too_long + stats.rejected_no_room + stats.store.duplicates == 0);
  std::set<std::string> numbers;
  bool kinds = true;
  for (const Span& span : ours.spans()) {
    numbers.insert(span.attrs.at("n"));
    kinds &= static_cast<int>(span.kind) == std::stoi(span.attrs.at("n")) % 3;
  }
  CHECK(numbers.size() == count);
  CHECK(kinds);
  const std::vector<Trace> trees = ours.trees();
  CHECK(trees.size() == count / 10);
  CHECK(std::all_of(trees.begin(), trees.end(), [](const Trace& trace) {
    return trace.spans == 10 && trace.late == 0 && trace.roots.size() == 1 && trace.roots[0].children.size() == 9;
  }));
}

TEST_CASE("a line of its client over 1 MiB is skipped, and those after it count") {
  if (!has_counterpart()) return;
  const ScratchDir dir;
  OurCollector ours(dir / "weir.sock");
  const Timestamp begin = at("2026-01-02T03:04:05Z");
  send(dir, {Event::span_start("1", "t", "", "one", SpanKind::function, begin),
             Event::span_start("2", "t", "1", std::string(3 << 19, 'x'), SpanKind::function, begin),
             Event::span_end("2", "t", begin, {{"k", std::string(1 << 21, 'x')}}), Event::span_end("1", "t", begin + 1s)});
  REQUIRE(eventually([&] { return ours.spans().size() == 1; }));
  CHECK(ours.spans()[0].name == "one");
  CHECK(ours.stats().rejected_too_long == 2);
  CHECK(ours.stats().connections == 1);
}

TEST_CASE("our spans arrive in its collector, paired, with attributes as strings") {
  if (!has_counterpart()) return;
  const ScratchDir dir;
  ItsCollector its(dir, "its");
  {
    Tracer tracer{SocketSender{dir / "weir.sock"}, {.service_name = odd_text}};
    {
      ScopedSpan outer = tracer.enter("GET /orders", SpanKind::http);
      outer.set("text", odd_text);
      outer.set("status", 200);
      outer.set("ratio", 0.25);
      outer.set("hit", true);
      {
        ScopedSpan inner = tracer.enter("SELECT 1", SpanKind::sql);
        inner.fail("no such table");
      }
      ScopedSpan bare = tracer.enter("bare");
    }
    CHECK(tracer.flush(60s).pending == 0);
    REQUIRE(eventually([&] { return its.completed() == 3; }));
    check_invariant(tracer.stats());
    CHECK(tracer.stats().dropped() == 0);
  }
  its.stop();
  const Span outer = by_name(its.spans(), "GET /orders"), inner = by_name(its.spans(), "SELECT 1"), bare = by_name(its.spans(), "bare");
  CHECK(outer.kind == SpanKind::http);
  CHECK(inner.kind == SpanKind::sql);
  CHECK(outer.attrs == StringAttributes{{"text", odd_text}, {"status", "200"}, {"ratio", "0.25"}, {"hit", "true"}});
  CHECK(inner.attrs == StringAttributes{{"error", "true"}, {"error.message", "no such table"}});
  CHECK(bare.attrs.empty());
  CHECK(outer.parent_id.empty());
  CHECK(inner.parent_id == outer.id);
  CHECK(inner.trace_id == outer.trace_id);
  CHECK(outer.start_time <= inner.start_time);
  CHECK(inner.end_time <= outer.end_time);
  REQUIRE(its.trees().size() == 1);
  REQUIRE(its.trees().at(outer.trace_id).size() == 1);  // our hello and reports became no span
  CHECK(its.trees().at(outer.trace_id).at(0).at("children").size() == 2);
}

TEST_CASE("its collector hears of what was dropped before it came, and understands the rest") {
  if (!has_counterpart()) return;
  const ScratchDir dir;
  Tracer tracer{SocketSender{dir / "weir.sock", {.ring_bytes = 4096}}};
  for (int i = 0; i < 1000; ++i) ScopedSpan span = tracer.enter("early");
  const TracerStats before = tracer.stats();
  REQUIRE(before.dropped_full > 0);
  ItsCollector its(dir, "its");
  CHECK(tracer.flush(60s).pending == 0);
  { ScopedSpan span = tracer.enter("late"); }
  CHECK(tracer.flush(60s).pending == 0);
  const TracerStats stats = tracer.stats();
  check_invariant(stats);
  REQUIRE(eventually([&] { return its.completed() == stats.delivered; }));
  its.stop();
  CHECK(by_name(its.spans(), "late").attrs.empty());
}

TEST_CASE("a span of ours whose line would be over 1 MiB costs its collector nothing") {
  if (!has_counterpart()) return;
  const ScratchDir dir;
  ItsCollector its(dir, "its");
  Tracer tracer{SocketSender{dir / "weir.sock"}, {.max_attribute_bytes = 250'000}};
  {
    ScopedSpan span = tracer.enter("large");
    span.set("k", std::string(240'000, '<'));  // six bytes each, in JSON
  }
  { ScopedSpan span = tracer.enter("after"); }
  CHECK(tracer.flush(60s).pending == 0);
  REQUIRE(eventually([&] { return its.completed() == 1; }));
  CHECK(tracer.stats().dropped_too_large == 1);
  check_invariant(tracer.stats());
  its.stop();
  CHECK(by_name(its.spans(), "after").attrs.empty());
}

TEST_CASE("its collector may be replaced in the middle of our load") {
  if (!has_counterpart()) return;
  constexpr int half = 20'000;
  const ScratchDir dir;
  Tracer tracer{SocketSender{dir / "weir.sock", {.ring_bytes = 1u << 24}}};  // nothing has to be dropped
  const auto emit = [&](const std::string& name, int from, int to) {
    for (int i = from; i < to; ++i) {
      ScopedSpan span = tracer.enter(name);
      span.set("i", i);
      span.end();
      if (i % 1000 == 0) (void)tracer.flush(10ms);
    }
  };
  ItsCollector first(dir, "first");
  emit("before", 0, half);
  REQUIRE(eventually([&] { return first.completed() > 0; }));
  std::thread meanwhile([&] { emit("meanwhile", 0, half); });
  first.stop();
  std::filesystem::remove(dir / "weir.sock");
  ItsCollector second(dir, "second");
  meanwhile.join();
  CHECK(tracer.flush(60s).pending == 0);
  REQUIRE(eventually([&] { return second.completed() > 0; }));
  emit("after", 0, half);
  CHECK(tracer.flush(60s).pending == 0);
  emit("last", 0, 1);
  CHECK(tracer.flush(60s).pending == 0);
  REQUIRE(eventually([&] { return second.has("last"); }));  // and all before it

  const TracerStats stats = tracer.stats();
  check_invariant(stats);
  CHECK(stats.connects >= 2);
  tracer.stop();
  second.stop();
  std::set<std::string> ids;
  std::uint64_t after = 0;
  for (const ItsCollector* its : {&first, &second}) {
    for (const Span& span : its->spans()) {
      ids.insert(span.id);
      after += span.name == "after";
    }
  }
  CHECK(stats.dropped() == 0);
  CHECK(after == half);
  CHECK(ids.size() <= stats.delivered);
  // What it had read and not handed on when it was told to stop is its own affair, and the stand-in hands on all.
  if (!counterpart().original) CHECK(ids.size() + stats.unacknowledged >= stats.delivered);
}

TEST_CASE("its view client shows what our view server broadcasts") {
  if (!has_counterpart()) return;
  const ScratchDir dir;
  ViewServer server(dir / "view.sock");
  REQUIRE(server.listen());
  Serving serving([&](const StopToken& stop) { return server.serve(stop); });
  Peer client(dir / "seen", {"view", dir / "view.sock"});
  REQUIRE(eventually([&] { return server.conn_count() == 1; }));

  const Timestamp begin = at("2026-01-02T03:04:05.123456789Z");
  const Span odd{"1", "t", "", odd_text, SpanKind::sql, begin, begin + 1ns, {{odd_text, odd_text}}, {}};
  const Span plain{"2", "t", "1", "", static_cast<SpanKind>(9), at("1970-01-01T00:00:00Z"), begin, {}, {}};
  server.broadcast(odd);
  server.broadcast(plain.with_child(odd));  // goes without
  server.broadcast(odd.with_attr("large", std::string(3 << 19, 'x')));
  for (int i = 0; i < 1000; ++i) server.broadcast(plain.with_attr("i", std::to_string(i)));
  REQUIRE(eventually([&] { return client.lines().size() == 1002; }));
  server.close();
  client.end();  // the server's end is its own
  CHECK(serving.stop());
  const std::vector<std::string> lines = client.lines();
  REQUIRE(lines.size() == 1002);
  CHECK(told(lines[0]) == odd);
  CHECK(told(lines[1]) == plain);
  for (int i = 0; i < 1000; ++i) CHECK(told(lines[static_cast<std::size_t>(i) + 2]).attrs.at("i") == std::to_string(i));
}

TEST_CASE("our view client shows what its view server broadcasts") {
  if (!has_counterpart()) return;
  const ScratchDir dir;
  Peer server(dir / "server", {"serve", dir / "view.sock"});
  server.ready();
  ViewClient client(dir / "view.sock");
  client.replay(10);  // it knows no such request
  std::mutex mutex;
  std::vector<Span> seen;
  const auto count = [&] {
    std::lock_guard lock(mutex);
    return seen.size();
  };
  Serving viewing([&](const StopToken& stop) {
    return client.run(stop, [&](std::string_view, const Span& span) {
      std::lock_guard lock(mutex);
      seen.push_back(span);
    });
  });
  server.say("wait 1");
  server.ready(2);
  const Timestamp begin = at("2026-01-02T03:04:05.123456789Z");
  const Span odd{"1", "t", "", odd_text, SpanKind::sql, begin, begin + 1ns, {{odd_text, odd_text}}, {}};
  const Span plain{"2", "t", "1", "", static_cast<SpanKind>(9), at("1970-01-01T00:00:00Z"), begin, {}, {}};
  server.say(to_json(odd));
  server.say(to_json(odd.with_attr("large", std::string(3 << 19, 'x'))));
  server.say(to_json(plain));
  server.say(to_json(plain.with_child(odd)));
  REQUIRE(eventually([&] { return count() == 3; }));
  server.end();
  CHECK(viewing.stop());
  CHECK(seen == std::vector<Span>{odd, plain, plain.with_child(odd)});
  CHECK(client.skipped_lines() == 1);
}

TEST_CASE("its terminal view draws our spans") {
  if (!has_counterpart()) return;
  if (!counterpart().original) {
    std::printf("interop: its terminal view is left out; %s\n", counterpart().reason.c_str());
    return;
  }
  const ScratchDir dir;
  const testing::Go go;
  const std::string at_version = std::string("@") + testing::original_version;
  std::string program, reason;
  for (const char* const command : {"", "/cmd/go-trace"}) {
    const auto installed = go({"install", testing::original_module + std::string(command) + at_version}, dir.path(), "");
    reason += testing::on_one_line(installed.text) + "; ";
    if (installed.code == 0 && std::filesystem::exists(WEIR_GO_CACHE "/bin/go-trace")) program = WEIR_GO_CACHE "/bin/go-trace";
    if (!program.empty()) break;
  }
  const char* const variable = std::getenv("WEIR_REQUIRE_INTEROP");
  const auto left_out = [&](const std::string& why) {
    std::printf("interop: its terminal view is left out; %s\n", why.c_str());
    CHECK_FALSE(std::string(variable != nullptr ? variable : "") == "original");
  };
  if (program.empty()) return left_out("its command cannot be installed: " + reason);
  if (!std::filesystem::exists("/usr/bin/script")) return left_out("there is no script(1) to give it a terminal");
  testing::Process help({"/usr/bin/env", "timeout", "10", program, "--help"});
  (void)help.wait();
  if ((help.out() + help.err()).find("view") == std::string::npos) {
    return left_out("its command has no view: " + testing::on_one_line(help.out() + help.err()));
  }
  ViewServer server(dir / "view.sock");
  REQUIRE(server.listen());
  Serving serving([&](const StopToken& stop) { return server.serve(stop); });
  const std::string drawn = dir / "drawn";
  testing::Process view({"/usr/bin/env", "timeout", "20", "/usr/bin/script", "-qefc", program + " view " + (dir / "view.sock"), drawn},
                        {{"TMPDIR", dir.path()}, {"XDG_RUNTIME_DIR", dir.path()}, {"TERM", "xterm-256color"}});
  const bool came = eventually([&] { return server.conn_count() == 1; }, 10s);
  const Timestamp begin = at("2026-01-02T03:04:05Z");
  if (came) server.broadcast({"1", "t", "", "GET /drawn", SpanKind::http, begin, begin + 1ms, {}, {}});
  const auto text = [&] {
    std::ifstream in(drawn);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  if (!came || !eventually([&] { return text().find("GET /drawn") != std::string::npos; }, 10s)) left_out("it drew: " + text());
}
