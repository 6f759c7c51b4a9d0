// The order in which an audit trail writes, syncs and acknowledges, seen from below: this program's own write, fdatasync,
// fsync and ftruncate stand before the system's, record what comes, fail when they are told to, and know which bytes a
// power failure would leave.
#include "weir/activity/audit_tracker.hpp"

#include <dlfcn.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <mutex>
#include <random>
#include <thread>

#include "support/audit_trail.hpp"
#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/scratch_dir.hpp"

using namespace weir;
using namespace weir::testing;
using namespace std::chrono_literals;

namespace {

constexpr auto guard = 60s;  // against hanging

enum class Call { write, sync, truncate };

/// What a call does in place of the system's: fails with `error`, or takes only `most` bytes.
struct Fault {
  int error = 0;
  std::size_t most = SIZE_MAX;
};

/// The disk below one file. Thread-safe.
class Disk {
 public:
  /// Of each byte of the file: whether it would be there after a power failure.
  enum class Byte : char {
    dirty,   // if the next sync works
    lost,    // no: the kernel has given up on it, and no later sync brings it back
    durable  // yes
  };
  struct State {
    std::string text;
    std::vector<Byte> bytes;
    std::string acknowledged;  // all lines so far
    std::size_t durable() const {
      return static_cast<std::size_t>(std::find_if(bytes.begin(), bytes.end(), [](Byte b) { return b != Byte::durable; }) - bytes.begin());
    }
  };

  explicit Disk(std::string directory) : directory_(std::move(directory)) { current = this; }
  ~Disk() { current = nullptr; }

  /// `fault` is asked before each call.
  void set_fault(std::function<Fault(Call)> fault) {
    std::lock_guard lock(mutex_);
    fault_ = std::move(fault);
  }
  /// Called in each call, without a lock.
  std::function<void(Call)> in_call;

  /// What is in the file is durable: the machine has just started.
  void starts_with(const std::string& text) {
    std::lock_guard lock(mutex_);
    state_.text = text;
    state_.bytes.assign(text.size(), Byte::durable);
  }
  State state() {
    std::lock_guard lock(mutex_);
    return state_;
  }
  /// After a power failure: what was acknowledged before it.
  void rewind_to(std::string acknowledged) {
    std::lock_guard lock(mutex_);
    state_.acknowledged = std::move(acknowledged);
  }
  void acknowledge(const AuditAck& ack) {
    std::lock_guard lock(mutex_);
    state_.acknowledged += ack.lines;
    events_.push_back("acknowledged " + std::to_string(ack.last_seq));
    if (!state_.text.starts_with(state_.acknowledged)) fault_seen_ = "acknowledged what is not in the file";
    if (state_.durable() < state_.acknowledged.size()) fault_seen_ = "acknowledged what is not durable";
  }
  /// What should not have happened.
  std::string fault_seen() {
    std::lock_guard lock(mutex_);
    return fault_seen_;
  }
  std::vector<std::string> events() {
    std::lock_guard lock(mutex_);
    return events_;
  }
  void forget_events() {
    std::lock_guard lock(mutex_);
    events_.clear();
  }

  // What the calls below ask.
  static inline std::atomic<Disk*> current{nullptr};
  bool has(int fd) const {
    char path[4096];
    const ssize_t size = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof path);
    return size > 0 && std::string_view(path, static_cast<std::size_t>(size)).starts_with(directory_);
  }
  ssize_t write(const char* data, std::size_t size, const std::function<ssize_t(std::size_t)>& real) {
    if (in_call) in_call(Call::write);
    std::lock_guard lock(mutex_);
    const Fault fault = fault_ ? fault_(Call::write) : Fault{};
    if (fault.error != 0) return fail("write", fault.error);
    const ssize_t written = fault.most == 0 ? 0 : real(std::min(size, fault.most));
    if (written > 0) {
      state_.text.append(data, static_cast<std::size_t>(written));
      state_.bytes.resize(state_.text.size(), Byte::dirty);
    }
    events_.push_back("write " + std::to_string(written));
    return written;
  }
  int sync(int fd) {
    struct stat status {};
    if (::fstat(fd, &status) == 0 && S_ISDIR(status.st_mode)) return done("sync directory");
    if (in_call) in_call(Call::sync);
    std::lock_guard lock(mutex_);
    const Fault fault = fault_ ? fault_(Call::sync) : Fault{};
    for (Byte& byte : state_.bytes)
      if (byte == Byte::dirty) byte = fault.error != 0 ? Byte::lost : Byte::durable;
    if (fault.error != 0) return fail("sync", fault.error);
    events_.push_back("sync");
    return 0;
  }
  int truncate(off_t size, const std::function<int()>& real) {
    if (in_call) in_call(Call::truncate);
    std::lock_guard lock(mutex_);
    const Fault fault = fault_ ? fault_(Call::truncate) : Fault{};
    if (fault.error != 0) return fail("truncate", fault.error);
    if (static_cast<std::size_t>(size) > state_.text.size()) fault_seen_ = "made longer by ftruncate";
    if (static_cast<std::size_t>(size) < state_.acknowledged.size()) fault_seen_ = "cut what was acknowledged";
    state_.text.resize(static_cast<std::size_t>(size));
    state_.bytes.resize(state_.text.size());
    events_.push_back("truncate " + std::to_string(size));
    return real();
  }
  void unexpected(const char* call) {
    std::lock_guard lock(mutex_);
    fault_seen_ = call;
  }

 private:
  int fail(const char* call, int error) {
    events_.push_back(std::string(call) + " fails");
    errno = error;
    return -1;
  }
  int done(const char* event) {
    std::lock_guard lock(mutex_);
    events_.push_back(event);
    return 0;
  }

  const std::string directory_;
  std::mutex mutex_;
  std::function<Fault(Call)> fault_;
  State state_;
  std::vector<std::string> events_;
  std::string fault_seen_;
};

/// The disk of the file that `fd` is open for.
Disk* disk_of(int fd) {
  Disk* const disk = Disk::current.load();
  return disk != nullptr && disk->has(fd) ? disk : nullptr;
}

template <class F>
F* real(const char* name) {
  return reinterpret_cast<F*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

ssize_t write(int fd, const void* data, size_t size) {
  static auto* const next = real<ssize_t(int, const void*, size_t)>("write");
  Disk* const disk = disk_of(fd);
  if (disk == nullptr) return next(fd, data, size);
  return disk->write(static_cast<const char*>(data), size, [&](std::size_t most) { return next(fd, data, most); });
}
ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  static auto* const next = real<ssize_t(int, const void*, size_t, off_t)>("pwrite");
  if (Disk* const disk = disk_of(fd)) disk->unexpected("pwrite");
  return next(fd, data, size, offset);
}
ssize_t writev(int fd, const iovec* parts, int count) {
  static auto* const next = real<ssize_t(int, const iovec*, int)>("writev");
  if (Disk* const disk = disk_of(fd)) disk->unexpected("writev");
  return next(fd, parts, count);
}
int fsync(int fd) {
  static auto* const next = real<int(int)>("fsync");
  Disk* const disk = disk_of(fd);
  return disk == nullptr ? next(fd) : disk->sync(fd);
}
int fdatasync(int fd) {
  static auto* const next = real<int(int)>("fdatasync");
  Disk* const disk = disk_of(fd);
  return disk == nullptr ? next(fd) : disk->sync(fd);
}
int ftruncate(int fd, off_t size) noexcept {
  static auto* const next = real<int(int, off_t)>("ftruncate");
  Disk* const disk = disk_of(fd);
  return disk == nullptr ? next(fd, size) : disk->truncate(size, [&] { return next(fd, size); });
}

}  // extern "C"

namespace {

using Events = std::vector<std::string>;

/// Gives out the faults one by one, then none.
class Faults {
 public:
  explicit Faults(std::vector<std::pair<Call, Fault>> list) : list_(std::move(list)) {}
  Fault operator()(Call call) {
    if (next_ == list_.size() || list_[next_].first != call) return {};
    return list_[next_++].second;
  }

 private:
  std::vector<std::pair<Call, Fault>> list_;
  std::size_t next_ = 0;
};

/// A tracker on a disk of its own.
struct Trail {
  ScratchDir dir;
  const std::string path = dir / "audit.jsonl";
  Disk disk{dir.path()};
  RecordingLogger logger;
  const ManualClock clock;
  std::atomic<bool> held{false};  // the writer stays in its callback
  std::atomic<bool> holds{false};
  std::unique_ptr<AuditTracker> audit;
  Activity activity;  // one, so that all lines are as long

  void open() {
    auto opened = AuditTracker::open(path, {.on_acknowledged =
                                                [this](const AuditAck& ack) {
                                                  disk.acknowledge(ack);
                                                  while (held) {
                                                    holds = true;
                                                    sched_yield();
                                                  }
                                                  holds = false;
                                                },
                                            .logger = &logger,
                                            .clock = &clock});
    if (!opened) FAIL(opened.error().message);
    audit = std::move(*opened);
    activity = audit->start(Context(), "update", "user");
  }
  void close() {
    activity.end();
    audit.reset();
  }
  void report(AttributeValue id) { activity.report_change(id); }
  /// Opens, and reports entries 2 to `last` so that they become one batch. (1 is on the disk already.)
  void open_with_batch(int last) {
    open();
    held = true;
    report(1);
    REQUIRE(eventually([this] { return holds.load(); }));
    for (int i = 2; i <= last; ++i) report(i);
    disk.forget_events();
  }
  void flush(std::uint64_t acknowledged) {
    held = false;
    const AuditFlush flushed = audit->flush(guard);
    CHECK(flushed.acknowledged == acknowledged);
    CHECK(flushed.pending == 0);
    CHECK(disk.fault_seen() == "");
    CHECK(contents_of(path) == disk.state().text);
    const std::vector<Json> entries = read_trail(path);
    REQUIRE(entries.size() == acknowledged);
    for (std::size_t i = 0; i < entries.size(); ++i) CHECK(entries[i]["change_id"] == i + 1);
  }
  std::size_t size() { return disk.state().text.size(); }
};

}  // namespace

TEST_CASE("a new file and its directory are synced, then each batch is written, synced and acknowledged") {
  Trail trail;
  trail.open();
  CHECK(trail.disk.events() == Events{"sync", "sync directory"});
  trail.report(1);
  trail.flush(1);
  const std::string size = std::to_string(trail.size());
  CHECK(trail.disk.events() == Events{"sync", "sync directory", "write " + size, "sync", "acknowledged 1"});
}

TEST_CASE("a file that has lines is synced before it is gone on with") {
  Trail trail;
  trail.open();
  trail.report(1);
  trail.close();
  trail.disk.forget_events();
  trail.open();
  CHECK(trail.disk.events() == Events{"sync"});
}

TEST_CASE("a file or directory that cannot be synced is not opened") {
  Trail trail;
  trail.disk.set_fault([](Call call) { return Fault{call == Call::sync ? EIO : 0}; });
  const auto opened = AuditTracker::open(trail.path);
  REQUIRE(!opened);
  CHECK(opened.error().code == std::errc::io_error);
}

TEST_CASE("entries that come while the disk is busy are one batch") {
  Trail trail;
  trail.open_with_batch(50);
  const std::size_t before = trail.size();
  trail.flush(50);
  CHECK(trail.disk.events() == Events{"write " + std::to_string(trail.size() - before), "sync", "acknowledged 50"});
}

TEST_CASE("short and interrupted writes are completed") {
  Trail trail;
  trail.open_with_batch(10);
  const std::size_t before = trail.size();
  trail.disk.set_fault(Faults({{Call::write, {0, 1}}, {Call::write, {EINTR}}, {Call::write, {0, 7}}, {Call::write, {0, 100}}}));
  trail.flush(10);
  CHECK(trail.disk.events() == Events{"write 1", "write fails", "write 7", "write 100",
                                      "write " + std::to_string(trail.size() - before - 108), "sync", "acknowledged 10"});
  CHECK(trail.logger.size() == 0);
}

TEST_CASE("a sync that fails is not acknowledged: all is taken back, written again and synced again") {
  const int error = GENERATE(EIO, ENOSPC, EDQUOT, EINTR);
  Trail trail;
  trail.open_with_batch(10);
  const std::string base = std::to_string(trail.size());
  trail.disk.set_fault(Faults({{Call::sync, {error}}, {Call::sync, {error}}}));
  trail.flush(10);
  const std::string write = "write " + std::to_string(trail.size() - std::stoul(base));
  CHECK(trail.disk.events() ==
        Events{write, "sync fails", "truncate " + base, write, "sync fails", "truncate " + base, write, "sync", "acknowledged 10"});
  CHECK(trail.audit->stats().failures == 2);
  REQUIRE(eventually([&] { return trail.logger.size() == 2; }));
  CHECK(trail.logger.count("what=fdatasync: ") == 1);
  CHECK(trail.logger.count("info: the audit trail is written again") == 1);
}

TEST_CASE("a disk that fills in the middle of a batch keeps the whole lines, and they are acknowledged") {
  Trail trail;
  trail.open_with_batch(4);
  const std::string before = trail.disk.state().text;
  const std::size_t line = before.size();  // all are as long
  trail.disk.set_fault(Faults({{Call::write, {0, 2 * line + line / 2}}, {Call::write, {ENOSPC}}}));
  trail.flush(4);
  CHECK(trail.disk.events() == Events{"write " + std::to_string(2 * line + line / 2), "write fails", "truncate " + std::to_string(3 * line),
                                      "sync", "acknowledged 3", "write " + std::to_string(line), "sync", "acknowledged 4"});
  CHECK(trail.audit->stats().failures == 1);
}

TEST_CASE("whole lines of a batch that failed are not acknowledged either if they cannot be synced") {
  Trail trail;
  trail.open_with_batch(4);
  const std::size_t line = trail.size();
  trail.disk.set_fault(Faults({{Call::write, {0, line + 1}}, {Call::write, {EIO}}, {Call::sync, {EIO}}}));
  trail.flush(4);
  const std::string one = std::to_string(line);
  CHECK(trail.disk.events() == Events{"write " + std::to_string(line + 1), "write fails", "truncate " + std::to_string(2 * line),
                                      "sync fails", "truncate " + one, "write " + std::to_string(3 * line), "sync", "acknowledged 4"});
}

TEST_CASE("a write that takes nothing is a failure") {
  Trail trail;
  trail.open_with_batch(2);
  const std::string line = std::to_string(trail.size());
  trail.disk.set_fault(Faults({{Call::write, {0, 0}}}));
  trail.flush(2);
  CHECK(trail.disk.events() == Events{"write 0", "write " + line, "sync", "acknowledged 2"});
}

TEST_CASE("nothing is written behind a torn line that cannot be taken off yet") {
  Trail trail;
  trail.open_with_batch(3);
  const std::size_t line = trail.size();
  trail.disk.set_fault(Faults(
      {{Call::write, {0, 5}}, {Call::write, {ENOSPC}}, {Call::truncate, {EIO}}, {Call::truncate, {EIO}}, {Call::truncate, {EINTR}}}));
  trail.flush(3);
  CHECK(trail.disk.events() == Events{"write 5", "write fails", "truncate fails", "truncate fails", "truncate fails",
                                      "truncate " + std::to_string(line), "write " + std::to_string(2 * line), "sync", "acknowledged 3"});
}

TEST_CASE("a disk that hangs stops neither reports nor close, and nobody is called after close") {
  Trail trail;
  std::atomic<bool> hangs{false}, hung{false};
  trail.disk.in_call = [&](Call call) {
    while (call == Call::sync && hangs) {
      hung = true;
      sched_yield();
    }
  };
  trail.open();
  hangs = true;
  for (int i = 1; i <= 3; ++i) trail.report(i);
  REQUIRE(eventually([&] { return hung.load(); }));
  CHECK(trail.audit->flush(1ms).pending == 3);
  const Result<void> reopened = trail.audit->reopen(1ms);
  REQUIRE(!reopened);
  CHECK(reopened.error().code == std::errc::timed_out);
  const AuditFlush closed = trail.audit->close(1ms);
  CHECK(closed.acknowledged == 0);
  CHECK(closed.pending == 0);
  CHECK(closed.dropped == 3);
  trail.close();
  CHECK(trail.logger.count("error: the audit trail was closed before") == 1);
  CHECK(!AuditTracker::open(trail.path));  // the writer has it still
  trail.disk.forget_events();
  hangs = false;
  REQUIRE(eventually([&] { return AuditTracker::open(trail.path).has_value(); }));
  for (const std::string& event : trail.disk.events()) CHECK(event == "sync");
  CHECK(trail.logger.size() == 1);
}

TEST_CASE("close waits for a callback that is running") {
  Trail trail;
  trail.open_with_batch(2);
  std::atomic<bool> closed{false};
  std::thread closer([&] {
    (void)trail.audit->close(0ms);
    closed = true;
  });
  CHECK_FALSE(eventually([&] { return closed.load(); }, 1s));
  trail.held = false;
  closer.join();
  CHECK(trail.disk.fault_seen() == "");
}

TEST_CASE("power failures at any moment, over a disk that fails in any way, lose no acknowledged line and leave no torn one") {
  const unsigned seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937 random(seed);
  const auto one_in = [&](unsigned n) { return random() % n == 0; };
  Trail trail;
  ScratchDir elsewhere;
  std::string survivor;  // what the power failure left
  for (int round = 0; round < 40; ++round) {
    CAPTURE(round);
    write_file(elsewhere / "image", survivor);
    std::filesystem::rename(elsewhere / "image", trail.path);
    trail.disk.starts_with(survivor);
    trail.disk.set_fault({});
    trail.open();
    const std::string acknowledged = trail.disk.state().acknowledged;
    REQUIRE(contents_of(trail.path).starts_with(acknowledged));
    const std::vector<Json> kept = read_trail(trail.path);
    // What was whole and was not acknowledged is part of the trail from now on.
    {
      AuditAck ack;
      const std::string text = contents_of(trail.path).substr(acknowledged.size());
      ack.lines = text;
      ack.last_seq = kept.size();
      trail.disk.acknowledge(ack);
    }

    Disk::State at_failure = trail.disk.state();
    unsigned calls_left = random() % 40;
    trail.disk.set_fault([&](Call call) -> Fault {
      switch (call) {
        case Call::write:
          if (one_in(8)) return {one_in(2) ? ENOSPC : EIO};
          if (one_in(8)) return {EINTR};
          return one_in(2) ? Fault{0, 1 + random() % 2000} : Fault{};
        case Call::sync: return {one_in(4) ? EIO : 0};
        case Call::truncate: return {one_in(4) ? EIO : 0};
      }
      return {};
    });
    std::atomic<bool> failed{false};
    trail.disk.in_call = [&](Call) {
      if (failed) return;
      at_failure = trail.disk.state();
      if (calls_left-- == 0) failed = true;
    };
    const auto reporter = [&](int first, int count, std::size_t most) {
      Activity activity = trail.audit->start(Context(), "update", "user");
      for (int i = first; i < first + count; ++i) activity.report_change(std::string(1 + static_cast<std::size_t>(i) * 97 % most, 'x'));
    };
    {
      std::thread other(reporter, 0, 40, 900);
      reporter(40, 40, 5000);
      for (int i = 0; i < 50; ++i) (void)trail.audit->flush(1ms);  // each has the disk tried at once
      other.join();
    }
    trail.disk.set_fault({});
    const AuditFlush flushed = trail.audit->flush(guard);
    trail.close();
    trail.disk.in_call = {};
    CHECK(flushed.acknowledged == 80);
    REQUIRE(trail.disk.fault_seen() == "");
    REQUIRE(read_trail(trail.path).size() == kept.size() + 80);
    REQUIRE(trail.disk.state().acknowledged == contents_of(trail.path));

    // All that is durable is there; of the rest any part, sector by sector, up to any size.
    const std::size_t durable = at_failure.durable();
    survivor = at_failure.text.substr(0, durable + random() % (at_failure.text.size() - durable + 1));
    for (std::size_t sector = durable / 512 * 512; sector < survivor.size(); sector += 512) {
      if (!one_in(3)) continue;
      for (std::size_t i = std::max(sector, durable); i < std::min(sector + 512, survivor.size()); ++i) survivor[i] = '\0';
    }
    trail.disk.rewind_to(at_failure.acknowledged);
  }
}
