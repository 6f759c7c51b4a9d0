// `weir collect --db` and `weir run --db`: the real program, killed, stopped and started again on one file.
#include <sys/stat.h>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/line_socket.hpp"
#include "support/process.hpp"
#include "support/sanitizers.hpp"
#include "support/scratch_dir.hpp"
#include "weir/trace/event.hpp"
#include "weir/trace/socket_sender.hpp"
#include "weir/trace/tracer.hpp"
#if WEIR_HAVE_SQLITE3
#include "support/sql.hpp"
#endif

using namespace weir;
using namespace weir::testing;
using nlohmann::json;

namespace {

using Words = std::vector<std::string>;

struct Place {
  ScratchDir dir;
  Process::Environment environment{{"XDG_RUNTIME_DIR", dir.path()}, {"WEIR_SOCKET", ""}, {"NO_COLOR", ""}};
  std::string db = dir / "traces.db";

  std::string socket() const { return dir / "weir/weir.sock"; }
  std::unique_ptr<Process> start(Words words) const {
    words.insert(words.begin(), WEIR_COMMAND);
    return std::make_unique<Process>(std::move(words), environment);
  }
  /// A collector that is ready.
  std::unique_ptr<Process> collect(Words options = {}) const {
    options.insert(options.begin(), {"collect", "--db", db, "--settle", "1ms"});
    auto process = start(std::move(options));
    CHECK(process->line_with(2, "listening socket=").ends_with(" db=" + db));
    return process;
  }
};

#if WEIR_HAVE_SQLITE3

/// Stops it; its counters.
json stop(Process& collector) {
  collector.signal(SIGTERM);
  CHECK(collector.wait() == 0);
  const std::string& text = collector.err();
  const std::size_t last = text.rfind('\n', text.size() - 2);
  INFO(text);
  return json::parse(text.substr(last == text.npos ? 0 : last + 1));
}

Timestamp at(int milliseconds) { return Timestamp{std::chrono::seconds{1'700'000'000} + std::chrono::milliseconds{milliseconds}}; }

/// A trace of a root, its child, and the child's child.
std::string lines_of_trace(const std::string& trace) {
  const auto start = [&](const char* id, const char* parent, const char* name, int time) {
    return to_json(Event::span_start(id, trace, parent, name, SpanKind::http, at(time))) + "\n";
  };
  const auto end = [&](const char* id, int time) { return to_json(Event::span_end(id, trace, at(time), {{"k", "v"}})) + "\n"; };
  return start("a", "", "GET /orders", 0) + start("b", "a", "select", 1) + start("c", "b", "fetch", 2) + end("c", 3) + end("b", 4) +
         end("a", 12);
}

void send(const std::string& socket, const std::string& lines) {
  LineSocket service = LineSocket::connect(socket);
  REQUIRE(service.send(lines));
}

#endif

}  // namespace

#if WEIR_HAVE_SQLITE3

TEST_CASE("what a collector had is there after its restart, for viewers, late spans and the next restart") {
  Place place;
  {
    auto collector = place.collect();
    send(place.socket(), lines_of_trace("t1"));
    {
      Tracer tracer{SocketSender{place.socket()}, {.service_name = "checkout"}};
      ScopedSpan span = tracer.enter("typed");
      span.set("text", "süß");
      span.set("integer", -3);
      span.set("real", 0.5);
      span.set("boolean", true);
    }
    CHECK(eventually([&] { return Sql(place.db).number("SELECT count(*) FROM traces") == 2; }));
    const json counters = stop(*collector);
    CHECK(counters.at("db").at("stored") == 2);
    CHECK(counters.at("db").at("dropped_full") == 0);
    CHECK(counters.at("store").at("restored_traces") == 0);
  }
  struct stat status {};
  REQUIRE(::stat(place.db.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  CHECK(Sql(place.db).value("SELECT service FROM traces WHERE name = 'typed'") == "checkout");
  {
    auto collector = place.collect({"--print", "none"});
    auto viewer = place.start({"view", "--last", "10"});
    CHECK(viewer->line(1) == "GET /orders [http] 12.0ms");
    viewer->line_with(1, "select");
    viewer->line_with(1, "fetch");
    const std::string typed = viewer->line_with(1, "typed");
    auto lines = place.start({"view", "--last", "10", "--json"});
    const json span = json::parse(lines->line_with(1, "\"typed\""));
    CHECK(span.at("attrs") == json{{"text", "süß"}, {"integer", "-3"}, {"real", "0.5"}, {"boolean", "true"}});
    send(place.socket(), to_json(Event::span_start("late", "t1", "c", "late", SpanKind::sql, at(5))) + "\n" +
                             to_json(Event::span_end("late", "t1", at(6))) + "\n");
    CHECK(eventually([&] { return Sql(place.db).number("SELECT spans FROM traces WHERE trace_id = 't1'") == 4; }));
    const json counters = stop(*collector);
    CHECK(collector->out().empty());
    CHECK(counters.at("store").at("restored_traces") == 2);
    CHECK(counters.at("store").at("traces") == 0);
    CHECK(counters.at("store").at("late") == 1);
    CHECK(counters.at("db").at("loaded") == 2);
    CHECK(counters.at("db").at("updated") == 1);
    CHECK(counters.at("db").at("kept_traces") == 2);
  }
  auto collector = place.collect();
  auto lines = place.start({"view", "--last", "10", "--json"});
  CHECK(json::parse(lines->line_with(1, "\"late\"")).at("parent_id") == "c");
  CHECK(stop(*collector).at("store").at("restored_traces") == 2);
}

TEST_CASE("run keeps the traces of its command, too") {
  Place place;
  for (int run = 1; run <= 2; ++run) {
    auto command = place.start({"run", "--db", place.db, "--", WEIR_COMMAND, "--version"});
    CHECK(command->wait() == 0);
    CHECK(command->err().find("not in the database") == std::string::npos);
  }
  CHECK(Sql(place.db).number("SELECT count(*) FROM traces") == 0);
}

TEST_CASE("a collector that is killed many times at any moment under load keeps all that was committed, and nothing half") {
  constexpr int rounds = sanitized ? 6 : 20, traces_of_a_round = 2000;
  const unsigned seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937 random(seed);
  Place place;
  std::vector<std::string> before;
  for (int round = 0; round < rounds; ++round) {
    CAPTURE(round);
    auto collector = place.collect({"--print", "none", "--max-traces", "1000000"});
    std::atomic<int> sent{0};
    LineSocket service = LineSocket::connect(place.socket());
    std::thread sender([&] {
      for (int i = 0; i < traces_of_a_round; ++i, ++sent) {
        if (!service.send(lines_of_trace(std::to_string(round) + "-" + std::to_string(i)))) break;
      }
    });
    const int moment = static_cast<int>(random() % traces_of_a_round);
    const long committed = static_cast<long>(before.size()) + static_cast<long>(random() % 3) * moment / 4;
    std::vector<std::string> seen;
    const bool came = eventually([&] {
      if (sent < moment) return false;
      seen = Sql(place.db).column("SELECT trace_id FROM traces ORDER BY id");
      return static_cast<long>(seen.size()) >= committed;
    });
    for (unsigned spin = random() % 3'000'000; spin > 0; --spin) asm volatile("");  // another moment of what the writer does
    collector->signal(SIGKILL);
    sender.join();
    CHECK(came);
    CHECK(collector->wait() == 1000 + SIGKILL);
    const Sql sql(place.db);
    CHECK(sql.value("PRAGMA integrity_check") == "ok");
    std::vector<std::string> now = sql.column("SELECT trace_id FROM traces ORDER BY id");
    REQUIRE(now.size() >= seen.size());
    CHECK(std::equal(seen.begin(), seen.end(), now.begin()));
    CHECK(std::equal(before.begin(), before.end(), now.begin()));
    // Of this round's those that were completed first, in their order: what is missing is the end.
    for (std::size_t i = before.size(); i < now.size(); ++i) {
      if (now[i] != std::to_string(round) + "-" + std::to_string(i - before.size())) FAIL("the trace " << i << " is " << now[i]);
    }
    CHECK(sql.number("SELECT count(*) FROM traces WHERE spans <> 3 OR json_valid(roots) <> 1 OR "
                     "json_extract(roots, '$[0].children[0].children[0].name') <> 'fetch'") == 0);
    CHECK(sql.number("SELECT traces FROM totals") == static_cast<long>(now.size()));
    before = std::move(now);
  }
  CHECK(before.size() > rounds);
  auto collector = place.collect({"--max-traces", "1000000"});
  CHECK(stop(*collector).at("store").at("restored_traces") == before.size());
}

TEST_CASE("a database that cannot be had exits 1 with one line, and leaves no socket") {
  Place place;
  std::ofstream(place.db) << std::string(1000, 'x');
  for (const Words& words : {Words{"collect", "--db", place.db}, Words{"run", "--db", place.db, "--", "true"}}) {
    auto process = place.start(words);
    CHECK(process->wait() == 1);
    CHECK(process->err() ==
          "weir: cannot open the trace database '" + place.db + "': it is no SQLite database. Name another file, or move this one away\n");
    CHECK_FALSE(std::filesystem::exists(place.socket()));
  }
  std::filesystem::remove(place.db);
  auto first = place.collect();
  auto second = place.start({"collect", "--socket", place.dir / "other.sock", "--db", place.db});
  CHECK(second->wait() == 1);
  CHECK(second->err().find("another collector is using it") != std::string::npos);
}

#else

TEST_CASE("without SQLite --db exits 1 and says what is missing") {
  Place place;
  auto collector = place.start({"collect", "--db", place.db});
  CHECK(collector->wait() == 1);
  CHECK(collector->err().find("libsqlite3-dev") != std::string::npos);
}

#endif
