// Files, pipes and callables that lines go to: what arrives, and what becomes of what cannot.
#include "weir/activity/log_sink.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/fork_memory.hpp"
#include "support/log_lines.hpp"
#include "support/operations.hpp"
#include "support/scratch_dir.hpp"
#include "weir/activity/log_tracker.hpp"

using namespace weir;
using namespace weir::testing;
using namespace std::chrono_literals;

namespace {

const Context nowhere;

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::shared_ptr<FileSink> open_file(const std::string& path) {
  auto sink = FileSink::open(path);
  REQUIRE(sink);
  return *sink;
}

void say(LogTracker& tracker, int number) { Activity activity = tracker.start(nowhere, "do", "it", {{"number", number}}); }

/// Lines as a sink gets them, one behind the other in memory.
class Batch {
 public:
  explicit Batch(const Lines& texts) {
    for (const std::string& text : texts) text_ += text + "\n";
    const char* at = text_.data();
    for (const std::string& text : texts) {
      lines_.push_back({Logger::Level::info, {at, text.size() + 1}, {at, text.size()}});
      at += text.size() + 1;
    }
  }
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;
  std::span<const LogLine> lines() const { return lines_; }

 private:
  std::string text_;
  std::vector<LogLine> lines_;
};

/// How many lines the sink takes; what it says is `error`.
std::size_t write(LogSink& sink, const Lines& texts, std::error_code& error) {
  const Batch batch(texts);
  error.clear();
  return sink.write(batch.lines(), error);
}
std::size_t write(LogSink& sink, const Lines& texts) {
  std::error_code error;
  return write(sink, texts, error);
}

/// No file of this process grows beyond a size, until the end of the scope.
class FileLimit {
 public:
  explicit FileLimit(std::size_t bytes) {
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before_) == 0);
    const rlimit limit{bytes, before_.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }
  ~FileLimit() { ::setrlimit(RLIMIT_FSIZE, &before_); }
  FileLimit(const FileLimit&) = delete;
  FileLimit& operator=(const FileLimit&) = delete;

 private:
  rlimit before_{};
};

/// A named pipe, and its reading end.
class Fifo {
 public:
  Fifo() {
    REQUIRE(::mkfifo(path().c_str(), 0600) == 0);
    reader_ = ::open(path().c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    REQUIRE(reader_ >= 0);
  }
  ~Fifo() { close(); }
  Fifo(const Fifo&) = delete;
  Fifo& operator=(const Fifo&) = delete;

  std::string path() const { return dir_ / "pipe"; }
  void close() {
    if (reader_ >= 0) ::close(std::exchange(reader_, -1));
  }
  /// Appends what there is.
  void read(std::string& text) {
    char buffer[65536];
    for (ssize_t n; (n = ::read(reader_, buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<std::size_t>(n));
  }

 private:
  ScratchDir dir_;
  int reader_ = -1;
};

bool is_pending(int signal) {
  sigset_t pending;
  sigpending(&pending);
  return sigismember(&pending, signal) == 1;
}

/// A thread that has blocked signals, until the end of the scope.
class Blocked {
 public:
  explicit Blocked(int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    pthread_sigmask(SIG_BLOCK, &set, &before_);
  }
  ~Blocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  Blocked(const Blocked&) = delete;
  Blocked& operator=(const Blocked&) = delete;

 private:
  sigset_t before_;
};

constexpr const char* failure = "error: log lines cannot be written; they are lost, and counted, until they can what=";

}  // namespace

// ---- FileSink

TEST_CASE("a file gets each line, behind what it has") {
  ScratchDir dir;
  const std::string path = dir / "log";
  std::ofstream(path) << "before\n";
  {
    LogTracker tracker(open_file(path), {.asynchronous = GENERATE(false, true)});
    for (int i = 0; i < 100; ++i) say(tracker, i);
  }
  const Lines lines = lines_of(content_of(path));
  REQUIRE(lines.size() == 201);
  CHECK(lines[0] == "before");
  for (int i = 0; i < 100; ++i) CHECK(count_with(lines, " number=" + std::to_string(i)) >= 2);
}

TEST_CASE("each line is in the file when a synchronous call returns") {
  ScratchDir dir;
  LogTracker tracker(open_file(dir / "log"), {});
  Activity activity = tracker.start(nowhere, "do", "it");
  CHECK(lines_of(content_of(dir / "log")).size() == 1);
  activity.report_error("no");
  CHECK(lines_of(content_of(dir / "log")).size() == 2);
  activity.end();
  CHECK(lines_of(content_of(dir / "log")).size() == 3);
}

TEST_CASE("a file that is made is for its owner and group, and not for programs that are started") {
  ScratchDir dir;
  const mode_t before = ::umask(0);
  const auto sink = open_file(dir / "log");
  ::umask(before);
  struct stat status {};
  REQUIRE(::stat((dir / "log").c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0640);
  const auto inherited = [&] {
    int count = 0, found = 0;
    for (int descriptor = 3; descriptor < 256; ++descriptor) {
      struct stat of {};
      if (::fstat(descriptor, &of) != 0 || of.st_ino != status.st_ino || of.st_dev != status.st_dev) continue;
      ++found;
      if ((::fcntl(descriptor, F_GETFD) & FD_CLOEXEC) == 0) ++count;
    }
    REQUIRE(found == 1);
    return count;
  };
  CHECK(inherited() == 0);
  REQUIRE(sink->reopen());
  CHECK(inherited() == 0);
}

TEST_CASE("a file that cannot be opened is an error, which names it and says why") {
  ScratchDir dir;
  const auto missing = FileSink::open(dir / "none/log");
  REQUIRE_FALSE(missing);
  CHECK(missing.error().code == std::errc::no_such_file_or_directory);
  CHECK(missing.error().message ==
        "cannot open the log file " + (dir / "none/log") + ": No such file or directory. Check that the directory is there and writable");
  const auto directory = FileSink::open(dir.path());
  REQUIRE_FALSE(directory);
  CHECK(directory.error().code == std::errc::is_a_directory);
}

TEST_CASE("a file that was moved away is opened anew when it is told") {
  ScratchDir dir;
  const std::string path = dir / "log", old = dir / "log.1";
  const auto sink = open_file(path);
  CHECK(write(*sink, {"one"}) == 1);
  std::filesystem::rename(path, old);
  CHECK(write(*sink, {"two"}) == 1);
  REQUIRE(sink->reopen());
  CHECK(write(*sink, {"three"}) == 1);
  CHECK(content_of(old) == "one\ntwo\n");
  CHECK(content_of(path) == "three\n");

  std::filesystem::rename(path, old);
  std::filesystem::create_directory(path);
  const Result<void> again = sink->reopen();
  REQUIRE_FALSE(again);
  CHECK(again.error().code == std::errc::is_a_directory);
  CHECK(again.error().message == "cannot open the log file " + path + " anew: Is a directory. Lines still go to the file that was open");
  CHECK(write(*sink, {"four"}) == 1);
  CHECK(content_of(old) == "three\nfour\n");
}

TEST_CASE("no line is lost or torn when the file is opened anew while threads log") {
  ScratchDir dir;
  const std::string path = dir / "log";
  const auto sink = open_file(path);
  constexpr int threads = 3, activities = sanitized ? 300 : 2'000;
  int files = 0;
  {
    LogTracker tracker(sink, {.asynchronous = GENERATE(false, true), .ring_bytes = 1u << 24, .stop_timeout = 60s});
    std::vector<std::thread> running;
    std::atomic<int> left{threads};
    for (int i = 0; i < threads; ++i) {
      running.emplace_back([&] {
        for (int n = 0; n < activities; ++n) say(tracker, n);
        --left;
      });
    }
    while (left != 0) {
      std::filesystem::rename(path, path + "." + std::to_string(files++));
      if (!sink->reopen()) break;
    }
    for (std::thread& thread : running) thread.join();
    CHECK(left == 0);
    REQUIRE(tracker.flush(60s));
    CHECK(tracker.stats().lost_full == 0);
    CHECK(tracker.stats().lost_by_sink == 0);
  }
  std::size_t lines = lines_of(content_of(path)).size();
  for (int i = 0; i < files; ++i) lines += lines_of(content_of(path + "." + std::to_string(i))).size();
  CHECK(lines == 2 * threads * activities);
}

TEST_CASE("a disk that is full costs the lines, and is told once") {
  KeepingLogger logger;
  LogTracker tracker(open_file("/dev/full"), {.asynchronous = GENERATE(false, true), .logger = &logger});
  for (int i = 0; i < 100; ++i) say(tracker, i);
  REQUIRE(tracker.flush(60s));
  CHECK(tracker.stats().written == 0);
  CHECK(tracker.stats().lost_by_sink == 200);
  CHECK(logger.take() == Lines{failure + std::string("No space left on device")});
}

TEST_CASE("a piece of a line that was left behind is ended before the next line") {
  ScratchDir dir;
  const std::string path = dir / "log";
  const auto sink = open_file(path);
  std::error_code error;
  {
    const FileLimit limit(10);
    CHECK(write(*sink, {"12345", "67890", "abcde"}, error) == 1);
    CHECK(error == std::errc::file_too_large);
    CHECK(write(*sink, {"lost"}, error) == 0);
    CHECK(error == std::errc::file_too_large);
  }
  CHECK(content_of(path) == "12345\n6789");
  CHECK(write(*sink, {"next"}, error) == 1);
  CHECK_FALSE(error);
  CHECK(write(*sink, {"last"}, error) == 1);
  CHECK(content_of(path) == "12345\n6789\nnext\nlast\n");
}

TEST_CASE("a file that is full between two lines has no piece to be ended") {
  ScratchDir dir;
  const std::string path = dir / "log";
  const auto sink = open_file(path);
  std::error_code error;
  {
    const FileLimit limit(12);
    CHECK(write(*sink, {"12345", "67890", "abcde"}, error) == 2);
    CHECK(error == std::errc::file_too_large);
    CHECK(write(*sink, {"lost"}, error) == 0);
  }
  CHECK(write(*sink, {"next"}, error) == 1);
  CHECK(content_of(path) == "12345\n67890\nnext\n");
}

TEST_CASE("a piece that is only begun, and a file opened anew, need no newline") {
  ScratchDir dir;
  const std::string path = dir / "log";
  const auto sink = open_file(path);
  {
    const FileLimit limit(3);
    CHECK(write(*sink, {"12345"}) == 0);
    std::filesystem::rename(path, dir / "log.1");
    REQUIRE(sink->reopen());
  }
  CHECK(write(*sink, {"next"}) == 1);
  CHECK(content_of(path) == "next\n");
}

TEST_CASE("a piece of a line that another process has left is ended before the first line") {
  ScratchDir dir;
  const std::string path = dir / "log";
  std::ofstream(path) << "whole\nhal";
  const auto sink = open_file(path), other = open_file(path);
  CHECK(write(*sink, {"first", "second"}) == 2);
  CHECK(write(*other, {"third"}) == 1);
  CHECK(content_of(path) == "whole\nhal\nfirst\nsecond\nthird\n");
  std::ofstream(path) << "hal";
  REQUIRE(sink->reopen());
  CHECK(write(*sink, {"third"}) == 1);
  CHECK(content_of(path) == "hal\nthird\n");
  CHECK(write(*open_file(path), {"fourth"}) == 1);
  CHECK(content_of(path) == "hal\nthird\nfourth\n");
}

TEST_CASE("at a file's limit lines are counted, the program goes on, and whole lines follow when there is room") {
  ScratchDir dir;
  const std::string path = dir / "log";
  KeepingLogger logger;
  const bool asynchronous = GENERATE(false, true);
  LogStats at_limit, last;
  std::size_t whole_at_limit = 0;
  {
    LogTracker tracker(open_file(path), {.asynchronous = asynchronous, .logger = &logger});
    {
      const FileLimit limit(10'000);
      for (int i = 0; i < 200; ++i) say(tracker, i);
      REQUIRE(tracker.flush(60s));
      at_limit = tracker.stats();
      const std::string text = content_of(path);
      CHECK(text.size() == 10'000);
      whole_at_limit = static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
    }
    say(tracker, 1000);
    REQUIRE(tracker.flush(60s));
    last = tracker.stats();
  }
  CHECK(at_limit.written == whole_at_limit);
  CHECK(at_limit.written + at_limit.lost_by_sink == 400);
  CHECK(last.written == at_limit.written + 2);
  CHECK(last.lost_by_sink == at_limit.lost_by_sink);
  const Lines lines = lines_of(content_of(path));
  CHECK(lines.size() == last.written + 1);  // and the piece
  CHECK(count_with(lines, " number=1000") == 2);
  for (const std::string& line : lines) CHECK(line.starts_with("time="));
  CHECK(logger.take() == Lines{failure + std::string("File too large"),
                               "info: log lines are written again lost_so_far=" + std::to_string(at_limit.lost_by_sink)});
}

TEST_CASE("a pipe that nobody reads costs the lines, not the program") {
  Fifo fifo;
  KeepingLogger logger;
  LogTracker tracker(open_file(fifo.path()), {.asynchronous = GENERATE(false, true), .logger = &logger});
  const auto before = std::signal(SIGPIPE, SIG_DFL);
  say(tracker, 1);
  REQUIRE(tracker.flush(60s));
  std::string text;
  fifo.read(text);
  CHECK(lines_of(text).size() == 2);
  fifo.close();
  for (int i = 0; i < 100; ++i) say(tracker, i);
  REQUIRE(tracker.flush(60s));
  std::signal(SIGPIPE, before);
  CHECK(tracker.stats().written == 2);
  CHECK(tracker.stats().lost_by_sink == 200);
  CHECK(logger.take() == Lines{failure + std::string("Broken pipe")});
}

TEST_CASE("the program's own signals stay as they are") {
  Fifo fifo;
  const auto sink = open_file(fifo.path());
  fifo.close();
  const Blocked blocked(SIGPIPE);
  std::error_code error;
  CHECK(write(*sink, {"line"}, error) == 0);
  CHECK(error == std::errc::broken_pipe);
  CHECK_FALSE(is_pending(SIGPIPE));
  pthread_kill(pthread_self(), SIGPIPE);
  REQUIRE(is_pending(SIGPIPE));
  CHECK(write(*sink, {"line"}, error) == 0);
  REQUIRE(is_pending(SIGPIPE));
  int taken = 0;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGPIPE);
  sigwait(&set, &taken);
  CHECK(taken == SIGPIPE);
}

TEST_CASE("lines that are longer than a pipe takes at once stay whole, whichever threads write") {
  constexpr int threads = 4, lines_each = 30;
  Fifo fifo;
  const auto sink = open_file(fifo.path());
  std::atomic<int> left{threads};
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i) {
    running.emplace_back([&, i] {
      const std::string line(20'000 + static_cast<std::size_t>(i), static_cast<char>('a' + i));
      for (int n = 0; n < lines_each; ++n) write(*sink, {line});
      --left;
    });
  }
  std::string text;
  while (left != 0) fifo.read(text);
  fifo.read(text);
  for (std::thread& thread : running) thread.join();
  std::map<std::string, int> seen;
  for (const std::string& line : lines_of(text)) ++seen[line];
  REQUIRE(seen.size() == threads);
  for (const auto& [line, times] : seen) CHECK(times == lines_each);
}

#if !defined(WEIR_TESTS_TSAN)  // fork and ThreadSanitizer do not mix
TEST_CASE("several processes may append to one file") {
  constexpr int processes = 4, activities = 500;
  ScratchDir dir;
  const std::string path = dir / "log";
  const bool asynchronous = GENERATE(false, true);
  std::vector<pid_t> children;
  for (int i = 0; i < processes; ++i) {
    const pid_t pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
      become_a_child(60);
      bool good = false;
      {
        auto sink = FileSink::open(path);
        if (!sink) ::_exit(1);
        LogTracker tracker(*sink, {.asynchronous = asynchronous, .ring_bytes = 1u << 20, .stop_timeout = 60s});
        for (int n = 0; n < activities; ++n) say(tracker, n);
        good = tracker.flush(60s) && tracker.stats().written == 2 * activities;
      }
      ::_exit(good ? 0 : 2);
    }
    children.push_back(pid);
  }
  for (const pid_t child : children) {
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(status == 0);
  }
  const Lines lines = lines_of(content_of(path));
  CHECK(lines.size() == 2 * processes * activities);
  for (const std::string& line : lines) {
    if (!line.starts_with("time=") || line.find("time=", 1) != line.npos) FAIL(line);
  }
}
#endif

// ---- FunctionSink

TEST_CASE("a callable that throws loses those lines") {
  KeepingLogger logger;
  int calls = 0;
  LogTracker tracker(
      [&](const LogLine&) {
        if (++calls % 2 == 1) throw std::runtime_error("odd");
      },
      {.asynchronous = GENERATE(false, true), .logger = &logger});
  for (int i = 0; i < 100; ++i) say(tracker, i);
  REQUIRE(tracker.flush(60s));
  CHECK(calls == 200);
  CHECK(tracker.stats().written == 100);
  CHECK(tracker.stats().lost_by_sink == 100);
  const Lines messages = logger.take();
  REQUIRE_FALSE(messages.empty());
  CHECK(messages[0] == failure + std::string("Input/output error"));
  CHECK(count_with(messages, "cannot be written") == 1);
}

TEST_CASE("a callable that is not there loses all lines") {
  KeepingLogger logger;
  LogTracker tracker(std::make_shared<FunctionSink>(nullptr), {.logger = &logger});
  say(tracker, 1);
  CHECK(tracker.stats().lost_by_sink == 2);
  CHECK(logger.take().size() == 1);
}

TEST_CASE("a callable is called by one thread at a time") {
  std::atomic<int> inside{0};
  std::atomic<bool> alone{true};
  int calls = 0;
  LogTracker tracker([&](const LogLine&) {
    if (++inside != 1) alone = false;
    ++calls;
    std::this_thread::yield();
    --inside;
  });
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 500; ++n) say(tracker, n);
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(alone);
  CHECK(calls == 4000);
}

TEST_CASE("a callable that uses what it logs loses its own lines, and does not hang") {
  KeepingLogger logger;
  LogTracker* self = nullptr;
  int calls = 0;
  LogTracker tracker(
      [&](const LogLine&) {
        ++calls;
        say(*self, 0);
      },
      {.logger = &logger});
  self = &tracker;
  say(tracker, 1);
  CHECK(calls == 2);
  CHECK(tracker.stats().written == 2);
  CHECK(tracker.stats().lost_by_sink == 4);
  CHECK(logger.take()[0] == failure + std::string("Resource deadlock avoided"));
}

TEST_CASE("a sink lives as long as its tracker") {
  std::weak_ptr<int> life;
  {
    auto held = std::make_shared<int>(1);
    life = held;
    LogTracker tracker([held = std::move(held)](const LogLine&) {}, {.asynchronous = GENERATE(false, true)});
    say(tracker, 1);
    CHECK_FALSE(life.expired());
  }
  CHECK(life.expired());
}
