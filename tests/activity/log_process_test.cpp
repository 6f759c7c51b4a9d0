// Logs of processes that end, fork, are killed, or cannot have what they need: log_process_program does it, this looks at its lines.
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/log_lines.hpp"
#include "support/operations.hpp"
#include "support/process.hpp"
#include "support/scratch_dir.hpp"

using namespace weir::testing;

namespace {

/// A child goes without what belonged to its parent's threads, which is not to be taken for a leak.
Process::Environment leaks_allowed() {
  const char* const given = std::getenv("ASAN_OPTIONS");
  return {{"ASAN_OPTIONS", std::string(given != nullptr ? given : "") + ":detect_leaks=0"}};
}

std::string text_of_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

Lines lines_of_file(const std::string& path) { return lines_of(text_of_file(path)); }

/// The kernel looks for a signal that kills after each page of a write: what then is not there yet never comes, and a line ends
/// with the page. Takes that piece away.
Lines lines_of_file_cut_short(const std::string& path) {
  std::string text = text_of_file(path);
  if (text.size() % static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)) == 0) text.resize(text.rfind('\n') + 1);
  return lines_of(text);
}

/// The lines that a scenario leaves. What is wrong with its end or with them fails the test.
struct Ended {
  explicit Ended(const std::string& scenario, bool forks = false, Lines (*lines_of)(const std::string&) = lines_of_file) {
    CAPTURE(scenario);
    const std::string path = dir / "log";
    Process program({WEIR_LOG_PROGRAM, scenario, path}, forks ? leaks_allowed() : Process::Environment());
    CHECK(program.wait() == 0);
    CHECK(program.err() == "");
    lines = lines_of(path);
    for (const std::string& line : lines)
      if (!line.starts_with("time=") || line.find("time=", 1) != line.npos) FAIL(line);
  }
  std::size_t about(const std::string& subject) const { return count_with(lines, " subject=" + subject + " "); }

  ScratchDir dir;
  Lines lines;
};

}  // namespace

TEST_CASE("exit writes the lines of trackers that are never destroyed, are static, or below main") {
  CHECK(Ended(GENERATE("heap", "static", "below main", "of another thread", "several")).about("it") == 2000);
}

TEST_CASE("what is said when exit has begun is written at once") {
  const Ended ended("late");
  CHECK(ended.about("early") == 4);
  CHECK(ended.about("late") == 4);
  REQUIRE(ended.about("open") == 2);
  CHECK(ended.lines[5].find("msg=\"Operation completed\" operation=stay subject=open") != std::string::npos);
}

TEST_CASE("exit writes what was said while other threads go on to log") {
  const Ended ended("busy", false, lines_of_file_cut_short);
  CHECK(ended.about("it") == 2000);
  CHECK(ended.about("busy") >= 10);
}

TEST_CASE("exit waits no longer than stop_timeout for a sink that does not return") {
  ScratchDir dir;
  const std::string path = dir / "pipe";
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  const int reader = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  REQUIRE(reader >= 0);
  Process program({WEIR_LOG_PROGRAM, "held up", path});
  CHECK(program.wait() == 0);
  CHECK(program.err() == "");
  ::close(reader);
}

TEST_CASE("kill -9 costs no line that a synchronous call has returned from, and tears none but the last") {
  ScratchDir dir;
  const std::string path = dir / "log";
  Process program({WEIR_LOG_PROGRAM, "killed", path});
  for (int i = 0; i < 1000; ++i) REQUIRE(program.line(1));
  program.signal(SIGKILL);
  CHECK(program.wait() == 1000 + SIGKILL);
  std::size_t said = 1000;
  for (const char c : program.out()) said += c == '\n' ? 1 : 0;
  const Lines lines = lines_of_file_cut_short(path);
  CHECK(lines.size() >= 2 * said);
  CHECK(lines.size() <= 2 * said + 2);
}

TEST_CASE("kill -9 costs nothing that was flushed") {
  ScratchDir dir;
  const std::string path = dir / "log";
  Process program({WEIR_LOG_PROGRAM, "killed later", path});
  CHECK(program.wait() == 1000 + SIGKILL);
  CHECK(lines_of_file(path).size() == 2000);
}

TEST_CASE("a tracker that is given no sink writes to stderr") {
  Process program({WEIR_LOG_PROGRAM, "stderr", "-"});
  CHECK(program.wait() == 0);
  const Lines lines = lines_of(program.err());
  CHECK(lines.size() == 4);
  CHECK(count_with(lines, "operation=do subject=it") == 4);
}

TEST_CASE("a stderr that nobody reads costs the lines, not the program") {
  Process program({WEIR_LOG_PROGRAM, "stderr that nobody reads", GENERATE("synchronous", "asynchronous")});
  program.close(2);
  REQUIRE(::write(program.fd(0), "x", 1) == 1);
  CHECK(program.wait() == 0);
}

TEST_CASE("a stderr that is full keeps the destructor no longer than stop_timeout, and it does not complain there") {
  Process program({WEIR_LOG_PROGRAM, "stderr that is full", GENERATE("synchronous", "asynchronous")});
  pollfd end{program.fd(1), POLLIN, 0};
  CHECK(::poll(&end, 1, 60'000) == 1);  // it has ended, though nobody has read its stderr
  CHECK(program.wait() == 0);
  CHECK(program.out() == "");
  const std::string& text = program.err();
  CHECK(text.find("weir: warning") == std::string::npos);
}

TEST_CASE("threads that are cancelled in a call leave whole lines") {
  const Ended ended(GENERATE("cancel", "cancel asynchronous"));
  CHECK(ended.about("it") >= 600);
  const std::size_t started = count_with(ended.lines, "Operation started"), completed = count_with(ended.lines, "Operation completed");
  CHECK((started > completed ? started - completed : completed - started) <= SaidLost(ended.lines).count);
}

#if !defined(WEIR_TESTS_TSAN)  // which needs threads of its own, and does not mix with fork

TEST_CASE("where no thread can be started, lines are written by the threads that make them") {
  Process program({WEIR_LOG_PROGRAM, "no threads", "-"}, leaks_allowed());
  CHECK(program.wait() == 0);
  const Lines lines = lines_of(program.err());
  CHECK(count_with(lines, "operation=do subject=it") == 4);
  CHECK(count_with(lines, "weir: warning: no thread for the log: lines are written by the threads that make them") == 1);
}

TEST_CASE("the child of a fork writes what it says, and what the parent said is written once") {
  const Ended ended(GENERATE("fork", "fork asynchronous"), true);
  CHECK(ended.about("parent") == 400);
  CHECK(ended.about("child") == 200);
  CHECK(ended.about("thread") == 200);
  CHECK(count_with(ended.lines, "msg=\"Operation started\" operation=stay") == 1);
  CHECK(count_with(ended.lines, "msg=\"Operation failed\" operation=stay") == 2);
  CHECK(count_with(ended.lines, "error=\"in the child\"") == 1);
  CHECK(count_with(ended.lines, "error=\"in the parent\"") == 1);
  CHECK(count_with(ended.lines, "msg=\"Operation completed\" operation=stay") == 2);
  std::map<std::string, int> seen;
  for (const std::string& line : ended.lines) ++seen[line.substr(line.find("msg="), line.find(" duration=") - line.find("msg="))];
  for (const auto& [line, times] : seen) {
    if (times != 1 && line.find("operation=stay") == line.npos) FAIL(times << " times " << line);
  }
}

TEST_CASE("a process may fork while other threads log") {
  const Ended ended(GENERATE("forks among threads", "forks among threads, callable", "forks among threads, asynchronous",
                             "forks among threads, asynchronous callable"),
                    true);
  CHECK(ended.about("child") == 50 * 7);
  std::map<std::string, int> ids;
  for (const std::string& line : ended.lines) {
    if (line.find("subject=busy ") == line.npos) continue;
    const std::size_t begin = line.find("op_id=") + 6;
    ++ids[line.substr(begin, line.find(' ', begin) - begin)];
  }
  CHECK(ids.size() >= 10);
  std::size_t missing = 0;
  for (const auto& [id, times] : ids) {
    if (times > 2) FAIL(id << " has " << times << " lines");
    missing += static_cast<std::size_t>(2 - times);
  }
  CHECK(missing <= SaidLost(ended.lines).count);
}

TEST_CASE("the child of a fork may have trackers of its own") {
  const Ended ended(GENERATE("trackers in a child", "trackers in a child, asynchronous"), true);
  CHECK(ended.about("parent") == 40);
  CHECK(ended.about("own") == 200);
  CHECK(ended.about("second") == 200);
  CHECK(ended.about("thread") == 200);
  CHECK(ended.about("left") == 200);
  CHECK(ended.about("grandchild") == 20);
}

#endif
