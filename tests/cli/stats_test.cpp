// `weir stats`, and `weir collect` with rules of what it keeps: the real program, real sockets.
#include <algorithm>
#include <csignal>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/command.hpp"
#include "support/eventually.hpp"

using namespace std::chrono_literals;
using nlohmann::json;
using weir::testing::CommandPlace;
using weir::testing::eventually;
using Words = CommandPlace::Words;

namespace {

std::size_t lines_in(const std::string& text) { return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')); }

/// What `weir stats --json` says now. The machine may be busy: the default of 1 s is for people.
json stats(const CommandPlace& place) {
  auto process = place.start({"stats", "--json", "--timeout", "60s"});
  REQUIRE(process->wait() == 0);
  REQUIRE(lines_in(process->out()) == 1);
  return json::parse(process->out());
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

}  // namespace

TEST_CASE("stats tells the counters of the running collector, while it runs and when it has ended") {
  CommandPlace place;
  auto collector = place.collect({"--settle", "1ms"});
  place.send("t1", "GET /", 5ms);
  const json counters = stats(place);
  CHECK(counters.at("view").at("inquiries") == 0);  // this one is not answered yet
  CHECK_FALSE(counters.contains("telemetry"));
  CHECK(eventually([&] {
    const json now = stats(place);
    return now.at("store").at("spans") == 1 && now.at("lines") == 2 && now.at("print").at("printed") == 1;
  }));
  const json before = stats(place);
  collector->signal(SIGTERM);
  CHECK(collector->wait() == 0);
  json last = json::parse(lines_of(collector->err()).back());
  CHECK(last.at("view").at("inquiries") == before.at("view").at("inquiries").get<int>() + 1);
  CHECK(last.at("store") == before.at("store"));
}

#if WEIR_HAVE_HTTPLIB
TEST_CASE("stats tells of telemetry where it is served") {
  CommandPlace place;
  auto collector = place.collect({"--http", "unix:" + (place.dir / "http.sock")});
  CHECK(stats(place).at("telemetry").at("http").at("requests") == 0);
  auto process = place.start({"stats", "--all", "--timeout", "60s"});
  CHECK(process->wait() == 0);
  INFO(process->out());
  CHECK(process->out().find("\ntelemetry\n") != std::string::npos);
  collector->signal(SIGTERM);
  CHECK(collector->wait() == 0);
  CHECK(json::parse(lines_of(collector->err()).back()).at("telemetry").contains("http"));
}
#endif

TEST_CASE("who looks at the socket for services is told of the other one") {
  CommandPlace place;
  auto collector = place.collect();
  auto process = place.start({"stats", "--timeout", "100ms", "--view-socket", place.socket()});
  CHECK(process->wait() == 1);
  CHECK(process->err().find("for viewers there is '" + place.view_socket() + "'") != std::string::npos);
  collector->signal(SIGTERM);
  CHECK(collector->wait() == 0);
}

TEST_CASE("stats as a table: groups, aligned, without what is zero") {
  CommandPlace place;
  auto collector = place.collect({"--settle", "1ms"});
  place.send("t1", "GET /", 5ms);
  collector->line_with(1, "GET /");
  REQUIRE(eventually([&] { return stats(place).at("open_connections") == 0; }));
  auto process = place.start({"stats", "--timeout", "60s"});
  CHECK(process->wait() == 0);
  INFO(process->out());
  CHECK(process->err().empty());
  CHECK(process->out().find("spans\n  completed") == 0);
  std::size_t width = 0;
  for (const std::string& line : lines_of(process->out())) {
    if (!line.starts_with("  ")) continue;
    if (width == 0) width = line.size();
    CHECK(line.size() == width);
    CHECK_FALSE(line.ends_with(" 0"));
  }
  CHECK(process->out().find("\nviewers\n") != std::string::npos);
  CHECK(process->out().find("\nrejected\n") == std::string::npos);

  auto all = place.start({"stats", "--all", "--view-socket", place.view_socket(), "--timeout", "60s"});
  CHECK(all->wait() == 0);
  INFO(all->out());
  for (const char* group : {"\nrejected\n", "\ndropped\n", "\nconnections\n", "\nmemory\n", "\nviewers\n", "\nprinted\n"})
    CHECK(all->out().find(group) != std::string::npos);
  CHECK(all->out().find("\nother\n") == std::string::npos);  // each counter has a place in a group
  for (const char* group : {"\nstore\n", "\nview\n", "\nprint\n"}) CHECK(all->out().find(group) == std::string::npos);
}

TEST_CASE("stats without an answer says why") {
  CommandPlace place;
  const auto failure = [&](const Words& words) {
    auto process = place.start(words);
    CHECK(process->wait() == 1);
    CHECK(process->out().empty());
    CHECK(lines_in(process->err()) == 1);
    return process->err();
  };
  const std::string none = failure({"stats"});
  CHECK(none.find("weir collect") != std::string::npos);
  CHECK(none.find("--follow") == std::string::npos);  // which it has not
  CHECK(failure({"stats", "--view-socket", place.dir / "missing.sock"}).find("missing.sock") != std::string::npos);
  // One that does not know the request: as the original's, it listens and says nothing.
  auto silent = weir::net::UnixListener::bind(place.dir / "old-view.sock");
  REQUIRE(silent);
  const std::string old = failure({"stats", "--view-socket", place.dir / "old-view.sock", "--timeout", "10ms"});
  CHECK(old.find("10ms") != std::string::npos);
  CHECK(old.find("older") != std::string::npos);
}

TEST_CASE("stats and doctor say what they take, and what is wrong with the rest") {
  CommandPlace place;
  auto help = place.start({"stats", "--help"});
  CHECK(help->wait() == 0);
  for (const char* word : {"--view-socket", "--timeout", "1s", "--json", "--all", "default"})
    CHECK(help->out().find(word) != std::string::npos);
  auto doctor = place.start({"doctor", "--help"});
  CHECK(doctor->wait() == 0);
  for (const char* word : {"--json", "Exit codes"}) CHECK(doctor->out().find(word) != std::string::npos);
  auto all = place.start({"--help"});
  CHECK(all->wait() == 0);
  for (const char* word : {"stats", "doctor"}) CHECK(all->out().find(word) != std::string::npos);
  for (const std::string command : {"collect", "run"}) {
    auto collect = place.start({command, "--help"});
    CHECK(collect->wait() == 0);
    for (const char* word : {"--keep", "--drop", "--keep-ratio", "duration>=250ms"}) CHECK(collect->out().find(word) != std::string::npos);
  }
  const auto [words, hint] = GENERATE(table<Words, std::string>({
      {Words{"stats", "--json", "--all"}, "--all"},
      {Words{"stats", "--timeout", "1"}, "500ms"},
      {Words{"stats", "now"}, "now"},
      {Words{"doctor", "--all"}, "--all"},
      {Words{"collect", "--keep", "slow"}, "duration>=250ms"},
      {Words{"collect", "--keep", "error"}, "--keep-ratio 0"},
      {Words{"run", "--keep", "error", "--", "true"}, "--keep-ratio 0"},
      {Words{"collect", "--keep", "error", "--keep", "duration>=soon"}, "'soon'"},
      {Words{"collect", "--drop"}, "--drop"},
      {Words{"collect", "--keep-ratio", "10%"}, "from 0 to 1"},
      {Words{"run", "--keep-ratio", "1.1", "--", "true"}, "from 0 to 1"},
  }));
  auto process = place.start(words);
  CHECK(process->wait() == 2);
  INFO(process->err());
  CHECK(lines_in(process->err()) == 1);
  CHECK(process->err().find(hint) != std::string::npos);
}

TEST_CASE("collect prints and replays the traces that its rules keep, in the order in which they are given, and counts the others") {
  CommandPlace place;
  auto collector = place.collect({"--settle", "1ms", "--keep", "error", "--drop", "name=GET /health*", "--keep",
                                  "duration>=250ms && name=GET *", "--drop", "tenant=test-?", "--keep", "service=*", "--keep-ratio", "0"});
  const auto send = [&](const std::string& trace, const std::string& name, std::chrono::milliseconds duration,
                        weir::StringAttributes attributes = {}) { place.send(trace, name, duration, std::move(attributes)); };
  send("t1", "GET /health", 300ms);
  send("t2", "GET /healthz", 1ms, {{"error", "true"}});
  send("t3", "GET /slow", 250ms, {{"tenant", "test-1"}});
  send("t4", "GET /fast", 1ms, {{"tenant", "test-1"}});
  send("t5", "GET /other", 1ms);
  REQUIRE(eventually([&] {
    const json store = stats(place).at("store");
    return store.at("traces").get<int>() + store.at("dropped_by_rule").get<int>() == 5;
  }));
  const json store = stats(place).at("store");
  CHECK(store.at("kept_by_rule") == 3);
  CHECK(store.at("dropped_by_rule") == 2);
  CHECK(store.at("dropped_by_ratio") == 0);
  CHECK(store.at("unkept_spans") == 2);
  CHECK(store.at("kept_traces") == 3);
  auto viewer = place.start({"view", "--json", "--last", "10"});
  std::vector<std::string> replayed;
  for (int i = 0; i < 3; ++i) replayed.push_back(json::parse(*viewer->line(1)).at("trace_id"));
  std::sort(replayed.begin(), replayed.end());
  CHECK(replayed == std::vector<std::string>{"t2", "t3", "t5"});
  send("t6", "GET /health", 1ms);  // live spans come whatever the rules say
  CHECK(json::parse(*viewer->line(1)).at("trace_id") == "t6");
  collector->signal(SIGTERM);
  CHECK(collector->wait() == 0);
  CHECK(lines_in(collector->out()) == 3);
  for (const char* name : {"GET /healthz", "GET /slow", "GET /other"}) CHECK(collector->out().find(name) != std::string::npos);
}

TEST_CASE("--keep-ratio 0 with no rule prints nothing") {
  CommandPlace place;
  auto collector = place.collect({"--keep-ratio", "0"});
  place.send("t1", "GET /", 5ms);
  collector->signal(SIGTERM);
  CHECK(collector->wait() == 0);
  CHECK(collector->out().empty());
  CHECK(json::parse(lines_of(collector->err()).back()).at("store").at("dropped_by_ratio") == 1);
}
