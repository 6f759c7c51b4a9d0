#include "instrument/process_table.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"

using namespace weir;
using namespace weir::instrument;
using namespace std::chrono_literals;

namespace {

using Lines = std::vector<std::string>;

/// Processes that are made up: what a test wants to happen between two looks happens between them.
class MadeUp final : public ProcessReader {
 public:
  struct Process {
    ProcessEvent details;
    ProcessStat stat;
    bool readable = true;
    net::Fd end;  // an eventfd for a pidfd: readable when something was written
  };

  Process& start(pid_t pid, const std::string& executable, pid_t parent = 1) {
    Process& process = all_[pid];
    process.details = {};
    process.details.pid = process.details.inner_pid = pid;
    process.details.parent = parent;
    process.details.executable = executable;
    process.stat = {};
    process.stat.parent = parent;
    process.stat.start_time = ++clock_;
    process.stat.image = ++images_;
    process.readable = true;
    process.end = net::Fd(::eventfd(0, EFD_CLOEXEC));
    return process;
  }
  Process& fork(pid_t child, pid_t parent) {
    const ProcessEvent details = all_.at(parent).details;
    const std::uint64_t image = all_.at(parent).stat.image;
    Process& process = start(child, details.executable, parent);
    process.stat.image = image;
    return process;
  }
  void exec(pid_t pid, const std::string& executable) {
    all_.at(pid).details.executable = executable;
    all_.at(pid).stat.image = ++images_;
  }
  /// It has ended, and is gone.
  void end(pid_t pid) {
    end_descriptor(pid);
    all_.erase(pid);
  }
  void end_descriptor(pid_t pid) {
    REQUIRE(::eventfd_write(all_.at(pid).end.get(), 1) == 0);
    ended_.push_back(std::move(all_.at(pid).end));  // copies of it are readable from now on
  }
  Process& at(pid_t pid) { return all_.at(pid); }

  Result<void> list(const std::function<void(pid_t)>& take) const override {
    if (no_list != 0) return system_error(no_list, "/proc");
    std::vector<pid_t> pids;
    for (const auto& entry : all_) pids.push_back(entry.first);
    for (const pid_t pid : pids) take(pid);
    return {};
  }
  Result<ProcessStat> stat(pid_t pid) const override {
    if (no_stat != 0) return system_error(no_stat, "stat");
    const auto found = all_.find(pid);
    if (found == all_.end()) return system_error(ESRCH, "stat");
    return found->second.stat;
  }
  Result<net::Fd> open(pid_t pid) const override {
    if (exhausted) return system_error(EMFILE, "pidfd");
    const auto found = all_.find(pid);
    if (found == all_.end()) return system_error(ESRCH, "pidfd");
    return net::Fd(::dup(found->second.end.get()));
  }
  Result<bool> read(pid_t pid, const FilterSet& filters, ProcessEvent& event) const override {
    ++reads;
    if (no_read != 0) return system_error(no_read, "environ");
    const auto found = all_.find(pid);
    if (found == all_.end() || !found->second.readable) return system_error(EACCES, "exe");
    event = found->second.details;
    const bool passes = filters.passes(event);
    if (after_read) std::exchange(after_read, nullptr)();
    return passes;
  }

  mutable int reads = 0;
  mutable std::function<void()> after_read;   // once
  bool exhausted = false;                     // for open()
  int no_list = 0, no_stat = 0, no_read = 0;  // errors

 private:
  std::map<pid_t, Process> all_;
  std::vector<net::Fd> ended_;
  std::uint64_t clock_ = 100, images_ = 0;
};

struct Rig {
  explicit Rig(std::chrono::milliseconds age = 0ms, bool remembers = false) {
    DetectorOptions asked;
    asked.filters.executables = {"/app*"};
    ProcessTable::Options options;
    options.filters = FilterSet::create(asked).value();
    options.files = {"/etc/plugin"};
    options.minimum_age = age;
    options.remembers = remembers;
    options.reader = &made;
    options.epoll = epoll.get();
    options.emit = [this](const ProcessEvent& event) {
      told_.push_back(std::string(to_string(event.type)) + " " + std::to_string(event.pid) + (event.executable.empty() ? "" : " ") +
                      event.executable + (event.file.empty() ? "" : " ") + event.file);
      last = event;
    };
    options.watch = [this](pid_t pid) { ++watched[pid]; };
    options.unwatch = [this](pid_t pid) {
      if (--watched[pid] == 0) watched.erase(pid);
    };
    table.emplace(std::move(options));
  }
  void exec(pid_t pid) { table->exec(pid, now); }
  void fork(pid_t child, pid_t parent) { table->fork(child, parent, now); }
  void scan() { REQUIRE(table->scan(now)); }
  void track(pid_t pid) { CHECK(table->track(pid, made.at(pid).stat.start_time, *made.open(pid))); }
  void pass(ProcessTable::Time::duration time) {
    now += time;
    table->let_pass(now);
  }
  /// What the pidfds say.
  void take_exits() {
    std::array<epoll_event, 16> ready;
    const int count = ::epoll_wait(epoll.get(), ready.data(), static_cast<int>(ready.size()), 0);
    for (int i = 0; i < count; ++i) table->exited(ready[static_cast<std::size_t>(i)].data.u64);
  }
  void end(pid_t pid) {
    made.end(pid);
    take_exits();
  }
  /// And forgets them.
  Lines told() { return std::exchange(told_, {}); }

  MadeUp made;
  net::Fd epoll{::epoll_create1(EPOLL_CLOEXEC)};
  ProcessTable::Time now{};
  ProcessEvent last;
  std::map<pid_t, int> watched;
  std::optional<ProcessTable> table;

 private:
  Lines told_;
};

}  // namespace

TEST_CASE("a process that passes the filters is told once, and its exit") {
  Rig rig;
  rig.made.start(7, "/app").details.inner_pid = 3;
  rig.exec(7);
  CHECK(rig.told() == Lines{"exec 7 /app"});
  CHECK(rig.last.start_time == rig.made.at(7).stat.start_time);
  CHECK(rig.table->size() == 1);
  rig.exec(7);  // the same exec
  rig.scan();
  rig.scan();
  CHECK(rig.told() == Lines{});
  rig.end(7);
  CHECK(rig.told() == Lines{"exit 7"});
  CHECK(rig.last.inner_pid == 3);
  CHECK(rig.last.parent == 1);
  CHECK(rig.last.start_time != 0);
  CHECK(rig.table->size() == 0);
  CHECK(rig.watched.empty());
}

TEST_CASE("a process that does not pass is forgotten at once") {
  Rig rig;
  rig.made.start(7, "/other");
  rig.exec(7);
  CHECK(rig.table->size() == 0);
  rig.end(7);
  CHECK(rig.told() == Lines{});
}

TEST_CASE("what a scan has seen is told once, whichever comes first") {
  Rig rig;
  rig.made.start(7, "/app");
  SECTION("the scan, and then the event that was on its way") {
    rig.scan();
    rig.exec(7);
  }
  SECTION("the event, and then a scan") {
    rig.exec(7);
    rig.scan();
  }
  SECTION("a scan, and a late fork event of a process that it saw") {
    rig.made.fork(8, 7);
    rig.scan();
    CHECK(rig.told() == Lines{"exec 7 /app", "exec 8 /app"});
    rig.fork(8, 7);
    CHECK(rig.told() == Lines{});
    return;
  }
  CHECK(rig.told() == Lines{"exec 7 /app"});
}

TEST_CASE("a filter is decided at each exec") {
  Rig rig;
  rig.made.start(7, "/script");
  rig.exec(7);
  CHECK(rig.told() == Lines{});
  SECTION("a script that becomes the application") {
    rig.made.exec(7, "/app");
    rig.exec(7);
    CHECK(rig.told() == Lines{"exec 7 /app"});
    SECTION("and ends") {
      rig.end(7);
      CHECK(rig.told() == Lines{"exit 7"});
    }
    SECTION("and another application") {
      rig.made.exec(7, "/app2");
      rig.exec(7);
      CHECK(rig.told() == Lines{"exec 7 /app2"});
      rig.end(7);
      CHECK(rig.told() == Lines{"exit 7"});
    }
    SECTION("and something else: its exit is owed, but not its forks") {
      CHECK(rig.watched.count(7) == 1);
      rig.made.exec(7, "/script");
      rig.exec(7);
      CHECK(rig.watched.count(7) == 0);
      rig.made.fork(8, 7);
      rig.fork(8, 7);
      rig.table->opened(7, "/etc/plugin");
      CHECK(rig.told() == Lines{});
      rig.end(7);
      CHECK(rig.told() == Lines{"exit 7"});
    }
  }
}

TEST_CASE("a process waits for its minimum age") {
  Rig rig(1000ms);
  rig.made.start(7, "/app");
  rig.exec(7);
  CHECK(rig.table->next() == rig.now + 1000ms);
  rig.pass(999ms);
  CHECK(rig.told() == Lines{});
  SECTION("and is told then") {
    rig.pass(1ms);
    CHECK(rig.told() == Lines{"exec 7 /app"});
    rig.end(7);
    CHECK(rig.told() == Lines{"exit 7"});
  }
  SECTION("an exit before suppresses both") {
    rig.end(7);
    rig.pass(10s);
    CHECK(rig.told() == Lines{});
  }
  SECTION("an exit that is not yet known, too") {
    rig.made.end(7);
    rig.pass(10s);
    CHECK(rig.told() == Lines{});
    rig.take_exits();
    CHECK(rig.told() == Lines{});
  }
  SECTION("a second exec neither begins the wait anew nor is told beside the first") {
    rig.made.exec(7, "/app2");
    rig.exec(7);
    rig.pass(1ms);
    CHECK(rig.told() == Lines{"exec 7 /app2"});
    rig.pass(10s);
    CHECK(rig.told() == Lines{});
  }
  SECTION("the newest answer of the filters counts") {
    rig.made.exec(7, "/script");
    rig.exec(7);
    rig.pass(10s);
    rig.end(7);
    CHECK(rig.told() == Lines{});
  }
  SECTION("also if its event is still on its way") {
    rig.made.exec(7, "/script");
    rig.pass(1ms);
    CHECK(rig.told() == Lines{});
    rig.exec(7);
    rig.pass(10s);
    CHECK(rig.told() == Lines{});
    CHECK(rig.table->size() == 0);
  }
  SECTION("and an application whose event is on its way is told once") {
    rig.made.exec(7, "/app2");
    rig.pass(1ms);
    CHECK(rig.told() == Lines{"exec 7 /app2"});
    rig.exec(7);
    rig.pass(10s);
    CHECK(rig.told() == Lines{});
  }
  SECTION("an exec of one that was told is told at once") {
    rig.pass(1ms);
    CHECK(rig.told() == Lines{"exec 7 /app"});
    rig.made.exec(7, "/app2");
    rig.exec(7);
    CHECK(rig.told() == Lines{"exec 7 /app2"});
  }
}

TEST_CASE("of a tracked process that waits again, the wait that was given up does not count") {
  Rig rig(1000ms);
  rig.made.start(7, "/app");
  rig.track(7);
  rig.exec(7);
  rig.pass(500ms);
  rig.made.exec(7, "/script");
  rig.exec(7);
  rig.made.exec(7, "/app");
  rig.exec(7);
  rig.pass(999ms);
  CHECK(rig.told() == Lines{});
  rig.pass(1ms);
  CHECK(rig.told() == Lines{"exec 7 /app"});
}

TEST_CASE("the age of what a scan finds is known") {
  Rig rig(1000ms);
  rig.made.start(7, "/app").stat.age = 5s;
  rig.made.start(8, "/app").stat.age = 300ms;
  rig.scan();
  CHECK(rig.told() == Lines{"exec 7 /app"});
  rig.pass(699ms);
  CHECK(rig.told() == Lines{});
  rig.pass(1ms);
  CHECK(rig.told() == Lines{"exec 8 /app"});
}

TEST_CASE("children of processes that are followed are told as forks") {
  Rig rig;
  rig.made.start(7, "/app");
  rig.exec(7);
  rig.made.fork(8, 7);
  rig.fork(8, 7);
  CHECK(rig.told() == Lines{"exec 7 /app", "fork 8 /app"});
  CHECK(rig.last.parent == 7);
  SECTION("and their children, and their exits") {
    rig.made.fork(9, 8);
    rig.fork(9, 8);
    rig.end(8);
    rig.end(9);
    CHECK(rig.told() == Lines{"fork 9 /app", "exit 8", "exit 9"});
  }
  SECTION("one that executes something that passes is told again") {
    rig.made.exec(8, "/app2");
    rig.exec(8);
    rig.end(8);
    CHECK(rig.told() == Lines{"exec 8 /app2", "exit 8"});
  }
  SECTION("one whose parent has ended unnoticed is still its child") {
    rig.made.fork(9, 7);
    rig.made.end(7);
    rig.fork(9, 7);
    CHECK(rig.told() == Lines{"fork 9 /app"});
    rig.take_exits();
    CHECK(rig.told() == Lines{"exit 7"});
  }
  SECTION("not of another process that has the parent's pid now") {
    rig.made.end(7);
    rig.made.start(7, "/other");
    rig.made.fork(9, 7);
    rig.fork(9, 7);
    CHECK(rig.told() == Lines{});
  }
}

TEST_CASE("forks wait, too, and are no forks any more when they execute something") {
  Rig rig(1000ms);
  rig.made.start(7, "/app").stat.age = 1h;
  rig.scan();
  rig.made.fork(8, 7);
  rig.fork(8, 7);
  CHECK(rig.told() == Lines{"exec 7 /app"});
  SECTION("told after the wait") {
    rig.pass(1000ms);
    CHECK(rig.told() == Lines{"fork 8 /app"});
  }
  SECTION("an exec that passes takes its place") {
    rig.pass(500ms);
    rig.made.exec(8, "/app2");
    rig.exec(8);
    rig.pass(499ms);
    CHECK(rig.told() == Lines{});
    rig.pass(1ms);
    CHECK(rig.told() == Lines{"exec 8 /app2"});
  }
  SECTION("an exec that does not ends it") {
    rig.made.exec(8, "/script");
    rig.exec(8);
    rig.pass(10s);
    rig.end(8);
    CHECK(rig.told() == Lines{});
  }
  SECTION("children of one that waits are followed") {
    rig.made.fork(9, 8);
    rig.fork(9, 8);
    rig.end(8);
    rig.pass(1000ms);
    CHECK(rig.told() == Lines{"fork 9 /app"});
  }
}

TEST_CASE("a child that has executed something before its fork was told is what it executes") {
  Rig rig;
  rig.made.start(7, "/app");
  rig.exec(7);
  rig.made.fork(8, 7);
  rig.made.exec(8, "/app2");
  rig.fork(8, 7);
  rig.exec(8);
  CHECK(rig.told() == Lines{"exec 7 /app", "exec 8 /app2"});
  rig.made.fork(9, 7);
  rig.made.exec(9, "/script");
  rig.fork(9, 7);
  rig.exec(9);
  CHECK(rig.told() == Lines{});
}

TEST_CASE("a fork of a process that nobody follows costs nothing") {
  Rig rig;
  rig.made.start(7, "/other");
  rig.made.fork(8, 7);
  rig.fork(8, 7);
  CHECK(rig.made.reads == 0);
  CHECK(rig.told() == Lines{});
}

TEST_CASE("a pid that is used again is another process") {
  Rig rig;
  rig.made.start(7, "/app");
  rig.exec(7);
  const std::uint64_t first = rig.made.at(7).stat.start_time;
  rig.made.end(7);
  auto& second = rig.made.start(7, "/app");
  SECTION("that began later") {}
  SECTION("that began within the same hundredth of a second") { second.stat.start_time = first; }
  rig.exec(7);
  CHECK(rig.told() == Lines{"exec 7 /app", "exit 7", "exec 7 /app"});
  CHECK(rig.last.start_time == rig.made.at(7).stat.start_time);
  rig.take_exits();  // the first's pidfd is in the set no more
  CHECK(rig.told() == Lines{});
  rig.end(7);
  CHECK(rig.told() == Lines{"exit 7"});
}

TEST_CASE("a pid that is used again while one waits does not inherit the wait") {
  Rig rig(1000ms);
  rig.made.start(7, "/app");
  rig.exec(7);
  rig.pass(900ms);
  rig.made.end(7);
  rig.made.start(7, "/app2");
  rig.exec(7);
  rig.pass(100ms);
  CHECK(rig.told() == Lines{});
  rig.pass(900ms);
  CHECK(rig.told() == Lines{"exec 7 /app2"});
}

TEST_CASE("a process that changes while it is read is read again") {
  Rig rig;
  rig.made.start(7, "/app");
  SECTION("it executes something that does not pass") {
    rig.made.after_read = [&] { rig.made.exec(7, "/script"); };
    rig.exec(7);
    CHECK(rig.told() == Lines{});
  }
  SECTION("it executes something that passes") {
    rig.made.after_read = [&] { rig.made.exec(7, "/app2"); };
    rig.exec(7);
    rig.exec(7);
    CHECK(rig.told() == Lines{"exec 7 /app2"});
  }
  SECTION("its pid becomes another's") {
    rig.made.after_read = [&] {
      rig.made.end(7);
      rig.made.start(7, "/other");
    };
    rig.exec(7);
    CHECK(rig.told() == Lines{});
    CHECK(rig.table->size() == 0);
  }
  SECTION("it ends") {
    rig.made.after_read = [&] { rig.made.end(7); };
    rig.exec(7);
    CHECK(rig.told() == Lines{});
    CHECK(rig.table->unreadable() == 0);
  }
}

TEST_CASE("a process in the middle of an exec is left alone until that is done") {
  Rig rig(1000ms);
  rig.made.start(7, "/app").stat.age = 1h;
  SECTION("a scan sees it") {
    rig.made.at(7).stat.executing = true;
    rig.scan();
    CHECK(rig.table->size() == 0);
    rig.made.at(7).stat.executing = false;
    rig.made.exec(7, "/app");
    rig.scan();
    CHECK(rig.told() == Lines{"exec 7 /app"});
  }
  SECTION("when its wait is over") {
    rig.exec(7);
    rig.made.exec(7, "/app2");
    rig.made.at(7).stat.executing = true;
    rig.pass(1000ms);
    rig.exec(7);
    CHECK(rig.told() == Lines{});
    rig.made.at(7).stat.executing = false;
    rig.exec(7);
    CHECK(rig.told() == Lines{"exec 7 /app2"});
    rig.pass(10s);
    CHECK(rig.told() == Lines{});
  }
  SECTION("while it is read when its wait is over") {
    rig.exec(7);
    rig.made.after_read = [&] { rig.made.at(7).stat.executing = true; };
    rig.pass(1000ms);
    CHECK(rig.told() == Lines{});
    rig.made.at(7).stat.executing = false;
    rig.made.exec(7, "/app2");
    rig.exec(7);
    CHECK(rig.told() == Lines{"exec 7 /app2"});
  }
  SECTION("as a child") {
    rig.scan();
    rig.made.fork(8, 7).stat.executing = true;
    rig.fork(8, 7);
    rig.made.at(8).stat.executing = false;
    rig.made.exec(8, "/script");
    rig.exec(8);
    rig.pass(10s);
    CHECK(rig.told() == Lines{"exec 7 /app"});
  }
}

TEST_CASE("what cannot be read is not told, but its exit is") {
  Rig rig(1000ms);
  rig.made.start(7, "/app");
  SECTION("at its exec") {
    rig.made.at(7).readable = false;
    rig.exec(7);
  }
  SECTION("after the wait") {
    rig.exec(7);
    rig.made.at(7).readable = false;
  }
  rig.pass(1000ms);
  CHECK(rig.told() == Lines{});
  CHECK(rig.table->unreadable() == 1);
  rig.end(7);
  CHECK(rig.told() == Lines{"exit 7"});
}

TEST_CASE("a scan leaves alone what cannot be read") {
  Rig rig;
  rig.made.start(7, "/app").readable = false;
  rig.scan();
  CHECK(rig.table->size() == 0);
}

TEST_CASE("kernel threads and those that wait to be reaped are no processes") {
  Rig rig;
  rig.made.start(2, "/app").stat.kernel_thread = true;
  rig.made.start(7, "/app").stat.ended = true;
  rig.scan();
  rig.exec(7);
  CHECK(rig.told() == Lines{});
}

TEST_CASE("a tracked process is told of by its exit, forks and files, never by an exec") {
  Rig rig;
  rig.made.start(7, "/other");
  rig.track(7);
  rig.track(7);
  rig.scan();
  rig.exec(7);
  CHECK(rig.told() == Lines{});
  CHECK(rig.watched.at(7) == 1);
  rig.made.fork(8, 7);
  rig.fork(8, 7);
  rig.table->opened(7, "/etc/plugin");
  CHECK(rig.told() == Lines{"fork 8 /other", "file open 7 /other /etc/plugin"});
  rig.made.exec(7, "/something");
  rig.exec(7);
  rig.end(7);
  CHECK(rig.told() == Lines{"exit 7"});
}

TEST_CASE("a tracked process that passes the filters is told of by them as well") {
  Rig rig;
  rig.made.start(7, "/app");
  SECTION("tracked first") {
    rig.track(7);
    rig.exec(7);
  }
  SECTION("tracked before the scan") {
    rig.track(7);
    rig.scan();
  }
  SECTION("tracked afterwards") {
    rig.exec(7);
    rig.track(7);
  }
  rig.exec(7);
  CHECK(rig.told() == Lines{"exec 7 /app"});
  rig.end(7);
  CHECK(rig.told() == Lines{"exit 7"});
}

TEST_CASE("the exit of a tracked process that waits is told, its exec is not") {
  Rig rig(1000ms);
  rig.made.start(7, "/app");
  rig.track(7);
  rig.exec(7);
  rig.end(7);
  rig.pass(10s);
  CHECK(rig.told() == Lines{"exit 7"});
}

TEST_CASE("an exit is told once, whoever tracks the process when") {
  Rig rig;
  rig.made.start(7, "/app");
  rig.exec(7);
  const std::uint64_t start = rig.made.at(7).stat.start_time;
  net::Fd pidfd = *rig.made.open(7);
  SECTION("known to be over") { rig.end(7); }
  SECTION("not yet known to be over") { rig.made.end(7); }
  CHECK(rig.table->track(7, start, std::move(pidfd)));
  rig.take_exits();
  CHECK(rig.told() == Lines{"exec 7 /app", "exit 7"});
}

TEST_CASE("a process that has ended before its tracking was taken is told") {
  Rig rig;
  rig.made.start(7, "/other");
  const std::uint64_t start = rig.made.at(7).stat.start_time;
  net::Fd pidfd = *rig.made.open(7);
  rig.made.end(7);
  CHECK(rig.table->track(7, start, std::move(pidfd)));
  rig.take_exits();
  CHECK(rig.told() == Lines{"exit 7"});
}

TEST_CASE("opened files are told of exactly those paths, and of processes that are followed") {
  Rig rig(1000ms);
  rig.made.start(7, "/app");
  rig.made.start(8, "/other");
  rig.exec(7);
  rig.exec(8);
  rig.table->opened(7, "/etc/plugin");  // while it waits: told after it
  rig.table->opened(7, "/etc/plugin");
  rig.table->opened(7, "/etc/plugins");
  rig.table->opened(8, "/etc/plugin");
  CHECK(rig.told() == Lines{});
  rig.pass(1000ms);
  CHECK(rig.told() == Lines{"exec 7 /app", "file open 7 /app /etc/plugin"});
  rig.table->opened(7, "/etc/plugin");
  rig.table->opened(7, "/etc/other");
  CHECK(rig.told() == Lines{"file open 7 /app /etc/plugin"});
}

TEST_CASE("a scan repairs what events that were lost would have said") {
  Rig rig;
  rig.made.start(7, "/app");
  rig.scan();
  CHECK(rig.told() == Lines{"exec 7 /app"});
  SECTION("an exec") {
    rig.made.exec(7, "/app2");
    rig.scan();
    CHECK(rig.told() == Lines{"exec 7 /app2"});
  }
  SECTION("an exec of something else") {
    rig.made.exec(7, "/script");
    rig.scan();
    rig.made.fork(8, 7);
    rig.fork(8, 7);
    rig.end(7);
    CHECK(rig.told() == Lines{"exit 7"});
  }
  SECTION("a new process") {
    rig.made.start(8, "/app");
    rig.scan();
    CHECK(rig.told() == Lines{"exec 8 /app"});
  }
  SECTION("a fork") {
    rig.made.fork(8, 7);
    rig.scan();
    CHECK(rig.told() == Lines{"fork 8 /app"});
  }
  SECTION("a pid that is used again") {
    rig.made.end(7);
    rig.made.start(7, "/app");
    rig.scan();
    CHECK(rig.told() == Lines{"exit 7", "exec 7 /app"});
  }
}

TEST_CASE("where scans are all there is, what they turned down is looked at when it changes") {
  Rig rig(0ms, true);
  rig.made.start(7, "/script");
  rig.scan();
  const int reads = rig.made.reads;
  rig.scan();
  CHECK(rig.made.reads == reads);
  rig.made.exec(7, "/app");
  rig.scan();
  CHECK(rig.told() == Lines{"exec 7 /app"});
  rig.end(7);
  CHECK(rig.told() == Lines{"exit 7"});
  rig.made.start(7, "/script");
  rig.scan();
  rig.made.end(7);
  rig.made.start(7, "/app");  // another process
  rig.scan();
  CHECK(rig.told() == Lines{"exec 7 /app"});
}

TEST_CASE("a process that cannot be followed for want of descriptors is found again") {
  Rig rig;
  rig.made.start(7, "/app");
  rig.made.exhausted = true;
  rig.exec(7);
  CHECK(rig.told() == Lines{});
  CHECK(rig.table->take_exhausted());
  CHECK_FALSE(rig.table->take_exhausted());
  rig.made.exhausted = false;
  rig.scan();
  CHECK(rig.told() == Lines{"exec 7 /app"});
}

TEST_CASE("without descriptors nothing is known of a process, and nothing is told of it until there are some") {
  Rig rig(1000ms, GENERATE(false, true));
  const int error = GENERATE(EMFILE, ENFILE, ENOMEM);
  int MadeUp::*const fails = GENERATE(&MadeUp::no_stat, &MadeUp::no_read, &MadeUp::no_list);
  rig.made.start(6, "/app").stat.age = 1h;
  rig.scan();
  CHECK(rig.told() == Lines{"exec 6 /app"});
  rig.made.start(7, "/app").stat.age = 1h;
  SECTION("a scan") {
    rig.made.*fails = error;
    rig.scan();
  }
  SECTION("an exec") {
    if (fails == &MadeUp::no_list) return;
    rig.made.*fails = error;
    rig.exec(7);
  }
  CHECK(rig.told() == Lines{});
  CHECK(rig.table->take_exhausted());
  rig.made.*fails = 0;
  rig.scan();
  CHECK(rig.told() == Lines{"exec 7 /app"});
  CHECK_FALSE(rig.table->take_exhausted());
  CHECK(rig.table->unreadable() == 0);
  rig.end(7);
  CHECK(rig.told() == Lines{"exit 7"});
}

TEST_CASE("a first scan without descriptors is made good by another first scan") {
  Rig rig;
  rig.made.start(7, "/app");
  rig.made.fork(8, 7);
  rig.made.no_list = EMFILE;
  rig.scan();
  CHECK(rig.table->take_exhausted());
  rig.made.no_list = 0;
  rig.scan();
  CHECK(rig.told() == Lines{"exec 7 /app", "exec 8 /app"});
}

TEST_CASE("that processes cannot be listed for another reason is an error") {
  Rig rig;
  rig.made.no_list = EACCES;
  CHECK_FALSE(rig.table->scan(rig.now));
  CHECK_FALSE(rig.table->take_exhausted());
}

TEST_CASE("a process that waits lives on while there are no descriptors to look at it with") {
  Rig rig(1000ms);
  int MadeUp::*const fails = GENERATE(&MadeUp::no_stat, &MadeUp::no_read);
  const bool tracked = GENERATE(false, true);
  rig.made.start(7, "/app");
  if (tracked) rig.track(7);
  rig.exec(7);
  rig.made.*fails = EMFILE;
  rig.pass(1000ms);
  CHECK(rig.told() == Lines{});
  CHECK(rig.table->take_exhausted());
  CHECK(rig.table->size() == 1);
  SECTION("and is told then") {
    rig.made.*fails = 0;
    rig.pass(10s);
    CHECK(rig.told() == Lines{"exec 7 /app"});
    rig.end(7);
    CHECK(rig.told() == Lines{"exit 7"});
  }
  SECTION("and is told then as what it has executed meanwhile") {
    rig.made.exec(7, "/app2");
    rig.pass(10s);
    CHECK(rig.told() == Lines{});
    rig.made.*fails = 0;
    rig.pass(10s);
    CHECK(rig.told() == Lines{"exec 7 /app2"});
  }
  SECTION("and ends without them") {
    rig.made.end(7);
    rig.pass(10s);
    CHECK(rig.told() == (tracked ? Lines{"exit 7"} : Lines{}));
    CHECK(rig.table->size() == 0);
  }
}

TEST_CASE("what a followed process executes without descriptors is told when there are some") {
  Rig rig;
  int MadeUp::*const fails = GENERATE(&MadeUp::no_stat, &MadeUp::no_read);
  rig.made.start(7, "/app");
  rig.scan();
  rig.made.*fails = EMFILE;
  rig.made.exec(7, "/app2");
  rig.exec(7);
  rig.made.fork(8, 7);
  rig.fork(8, 7);
  rig.table->opened(7, "/etc/plugin");
  CHECK(rig.table->take_exhausted());
  CHECK(rig.table->unreadable() == 1);  // what it opened: no scan finds that
  CHECK(rig.told() == Lines{"exec 7 /app"});
  rig.made.*fails = 0;
  rig.scan();
  CHECK(rig.told() == Lines{"exec 7 /app2", "fork 8 /app2"});
}

TEST_CASE("where scans are all there is, what could not be followed is looked at again, though it has not changed") {
  Rig rig(0ms, true);
  rig.scan();
  SECTION("a process") { rig.made.start(7, "/app"); }
  SECTION("a child") {
    rig.made.start(6, "/app");
    rig.scan();
    CHECK(rig.told() == Lines{"exec 6 /app"});
    rig.made.fork(7, 6);
  }
  const std::uint64_t changes = rig.table->changes();
  rig.made.exhausted = true;
  rig.scan();
  rig.scan();
  CHECK(rig.told() == Lines{});
  rig.made.exhausted = false;
  rig.scan();
  CHECK(rig.told().size() == 1);
  CHECK(rig.table->changes() == changes + 1);
  rig.scan();
  CHECK(rig.told() == Lines{});
}

TEST_CASE("the last exec of a process that executes faster than it can be read is told") {
  Rig rig;
  rig.made.start(7, "/app");
  int left = 4;
  std::function<void()> change = [&] {
    rig.made.exec(7, "/app" + std::to_string(left));
    if (--left > 0) rig.made.after_read = change;
  };
  rig.made.after_read = change;
  rig.exec(7);
  CHECK(left == 0);
  CHECK(rig.told() == Lines{});
  CHECK(rig.table->unreadable() == 1);
  SECTION("by its event") { rig.exec(7); }
  SECTION("by a scan") { rig.scan(); }
  CHECK(rig.told() == Lines{"exec 7 /app1"});
  rig.end(7);
  CHECK(rig.told() == Lines{"exit 7"});
}

TEST_CASE("waits that were given up are forgotten before their time, the others are not") {
  Rig rig(24h);
  rig.made.start(6, "/app");
  rig.made.start(7, "/app");
  rig.exec(7);
  rig.pass(1ms);
  rig.exec(6);
  const ProcessTable::Time due = rig.now + 24h;
  for (int i = 0; i < 2000; ++i) {
    rig.pass(1ms);
    rig.made.exec(7, "/script");
    rig.exec(7);
    rig.made.exec(7, "/app");
    rig.exec(7);
  }
  CHECK(rig.table->next() == due);
  rig.pass(due - rig.now);
  CHECK(rig.told() == Lines{"exec 6 /app"});
  rig.pass(2s);
  CHECK(rig.told() == Lines{"exec 7 /app"});
}

TEST_CASE("the reader of /proc tells a process that is none from one that it has no descriptors for") {
  // A child, as the limit is of all threads; what it finds is its exit status.
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const ProcessReader& reader = proc_reader();
    const pid_t own = ::getpid();
    const FilterSet filters = FilterSet::create({}).value();
    const auto for_now = [](const auto& result) { return !result && cannot_tell_now(result.error()); };
    ProcessEvent event;
    int wrong = 0;
    const auto expect = [&](bool right, int bit) { wrong |= right ? 0 : bit; };
    expect(bool(reader.stat(own)) && bool(reader.read(own, filters, event)), 1);
    const auto none = reader.stat(1 << 30);
    expect(!none && !cannot_tell_now(none.error()), 2);
    const rlimit few{3, 3};
    expect(::setrlimit(RLIMIT_NOFILE, &few) == 0, 4);
    expect(for_now(reader.stat(own)), 8);
    expect(for_now(reader.list([](pid_t) {})), 16);
    expect(for_now(reader.open(own)), 32);
    expect(for_now(reader.read(own, filters, event)), 64);
    ::_exit(wrong);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}
