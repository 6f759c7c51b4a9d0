// `weir view --analyze` as people use it: the real program, a real collector, spans of a real tracer.
#include <unistd.h>
#include <atomic>
#include <csignal>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/command.hpp"
#include "support/eventually.hpp"
#include "support/process.hpp"
#include "support/running_view_server.hpp"
#include "support/scratch_dir.hpp"
#include "weir/trace/socket_sender.hpp"
#include "weir/trace/tracer.hpp"
#include "weir/view/view_server.hpp"

using nlohmann::json;
using weir::SpanKind;
using weir::testing::eventually;
using weir::testing::Process;
using weir::testing::RunningViewServer;
using weir::testing::ScratchDir;

namespace {

using Words = weir::testing::CommandPlace::Words;

struct Place : weir::testing::CommandPlace {
  std::unique_ptr<Process> collect() const { return CommandPlace::collect({"--settle", "1ms"}); }
  std::string file(const std::string& name, const std::string& text) const {
    std::ofstream(dir / name) << text;
    return dir / name;
  }
};

void order(weir::Tracer& tracer, int user, int items) {
  weir::ScopedSpan request = tracer.enter("GET /users/" + std::to_string(user), SpanKind::http);
  weir::ScopedSpan render = tracer.enter("render \x1b[2J");
  for (int i = 0; i < items; ++i) {
    weir::ScopedSpan query = tracer.enter("SELECT * FROM items WHERE id IN (" + std::to_string(i) + ", 7)", SpanKind::sql);
  }
}

/// Sends requests and waits until the collector has printed the last of their traces.
void send_orders(Process& collector, const std::string& socket) {
  weir::Tracer tracer{weir::SocketSender{socket}, {.service_name = "orders"}};
  for (int user = 1; user <= 4; ++user) {
    order(tracer, user, 2 * user);  // 6 and 8 repeat themselves
    collector.line_with(1, "GET /users/" + std::to_string(user) + " [http]");
  }
}

/// A viewer that has asked for the traces of before, and will get them.
std::unique_ptr<Process> viewer_with_traces(const Place& place, Words options) {
  options.insert(options.begin(), {"view", "--analyze", "--follow"});
  auto viewer = place.start(std::move(options));
  viewer->line_with(2, "connected to ");
  // The server answers in turn: what comes here came to the first one, too.
  auto second = place.start({"view", "--json", "--last", "1"});
  second->line_with(1, "GET /users/4");
  return viewer;
}

const std::string lines =
    R"({"id":"b","trace_id":"t","parent_id":"a","name":"select 1","kind":2,"start_time":"2024-01-01T00:00:00.001Z","end_time":"2024-01-01T00:00:00.002Z"})"
    "\n"
    R"({"id":"a","trace_id":"t","name":"GET /a/5\u001b[2J?x","kind":1,"start_time":"2024-01-01T00:00:00Z","end_time":"2024-01-01T00:00:00.01Z"})"
    "\n"
    R"({"id":"c","trace_id":"u","name":"job","kind":0,"start_time":"2024-01-01T00:00:00Z","end_time":"2024-01-01T00:00:01Z","children":[{"id":"d","trace_id":"u","parent_id":"c","name":"step","kind":0,"start_time":"2024-01-01T00:00:00Z","end_time":"2024-01-01T00:00:00.5Z"}]})"
    "\n";

/// A past of one trace; so many spans of it did not fit. `asked`: how many traces were asked for.
auto replaying_one_trace(std::atomic<std::size_t>& asked, std::uint64_t left_out) {
  return [&asked, left_out](weir::ViewServer& server) {
    server.on_replay([&asked, left_out](std::size_t traces, std::size_t) {
      asked = traces;
      weir::Span span;
      span.id = span.trace_id = "a";
      span.name = "GET /";
      span.kind = SpanKind::http;
      return weir::Replay{{span}, left_out};
    });
  };
}

}  // namespace

TEST_CASE("view --analyze prints tables of the running session when it ends") {
  Place place;
  auto collector = place.collect();
  send_orders(*collector, place.socket());
  SECTION("as text, when the collector has ended and ^C comes") {
    auto viewer = viewer_with_traces(place, {"--path-group", R"(/users/\d+=/users/:id)"});
    collector->signal(SIGTERM);
    CHECK(collector->wait() == 0);
    viewer->line_with(2, "waiting for a collector");
    viewer->signal(SIGINT);
    CHECK(viewer->wait() == 0);
    const std::string& text = viewer->out();
    INFO(text);
    CHECK(text.starts_with("4 traces, 28 spans, by total\n"));
    CHECK(text.find("\nGET     /users/:id      4  ") != text.npos);
    CHECK(text.find("\nSELECT * FROM items WHERE id IN (?)     20  ") != text.npos);
    CHECK(text.find("\nrender \\x1b[2J      4  ") != text.npos);
    CHECK(text.find("\nGET     /users/:id  SELECT * FROM items WHERE id IN (?)       2  7.0    8\n") != text.npos);
    CHECK(text.find('\x1b') == text.npos);
  }
  SECTION("as JSON") {
    auto viewer = viewer_with_traces(place, {"--json", "--sort", "count", "--limit", "3"});
    collector->signal(SIGTERM);
    CHECK(collector->wait() == 0);
    viewer->line_with(2, "waiting for a collector");
    viewer->signal(SIGTERM);
    CHECK(viewer->wait() == 0);
    INFO(viewer->out());
    const json all = json::parse(viewer->out());
    CHECK(all.at("traces") == 4);
    CHECK(all.at("sort") == "count");
    CHECK(all.at("endpoints").size() == 3);
    CHECK(all.at("endpoints").at(0).at("path") == "/users/1");
    CHECK(all.at("left_out").at("endpoints") == 1);
    CHECK(all.at("sql").at(0).at("count") == 20);
    CHECK(all.at("n_plus_one").size() == 2);
    CHECK(all.at("n_plus_one").at(0).at("path") == "/users/3");
  }
}

TEST_CASE("view --once ends behind the traces of before, with trees as with an analysis") {
  Place place;
  std::atomic<std::size_t> asked = 0;
  RunningViewServer server({}, replaying_one_trace(asked, 3));
  auto trees = place.start({"view", "--once", "--last", "7", "--view-socket", server.path()});
  CHECK(trees->wait() == 0);
  CHECK(asked == 7);
  CHECK(trees->out().find("GET / [http]") != std::string::npos);
  CHECK(trees->err().find("3 spans of before left out") != std::string::npos);
  auto analysis = place.start({"view", "--once", "--analyze", "--json", "--view-socket", server.path()});
  CHECK(analysis->wait() == 0);
  CHECK(asked == 1000);
  CHECK(json::parse(analysis->out()).at("endpoints").at(0).at("path") == "/");
  CHECK(place.start({"view", "--once", "--last", "0", "--view-socket", server.path()})->wait() == 0);
  CHECK(place.start({"view", "--once", "--follow"})->wait() == 2);
}

TEST_CASE("view --analyze without --follow asks for the last traces and ends with the collector") {
  Place place;
  std::atomic<std::size_t> asked = 0;
  RunningViewServer server({}, replaying_one_trace(asked, 0));
  auto viewer = place.start({"view", "--analyze", "--json", "--view-socket", server.path()});
  CHECK(eventually([&] { return server->stats().replays == 1 && server->stats().waiting == 0; }));
  server.stop();
  CHECK(viewer->wait() == 0);
  CHECK(asked == 1000);
  INFO(viewer->err() << viewer->out());
  CHECK(json::parse(viewer->out()).at("endpoints").at(0).at("path") == "/");
}

TEST_CASE("spans can be read from a file, from stdin, and from stdin that is a file") {
  Place place;
  const std::string file = place.file("spans.jsonl", lines + "\nno span\n");
  const auto check = [](Process& viewer) {
    CHECK(viewer.wait() == 0);
    INFO(viewer.err());
    CHECK(viewer.err() == "weir: skipped 1 lines that are not spans\n");
    CHECK(viewer.out() ==
          "2 traces, 4 spans, by total\n"
          "\n"
          "Endpoints\n"
          "METHOD  PATH         COUNT   TOTAL     AVG     P95     MAX\n"
          "-       job              1   1.00s   1.00s   1.00s   1.00s\n"
          "GET     /a/5\\x1b[2J      1  10.0ms  10.0ms  10.0ms  10.0ms\n"
          "\n"
          "SQL\n"
          "QUERY     COUNT   TOTAL     AVG     P95     MAX\n"
          "select ?      1  1.00ms  1.00ms  1.00ms  1.00ms\n"
          "\n"
          "Functions\n"
          "NAME  COUNT  TOTAL    AVG    P95    MAX\n"
          "job       1  1.00s  1.00s  1.00s  1.00s\n"
          "step      1  500ms  500ms  500ms  500ms\n"
          "\n"
          "N+1 (a query 5 times or more in one trace)\n"
          "none\n");
  };
  check(*place.start({"view", "--analyze", "--input", file}));
  Process redirected({"/bin/sh", "-c", "exec \"$0\" view --analyze < \"$1\"", WEIR_COMMAND, file}, place.environment);
  check(redirected);
  Process piped({"/bin/sh", "-c", "cat \"$1\" | \"$0\" view --analyze --input -", WEIR_COMMAND, file}, place.environment);
  check(piped);
}

TEST_CASE("trees and spans of a file are printed as those of a collector") {
  Place place;
  const std::string file = place.file("spans.jsonl", lines);
  auto trees = place.start({"view", "--input", file});
  CHECK(trees->wait() == 0);
  CHECK(trees->out() == "GET /a/5\\x1b[2J?x [http] 10.0ms\n└── select 1 [sql] 1.00ms\njob [function] 1.00s\n└── step [function] 500ms\n");
  auto spans = place.start({"view", "--json", "--input", file});
  CHECK(spans->wait() == 0);
  CHECK(spans->out() == lines);
}

TEST_CASE("path groups come from the command line first, then from a file") {
  Place place;
  const std::string file = place.file("spans.jsonl", lines);
  const std::string groups = place.file("groups", "# all\n/a/.*=from the file\njob=work\n");
  const auto paths = [&](Words options) {
    options.insert(options.begin(), {"view", "--analyze", "--json", "--input", file});
    auto viewer = place.start(std::move(options));
    CHECK(viewer->wait() == 0);
    std::string text;
    const json all = json::parse(viewer->out());
    for (const auto& row : all.at("endpoints")) text += row.at("path").get<std::string>() + ";";
    return text;
  };
  CHECK(paths({"--path-groups", groups}) == "work;from the file;");
  CHECK(paths({"--path-group", "/b=b", "--path-group", "/a/.*=first", "--path-groups", groups}) == "work;first;");
}

TEST_CASE("what cannot be read exits 1 with one line that says what") {
  Place place;
  const std::string wrong = place.file("wrong", "/a=a\n/b(=b\n");
  const auto [words, hint] = GENERATE_COPY(table<Words, std::string>({
      {Words{"view", "--input", "DIR/missing"}, "cannot open"},
      {Words{"view", "--input", "DIR"}, "Is a directory"},
      {Words{"view", "--analyze", "--input", "/dev/null", "--path-groups", "DIR/missing"}, "No such file"},
      {Words{"view", "--analyze", "--input", "/dev/null", "--path-groups", "DIR"}, "Is a directory"},
      {Words{"view", "--analyze", "--input", "/dev/null", "--path-groups", "DIR/wrong"},
       "path group '/b(': a ( without its ) at character 3"},
      {Words{"view", "--analyze"}, "--input FILE"},
  }));
  Words command = words;
  for (std::string& word : command) {
    if (word.starts_with("DIR")) word.replace(0, 3, place.dir.path());
  }
  auto process = place.start(command);
  CHECK(process->wait() == 1);
  INFO(process->err());
  CHECK(process->out().empty());
  CHECK(process->err().find(hint) != std::string::npos);
  CHECK(process->err().find('\n') == process->err().size() - 1);
}

TEST_CASE("a signal ends the reading of a pipe, and what was read is analysed") {
  Place place;
  auto viewer = place.start({"view", "--json", "--input", "-"});
  REQUIRE(::write(viewer->fd(0), lines.data(), lines.size()) == static_cast<ssize_t>(lines.size()));
  CHECK(viewer->line_with(1, "\"job\"").size() > 0);
  viewer->signal(SIGINT);
  CHECK(viewer->wait() == 0);
  auto analyzing = place.start({"view", "--analyze", "--input", "-"});
  REQUIRE(::write(analyzing->fd(0), lines.data(), lines.size()) == static_cast<ssize_t>(lines.size()));
  analyzing->close(0);
  CHECK(analyzing->wait() == 0);
  CHECK(analyzing->out().starts_with("2 traces, 4 spans"));
}

TEST_CASE("an input without a span exits 1 and says what it takes") {
  Place place;
  const std::string empty = place.file("empty", ""), log = place.file("log", "started\nstopped\n");
  const auto complaint = [&](Words words) {
    auto process = place.start(std::move(words));
    process->close(0);
    CHECK(process->wait() == 1);
    CHECK(process->out().empty());
    return process->err();
  };
  const std::string takes = "; it takes lines of JSON, as `weir view --json` and `weir collect --print json` write them\n";
  CHECK(complaint({"view", "--input", empty}) == "weir: " + empty + ": no spans" + takes);
  CHECK(complaint({"view", "--analyze", "--input", "-"}) == "weir: stdin: no spans" + takes);
  CHECK(complaint({"view", "--json", "--input", log}) == "weir: " + log + ": no spans in 2 lines" + takes);
}
