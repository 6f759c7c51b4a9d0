#include "instrument/detector_core.hpp"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <exception>
#include <new>
#include <optional>
#include <string>

#include "instrument/detector_selftest.hpp"
#include "instrument/process_table.hpp"
#include "weir/core/detail/exceptions.hpp"

namespace weir::inline v0::instrument {

namespace {

using SteadyClock = std::chrono::steady_clock;
using Time = SteadyClock::time_point;

constexpr std::uint64_t wake_token = ~std::uint64_t{0}, source_token = wake_token - 1;  // a process's has a pid in its lower half
constexpr std::size_t max_ready = 64;
constexpr auto shortest_rescan_gap = std::chrono::milliseconds{100};
constexpr int rescan_share = 10;  // scans that repair take up to one part in so many of the time
constexpr auto exhausted_pause = std::chrono::seconds{1};
constexpr auto complaint_interval = std::chrono::minutes{1};

Error no_memory() { return {std::make_error_code(std::errc::not_enough_memory), "process detector: out of memory"}; }

}  // namespace

/// run(), while it runs.
class DetectorCore::Loop {
 public:
  Loop(DetectorCore& core, const StopToken& stop, Sink& sink) : core_(core), stop_(stop), sink_(sink), table_(table_options()) {}

  Result<void> run() {
    RawSource* const source = core_.source_.get();
    if (auto added = watch(core_.wake_.fd(), wake_token); !added) return added;
    if (source != nullptr) {
      if (auto attached = source->attach(); !attached) return attached;
      core_.file_open_ = source->file_open();
      if (auto added = watch(source->fd(), source_token); !added) return added;
    }
    take_tracked();
    if (auto scanned = table_.scan(SteadyClock::now()); !scanned) return scanned;
    Time now = SteadyClock::now();
    note_exhausted(now);
    if (source == nullptr) next_scan_ = now + core_.options_.scan_interval;
    while (!stop_.stop_requested()) {
      publish();
      if (auto done = turn(now); !done) return done;
      now = SteadyClock::now();
    }
    return {};
  }

 private:
  ProcessTable::Options table_options() {
    ProcessTable::Options options;
    options.filters = core_.filters_;
    options.files = core_.options_.files;
    options.minimum_age = core_.options_.minimum_age;
    options.remembers = core_.source_ == nullptr;
    options.reader = &core_.reader_;
    options.epoll = core_.epoll_.get();
    options.emit = [this](const ProcessEvent& event) { emit(event); };
    if (RawSource* const source = core_.source_.get(); source != nullptr && !core_.options_.files.empty()) {
      options.watch = [source](pid_t pid) { source->watch(pid); };
      options.unwatch = [source](pid_t pid) { source->unwatch(pid); };
    }
    return options;
  }

  Result<void> watch(int fd, std::uint64_t token) const {
    epoll_event interest{};
    interest.events = EPOLLIN;
    interest.data.u64 = token;
    if (::epoll_ctl(core_.epoll_.get(), EPOLL_CTL_ADD, fd, &interest) == 0) return {};
    return system_error(errno, "process detector: epoll");
  }

  Result<void> turn(Time now) {
    std::array<epoll_event, max_ready> ready;
    const int count = ::epoll_wait(core_.epoll_.get(), ready.data(), static_cast<int>(ready.size()), timeout(now));
    if (count < 0 && errno != EINTR) return system_error(errno, "process detector: epoll");
    const auto end = ready.begin() + std::max(0, count);
    take_tracked();
    // First what the source says: a process that has ended is still known as the parent of its children.
    if (std::any_of(ready.begin(), end, [](const epoll_event& event) { return event.data.u64 == source_token; })) {
      if (auto read = read_source(); !read) return read;
    }
    for (auto it = ready.begin(); it != end; ++it) {
      if (it->data.u64 == wake_token) {
        core_.wake_.drain();
        take_tracked();
      } else if (it->data.u64 != source_token) {
        table_.exited(it->data.u64);
      }
    }
    now = SteadyClock::now();
    table_.let_pass(now);
    return scan(now);
  }

  int timeout(Time now) const {
    std::optional<Time> next = table_.next();
    for (const std::optional<Time>& other : {next_scan_, rescan_}) {
      if (other && (!next || *other < *next)) next = other;
    }
    if (!next) return -1;
    const auto wait = std::chrono::ceil<std::chrono::milliseconds>(*next - now);
    return static_cast<int>(std::clamp<std::int64_t>(wait.count(), 0, 60'000));
  }

  Result<void> read_source() {
    std::uint64_t events = 0;
    const Time now = SteadyClock::now();
    const Result<void> read = core_.source_->read([&](const RawEvent& event) {
      if (core_.has_tracked_.load()) take_tracked();
      ++events;
      switch (event.type) {
        case RawEvent::Type::exec: table_.exec(event.pid, now); break;
        case RawEvent::Type::fork: table_.fork(event.pid, event.parent, now); break;
        case RawEvent::Type::open: table_.opened(event.pid, event.file); break;
      }
    });
    core_.events_.fetch_add(events, std::memory_order_relaxed);
    if (!read) return read;
    if (const std::uint64_t lost = core_.source_->lost(); lost != core_.lost_.load(std::memory_order_relaxed)) {
      core_.lost_.store(lost, std::memory_order_relaxed);
      repair_at(std::max(now, last_scan_end_ + scan_gap_));
      complain("The kernel could not tell all process events; what runs is looked at again", {"lost", static_cast<std::int64_t>(lost)});
    }
    return {};
  }

  void repair_at(Time time) {
    if (!rescan_ || time < *rescan_) rescan_ = time;
  }

  void note_exhausted(Time now) {
    if (!table_.take_exhausted()) return;
    repair_at(now + exhausted_pause);
    complain("Processes cannot be followed for want of descriptors; raise their limit",
             {"processes", static_cast<std::int64_t>(table_.size())});
  }

  Result<void> scan(Time now) {
    if (next_scan_ && *next_scan_ <= now) {
      if (auto scanned = table_.scan(now); !scanned) return scanned;
      next_scan_ = SteadyClock::now() + core_.options_.scan_interval;
    }
    if (rescan_ && *rescan_ <= now) {
      rescan_.reset();
      if (auto scanned = table_.scan(now); !scanned) return scanned;
      last_scan_end_ = SteadyClock::now();
      scan_gap_ = std::max<SteadyClock::duration>(shortest_rescan_gap, rescan_share * (last_scan_end_ - now));
      core_.rescans_.fetch_add(1, std::memory_order_relaxed);
    }
    note_exhausted(SteadyClock::now());
    return {};
  }

  void take_tracked() {
    if (!core_.has_tracked_.load()) return;
    for (auto& [identity, pidfd] : core_.take_tracked()) {
      if (!table_.track(identity.first, identity.second, std::move(pidfd)))
        complain("A process cannot be tracked for want of descriptors or memory", {"pid", std::int64_t{identity.first}});
    }
  }

  void emit(const ProcessEvent& event) {
    if (!detail::call_guarded(sink_, event)) complain("What is told of processes has thrown", {"pid", std::int64_t{event.pid}});
  }

  void complain(std::string_view message, Attribute detail) {
    const Time now = SteadyClock::now();
    Time& next = next_complaint_[message];
    if (now < next) return;
    next = now + complaint_interval;
    const std::array<Attribute, 1> attributes{detail};
    core_.logger_.log(Logger::Level::warning, message, attributes);
  }

  void publish() {
    core_.processes_.store(table_.size(), std::memory_order_relaxed);
    core_.unreadable_.store(table_.unreadable(), std::memory_order_relaxed);
    core_.events_.fetch_add(table_.changes() - published_changes_, std::memory_order_relaxed);
    published_changes_ = table_.changes();
  }

  DetectorCore& core_;
  const StopToken& stop_;
  Sink& sink_;
  ProcessTable table_;
  std::optional<Time> next_scan_, rescan_;
  Time last_scan_end_{};
  SteadyClock::duration scan_gap_{};
  std::uint64_t published_changes_ = 0;
  std::map<std::string_view, Time> next_complaint_;  // by message
};

Result<std::unique_ptr<DetectorCore>> DetectorCore::create(DetectorOptions options, std::unique_ptr<RawSource> source,
                                                           const ProcessReader& reader) {
  Result<FilterSet> filters = FilterSet::create(options);
  if (!filters) return std::move(filters).error();
  net::Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return system_error(errno, "process detector: epoll");
  Result<net::EventFd> wake = net::EventFd::create();
  if (!wake) return std::move(wake).error();
  return std::unique_ptr<DetectorCore>(
      new DetectorCore(std::move(options), *std::move(filters), std::move(source), reader, std::move(epoll), *std::move(wake)));
}

DetectorCore::DetectorCore(DetectorOptions options, FilterSet filters, std::unique_ptr<RawSource> source, const ProcessReader& reader,
                           net::Fd epoll, net::EventFd wake)
    : options_(std::move(options)),
      filters_(std::move(filters)),
      source_(std::move(source)),
      reader_(reader),
      logger_(options_.logger != nullptr ? *options_.logger : stderr_logger()),
      epoll_(std::move(epoll)),
      wake_(std::move(wake)),
      file_open_(source_ != nullptr && source_->file_open()) {}

Result<void> DetectorCore::self_test() {
  if (auto seen = sees_own_child_in_proc(); !seen || source_ == nullptr) return seen;
  if (auto seen = sees_own_child(*source_); !seen) return seen;
  file_open_ = source_->file_open();
  return {};
}

Result<void> DetectorCore::run(const StopToken& stop, Sink sink) {
  if (ran_.exchange(true))
    return Error{std::make_error_code(std::errc::operation_not_permitted),
                 "process detector: run() was called before; make another detector"};
  if (!sink) return Error{std::make_error_code(std::errc::invalid_argument), "process detector: run() needs somebody to tell"};
  Result<void> done;
  try {
    const StopCallback on_stop(stop, [this] { wake_.wake(); });
    Loop loop(*this, stop, sink);
    done = loop.run();
  } catch (const std::bad_alloc&) {
    done = no_memory();
  } catch (const std::exception& error) {
    done = Error{{}, std::string("process detector: ") + error.what()};
  }
  if (source_ != nullptr) source_->detach();
  ended_ = true;
  take_tracked();
  processes_ = 0;
  return done;
}

Result<void> DetectorCore::track(std::span<const pid_t> pids) try {
  std::string failed;
  std::error_code code;
  for (const pid_t pid : pids) {
    if (const Result<void> tracked = track_one(pid); !tracked) {
      code = tracked.error().code;
      failed += (failed.empty() ? "process detector: not tracked: " : "; ") + tracked.error().message;
    }
  }
  wake_.wake();
  if (!failed.empty()) return Error{code, failed};
  return {};
} catch (const std::bad_alloc&) {
  return no_memory();
}

Result<void> DetectorCore::track_one(pid_t pid) {
  const std::string name = "process " + std::to_string(pid);
  if (ended_) return Error{std::make_error_code(std::errc::operation_not_permitted), name + ": run() has ended"};
  const Error none{std::make_error_code(std::errc::no_such_process), name + ": there is none"};
  if (pid <= 0) return none;
  Result<net::Fd> pidfd = reader_.open(pid);
  if (!pidfd) return std::move(pidfd).error();
  const Result<ProcessStat> stat = reader_.stat(pid);
  if (!stat && cannot_tell_now(stat.error())) return stat.error();
  if (!stat || stat->ended || has_ended(*pidfd)) return none;  // while the pidfd says that it lives, what was read is its own
  const std::lock_guard lock(mutex_);
  tracked_.try_emplace({pid, stat->start_time}, *std::move(pidfd));
  has_tracked_ = true;
  return {};
}

std::map<DetectorCore::Identity, net::Fd> DetectorCore::take_tracked() {
  const std::lock_guard lock(mutex_);
  has_tracked_ = false;
  return std::exchange(tracked_, {});
}

DetectorCapabilities DetectorCore::capabilities() const {
  DetectorCapabilities capabilities;
  capabilities.backend = source_ != nullptr ? source_->name() : "/proc";
  capabilities.every_exec = source_ != nullptr;
  capabilities.fork = true;
  capabilities.file_open = file_open_;
  return capabilities;
}

DetectorStats DetectorCore::stats() const {
  DetectorStats stats;
  stats.events = events_.load(std::memory_order_relaxed);
  stats.lost = lost_.load(std::memory_order_relaxed);
  stats.rescans = rescans_.load(std::memory_order_relaxed);
  stats.unreadable = unreadable_.load(std::memory_order_relaxed);
  stats.processes = processes_.load(std::memory_order_relaxed);
  return stats;
}

}  // namespace weir::inline v0::instrument
