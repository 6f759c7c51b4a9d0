#include "instrument/ebpf_source.hpp"

#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/process.hpp"
#include "support/scratch_dir.hpp"

namespace {

using weir::DetectorOptions;
using weir::instrument::make_ebpf_source;
using weir::instrument::RawEvent;
using weir::instrument::RawSource;
using Type = RawEvent::Type;

// Keeps what is logged.
class KeptLog final : public weir::Logger {
 public:
  void log(Level level, std::string_view message, std::span<const weir::Attribute>) noexcept override {
    const std::lock_guard lock(mutex_);
    if (level >= Level::warning) lines_.emplace_back(message);
  }
  std::vector<std::string> lines() const {
    const std::lock_guard lock(mutex_);
    return lines_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

// Whether eBPF works here is found by trying. Where it does not, the whole program is skipped (77), and says why.
std::unique_ptr<RawSource> attached(const DetectorOptions& options = {}) {
  auto source = make_ebpf_source(options);
  REQUIRE(source);
  const auto result = (*source)->attach();
  if (!result) {
    if (std::getenv("WEIR_REQUIRE_BPF") != nullptr) FAIL(result.error().message);
    std::fprintf(stderr, "skipped: %s\n", result.error().message.c_str());
    std::fflush(nullptr);
    ::_exit(77);
  }
  return std::move(*source);
}

struct Event {
  Type type;
  pid_t pid;
  pid_t parent;
  std::string file;
  bool operator==(const Event&) const = default;
};

std::vector<Event> read_all(RawSource& source) {
  std::vector<Event> events;
  REQUIRE(source.read([&](const RawEvent& event) { events.push_back({event.type, event.pid, event.parent, std::string(event.file)}); }));
  return events;
}

// Of a process, without those that others had meanwhile.
std::vector<Event> of(pid_t pid, const std::vector<Event>& events) {
  std::vector<Event> found;
  std::copy_if(events.begin(), events.end(), std::back_inserter(found), [&](const Event& event) { return event.pid == pid; });
  return found;
}

// The program of ebpf_program.cpp, at our command.
class Program {
 public:
  Program() : process_({WEIR_EBPF_PROGRAM}) { REQUIRE(process_.line(1) == "ready"); }
  pid_t pid() const { return process_.pid(); }
  /// Its answer.
  std::string does(const std::string& what) {
    const std::string line = what + "\n";
    REQUIRE(::write(process_.fd(0), line.data(), line.size()) == static_cast<ssize_t>(line.size()));
    const auto answer = process_.line(1);
    REQUIRE(answer);
    return *answer;
  }

 private:
  weir::testing::Process process_;
};

std::string make_file(const weir::testing::ScratchDir& directory, const std::string& name) {
  std::string path = directory / name;
  const int fd = ::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  REQUIRE(fd >= 0);
  ::close(fd);
  return path;
}

// Takes all capabilities but those of `kept` (bits) from the calling thread, and from it alone.
bool keep_capabilities(std::uint64_t kept) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  for (int i = 0; i < 2; ++i) data[i].permitted = data[i].effective = static_cast<std::uint32_t>(kept >> (32 * i));
  return ::syscall(SYS_capset, &header, data) == 0;
}

// What comes to stderr during the call.
template <class Call>
std::string stderr_of(Call call) {
  const weir::testing::ScratchDir directory;
  const std::string path = make_file(directory, "stderr");
  const int before = ::dup(2);
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(::dup2(file, 2) == 2);
  call();
  REQUIRE(::dup2(before, 2) == 2);
  ::close(before);
  char text[4096];
  const ssize_t size = ::pread(file, text, sizeof text, 0);
  ::close(file);
  return {text, static_cast<std::size_t>(std::max<ssize_t>(size, 0))};
}

}  // namespace

TEST_CASE("the eBPF source tells of processes") {
  const auto source = attached();
  CHECK(source->name() == "eBPF");
  CHECK(source->lost() == 0);
  Program program;
  const auto begun = of(program.pid(), read_all(*source));

  SECTION("one that starts: the fork under its parent, then the exec") {
    REQUIRE(begun.size() == 2);
    CHECK(begun[0] == Event{Type::fork, program.pid(), ::getpid(), ""});
    CHECK(begun[1] == Event{Type::exec, program.pid(), 0, ""});
  }
  SECTION("a fork without an exec") {
    const pid_t child = std::stoi(program.does("fork"));
    CHECK(of(child, read_all(*source)) == std::vector<Event>{{Type::fork, child, program.pid(), ""}});
  }
  SECTION("threads are none") {
    program.does("threads");
    const auto events = read_all(*source);
    CHECK(of(program.pid(), events).empty());
    CHECK(std::none_of(events.begin(), events.end(), [&](const Event& event) { return event.parent == program.pid(); }));
  }
  SECTION("an exec that fails is none") {
    program.does("exec-fails");
    CHECK(of(program.pid(), read_all(*source)).empty());
  }
  SECTION("an exec by its first thread, by another, and by a descriptor are the same") {
    for (const char* how : {"exec", "exec-in-thread", "execveat"}) {
      CAPTURE(how);
      CHECK(program.does(how) == "ready");
      CHECK(of(program.pid(), read_all(*source)) == std::vector<Event>{{Type::exec, program.pid(), 0, ""}});
    }
  }
  SECTION("openings are none where no file was asked for") {
    source->watch(program.pid());
    CHECK(program.does("open /dev/null") == "yes");
    CHECK(of(program.pid(), read_all(*source)).empty());
  }
}

TEST_CASE("the eBPF source tells of opened files") {
  const weir::testing::ScratchDir directory;
  const std::string one = make_file(directory, "one");
  const std::string two = make_file(directory, std::string(200, 'w'));
  const std::string longest = [&] {  // the longest path that there is
    std::string path = directory / "one";
    while (path.size() + 2 <= 4095) path.insert(1, "./");
    return path.size() == 4094 ? "/" + path : path;
  }();
  REQUIRE(longest.size() == 4095);
  const auto source = attached({.files = {one, two, longest, one, directory / "absent"}});
  if (!source->file_open()) {
    if (std::getenv("WEIR_REQUIRE_BPF") != nullptr) FAIL("openings cannot be seen here");
    WARN("not tested: openings cannot be seen here");
    return;
  }
  Program program, other;
  source->watch(program.pid());
  source->watch(program.pid());
  CHECK(read_all(*source).size() >= 4);
  const auto opening = [&](const std::string& path) { return std::vector<Event>{{Type::open, program.pid(), 0, path}}; };

  SECTION("by each system call that opens one") {
    for (const char* how : {"open", "creat", "openat2", "legacy-open", "open-in-thread"}) {
      CAPTURE(how);
      CHECK(program.does(how + (" " + one)) == "yes");
      CHECK(of(program.pid(), read_all(*source)) == opening(one));
    }
  }
  SECTION("with the path exactly as it was asked for") {
    CHECK(program.does("open " + two) == "yes");
    CHECK(of(program.pid(), read_all(*source)) == opening(two));
    CHECK(program.does("open " + longest) == "yes");
    CHECK(of(program.pid(), read_all(*source)) == opening(longest));
    CHECK(program.does("open " + one) == "yes");
    CHECK(of(program.pid(), read_all(*source)) == opening(one));
    CHECK(program.does("open /" + one) == "yes");
    CHECK(program.does("open " + (directory / "./one")) == "yes");
    CHECK(program.does("open " + two.substr(0, two.size() - 1)) == "no");
    CHECK(program.does("open /dev/null") == "yes");
    CHECK(of(program.pid(), read_all(*source)).empty());
  }
  SECTION("not when it fails") {
    CHECK(program.does("open " + (directory / "absent")) == "no");
    CHECK(of(program.pid(), read_all(*source)).empty());
  }
  SECTION("not by others, and by those that are watched no longer") {
    CHECK(other.does("open " + one) == "yes");
    CHECK(of(other.pid(), read_all(*source)).empty());
    source->watch(other.pid());
    CHECK(other.does("open " + one) == "yes");
    CHECK(of(other.pid(), read_all(*source)).size() == 1);
    source->unwatch(other.pid());
    source->unwatch(other.pid());
    CHECK(other.does("open " + one) == "yes");
    CHECK(of(other.pid(), read_all(*source)).empty());
    CHECK(program.does("open " + one) == "yes");
    CHECK(of(program.pid(), read_all(*source)) == opening(one));
  }
  SECTION("also by processes that were watched before it was attached, again") {
    source->detach();
    source->watch(other.pid());
    REQUIRE(source->attach());
    CHECK(program.does("open " + one) == "yes");
    CHECK(other.does("open " + two) == "yes");
    const auto events = read_all(*source);
    CHECK(of(program.pid(), events) == opening(one));
    CHECK(of(other.pid(), events) == std::vector<Event>{{Type::open, other.pid(), 0, two}});
  }
  SECTION("while other threads watch and unwatch") {
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&source, thread] {
        for (int i = 1; i <= 1000; ++i) {
          source->watch(1'000'000 + thread * 1000 + i);
          source->unwatch(1'000'000 + thread * 1000 + i);
        }
      });
    }
    for (int i = 0; i < 20; ++i) CHECK(program.does("open " + one) == "yes");
    for (std::thread& thread : threads) thread.join();
    CHECK(of(program.pid(), read_all(*source)).size() == 20);
  }
}

TEST_CASE("the eBPF source watches so many processes and says when it cannot") {
  KeptLog log;
  const auto source = attached({.files = {"/dev/null"}, .logger = &log});
  if (!source->file_open()) return;
  if (GENERATE(true, false)) source->detach();
  constexpr pid_t most = 65'536;
  for (pid_t pid = 1; pid <= most; ++pid) source->watch(pid);
  CHECK(log.lines().empty());
  source->watch(most + 1);
  source->watch(most + 2);
  source->watch(7);
  REQUIRE(log.lines().size() == 1);
  CHECK_THAT(log.lines()[0], Catch::Contains("which files it opens"));
  source->unwatch(8);
  source->watch(most + 1);
  CHECK(log.lines().size() == 1);
}

TEST_CASE("the descriptor of the eBPF source is readable when there is something") {
  const auto source = attached();
  pollfd entry{source->fd(), POLLIN, 0};
  CHECK((::fcntl(source->fd(), F_GETFD) & FD_CLOEXEC) != 0);
  Program program;
  REQUIRE(::poll(&entry, 1, 30'000) == 1);
  CHECK((entry.revents & POLLIN) != 0);
  CHECK(of(program.pid(), read_all(*source)).size() == 2);
}

TEST_CASE("a detached eBPF source tells nothing more") {
  const auto source = attached();
  CHECK_FALSE(source->attach());  // it is already
  Program program;
  source->detach();
  source->detach();
  CHECK(source->fd() == -1);
  CHECK(source->lost() == 0);
  CHECK_FALSE(source->read([](const RawEvent&) {}));
  REQUIRE(source->attach());
  CHECK(of(program.pid(), read_all(*source)).empty());
  CHECK(program.does("exec") == "ready");
  CHECK(of(program.pid(), read_all(*source)).size() == 1);
}

TEST_CASE("what throws while it takes an event of the eBPF source ends that reading") {
  const auto source = attached();
  Program program;
  const auto result = source->read([](const RawEvent&) { throw std::runtime_error("no room"); });
  REQUIRE_FALSE(result);
  CHECK_THAT(result.error().message, Catch::Contains("no room"));
  CHECK(program.does("exec") == "ready");
  const auto events = of(program.pid(), read_all(*source));
  REQUIRE_FALSE(events.empty());
  CHECK(events.back().type == Type::exec);
}

TEST_CASE("who reads the eBPF source more slowly than it is told comes back") {
  const auto source = attached({.receive_buffer = 1});
  const auto fork_one = [] {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(0);
    REQUIRE(::waitpid(child, nullptr, 0) == child);
  };
  fork_one();
  long taken = 0;
  REQUIRE(source->read([&](const RawEvent&) {
    if (++taken < 1000) fork_one();
  }));
  CHECK(taken <= ::sysconf(_SC_PAGESIZE) / 24);
  CHECK_FALSE(read_all(*source).empty());
}

TEST_CASE("files that are no paths are refused") {
  for (const std::string& file : {std::string(), std::string(4096, 'x'), std::string("/a\0b", 4)}) {
    const auto source = make_ebpf_source({.files = {file}});
    REQUIRE_FALSE(source);
    CHECK(source.error().code == std::errc::invalid_argument);
  }
  CHECK_FALSE(make_ebpf_source({.files = std::vector<std::string>(257, "/x")}));
  CHECK(make_ebpf_source({.files = {std::string(4095, 'x')}}));
}

TEST_CASE("without privileges the eBPF source says what it needs, and libbpf says nothing") {
  attached();
  static std::atomic<int> printed{0};
  const libbpf_print_fn_t print = [](libbpf_print_level, const char*, va_list) { return ++printed; };
  const libbpf_print_fn_t before = libbpf_set_print(print);
  std::string message;
  std::error_code code;
  const std::string written = stderr_of([&] {
    std::thread([&] {
      if (!keep_capabilities(0)) return;
      KeptLog log;
      const auto source = make_ebpf_source({.files = {"/dev/null"}, .logger = &log});
      if (!source) return;
      const auto result = (*source)->attach();
      if (result || !log.lines().empty() || (*source)->fd() != -1) return;
      message = result.error().message;
      code = result.error().code;
    }).join();
  });
  CHECK(libbpf_set_print(before) == print);
  CHECK(printed == 0);
  CHECK(code == std::errc::operation_not_permitted);
  CHECK_THAT(message, Catch::Contains("root, or CAP_BPF and CAP_PERFMON"));
  CHECK_THAT(message, !Catch::Contains("libbpf"));
  CHECK(written.empty());
}

TEST_CASE("CAP_BPF and CAP_PERFMON are enough for the eBPF source") {
  attached();
  std::string message = "no capabilities can be dropped";
  std::thread([&] {
    if (!keep_capabilities(1ull << 38 | 1ull << 39)) return;
    KeptLog log;
    const auto source = make_ebpf_source({.files = {"/dev/null"}, .logger = &log});
    const auto result = (*source)->attach();
    message = result ? "" : result.error().message;
  }).join();
  CHECK(message.empty());
}

// What follows runs as the first process of a pid namespace of its own, where nobody else forks: numbers are exact there.
namespace {

pid_t clone_into_namespace() {
  return static_cast<pid_t>(::syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, nullptr, nullptr, nullptr, nullptr));
}

int run_inside(const char* test) {
  std::fflush(nullptr);
  const pid_t child = clone_into_namespace();
  if (child < 0 && errno == EPERM) {
    WARN("not tested: no pid namespaces without CAP_SYS_ADMIN");
    return 0;
  }
  REQUIRE(child >= 0);
  if (child == 0) {
    ::execl("/proc/self/exe", "inside", test, nullptr);
    ::_exit(99);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

}  // namespace

TEST_CASE("in a pid namespace the eBPF source tells of its processes by their pids there") {
  attached();
  CHECK(run_inside("inside: pids") == 0);
}

TEST_CASE("what the eBPF source cannot tell is counted exactly") {
  attached();
  CHECK(run_inside("inside: loss") == 0);
}

TEST_CASE("inside: pids", "[.]") {
  const weir::testing::ScratchDir directory;
  const std::string file = make_file(directory, "file");
  REQUIRE(::getpid() == 1);
  const auto source = attached({.files = {file}});
  std::vector<Event> expected;
  for (int i = 0; i < 20; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::execl("/bin/true", "true", nullptr);
      ::_exit(99);
    }
    expected.push_back({Type::fork, child, 1, ""});
    expected.push_back({Type::exec, child, 0, ""});
    REQUIRE(::waitpid(child, nullptr, 0) == child);
    // A namespace below ours: seen from here by our pids.
    const pid_t below = clone_into_namespace();
    if (below == 0) {
      ::execl("/bin/true", "true", nullptr);
      ::_exit(99);
    }
    expected.push_back({Type::fork, below, 1, ""});
    expected.push_back({Type::exec, below, 0, ""});
    REQUIRE(::waitpid(below, nullptr, 0) == below);
  }
  CHECK(read_all(*source) == expected);
  if (source->file_open()) {
    source->watch(1);
    const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0);
    ::close(fd);
    CHECK(read_all(*source) == std::vector<Event>{{Type::open, 1, 0, file}});
  }
  CHECK(source->lost() == 0);
}

TEST_CASE("inside: loss", "[.]") {
  const auto source = attached({.receive_buffer = 1});
  constexpr std::uint64_t children = 500;
  const auto storm = [] {
    for (std::uint64_t i = 0; i < children; ++i) {
      const pid_t child = ::fork();
      if (child == 0) {
        ::execl("/bin/true", "true", nullptr);
        ::_exit(99);
      }
      REQUIRE(::waitpid(child, nullptr, 0) == child);
    }
  };
  storm();
  const std::uint64_t lost = source->lost();
  const std::uint64_t told = read_all(*source).size();
  CHECK(told == static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)) / 24);
  CHECK(told + lost == 2 * children);
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  REQUIRE(::waitpid(child, nullptr, 0) == child);
  CHECK(read_all(*source).size() == 1);  // there is room again
  CHECK(source->lost() == lost);
  storm();
  const std::uint64_t again = read_all(*source).size();
  CHECK(again + source->lost() - lost == 2 * children);
  source->detach();
  CHECK(source->lost() + told + 1 + again == 4 * children + 1);
}
