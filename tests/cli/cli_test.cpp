// The command as people and scripts use it: the real program, real sockets, real signals.
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/command.hpp"
#include "support/eventually.hpp"
#include "support/line_socket.hpp"
#include "support/process.hpp"
#include "support/scratch_dir.hpp"
#include "weir/trace/event.hpp"

using nlohmann::json;
using weir::Event;
using weir::SpanKind;
using weir::Timestamp;
using weir::testing::eventually;
using weir::testing::LineSocket;
using weir::testing::Process;
using weir::testing::ScratchDir;

namespace {

using Place = weir::testing::CommandPlace;
using Words = Place::Words;

/// A program on a terminal of its own.
class Terminal {
 public:
  Terminal(Words command, const Process::Environment& environment) : master_(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)) {
    REQUIRE(master_);
    REQUIRE(::grantpt(master_.get()) == 0);
    REQUIRE(::unlockpt(master_.get()) == 0);
    const std::string name = ::ptsname(master_.get());
    std::vector<char*> arguments;
    for (std::string& word : command) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const weir::testing::EnvironmentBlock variables(environment);
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      ::setsid();
      const int slave = ::open(name.c_str(), O_RDWR);  // and it is the controlling terminal
      for (int fd = 0; fd < 3; ++fd) ::dup2(slave, fd);
      ::execve(arguments[0], arguments.data(), variables.get());
      ::_exit(99);
    }
  }
  ~Terminal() {
    if (pid_ < 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  void type(const std::string& keys) { REQUIRE(::write(master_.get(), keys.data(), keys.size()) == static_cast<ssize_t>(keys.size())); }
  int fd() const { return master_.get(); }
  /// Everything shown so far.
  const std::string& text() const { return text_; }
  void read_until(const std::string& part) {
    while (text_.find(part) == std::string::npos) {
      pollfd entry{master_.get(), POLLIN, 0};
      INFO(text_);
      REQUIRE(::poll(&entry, 1, 60'000) == 1);
      char some[4096];
      const ssize_t size = ::read(master_.get(), some, sizeof some);
      REQUIRE(size > 0);
      text_.append(some, static_cast<std::size_t>(size));
    }
  }
  int wait() {
    int status = 0;
    REQUIRE(::waitpid(pid_, &status, 0) == pid_);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }

 private:
  weir::net::Fd master_;
  pid_t pid_ = -1;
  std::string text_;
};

Timestamp at(int milliseconds) { return Timestamp{std::chrono::seconds{1'700'000'000} + std::chrono::milliseconds{milliseconds}}; }

/// A trace of a root and one child, as a service sends it.
std::string lines_of_trace(const std::string& trace) {
  const auto start = [&](const char* id, const char* parent, const char* name, SpanKind kind, int time) {
    return weir::to_json(Event::span_start(id, trace, parent, name, kind, at(time))) + "\n";
  };
  const auto end = [&](const char* id, int time) { return weir::to_json(Event::span_end(id, trace, at(time), {{"k", "v"}})) + "\n"; };
  return start("a", "", "GET /orders", SpanKind::http, 0) + start("b", "a", "select", SpanKind::sql, 1) + end("b", 3) + end("a", 12);
}

/// Sends and waits until the collector has read it all: it closes the connection after us.
void send_trace(const std::string& socket, const std::string& trace) {
  LineSocket service = LineSocket::connect(socket);
  REQUIRE(service.send(lines_of_trace(trace)));
}

/// Sends probes until the viewer shows something: a viewer who has connected gets what comes after it was accepted.
void wait_until_served(const std::string& socket, int viewer_output) {
  for (int i = 0; i < 10'000; ++i) {
    send_trace(socket, "probe" + std::to_string(i));
    pollfd entry{viewer_output, POLLIN, 0};
    if (::poll(&entry, 1, 10) == 1) return;
  }
  FAIL("the viewer shows nothing");
}

std::size_t lines_in(const std::string& text) { return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')); }

json last_line_as_json(const std::string& text) {
  std::istringstream stream(text);
  std::string line, last;
  while (std::getline(stream, line)) last = line;
  return json::parse(last, nullptr, false);
}

}  // namespace

TEST_CASE("help names every option with its default and succeeds") {
  Place place;
  auto help = place.start({"--help"});
  CHECK(help->wait() == 0);
  for (const char* word : {"collect", "view", "run", "--version"}) CHECK(help->out().find(word) != std::string::npos);
  for (const std::string command : {"collect", "run"}) {
    auto collect = place.start({command, "--help"});
    CHECK(collect->wait() == 0);
    CHECK(collect->err().empty());
    for (const char* word : {"--socket",
                             "--view-socket",
                             "--db",
                             "gone with the collector",
                             "--max-traces",
                             "10000",
                             "--max-age",
                             "60m",
                             "--max-memory",
                             "256MiB",
                             "--max-pending",
                             "1000000",
                             "--trace-ttl",
                             "60s",
                             "--settle",
                             "500ms",
                             "--print",
                             "tree",
                             "--no-shared-memory",
                             "map it",
                             "--allow-uid",
                             "nobody"}) {
      INFO(command << " " << word);
      CHECK(collect->out().find(word) != std::string::npos);
    }
  }
  auto telemetry = place.start({"collect", "--help"});
  CHECK(telemetry->wait() == 0);
  for (const char* word : {"--http", "no telemetry", "--telemetry-db", "in memory", "--telemetry-policy", "an update each hour"})
    CHECK(telemetry->out().find(word) != std::string::npos);
  auto view = place.start({"view", "--help"});
  CHECK(view->wait() == 0);
  for (const char* word : {"--view-socket", "--last", "--json", "--follow", "--input", "--analyze", "--sort", "--limit", "--path-group ",
                           "--path-groups", "default"})
    CHECK(view->out().find(word) != std::string::npos);
  auto version = place.start({"--version"});
  CHECK(version->wait() == 0);
  CHECK(version->out().starts_with("weir "));
}

TEST_CASE("help as a word is as --help") {
  Place place;
  for (const Words& words : {Words{}, Words{"collect"}, Words{"run"}, Words{"ps"}}) {
    Words with_word{"help"}, with_option = words;
    with_word.insert(with_word.end(), words.begin(), words.end());
    with_option.push_back("--help");
    auto word = place.start(with_word), option = place.start(with_option);
    CHECK(option->wait() == 0);
    CHECK(word->wait() == 0);
    CHECK(word->out() == option->out());
    CHECK(word->err().empty());
  }
}

TEST_CASE("wrong usage exits 2 with one line that helps") {
  Place place;
  const auto [words, hint] = GENERATE(table<Words, std::string>({
      {Words{}, "--help"},
      {Words{"dance"}, "--help"},
      {Words{"collect", "--no-such-option"}, "--no-such-option"},
      {Words{"collect", "extra"}, "extra"},
      {Words{"collect", "--", "ls"}, "--"},
      {Words{"collect", "--max-traces", "0"}, "--max-traces"},
      {Words{"collect", "--max-traces", "-1"}, "--max-traces"},
      {Words{"collect", "--max-traces", "many"}, "'many'"},
      {Words{"collect", "--max-memory", "1MB"}, "256MiB"},
      {Words{"collect", "--max-age", "60"}, "60s"},
      {Words{"collect", "--db", ""}, "--db"},
      {Words{"collect", "--max-memory", "99999999999GiB"}, "256MiB"},
      {Words{"collect", "--trace-ttl", "60"}, "60s"},
      {Words{"collect", "--settle", "-5s"}, "500ms"},
      {Words{"collect", "--print", "xml"}, "tree, json, none"},
      {Words{"collect", "--allow-uid", "no-such-user"}, "no-such-user"},
      {Words{"collect", "--socket", ""}, "--socket"},
      {Words{"collect", "--socket"}, "--socket"},
      {Words{"collect", "--socket", "/x/a.sock", "--view-socket", "/x/../x/a.sock"}, "'/x/a.sock' is the socket for services"},
      {Words{"run", "--socket", "a.sock", "--view-socket", "./a.sock", "--", "true"}, "is the socket for services"},
      {Words{"help", "dance"}, "There is no 'dance'"},
      {Words{"dance", "--help"}, "There is no 'dance'"},
      {Words{"view", "--last", "-1"}, "--last"},
      {Words{"view", "--last", "all"}, "'all'"},
      {Words{"view", "--print", "json"}, "--print"},
      {Words{"view", "--sort", "p95"}, "--analyze"},
      {Words{"view", "--analyze", "--sort", "p50"}, "total, avg, p95, count"},
      {Words{"view", "--analyze", "--limit", "-1"}, "--limit"},
      {Words{"view", "--path-group", "/a=b"}, "--analyze"},
      {Words{"view", "--analyze", "--path-group", "/a="}, "REGEX=NAME"},
      {Words{"view", "--analyze", "--path-group", "/users/(=x"}, "path group '/users/(': a ( without its ) at character 8"},
      {Words{"view", "--input", "-", "--last", "5"}, "--input"},
      {Words{"run"}, "command"},
      {Words{"run", "--"}, "command"},
      {Words{"run", "--no-such-option", "--", "true"}, "--no-such-option"},
  }));
  auto process = place.start(words);
  CHECK(process->wait() == 2);
  INFO(process->err());
  CHECK(process->out().empty());
  CHECK(lines_in(process->err()) == 1);
  CHECK(process->err().starts_with("weir: "));
  CHECK(process->err().find(hint) != std::string::npos);
  CHECK(process->err().find("--help") != std::string::npos);
}

TEST_CASE("a socket that cannot be had exits 1 with one line") {
  Place place;
  const std::string precious = place.dir / "precious";
  std::ofstream(precious) << "precious";
  auto [words, hint] = GENERATE(table<Words, std::string>({
      {Words{"collect", "--socket", "DIR/precious"}, "not a socket"},
      {Words{"collect", "--view-socket", "DIR/precious"}, "not a socket"},
      {Words{"collect", "--socket", "DIR/no/such/dir.sock"}, "no/such"},
      {Words{"collect", "--socket", "DIR/" + std::string(200, 'x')}, "at most 107"},
      {Words{"run", "--socket", "DIR/precious", "--", "true"}, "not a socket"},
      {Words{"view", "--view-socket", "DIR/missing.sock"}, "missing.sock"},
      {Words{"view"}, "weir collect"},
  }));
  for (std::string& word : words) {
    if (word.starts_with("DIR")) word.replace(0, 3, place.dir.path());
  }
  auto process = place.start(words);
  CHECK(process->wait() == 1);
  INFO(process->err());
  CHECK(process->out().empty());
  CHECK(lines_in(process->err()) == 1);
  CHECK(process->err().find(hint) != std::string::npos);
  CHECK(std::filesystem::is_regular_file(precious));
}

TEST_CASE("a relative socket path is said as services need it, absolute") {
  Place place;
  const std::string path = place.dir / "here.sock";
  auto collector = place.start({"collect", "--socket", std::filesystem::relative(path).string()});
  collector->line_with(2, "listening socket=" + path + " view=");
  collector->signal(SIGTERM);
  CHECK(collector->wait() == 0);
}

TEST_CASE("a WEIR_SOCKET that is no absolute path is said to be ignored, and the default is taken") {
  Place place;
  place.environment["WEIR_SOCKET"] = "weir.sock";
  const std::string complaint = "weir: WEIR_SOCKET=weir.sock is ignored: it takes an absolute path of at most 107 bytes";
  auto collector = place.start({"collect"});
  CHECK(collector->line(2) == complaint);
  collector->line_with(2, "listening socket=" + place.socket());
  auto viewer = place.start({"view", "--once"});
  CHECK(viewer->wait() == 0);
  CHECK(viewer->err() == complaint + "\n");
}

TEST_CASE("a second collector on the same socket is told that it is in use") {
  Place place;
  auto first = place.collect();
  auto second = place.start({"collect"});
  CHECK(second->wait() == 1);
  CHECK(second->err().find("Address already in use") != std::string::npos);
  send_trace(place.socket(), "t1");
  first->signal(SIGTERM);
  CHECK(first->wait() == 0);
  CHECK(first->out().find("GET /orders") != std::string::npos);
}

TEST_CASE("collect prints trees, ends on a signal with exit 0, its counters as JSON, and no sockets left") {
  Place place;
  const int signal = GENERATE(SIGINT, SIGTERM, SIGHUP);
  auto collector = place.collect();
  struct stat status {};
  REQUIRE(::stat(place.socket().c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  send_trace(place.socket(), "t1");
  collector->signal(signal);  // at once: what has arrived is completed
  CHECK(collector->wait() == 0);
  CHECK(collector->out() == "GET /orders [http] 12.0ms\n└── select [sql] 2.00ms\n");
  const json counters = last_line_as_json(collector->err());
  INFO(collector->err());
  REQUIRE(counters.is_object());
  CHECK(counters.at("view").at("broadcast") == 0);  // nobody viewed
  CHECK(counters.at("print").at("printed") == 1);
  CHECK(counters.at("print").at("dropped") == 0);
  CHECK(counters.at("store").at("spans") == 2);
  CHECK(lines_in(collector->err()) == 1);  // the listening line was taken before
  CHECK(std::filesystem::is_empty(place.dir / "weir"));
}

TEST_CASE("allowed users widen both sockets") {
  Place place;
  auto collector = place.collect({"--allow-uid", "65533", "--allow-uid", "65532"});
  for (const std::string& path : {place.socket(), place.view_socket()}) {
    struct stat status {};
    REQUIRE(::stat(path.c_str(), &status) == 0);
    CHECK((status.st_mode & 0777) == 0666);
  }
}

TEST_CASE("collect prints a trace as soon as it has settled") {
  Place place;
  auto collector = place.collect({"--settle", "1ms"});
  send_trace(place.socket(), "t1");
  CHECK(collector->line(1) == "GET /orders [http] 12.0ms");
  CHECK(collector->line(1) == "└── select [sql] 2.00ms");
}

TEST_CASE("collect --print json prints one line per root span, --print none nothing") {
  Place place;
  {
    auto collector = place.collect({"--print", "json"});
    send_trace(place.socket(), "t1");
    send_trace(place.socket(), "t2");
    collector->signal(SIGTERM);
    CHECK(collector->wait() == 0);
    CHECK(lines_in(collector->out()) == 2);
    const json root = last_line_as_json(collector->out());
    CHECK(root.at("name") == "GET /orders");
    CHECK(root.at("children").at(0).at("name") == "select");
  }
  auto collector = place.collect({"--print", "none"});
  send_trace(place.socket(), "t1");
  collector->signal(SIGTERM);
  CHECK(collector->wait() == 0);
  CHECK(collector->out().empty());
}

TEST_CASE("on a terminal, ^C sums the collection up for people") {
  Place place;
  Terminal terminal(Words{WEIR_COMMAND, "collect", "--print", "none"}, place.environment);
  terminal.read_until("listening socket=" + place.socket());
  LineSocket service = LineSocket::connect(place.socket());
  REQUIRE(service.send(lines_of_trace("t1") + "no JSON\n"));
  service.close();
  terminal.type("\x03");
  terminal.read_until("weir: rejected 1 line: 1 malformed\r\n");
  CHECK(terminal.text().find("weir: 2 spans in 1 trace\r\nweir: rejected") != std::string::npos);
  CHECK(terminal.text().find('{') == std::string::npos);
  CHECK(terminal.wait() == 0);
}

TEST_CASE("two signals at once, as timeout(1) sends them, are one") {
  Place place;
  auto collector = place.collect({"--settle", "1ms", "--print", "none"});
  send_trace(place.socket(), "t1");
  collector->signal(SIGTERM);
  collector->signal(SIGINT);
  CHECK(collector->wait() == 0);
  CHECK(last_line_as_json(collector->err()).at("store").at("traces") == 1);
  CHECK_FALSE(std::filesystem::exists(place.socket()));
}

TEST_CASE("a reader that goes away does not end the collection") {
  Place place;
  auto collector = place.collect({"--settle", "1ms"});
  collector->close(1);
  send_trace(place.socket(), "t1");
  collector->line_with(2, "cannot write to stdout");
  send_trace(place.socket(), "t2");
  collector->signal(SIGTERM);
  CHECK(collector->wait() == 0);
  const json counters = last_line_as_json(collector->err());
  CHECK(counters.at("store").at("traces") == 2);
  CHECK(counters.at("print").at("dropped") == 2);
  CHECK(collector->err().find("cannot write") == std::string::npos);  // said once
}

TEST_CASE("a reader that pauses does not hold up the collection, and a second signal ends the wait for it") {
  Place place;
  auto collector = place.collect({"--settle", "1ms"});
  auto viewer = place.start({"view", "--json", "--follow"});
  wait_until_served(place.socket(), viewer->fd(1));
  // Far more than a pipe takes; nobody reads our end of stdout meanwhile.
  LineSocket service = LineSocket::connect(place.socket());
  const int traces = 5000;
  for (int i = 0; i < traces; ++i) REQUIRE(service.send(lines_of_trace("trace" + std::to_string(i))));
  viewer->line_with(1, "\"trace_id\":\"trace" + std::to_string(traces - 1) + "\"");
  collector->signal(SIGTERM);
  // The sockets are gone once it only waits for its reader.
  REQUIRE(eventually([&] { return !std::filesystem::exists(place.view_socket()); }));
  int status = 0;
  siginfo_t info{};
  REQUIRE(eventually([&] {  // one that comes right after the first is taken for a part of it
    collector->signal(SIGTERM);
    return ::waitid(P_PID, static_cast<id_t>(collector->pid()), &info, WEXITED | WNOWAIT | WNOHANG) == 0 && info.si_pid != 0;
  }));
  status = info.si_status;
  CHECK(info.si_code == CLD_EXITED);
  CHECK(status == 128 + SIGTERM);
  viewer->signal(SIGTERM);
  CHECK(viewer->wait() == 0);
}

TEST_CASE("view finds the running session and prints its spans as JSON lines") {
  Place place;
  auto collector = place.collect();
  auto viewer = place.start({"view", "--json", "--follow"});
  viewer->line_with(2, "connected to " + place.view_socket());
  wait_until_served(place.socket(), viewer->fd(1));
  send_trace(place.socket(), "t1");
  const json first = json::parse(viewer->line_with(1, "\"trace_id\":\"t1\""));
  CHECK(first.at("name") == "select");
  CHECK(first.at("kind") == 2);
  CHECK(first.at("attrs").at("k") == "v");
  CHECK_FALSE(first.contains("children"));
  CHECK(json::parse(*viewer->line(1)).at("name") == "GET /orders");

  SECTION("it ends on a signal") {
    viewer->signal(SIGINT);
    CHECK(viewer->wait() == 0);
  }
  SECTION("it follows the next collector") {
    collector->signal(SIGTERM);
    CHECK(collector->wait() == 0);
    viewer->line_with(2, "waiting for a collector");
    collector = place.collect();
    wait_until_served(place.socket(), viewer->fd(1));
    send_trace(place.socket(), "t2");
    viewer->line_with(1, "\"trace_id\":\"t2\"");
  }
  SECTION("it ends quietly when its reader goes") {
    viewer->close(1);
    send_trace(place.socket(), "t2");
    CHECK(viewer->wait() == 0);
    CHECK(viewer->err().empty());
  }
}

TEST_CASE("view prints a tree when its root ends, and ends with the collector") {
  Place place;
  auto collector = place.collect({"--print", "none"});
  auto viewer = place.start({"view"});
  wait_until_served(place.socket(), viewer->fd(1));
  viewer->line_with(1, "GET /orders [http] 12.0ms");
  CHECK(viewer->line(1) == "└── select [sql] 2.00ms");
  collector->signal(SIGTERM);
  CHECK(collector->wait() == 0);
  CHECK(viewer->wait() == 0);
  CHECK(viewer->err().empty());
}

TEST_CASE("on a terminal, view says that it waits") {
  Place place;
  auto collector = place.collect();
  Terminal terminal(Words{WEIR_COMMAND, "view"}, place.environment);
  terminal.read_until("weir: connected to " + place.view_socket() + ", waiting for traces\r\n");
  terminal.type("\x03");
  CHECK(terminal.wait() == 0);
}

TEST_CASE("view --once on the socket for services fails and names the one for viewers") {
  Place place;
  auto collector = place.collect();
  auto viewer = place.start({"view", "--once", "--view-socket", place.socket()});
  CHECK(viewer->wait() == 1);
  CHECK(viewer->err() ==
        "weir: '" + place.socket() + "' looks like the socket for services; for viewers there is '" + place.view_socket() + "'\n");
}

TEST_CASE("view --last begins with the traces of before") {
  Place place;
  auto collector = place.collect({"--settle", "1ms"});
  for (int i = 0; i < 5; ++i) {
    send_trace(place.socket(), "t" + std::to_string(i));
    REQUIRE(collector->line_with(1, "GET /orders").size() > 0);  // it has settled
  }
  SECTION("as spans, with the live ones behind them") {
    auto viewer = place.start({"view", "--json", "--last", "2"});
    for (const char* trace : {"t3", "t4"}) {
      for (const char* name : {"select", "GET /orders"}) {
        const auto line = viewer->line(1);
        REQUIRE(line);
        CHECK(json::parse(*line).at("trace_id") == trace);
        CHECK(json::parse(*line).at("name") == name);
      }
    }
    send_trace(place.socket(), "t5");
    CHECK(json::parse(*viewer->line(1)).at("trace_id") == "t5");
  }
  SECTION("as whole trees") {
    auto viewer = place.start({"view", "--last", "1000"});
    for (int i = 0; i < 5; ++i) {
      CHECK(viewer->line(1) == "GET /orders [http] 12.0ms");
      CHECK(viewer->line(1) == "└── select [sql] 2.00ms");
    }
    collector->signal(SIGTERM);
    CHECK(collector->wait() == 0);
    CHECK(last_line_as_json(collector->err()).at("view").at("replays") == 1);
    CHECK(viewer->wait() == 0);
    CHECK(viewer->out().empty());
  }
}

TEST_CASE("view asks for a choice between several sessions, and deletes no stale socket") {
  Place place;
  auto first = place.collect();
  auto second = place.collect({"--socket", place.dir / "weir/other.sock"});
  auto viewer = place.start({"view"});
  CHECK(viewer->wait() == 1);
  CHECK(lines_in(viewer->err()) == 1);
  for (const char* part : {"--view-socket", "weir-view.sock", "other-view.sock"}) CHECK(viewer->err().find(part) != std::string::npos);

  first->signal(SIGKILL);
  CHECK(first->wait() == 1000 + SIGKILL);
  CHECK(std::filesystem::exists(place.view_socket()));
  auto alone = place.start({"view", "--follow"});
  alone->line_with(2, "connected to " + (place.dir / "weir/other-view.sock"));
  CHECK(std::filesystem::exists(place.view_socket()));
  auto again = place.collect();  // over what the killed one left
}

TEST_CASE("on a terminal, view asks which session, and trees are coloured unless NO_COLOR says otherwise") {
  Place place;
  auto first = place.collect();
  auto second = place.collect({"--socket", place.dir / "weir/other.sock"});
  const bool colour = GENERATE(true, false);
  if (!colour) place.environment["NO_COLOR"] = "1";
  place.environment["TERM"] = "xterm";
  Terminal terminal(Words{WEIR_COMMAND, "view", "--follow"}, place.environment);
  terminal.read_until("Which one? [1] ");
  CHECK(terminal.text().find("  1  " + (place.dir / "weir/other-view.sock")) != std::string::npos);
  CHECK(terminal.text().find("  2  " + place.view_socket()) != std::string::npos);
  terminal.type("7\n");
  terminal.read_until("from 1 to 2");
  terminal.type("2\n");
  terminal.read_until("connected to " + place.view_socket());
  wait_until_served(place.socket(), terminal.fd());
  terminal.read_until("select");
  CHECK((terminal.text().find("\x1b[36mGET /orders\x1b[0m") != std::string::npos) == colour);
  CHECK((terminal.text().find("\nGET /orders [http] 12.0ms") != std::string::npos) == !colour);
  terminal.type("\x03");  // ^C
  CHECK(terminal.wait() == 0);
}

TEST_CASE("run passes on the exit code, the streams and the socket") {
  Place place;
  const auto code_of = [&](const std::string& script) { return place.start({"run", "--", "/bin/sh", "-c", script})->wait(); };
  CHECK(code_of("exit 0") == 0);
  CHECK(code_of("exit 7") == 7);
  CHECK(code_of("kill -TERM $$") == 128 + SIGTERM);
  CHECK(code_of("kill -KILL $$") == 128 + SIGKILL);
  CHECK(code_of("test -S \"$WEIR_SOCKET\"") == 0);
  CHECK(place.start({"run", "--", "/no/such/program"})->wait() == 127);
  CHECK(place.start({"run", "--", place.dir.path()})->wait() == 126);

  auto process = place.start(
      {"run", "--print", "none", "--", "/bin/sh", "-c", "echo $WEIR_SOCKET; echo error >&2; cat; echo \"$@\"", "sh", "--", "-x"});
  const auto socket = process->line(1);
  REQUIRE(socket);
  CHECK(*socket == place.dir / ("weir/run-" + std::to_string(process->pid()) + ".sock"));
  CHECK(std::filesystem::is_socket(place.dir / ("weir/run-" + std::to_string(process->pid()) + "-view.sock")));
  CHECK(process->line(2) == "error");
  process->close(0);
  CHECK(process->wait() == 0);
  CHECK(process->out() == "-- -x\n");
  CHECK(process->err() ==
        "weir: 0 spans in 0 traces\n"
        "weir: nothing connected: is the program linked with weir, and does it call weir::init()?\n");
  CHECK(std::filesystem::is_empty(place.dir / "weir"));
}

TEST_CASE("run without -- takes the first word that is no option for the command") {
  Place place;
  auto process = place.start({"run", "--print", "none", "/bin/echo", "--print", "x", "--", "collect"});
  CHECK(process->wait() == 0);
  CHECK(process->out() == "--print x -- collect\n");
}

TEST_CASE("run prints the traces of its command on stderr") {
  Place place;
  auto process = place.start({"run", "--", "/bin/sh", "-c", "echo $WEIR_SOCKET; cat"});
  const auto socket = process->line(1);
  REQUIRE(socket);
  send_trace(*socket, "t1");
  process->close(0);
  CHECK(process->wait() == 0);
  CHECK(process->out().empty());
  CHECK(process->err() == "GET /orders [http] 12.0ms\n└── select [sql] 2.00ms\nweir: 2 spans in 1 trace\n");
}

TEST_CASE("run names what a rule did not keep apart from what was lost") {
  Place place;
  auto process = place.start({"run", "--keep-ratio", "0", "--", "/bin/sh", "-c", "echo $WEIR_SOCKET; cat"});
  const auto socket = process->line(1);
  REQUIRE(socket);
  send_trace(*socket, "t1");
  LineSocket service = LineSocket::connect(*socket);
  REQUIRE(service.send("[\"dropped\",3,{\"full\":2}]\n"));
  service.close();
  process->close(0);
  CHECK(process->wait() == 0);
  CHECK(
      process->err().ends_with("\nweir: 0 spans in 0 traces\n"
                               "weir: not kept by rule: 2 spans in 1 trace\n"
                               "weir: lost 3 spans: 2 in a full ring, 1 for other reasons\n"));
}

TEST_CASE("run passes signals on to its command and waits for it") {
  Place place;
  auto process = place.start({"run", "--", "/bin/sh", "-c", "trap 'echo got; exit 3' TERM; echo ready; while :; do read x; done"});
  CHECK(process->line(1) == "ready");
  process->signal(SIGTERM);
  process->close(0);
  const int code = process->wait();
  CHECK(code == 3);
  CHECK(process->out() == "got\n");
}

TEST_CASE("view inside run looks at that run") {
  Place place;
  auto other = place.collect();
  auto process = place.start({"run", "--print", "none", "--", WEIR_COMMAND, "view", "--follow"});
  process->line_with(2, "connected to " + (place.dir / ("weir/run-" + std::to_string(process->pid()) + "-view.sock")));
  process->signal(SIGTERM);
  CHECK(process->wait() == 0);
}
