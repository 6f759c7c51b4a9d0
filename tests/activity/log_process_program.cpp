// What log_process_test runs: log_process_program SCENARIO FILE. Ends with 0 unless something is wrong.
#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "support/fork_memory.hpp"
#include "weir/activity/log_tracker.hpp"

using namespace std::chrono_literals;
using weir::Activity;
using weir::FileSink;
using weir::LogOptions;
using weir::LogTracker;

namespace {

const weir::Context nowhere;

std::shared_ptr<FileSink> sink_of(const std::string& path) {
  auto sink = FileSink::open(path);
  if (!sink) ::_exit(3);
  return *sink;
}

LogOptions options(bool asynchronous) {
  LogOptions options;
  options.asynchronous = asynchronous;
  options.ring_bytes = 1u << 20;
  options.stop_timeout = 60s;
  return options;
}

void say(LogTracker& tracker, std::string_view subject, int activities) {
  for (int i = 0; i < activities; ++i) Activity activity = tracker.start(nowhere, "do", subject, {{"number", i}});
}

/// Made before the first tracker; destroyed when exit() has flushed them.
struct Late {
  ~Late() {
    if (tracker == nullptr) return;
    open->end();
    say(*tracker, "late", 2);
    open.reset();
  }
  LogTracker* tracker = nullptr;
  std::optional<Activity> open;
} late;

/// Whoever writes to it now, waits.
void fill_stderr() {
  const int flags = ::fcntl(2, F_GETFL);
  ::fcntl(2, F_SETFL, flags | O_NONBLOCK);
  const std::string text(4096, '.');
  while (::write(2, text.data(), text.size()) > 0) {}
  while (::write(2, ".", 1) > 0) {}
  ::fcntl(2, F_SETFL, flags);
}

/// A thread of this process.
bool is_asleep(pid_t thread) {
  std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/stat");
  const std::string stat((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const std::size_t name_end = stat.rfind(')');
  return name_end != stat.npos && stat.substr(name_end, 3) == ") S";
}

/// The child's exit code, or 1000 + its signal.
template <class Body>
int in_a_child(Body body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::alarm(60);
    body();
    std::exit(0);
  }
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid) return 4;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/// Threads that log as fast as they can, until the end of the scope.
class Busy {
 public:
  Busy(LogTracker& tracker, std::string subject) : subject_(std::move(subject)) {
    for (int i = 0; i < 2; ++i) {
      threads_.emplace_back([this, &tracker] {
        while (!stop_) {
          say(tracker, subject_, 1);
          ++said;
        }
      });
    }
    while (said < 10) std::this_thread::yield();
  }
  ~Busy() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }
  std::atomic<int> said{0};

 private:
  std::string subject_;
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

int forks(const std::string& path, bool asynchronous) {
  int wrong = 0;
  {
    LogTracker tracker(sink_of(path), options(asynchronous));
    say(tracker, "parent", 100);
    Activity open = tracker.start(nowhere, "stay", "open");
    wrong = in_a_child([&] {
      open.report_error("in the child");
      open.end();
      say(tracker, "child", 100);
      std::thread([&] { say(tracker, "thread", 100); }).join();
      if (!tracker.flush(60s)) ::_exit(5);
    });
    open.report_error("in the parent");
    open.end();
    say(tracker, "parent", 100);
  }
  return wrong;
}

int forks_among_threads(const std::string& path, bool asynchronous, bool callable) {
  const auto file = sink_of(path);
  std::shared_ptr<weir::LogSink> sink = file;
  if (callable) {
    sink = std::make_shared<weir::FunctionSink>([file](const weir::LogLine& line) {
      std::error_code error;
      if (file->write(std::span(&line, 1), error) != 1) ::_exit(6);
    });
  }
  int wrong = 0;
  {
    LogTracker tracker(sink, options(asynchronous));
    const Busy busy(tracker, "busy");
    for (int i = 0; i < 50 && wrong == 0; ++i) {
      wrong = in_a_child([&] {
        Activity activity = tracker.start(nowhere, "be", "child");
        activity.report_error("none");
        say(tracker, "child", 2);
      });
      std::this_thread::yield();
    }
  }
  return wrong;
}

int trackers_in_a_child(const std::string& path, bool asynchronous) {
  auto tracker = std::make_unique<LogTracker>(sink_of(path), options(asynchronous));
  { LogTracker gone(sink_of(path), options(asynchronous)); }
  say(*tracker, "parent", 10);
  const int wrong = in_a_child([&] {
    {
      LogTracker own(sink_of(path), options(true)), second(sink_of(path), options(false));
      say(own, "own", 100);
      say(second, "second", 100);
      std::thread([&] { say(own, "thread", 100); }).join();
      if (!own.flush(60s)) ::_exit(5);
    }
    tracker.reset();  // the copy
    static auto* const left = new LogTracker(sink_of(path), options(true));
    say(*left, "left", 100);
    if (in_a_child([] { say(*left, "grandchild", 10); }) != 0) ::_exit(7);
  });
  say(*tracker, "parent", 10);
  tracker.reset();
  return wrong;
}

int cancelled(const std::string& path, bool asynchronous) {
  LogTracker tracker(sink_of(path), options(asynchronous));
  for (int round = 0; round < 200; ++round) {
    struct Running {
      LogTracker* tracker;
      std::atomic<bool> begun{false};
    } running{&tracker};
    pthread_t thread;
    const auto body = [](void* arg) -> void* {
      auto& self = *static_cast<Running*>(arg);
      for (;;) {
        Activity activity = self.tracker->start(nowhere, "do", "it");
        activity.report_error("none");
        self.begun = true;
        pthread_testcancel();
      }
    };
    if (pthread_create(&thread, nullptr, body, &running) != 0) return 3;
    while (!running.begun) std::this_thread::yield();
    pthread_cancel(thread);
    void* result = nullptr;
    pthread_join(thread, &result);
    if (result != PTHREAD_CANCELED) return 8;
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const std::string scenario = arguments[1], path = arguments[2];
  if (scenario == "heap") {
    static auto* const tracker = new LogTracker(sink_of(path), options(true));
    say(*tracker, "it", 1000);
    return 0;
  }
  if (scenario == "static") {
    static LogTracker tracker(sink_of(path), options(true));
    say(tracker, "it", 1000);
    return 0;
  }
  if (scenario == "below main") {
    LogTracker tracker(sink_of(path), options(true));
    say(tracker, "it", 1000);
    std::exit(0);
  }
  if (scenario == "of another thread") {
    LogTracker tracker(sink_of(path), options(true));
    say(tracker, "it", 500);
    std::thread([&] {
      say(tracker, "it", 500);
      std::exit(0);
    }).detach();
    for (;;) ::pause();
  }
  if (scenario == "several") {
    static LogTracker* trackers[4];
    for (LogTracker*& tracker : trackers) {
      tracker = new LogTracker(sink_of(path), options(true));
      say(*tracker, "it", 250);
    }
    return 0;
  }
  if (scenario == "late") {
    auto* const tracker = new LogTracker(sink_of(path), options(true));
    late.tracker = tracker;
    late.open = tracker->start(nowhere, "stay", "open");
    say(*tracker, "early", 2);
    return 0;
  }
  if (scenario == "busy") {
    static LogTracker* const tracker = new LogTracker(sink_of(path), options(true));
    say(*tracker, "it", 1000);
    static auto* const busy = new Busy(*tracker, "busy");
    (void)busy;
    return 0;
  }
  if (scenario == "held up") {  // FILE is a pipe that nobody reads
    LogOptions short_wait = options(true);
    short_wait.stop_timeout = 50ms;
    static auto* const tracker = new LogTracker(sink_of(path), short_wait);
    for (int i = 0; i < 4000; ++i) Activity activity = tracker->start(nowhere, "do", "it", {{"text", std::string(200, 'x')}});
    return 0;
  }
  if (scenario == "killed") {
    LogTracker tracker(sink_of(path), options(false));
    for (int i = 1;; ++i) {
      say(tracker, "it", 1);
      std::printf("%d\n", i);
      std::fflush(stdout);
    }
  }
  if (scenario == "killed later") {
    LogTracker tracker(sink_of(path), options(true));
    say(tracker, "it", 1000);
    if (!tracker.flush(60s)) return 5;
    std::raise(SIGKILL);
  }
  if (scenario == "stderr") {
    LogTracker tracker;
    say(tracker, "it", 2);
    return 0;
  }
  if (scenario == "stderr that nobody reads") {  // and that the failure is told to, too
    std::signal(SIGPIPE, SIG_DFL);
    char go = 0;
    if (::read(0, &go, 1) < 0) return 3;
    LogTracker tracker(options(path == "asynchronous"));
    say(tracker, "it", 100);
    if (!tracker.flush(60s)) return 5;
    return tracker.stats().lost_by_sink == 200 ? 0 : 9;
  }
  if (scenario == "stderr that is full") {
    LogOptions short_wait = options(path == "asynchronous");
    short_wait.stop_timeout = 50ms;
    auto tracker = std::make_unique<LogTracker>(short_wait);
    Activity activity = tracker->start(nowhere, "do", "it");
    if (!tracker->flush(60s)) return 5;
    fill_stderr();
    std::atomic<pid_t> reporting{0};
    std::thread thread([&] {
      reporting = ::gettid();
      activity.report_error("held up");
    });
    if (path == "asynchronous")
      thread.join();  // and the tracker's thread is held up
    else
      while (reporting == 0 || !is_asleep(reporting)) std::this_thread::yield();
    tracker.reset();
    ::_exit(0);
  }
  if (scenario == "no threads") {
    const rlimit none{0, 0};
    if (::setrlimit(RLIMIT_NPROC, &none) != 0 || (::geteuid() == 0 && ::setuid(65534) != 0)) return 10;
    LogTracker tracker(options(true));
    say(tracker, "it", 2);
    const weir::LogStats stats = tracker.stats();
    return stats.written == 4 && tracker.flush() ? 0 : 9;
  }
  if (scenario == "fork") return forks(path, false);
  if (scenario == "fork asynchronous") return forks(path, true);
  if (scenario == "forks among threads") return forks_among_threads(path, false, false);
  if (scenario == "forks among threads, callable") return forks_among_threads(path, false, true);
  if (scenario == "forks among threads, asynchronous") return forks_among_threads(path, true, false);
  if (scenario == "forks among threads, asynchronous callable") return forks_among_threads(path, true, true);
  if (scenario == "trackers in a child") return trackers_in_a_child(path, false);
  if (scenario == "trackers in a child, asynchronous") return trackers_in_a_child(path, true);
  if (scenario == "cancel") return cancelled(path, false);
  if (scenario == "cancel asynchronous") return cancelled(path, true);
  return 2;
}
