#include "instrument/detector_selftest.hpp"

#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <memory>
#include <string>

#include "instrument/ebpf_source.hpp"
#include "instrument/kernel_events.hpp"
#include "instrument/process_reader.hpp"
#include "net/fd.hpp"
#include "weir/instrument/detector.hpp"

namespace weir::inline v0::instrument {

namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr auto patience = std::chrono::seconds{5};

/// A child that ends, with its only system call, while we wait. No handler of forks runs, it raises no SIGCHLD, and only who asks for
/// such children (__WALL) can reap it.
class OwnChild {
 public:
  OwnChild() {
    // Made by itself: fork() runs what others have registered, of which nothing is known here, and memory is not shared, so that the
    // child harms nothing.
    pid_ = static_cast<pid_t>(::syscall(SYS_clone, CLONE_VFORK, nullptr, nullptr, nullptr, nullptr));
    while (pid_ == 0) ::syscall(SYS_exit_group, 0);
    error_ = pid_ < 0 ? errno : 0;
  }
  ~OwnChild() {
    if (pid_ > 0) (void)net::uninterrupted([&] { return ::waitpid(pid_, nullptr, __WALL); });
  }
  OwnChild(const OwnChild&) = delete;
  OwnChild& operator=(const OwnChild&) = delete;

  Result<pid_t> pid() const {
    if (pid_ > 0) return pid_;
    return system_error(error_, "a child to try a process detector with");
  }

 private:
  pid_t pid_ = -1;
  int error_ = 0;
};

Error unseen(std::string_view name, std::string_view why) {
  return {std::make_error_code(std::errc::operation_not_supported), std::string(name) + ": " + std::string(why)};
}

Result<void> sees_child(RawSource& source, pid_t child) {
  const auto end = SteadyClock::now() + patience;
  for (bool seen = false;;) {
    Result<void> read =
        source.read([&](const RawEvent& event) { seen = seen || (event.type == RawEvent::Type::fork && event.pid == child); });
    if (!read || seen) return read;
    if (source.lost() != 0) return {};  // it works, and there is more than it can tell
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - SteadyClock::now());
    if (left.count() <= 0)
      return unseen(source.name(), "no event came of a child of our own. Pids may be told as another pid namespace has them");
    pollfd entry{source.fd(), POLLIN, 0};
    (void)net::uninterrupted([&] { return ::poll(&entry, 1, static_cast<int>(left.count())); });
  }
}

Result<void> try_source(std::unique_ptr<RawSource> source) {
  if (auto readable = sees_own_child_in_proc(); !readable) return readable;
  return sees_own_child(*source);
}

Result<void> try_ebpf() {
  Result<std::unique_ptr<RawSource>> source = make_ebpf_source({});
  if (!source) return std::move(source).error();
  return try_source(*std::move(source));
}

constexpr std::array<DetectorSelftest, 3> selftests{{
    {"kernel events", [] { return try_source(make_kernel_events(DetectorOptions{}.receive_buffer)); }},
    {"eBPF", &try_ebpf},
    {"/proc", &sees_own_child_in_proc},
}};

}  // namespace

std::span<const DetectorSelftest> detector_selftests() noexcept { return selftests; }

Result<void> sees_own_child(RawSource& source) {
  if (auto attached = source.attach(); !attached) return attached;
  const OwnChild child;
  Result<void> seen;
  if (const Result<pid_t> pid = child.pid()) {
    seen = sees_child(source, *pid);
  } else {
    seen = pid.error();
  }
  source.detach();
  return seen;
}

Result<void> sees_own_child_in_proc() {
  const OwnChild child;
  const Result<pid_t> pid = child.pid();
  if (!pid) return pid.error();
  const ProcessReader& reader = proc_reader();
  bool listed = false;
  if (auto all = reader.list([&](pid_t other) { listed |= other == *pid; }); !all) return all;
  const Result<ProcessStat> stat = reader.stat(*pid);
  if (!stat && cannot_tell_now(stat.error())) return stat.error();
  if (!listed || !stat || stat->parent != ::getpid())
    return unseen("/proc", "a child of our own is not in it. It must be mounted, and of the pid namespace that we are in");
  const Result<net::Fd> pidfd = reader.open(*pid);
  if (!pidfd) return pidfd.error();
  // It lets us go on when it has given our memory back, which is before it has ended.
  pollfd entry{pidfd->get(), POLLIN, 0};
  constexpr int wait = std::chrono::milliseconds{patience}.count();
  if (net::uninterrupted([&] { return ::poll(&entry, 1, wait); }) <= 0)
    return unseen("/proc", "a pidfd does not tell that a child of our own has ended");
  return {};
}

}  // namespace weir::inline v0::instrument
