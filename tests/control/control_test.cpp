// The control socket, from the side of a client that speaks lines: what it changes, what it says, and what it bears.
#include "weir/control.hpp"

#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/line_socket.hpp"
#include "support/log_lines.hpp"
#include "support/sanitizers.hpp"
#include "support/scratch_dir.hpp"
#include "weir/activity/log_tracker.hpp"
#include "weir/bridge/operations_to_spans.hpp"
#include "weir/init.hpp"
#include "weir/operation/operation.hpp"
#include "weir/telemetry/payload.hpp"
#include "weir/telemetry/telemetry.hpp"
#include "weir/trace/in_memory_sender.hpp"

using namespace weir;
using namespace weir::testing;
using nlohmann::json;

namespace shop {
struct QuerySql {
  struct Args {};
  struct Result {};
};
struct HandleRequest {
  static constexpr std::string_view name = "request";
  struct Args {};
  struct Result {};
};
struct Late {
  struct Args {};
  struct Result {};
};
struct Note {
  int number;
};
}  // namespace shop

namespace {

/// A process under control, for the length of a test.
class Controlled {
 public:
  Controlled() : path(dir_ / "control.sock") { REQUIRE(enable_control({.socket = path, .service = "shop"})); }
  ~Controlled() { disable_control(); }

 private:
  ScratchDir dir_;

 public:
  const std::string path;
};

class Client {
 public:
  explicit Client(const std::string& path) : socket(LineSocket::connect(path)) { hello = next(); }

  json next() {
    const auto line = socket.line();
    REQUIRE(line);
    return json::parse(*line);
  }
  json ask(const std::string& line) {
    REQUIRE(socket.send(line + "\n"));
    return next();
  }
  json set(const json& settings) { return ask(json{{"id", ++id_}, {"set", settings}}.dump()); }
  /// One that makes sense.
  void must_set(const json& settings) {
    const json answer = set(settings);
    CHECK(answer == json{{"id", id_}, {"ok", true}});
  }
  json stats() {
    const json answer = ask(json{{"id", ++id_}, {"get", "stats"}}.dump());
    CHECK(answer["id"] == id_);
    CHECK(answer["ok"] == true);
    return answer["stats"];
  }

  LineSocket socket;
  json hello;

 private:
  std::int64_t id_ = 0;
};

/// A session whose spans stay here.
class Service {
 public:
  explicit Service(std::optional<Sampler> sampler = {}) {
    InitOptions options;
    options.service = "inner";
    options.sender = std::make_shared<InMemorySender>(sink_);
    options.sampler = std::move(sampler);
    session_ = init(std::move(options));
    REQUIRE(session_);
  }
  /// Of `count` traces, how many are recorded.
  std::size_t recorded(int count = 100) {
    sink_.clear();
    for (int i = 0; i < count; ++i) (void)tracer().enter("work");
    return sink_.spans().size();
  }
  std::vector<std::string> names() {
    std::vector<std::string> names;
    for (const Span& span : sink_.spans()) names.push_back(span.name);
    sink_.clear();
    return names;
  }

 private:
  InMemorySender sink_;
  Session session_;
};

std::vector<std::string> sorted_keys(const json& object) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.push_back(key);
  return keys;
}

}  // namespace

TEST_CASE("a client is greeted, and hears what the process is") {
  const Controlled controlled;
  CHECK(control_socket() == controlled.path);
  struct stat status {};
  REQUIRE(::lstat(controlled.path.c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0600);

  Client client(controlled.path);
  CHECK(client.hello ==
        json{{"weir", "control"}, {"version", 1}, {"pid", ::getpid()}, {"service", "shop"}, {"library", WEIR_VERSION_STRING}});
  const json stats = client.stats();
  CHECK(stats["pid"] == ::getpid());
  CHECK(stats["service"] == "shop");
  CHECK(stats["weir"] == WEIR_VERSION_STRING);
  CHECK(stats["settings"] ==
        json{{"sampling", nullptr}, {"log_level", nullptr}, {"disabled_keys", json::array()}, {"disabled_operations", json::array()}});
  CHECK(stats["spans"].size() == 12);
  CHECK(stats["telemetry"].size() == 7);
}

TEST_CASE("enabling again changes nothing, and disabling removes the socket") {
  {
    const Controlled controlled;
    Client client(controlled.path);
    CHECK(enable_control());
    CHECK(control_socket() == controlled.path);
    CHECK(client.stats()["pid"] == ::getpid());
    disable_control();
    disable_control();
    CHECK(control_socket().empty());
    CHECK(::access(controlled.path.c_str(), F_OK) != 0);
    CHECK(::access((controlled.path + ".lock").c_str(), F_OK) != 0);
    CHECK_FALSE(client.socket.line());
  }
  const Controlled again;
  CHECK(Client(again.path).stats()["pid"] == ::getpid());
}

TEST_CASE("a path that is no good is an error, and nothing listens") {
  const ScratchDir dir;
  const auto enabled = enable_control({.socket = dir / "missing/deep/control.sock"});
  REQUIRE_FALSE(enabled);
  CHECK(enabled.error().code == std::errc::no_such_file_or_directory);
  CHECK(control_socket().empty());
  const auto placed = enable_control({.socket = dir / "control-%p-%p.sock"});
  REQUIRE(placed);
  const std::string pid = std::to_string(::getpid());
  CHECK(control_socket() == dir / ("control-" + pid + "-" + pid + ".sock"));
  disable_control();
}

TEST_CASE("sampling changes while the process runs, and comes back as the program has it") {
  const Controlled controlled;
  Client client(controlled.path);
  Service service(Sampler::always());
  CHECK(service.recorded() == 100);
  client.must_set({{"sampling", 0}});
  CHECK(service.recorded() == 0);
  const json stats = client.stats();
  CHECK(stats["sampling"] == "parent_based(never)");
  CHECK(stats["settings"]["sampling"] == "parent_based(never)");
  CHECK(stats["spans"]["not_sampled"] == 100);

  SECTION("a half is about a half") {
    client.must_set({{"sampling", 0.5}});
    const std::size_t recorded = service.recorded(4000);
    CHECK(recorded > 1500);
    CHECK(recorded < 2500);
  }
  SECTION("as text") {
    for (const auto& [text, meant] :
         std::vector<std::pair<std::string, Sampler>>{{"always", Sampler::parent_based(Sampler::always())},
                                                      {"never", Sampler::parent_based(Sampler::never())},
                                                      {"ratio:0.25", Sampler::parent_based(Sampler::ratio(0.25))},
                                                      {"0.25", Sampler::parent_based(Sampler::ratio(0.25))},
                                                      {"always_on", Sampler::always()},
                                                      {"always_off", Sampler::never()},
                                                      {"traceidratio:0.25", Sampler::ratio(0.25)},
                                                      {"parentbased_traceidratio:0.25", Sampler::parent_based(Sampler::ratio(0.25))}}) {
      CAPTURE(text);
      client.must_set({{"sampling", text}});
      CHECK(tracer().sampler().to_string() == meant.to_string());
    }
  }
  SECTION("without the key it is the program's again") {
    client.must_set({{"log_level", "warn"}});
    CHECK(service.recorded() == 100);
    CHECK(tracer().sampler().to_string() == "always");
  }
  SECTION("what the program sets meanwhile waits") {
    tracer().set_sampler(Sampler::ratio(0.75));
    CHECK(service.recorded() == 0);
    client.must_set(json::object());
    CHECK(tracer().sampler().to_string() == "ratio(0.75)");
  }
  SECTION("what is in force outlives the client") {
    client.socket.close();
    Client other(controlled.path);
    CHECK(other.stats()["sampling"] == "parent_based(never)");
    CHECK(service.recorded() == 0);
  }
  SECTION("the end of control puts it back") {
    disable_control();
    CHECK(service.recorded() == 100);
  }
}

TEST_CASE("sampling that was set before a session begins holds for it") {
  const Controlled controlled;
  Client client(controlled.path);
  client.must_set({{"sampling", 0}});
  {
    Service service(Sampler::always());
    CHECK(service.recorded() == 0);
    client.must_set(json::object());
    CHECK(service.recorded() == 100);
    client.must_set({{"sampling", "never"}});
  }
  Service later;
  CHECK(later.recorded() == 0);
}

TEST_CASE("observers hear nothing of operations that are disabled; typed listeners hear everything") {
  const Controlled controlled;
  Client client(controlled.path);
  Service service;
  std::atomic<int> heard{0};
  const auto both = [] {
    const Op<shop::HandleRequest> request{{}};
    const Op<shop::QuerySql> query{{}};
  };
  both();
  CHECK(service.names() == std::vector<std::string>{"QuerySql", "request"});

  SECTION("by its name without namespaces") { client.must_set({{"disabled_operations", {"QuerySql"}}}); }
  SECTION("by a pattern of its type") { client.must_set({{"disabled_operations", {"nothing", "shop::Q*"}}}); }
  both();
  CHECK(service.names() == std::vector<std::string>{"request"});
  CHECK(client.stats()["settings"]["disabled_operations"].size() > 0);

  {
    Op<shop::HandleRequest> request{{}};
    request.on_start<shop::QuerySql>([&] { ++heard; });
    request.on_finish<shop::QuerySql>([&] { heard += 10; });
    request.on_data<shop::Note>([&](shop::Note& note) { note.number = 7; });
    Op<shop::QuerySql> query{{}};
    shop::Note note{1};
    query.emit(note);
    CHECK(note.number == 7);
    query.finish({});
  }
  CHECK(heard == 11);
  CHECK(service.names() == std::vector<std::string>{"request"});
  CHECK(telemetry().take().as_int("QuerySql") == 0);

  client.must_set({{"disabled_operations", {"request"}}});  // T::name
  both();
  CHECK(service.names() == std::vector<std::string>{"QuerySql"});
  client.must_set({{"disabled_operations", {"*"}}});
  both();
  { const Op<shop::Late> late{{}}; }  // a type that is seen now for the first time
  CHECK(service.names().empty());
  client.must_set(json::object());
  both();
  { const Op<shop::Late> late{{}}; }
  CHECK(service.names() == std::vector<std::string>{"QuerySql", "request", "Late"});
}

TEST_CASE("an operation is heard of wholly or not at all, whatever changes while it runs") {
  struct Counting final : Observer {
    void started(Operation& operation, const EventView&) override {
      operation.attach(this, *new Attachment);
      ++starts;
    }
    void data(Operation&, const EventView&) override { ++events; }
    void finished(Operation&, const EventView&) override { ++finishes; }
    std::atomic<int> starts{0}, events{0}, finishes{0};
  } observer;
  const Controlled controlled;
  Client client(controlled.path);
  Root root;
  root.observe(observer);
  const RootScope scope(std::move(root));
  {
    Op<shop::QuerySql> query{{}};
    client.must_set({{"disabled_operations", {"QuerySql"}}});
    query.emit(shop::Note{1});
  }
  CHECK(observer.starts == 1);
  CHECK(observer.events == 1);
  CHECK(observer.finishes == 1);
  {
    Op<shop::QuerySql> query{{}};
    client.must_set(json::object());
    query.emit(shop::Note{1});
  }
  CHECK(observer.starts == 1);
  CHECK(observer.events == 1);
  CHECK(observer.finishes == 1);
  {
    const auto shared = start<shop::QuerySql>({});
    client.must_set({{"disabled_operations", {"QuerySql"}}});
    const auto unheard = start<shop::QuerySql>({});
    client.must_set(json::object());
    std::thread([&] {
      shared->finish();
      unheard->finish();
    }).join();
  }
  CHECK(observer.starts == 2);
  CHECK(observer.finishes == 2);
}

TEST_CASE("the level of every log tracker changes, of those to come, too, and comes back") {
  const Controlled controlled;
  Client client(controlled.path);
  const Context nowhere;
  const auto sink = std::make_shared<KeepingSink>();
  const bool asynchronous = GENERATE(false, true);
  CAPTURE(asynchronous);
  LogTracker log(sink, {.asynchronous = asynchronous});
  const auto said = [&] {
    {
      Activity activity = log.start(nowhere, "update", "user");
      activity.report_change(1, true);
      activity.report_error("no");
    }
    REQUIRE(log.flush(std::chrono::seconds{60}));
    return sink->take().size();
  };
  CHECK(said() == 4);
  Activity open = log.start(nowhere, "update", "user");
  client.must_set({{"log_level", "warn"}});
  CHECK(client.stats()["settings"]["log_level"] == "warning");
  CHECK(log.level() == Logger::Level::warning);
  open.report_change(1, true);
  open.report_error("no");  // it has what it needs, though its start was written before
  REQUIRE(log.flush(std::chrono::seconds{60}));
  CHECK(count_with(sink->take(), "Operation failed") == 1);
  CHECK(said() == 1);

  const auto other_sink = std::make_shared<KeepingSink>();
  LogTracker other(other_sink, {.level = Logger::Level::error});
  CHECK(other.level() == Logger::Level::warning);
  log.set_level(Logger::Level::error);  // waits until the program decides again
  CHECK(log.level() == Logger::Level::warning);
  client.must_set({{"log_level", "debug"}});
  CHECK(said() == 4);
  CHECK(other.level() == Logger::Level::debug);
  client.must_set(json::object());
  CHECK(log.level() == Logger::Level::error);
  CHECK(other.level() == Logger::Level::error);
  CHECK(said() == 1);
}

TEST_CASE("keys are disabled by patterns, beside what the server disables, and come back") {
  const Controlled controlled;
  Client client(controlled.path);
  Service service;
  (void)telemetry().take();
  const Counter handle = telemetry().counter("http.requests");
  const auto payload = [&] {
    handle.increment();
    telemetry().increment("http.errors");
    telemetry().set("http.version", "2");
    telemetry().increment("tls:abc");
    telemetry().increment("sql");
    Payload taken = telemetry().take();
    std::erase_if(taken.items, [](const auto& item) { return std::string_view(item.key).starts_with("otel.sdk."); });  // the session's own
    return taken;
  };
  CHECK(payload().items.size() == 5);
  handle.increment();
  telemetry().increment("http.errors");
  client.must_set({{"disabled_keys", {"http.*", "tls"}}});
  CHECK(client.stats()["settings"]["disabled_keys"] == json{"http.*", "tls"});
  CHECK(telemetry().disabled("http.errors"));
  const Payload without = payload();
  REQUIRE(without.items.size() == 1);
  CHECK(without.as_int("sql") == 1);

  Response response;
  response.disable_keys = {"sql"};
  telemetry().apply(response);
  CHECK(payload().items.empty());
  client.must_set({{"disabled_keys", {"t?s"}}});
  CHECK(payload().items.size() == 3);
  CHECK(telemetry().disabled("tls:x"));
  client.must_set(json::object());
  const Payload all = payload();
  CHECK(all.items.size() == 4);
  CHECK(all.as_int("http.requests") == 1);  // what was counted meanwhile is nobody's
  CHECK(telemetry().disabled("sql"));
  response.disable_keys = {};
  response.enable_keys = {"sql"};
  telemetry().apply(response);
}

TEST_CASE("a configuration with a mistake changes nothing, and each mistake is named") {
  const Controlled controlled;
  Client client(controlled.path);
  client.must_set({{"sampling", "never"}, {"log_level", "error"}, {"disabled_keys", {"x"}}, {"disabled_operations", {"y"}}});
  const json before = client.stats();
  const std::string long_pattern(300, 'x');
  const auto names = [&](const json& settings) {
    const json answer = client.set(settings);
    CHECK_FALSE(answer.contains("ok"));
    CHECK(client.stats()["settings"] == before["settings"]);
    CHECK(tracer().sampler().to_string() == "parent_based(never)");
    return sorted_keys(answer["error"]);
  };
  using Keys = std::vector<std::string>;
  CHECK(names({{"sampling", 1}, {"colour", "red"}}) == Keys{"colour"});
  CHECK(names({{"sampling", 1.5}, {"log_level", "loud"}, {"disabled_keys", "x"}, {"disabled_operations", {1}}}) ==
        Keys{"disabled_keys", "disabled_operations", "log_level", "sampling"});
  for (const json& wrong : {json(-0.1), json(true), json(nullptr), json("ratio:2"), json("ratio:"), json("ratio"), json("sometimes"),
                            json(""), json("traceidratio:"), json("always_on:x y"), json::array({0.1}), json::object()}) {
    CAPTURE(wrong.dump());
    if (wrong == "always_on:x y") continue;  // arguments of samplers that take none are ignored, as in the environment
    CHECK(names({{"sampling", wrong}}) == Keys{"sampling"});
  }
  for (const json& wrong : {json(nullptr), json({"a", 1}), json({{"a", "b"}}), json({json::array({"a"})}), json({"a", nullptr}), json({""}),
                            json({long_pattern}), json(std::vector<std::string>(33, "a"))}) {
    CAPTURE(wrong.dump());
    CHECK(names({{"disabled_keys", wrong}}) == Keys{"disabled_keys"});
    CHECK(names({{"log_level", "debug"}, {"disabled_operations", wrong}}) == Keys{"disabled_operations"});
  }
  client.must_set({{"disabled_keys", std::vector<std::string>(32, "a*")}});
}

TEST_CASE("what is no request is answered, and the client may go on") {
  const Controlled controlled;
  Client client(controlled.path);
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep += '[';
  std::string many = R"({"id":1,"set":{)";
  for (int i = 0; i < 100; ++i) many += (i != 0 ? ",\"" : "\"") + std::to_string(i) + "\":1";
  many += "}}";
  for (const std::string& line :
       {std::string("garbage"), std::string("[]"), std::string("1"), std::string("null"), std::string("{"), std::string("{\"id\":1}"), deep,
        many, std::string(R"({"set":{},"get":"stats"})"), std::string(R"({"set":[]})"), std::string(R"({"set":1})"),
        std::string(R"({"get":{}})"), std::string("{\"get\":\"\xff\"}"), std::string("\0\0\0", 3),
        std::string(R"({"id":1,"set":{"sampling":1)"), std::string(1u << 20, 'x')}) {
    CAPTURE(line.substr(0, 100));
    const json answer = client.ask(line);
    CHECK(answer.contains("error"));
    CHECK(answer["error"].contains("request"));
  }
  CHECK(client.ask(R"({"id":-5,"get":"weather"})") == json{{"id", -5}, {"error", {{"get", "takes \"stats\""}}}});
  CHECK(client.ask(R"({"id":{"get":1},"get":"stats"})")["id"].is_null());
  CHECK(client.ask("\n\n{\"id\":7,\"set\":{\"sampling\":9},\"set\":{\"sampling\":1}}") == json{{"id", 7}, {"ok", true}});
  client.must_set(json::object());
}

TEST_CASE("requests that come in pieces, or all at once, are answered in order") {
  const Controlled controlled;
  Client client(controlled.path);
  for (const char c : std::string(R"({"id":3,"set":{}})")) REQUIRE(client.socket.send(std::string(1, c)));
  REQUIRE(client.socket.send("\n"));
  CHECK(client.next()["id"] == 3);
  std::string all;
  for (int i = 0; i < 500; ++i) all += R"({"id":)" + std::to_string(i) + R"(,"get":"stats"})" + "\n";
  bool sent = false;
  std::thread sending([&] { sent = client.socket.send(all); });
  for (int i = 0; i < 500; ++i) CHECK(client.next()["id"] == i);
  sending.join();
  CHECK(sent);
}

TEST_CASE("a client that reads nothing costs nothing and disturbs nobody") {
  const Controlled controlled;
  Client slow(controlled.path);
  std::string request = R"({"id":1,"set":{"disabled_keys":[)";
  for (int i = 0; i < 32; ++i) request += (i != 0 ? ",\"" : "\"") + std::string(200, 'k') + "\"";
  CHECK(slow.ask(request + "]}}")["ok"] == true);
  for (;;) {  // until the process takes no more of it
    const std::string ask = "{\"id\":2,\"get\":\"stats\"}\n";
    if (net::send_some(slow.socket.fd(), ask.data(), ask.size()) < 0) break;
  }
  Client quick(controlled.path);
  quick.must_set({{"sampling", "never"}});
  CHECK(quick.stats()["sampling"] == "parent_based(never)");
}

TEST_CASE("clients that ask for nothing make room for those that do, who keep their place") {
  const Controlled controlled;
  Client first(controlled.path);
  first.must_set(json::object());
  std::vector<LineSocket> idle;
  for (int i = 0; i < 20; ++i) {
    idle.push_back(LineSocket::connect(controlled.path));
    CHECK(idle.back().line());
    if (i % 2 == 0) CHECK(idle.back().send("{\"half"));
  }
  first.must_set({{"log_level", "warn"}});
  std::vector<std::unique_ptr<Client>> managers;
  for (int i = 0; i < 3; ++i) {
    managers.push_back(std::make_unique<Client>(controlled.path));
    managers.back()->must_set(json::object());
  }
  LineSocket fifth = LineSocket::connect(controlled.path);
  const auto refusal = fifth.line();
  REQUIRE(refusal);
  CHECK(json::parse(*refusal)["error"].contains("connection"));
  CHECK_FALSE(fifth.line());
  managers.pop_back();
  CHECK(eventually([&] {
    LineSocket next = LineSocket::connect(controlled.path);
    const auto line = next.line();
    return line && json::parse(*line).contains("weir");
  }));
  first.must_set(json::object());
}

#if defined(WEIR_TESTS_TSAN) || !defined(WEIR_TESTS_SANITIZED)  // UndefinedBehaviorSanitizer needs descriptors
TEST_CASE("a limit of descriptors below those in use keeps nobody from being answered") {
  const Controlled controlled;
  Client first(controlled.path), second(controlled.path), third(controlled.path);
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  const auto limit = [&](rlim_t to) {
    const rlimit limited{to, before.rlim_max};
    return ::setrlimit(RLIMIT_NOFILE, &limited) == 0;
  };
  REQUIRE(limit(1));
  for (Client* const client : {&first, &second, &third}) client->must_set({{"sampling", 0.5}});
  for (Client* const client : {&first, &second, &third}) client->must_set(json::object());
  third.socket.close();
  first.must_set(json::object());
  REQUIRE(limit(before.rlim_cur));
  CHECK(Client(controlled.path).stats()["settings"]["sampling"] == nullptr);
}
#endif

TEST_CASE("keys that are made meanwhile are disabled, too, when the answer has come") {
  const Controlled controlled;
  Client client(controlled.path);
  Service service;
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&stop] {
      for (unsigned n = 0; !stop; ++n) {
        const std::string number = std::to_string(n % 500);
        telemetry().increment("a.count." + number);
        telemetry().set("a.value." + number, n);
        telemetry().increment("b.count." + number);
      }
    });
  }
  const auto has = [](const Payload& payload, std::string_view start) {
    return std::any_of(payload.items.begin(), payload.items.end(),
                       [&](const auto& item) { return std::string_view(item.key).starts_with(start); });
  };
  for (int i = 0; i < 30; ++i) {
    CAPTURE(i);
    client.must_set({{"disabled_keys", {"x", "a.*"}}});
    CHECK_FALSE(has(telemetry().take(), "a."));
    CHECK(eventually([&] { return has(telemetry().take(), "b."); }));
    CHECK_FALSE(has(telemetry().take(), "a."));
    client.must_set({{"disabled_keys", {"a.c*", "y"}}});
    CHECK(eventually([&] { return has(telemetry().take(), "a.v"); }));
    CHECK_FALSE(has(telemetry().take(), "a.c"));
    client.must_set(json::object());
    CHECK(eventually([&] {
      const Payload payload = telemetry().take();
      return has(payload, "a.c") && has(payload, "a.v") && has(payload, "b.c");
    }));
  }
  stop = true;
  for (std::thread& each : threads) each.join();
  (void)telemetry().take();
  CHECK(telemetry().stats().items <= telemetry().take().items.size());  // what was dropped is off the account
}

TEST_CASE("it is changed while spans, operations, lines and counts are made") {
  const Controlled controlled;
  Service service;
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> made{0};
  const auto sink = std::make_shared<KeepingSink>();
  LogTracker log(sink);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        const Op<shop::HandleRequest> request{{}};
        { const Op<shop::QuerySql> query{{}}; }
        telemetry().increment("http.requests");
        (void)log.start(Context(), "work", "thing");
        made += 1;
      }
    });
  }
  std::vector<std::thread> managers;
  std::atomic<int> answers{0};
  for (int i = 0; i < 2; ++i) {
    auto connected = net::connect_unix(controlled.path);
    REQUIRE(connected);
    managers.emplace_back([&answers, i, fd = std::move(*connected)] {  // without the framework, which is for one thread
      std::string received;
      const auto one_more_line = [&] {
        for (std::size_t end; (end = received.find('\n')) == received.npos;) {
          pollfd entry{fd.get(), POLLIN, 0};
          char part[4096];
          if (::poll(&entry, 1, 60'000) != 1) return false;
          const ssize_t size = net::receive_some(fd.get(), part, sizeof part);
          if (size <= 0) return false;
          received.append(part, static_cast<std::size_t>(size));
        }
        received.erase(0, received.find('\n') + 1);
        return true;
      };
      if (!one_more_line()) return;
      for (int round = 0; round < 50; ++round) {
        const json settings =
            (round + i) % 2 == 0
                ? json{{"sampling", 0.5}, {"disabled_operations", {"Query*"}}, {"disabled_keys", {"http*"}}, {"log_level", "error"}}
                : json::object();
        const std::string line = json{{"id", round}, {"set", settings}}.dump() + "\n";
        if (net::send_some(fd.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size()) || !one_more_line()) return;
        ++answers;
      }
    });
  }
  for (auto& each : managers) each.join();
  CHECK(answers == 100);
  stop = true;
  for (auto& each : threads) each.join();
  const TracerStats stats = tracer().stats();
  CHECK(stats.emitted == stats.delivered + stats.in_flight + stats.dropped());
  CHECK(made > 0);
  Client client(controlled.path);
  client.must_set(json::object());
}
