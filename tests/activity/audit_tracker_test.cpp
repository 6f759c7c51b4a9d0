#include "weir/activity/audit_tracker.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <map>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "net/unix_socket.hpp"
#include "support/audit_trail.hpp"
#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/eventually.hpp"
#include "support/fork_memory.hpp"
#include "support/operations.hpp"
#include "support/scratch_dir.hpp"
#include "weir/activity/tracker.hpp"

using namespace weir;
using namespace weir::testing;
using namespace std::chrono_literals;

namespace {

constexpr auto guard = 60s;  // against hanging

std::unique_ptr<AuditTracker> open_trail(const std::string& path, AuditTrackerOptions options = {}) {
  Result<std::unique_ptr<AuditTracker>> opened = AuditTracker::open(path, std::move(options));
  if (!opened) FAIL(opened.error().message);
  return std::move(*opened);
}

void report(AuditTracker& audit, AttributeValue id) {
  Activity activity = audit.start(Context(), "update", "user");
  activity.report_change(id);
}

void require_all(const AuditFlush& flushed, std::uint64_t acknowledged) {
  CHECK(flushed.acknowledged == acknowledged);
  CHECK(flushed.pending == 0);
  CHECK(flushed.dropped == 0);
}

/// Holds the writer in its callback.
class Gate {
 public:
  void pass() {
    inside_ = true;
    while (!open_) sched_yield();
  }
  void await() const {
    REQUIRE(eventually([this] { return inside_.load(); }));
  }
  void open() { open_ = true; }

 private:
  std::atomic<bool> inside_{false}, open_{false};
};

/// The change ids of a trail, in order, and the sum of what its lines say is missing.
struct Ids {
  std::vector<std::int64_t> ids;
  std::uint64_t missing = 0;
  std::size_t gaps = 0;
};
Ids ids_of(const std::vector<Json>& entries) {
  Ids result;
  for (const Json& entry : entries) {
    if (entry.contains("dropped")) {
      result.missing += entry["dropped"].get<std::uint64_t>();
      ++result.gaps;
    } else {
      result.ids.push_back(entry["change_id"].get<std::int64_t>());
    }
  }
  return result;
}

struct Secretive : std::runtime_error {
  Secretive() : std::runtime_error("password=hunter2") {}
};

}  // namespace

TEST_CASE("a change is one line, with its keys in the documented order") {
  ScratchDir dir;
  const ManualClock clock(Timestamp{std::chrono::nanoseconds{1'714'564'800'000'000'001}});
  auto audit = open_trail(dir / "audit.jsonl", {.clock = &clock});
  {
    const Context context =
        Context(TraceId::from_hex("0123456789abcdef0123456789abcdef"), SpanId::from_hex("0123456789abcdef")).with_request_id("r-1");
    Activity activity = audit->start(context, "update", "user", {{"user_id", 7}, {"name", "Ann"}, {"share", 0.5}, {"first", true}});
    activity.report_change(42, [] { return std::string(R"({ "name" : "Ann", "tags": [1, 2.50] })"); });
  }
  {
    Activity activity = audit->start(Context(), "delete", "user");
    activity.report_change("u-8");
    activity.report_change("u-9", 3);
  }
  require_all(audit->flush(guard), 3);
  const std::vector<Json> entries = read_trail(dir / "audit.jsonl");
  REQUIRE(entries.size() == 3);
  const std::string first = entries[0]["op_id"].dump(), second = entries[1]["op_id"].dump();
  CHECK(first != second);
  CHECK(contents_of(dir / "audit.jsonl") ==
        R"({"time":"2024-05-01T12:00:00.000000001Z","seq":1,"operation":"update","subject":"user","op_id":)" + first +
            R"(,"request_id":"r-1","trace_id":"0123456789abcdef0123456789abcdef","span_id":"0123456789abcdef",)"
            R"("attributes":{"user_id":7,"name":"Ann","share":0.5,"first":true},"change_id":42,)"
            R"("change_data":{"name":"Ann","tags":[1,2.50]}})"
            "\n" +
            R"({"time":"2024-05-01T12:00:00.000000001Z","seq":2,"operation":"delete","subject":"user","op_id":)" + second +
            R"(,"change_id":"u-8"})"
            "\n" +
            R"({"time":"2024-05-01T12:00:00.000000001Z","seq":3,"operation":"delete","subject":"user","op_id":)" + second +
            R"(,"change_id":"u-9","change_data":3})"
            "\n");
}

TEST_CASE("failures are entries only if that is wanted") {
  ScratchDir dir;
  for (const bool wanted : {false, true}) {
    const std::string path = dir / (wanted ? "with" : "without");
    auto audit = open_trail(path, {.failures = wanted});
    {
      Activity activity = audit->start(Context(), "update", "user", {{"user_id", 7}});
      activity.report_error("connection refused, password=hunter2");
      activity.report_error(std::make_error_code(std::errc::io_error));
    }
    require_all(audit->flush(guard), wanted ? 2 : 0);
    const std::vector<Json> entries = read_trail(path);
    REQUIRE(entries.size() == (wanted ? 2 : 0));
    if (!wanted) continue;
    CHECK(entries[0]["error"] == "connection refused, password=[REDACTED]");
    CHECK(entries[0]["attributes"]["user_id"] == 7);
    CHECK(!entries[0].contains("change_id"));
    CHECK(entries[1]["error"] == std::make_error_code(std::errc::io_error).message());
  }
}

TEST_CASE("secrets are redacted wherever they are") {
  ScratchDir dir;
  auto audit = open_trail(dir / "audit.jsonl");
  {
    const std::string name = "api key";
    Activity activity =
        audit->start(Context().with_request_id("token=hunter2"), "update", "user",
                     {{"password", "hunter2"}, {Name(name), 12345}, {"url", "https://ann:hunter2@example.org/"}, {"max_tokens", 5}});
    activity.report_change("Bearer hunter2", [] {
      return std::string(R"({"session_id":["hunter2"],"note":"secret: hunter2","deep":{"password":{"a":"hunter2"}}})");
    });
    activity.report_change(1, "jwt=hunter2");
  }
  require_all(audit->flush(guard), 2);
  CHECK(contents_of(dir / "audit.jsonl").find("hunter2") == std::string::npos);
  const std::vector<Json> entries = read_trail(dir / "audit.jsonl");
  CHECK(entries[0]["attributes"].dump() ==
        R"({"password":"[REDACTED]","api key":"[REDACTED]","url":"https://ann:[REDACTED]@example.org/","max_tokens":5})");
  CHECK(entries[0]["change_id"] == "Bearer [REDACTED]");
  CHECK(entries[0]["change_data"].dump() == R"({"session_id":"[REDACTED]","note":"secret: [REDACTED]","deep":{"password":"[REDACTED]"}})");
  CHECK(entries[1]["change_data"] == "jwt=[REDACTED]");
}

TEST_CASE("the redactor is the one of the options") {
  ScratchDir dir;
  auto audit = open_trail(dir / "audit.jsonl", {.redactor = Redactor({.sensitive_names = {"iban"}})});
  audit->start(Context(), "pay", "bill", {{"iban", "DE02"}, {"password", "open"}}).report_change(1);
  require_all(audit->flush(guard), 1);
  CHECK(read_trail(dir / "audit.jsonl")[0]["attributes"].dump() == R"({"iban":"[REDACTED]","password":"open"})");
}

TEST_CASE("change data that cannot be rendered becomes a note, and nothing of it is in the file") {
  ScratchDir dir;
  auto audit = open_trail(dir / "audit.jsonl");
  {
    Activity activity = audit->start(Context(), "update", "user");
    activity.report_change(1, [] { return std::string("{\"password\":\"hunter2\""); });
    activity.report_change(2, []() -> std::string { throw Secretive(); });
    activity.report_change(3, [] { return std::string(); });
  }
  require_all(audit->flush(guard), 3);
  CHECK(contents_of(dir / "audit.jsonl").find("hunter2") == std::string::npos);
  for (const Json& entry : read_trail(dir / "audit.jsonl")) CHECK(entry["change_data"]["error"].is_string());
}

TEST_CASE("any bytes in any text make one line of JSON") {
  ScratchDir dir;
  auto audit = open_trail(dir / "audit.jsonl");
  std::string all;
  for (int c = 0; c < 256; ++c) all += static_cast<char>(c);
  const std::string broken = "\xc3(\xe2\x82 \xf0\x9f \xff";
  for (const std::string& text : {all, broken, std::string("a\nb\r\"\\\t\0\x7f", 9)}) {
    Activity activity = audit->start(Context(), text, text, {{Name(text), text}, {"real", std::numeric_limits<double>::quiet_NaN()}});
    activity.report_change(text, text);
  }
  require_all(audit->flush(guard), 3);
  const std::vector<Json> entries = read_trail(dir / "audit.jsonl");
  REQUIRE(entries.size() == 3);
  CHECK(entries[1]["operation"] == "\uFFFD(\uFFFD\uFFFD \uFFFD\uFFFD \uFFFD");
  CHECK(entries[2]["change_id"] == std::string("a\nb\r\"\\\t\0\x7f", 9));
  CHECK(entries[2]["attributes"]["real"] == "NaN");
}

TEST_CASE("long texts and long change data are cut, and an entry that is still too large goes without attributes and data") {
  ScratchDir dir;
  auto audit = open_trail(dir / "audit.jsonl");
  const std::string just(32 << 10, 'a'), longer = std::string(1000, 'b') + std::string(3095, 'b') + "\u20ac" + std::string(40'000, 'c');
  std::vector<Attribute> many(40, Attribute{"text", just});
  {
    Activity activity = audit->start(Context(), "update", "user", {{"just", just}, {"longer", longer}});
    activity.report_change(1, [] { return "[\"" + std::string(40'000, 'd') + "\"]"; });
  }
  audit->start(Context(), "update", "user", std::span<const Attribute>(many)).report_change("id", "data");
  require_all(audit->flush(guard), 2);
  const std::vector<Json> entries = read_trail(dir / "audit.jsonl");
  CHECK(entries[0]["attributes"]["just"] == just);
  CHECK(entries[0]["attributes"]["longer"] == std::string(4095, 'b') + " [cut: " + std::to_string(longer.size()) + " bytes]");
  CHECK(entries[0]["change_data"]["truncated"] == true);
  CHECK(entries[0]["change_data"]["original_size"] == 40'004);
  CHECK(entries[1]["change_id"] == "id");
  CHECK(entries[1]["attributes"]["error"].get<std::string>().starts_with("left out: the entry was of 13"));
  CHECK(!entries[1].contains("change_data"));
}

TEST_CASE("the queue is bounded: what does not fit is dropped, counted, logged once, and told in the file in its place") {
  ScratchDir dir;
  RecordingLogger logger;
  Gate gate;
  auto audit = open_trail(dir / "audit.jsonl",
                          {.queue_bytes = 64 << 10, .on_acknowledged = [&](const AuditAck&) { gate.pass(); }, .logger = &logger});
  report(*audit, 0);
  gate.await();
  int id = 1;
  for (; audit->stats().dropped_full < 5; ++id) report(*audit, id);
  const AuditStats full = audit->stats();
  CHECK(full.accepted == static_cast<std::uint64_t>(id) - 5);
  CHECK(full.accepted < 1000);
  CHECK(full.acknowledged + full.pending == full.accepted);
  const AuditFlush waiting = audit->flush(0s);
  CHECK(waiting.pending == full.pending);
  CHECK(waiting.dropped == 5);
  gate.open();
  REQUIRE(audit->flush(guard).pending == 0);
  report(*audit, id);
  CHECK(audit->flush(guard).acknowledged == full.accepted + 1);
  CHECK(logger.count("error: entries of the audit trail are dropped") == 1);
  CHECK(logger.size() == 1);

  const std::vector<Json> entries = read_trail(dir / "audit.jsonl");
  REQUIRE(entries.size() == full.accepted + 2);
  CHECK(entries[entries.size() - 2]["dropped"] == 5);
  CHECK(entries[entries.size() - 3]["change_id"] == id - 6);
  CHECK(entries.back()["change_id"] == id);
  CHECK(audit->stats().dropped() == 5);
}

TEST_CASE("what is missing between two entries is told between them") {
  ScratchDir dir;
  RecordingLogger logger;
  Gate gate;
  auto audit = open_trail(dir / "audit.jsonl",
                          {.queue_bytes = 64 << 10, .on_acknowledged = [&](const AuditAck&) { gate.pass(); }, .logger = &logger});
  report(*audit, 0);
  gate.await();
  const std::string large(30'000, 'x');
  report(*audit, large);
  report(*audit, large);
  report(*audit, large);  // does not fit
  report(*audit, large);  // nor does this
  report(*audit, 1);
  gate.open();
  CHECK(audit->flush(guard).acknowledged == 4);
  const std::vector<Json> entries = read_trail(dir / "audit.jsonl");
  REQUIRE(entries.size() == 5);
  CHECK(entries[3].dump() == R"({"time":)" + entries[4]["time"].dump() + R"(,"seq":4,"dropped":2})");
  CHECK(entries[4]["change_id"] == 1);
}

TEST_CASE("an entry that would never fit is dropped as too large") {
  ScratchDir dir;
  RecordingLogger logger;
  auto audit = open_trail(dir / "audit.jsonl", {.queue_bytes = 64 << 10, .logger = &logger});
  const std::string escaped(32 << 10, '\x01');
  report(*audit, escaped);
  report(*audit, 1);
  const AuditFlush flushed = audit->flush(guard);
  CHECK(flushed.acknowledged == 1);
  CHECK(flushed.dropped == 1);
  CHECK(audit->stats().dropped_too_large == 1);
  CHECK(read_trail(dir / "audit.jsonl")[0]["dropped"] == 1);
}

TEST_CASE("acknowledgements come in order, once for each line, with the lines as they are in the file") {
  ScratchDir dir;
  std::mutex mutex;
  std::string lines;
  std::uint64_t last = 0;
  std::thread::id thread;
  bool in_order = true;
  auto audit = open_trail(dir / "audit.jsonl", {.on_acknowledged = [&](const AuditAck& ack) {
                            std::lock_guard lock(mutex);
                            lines += ack.lines;
                            in_order = in_order && ack.last_seq == last + ack.count && ack.count == lines_of(ack.lines).size();
                            last = ack.last_seq;
                            thread = std::this_thread::get_id();
                          }});
  for (int i = 1; i <= 1000; ++i) {
    report(*audit, i);
    if (i % 100 == 0) {
      CHECK(audit->flush(guard).acknowledged == static_cast<std::uint64_t>(i));
      std::lock_guard lock(mutex);
      CHECK(last == static_cast<std::uint64_t>(i));
      CHECK(lines == contents_of(dir / "audit.jsonl"));
    }
  }
  CHECK(in_order);
  CHECK(thread != std::this_thread::get_id());
  const AuditStats stats = audit->stats();
  CHECK(stats.accepted == 1000);
  CHECK(stats.acknowledged == 1000);
  CHECK(stats.bytes == lines.size());
  CHECK(stats.batches >= 10);
  CHECK(stats.batches <= 1000);
  CHECK(stats.failures == 0);
}

TEST_CASE("a callback may ask for stats, flush without waiting, report, and throw") {
  ScratchDir dir;
  RecordingLogger logger;
  AuditTracker* tracker = nullptr;
  std::atomic<int> calls{0};
  auto audit = open_trail(dir / "audit.jsonl", {.on_acknowledged =
                                                    [&](const AuditAck&) {
                                                      (void)tracker->stats();
                                                      (void)tracker->flush(guard);
                                                      CHECK(!tracker->reopen(guard));
                                                      if (calls++ == 0) report(*tracker, 2);
                                                      throw Secretive();
                                                    },
                                                .logger = &logger});
  tracker = audit.get();
  report(*audit, 1);
  REQUIRE(eventually([&] { return audit->stats().acknowledged == 2; }));
  CHECK(audit->stats().failures == 2);
  CHECK(logger.size() == 1);
  CHECK(logger.count("error: a callback of the audit trail threw") == 1);
  CHECK(logger.count("hunter2") == 0);
}

TEST_CASE("eight threads: every entry is there once, in each thread's order") {
  ScratchDir dir;
  auto audit = open_trail(dir / "audit.jsonl", {.queue_bytes = 64 << 20});
  constexpr int threads = 8, each = 2000;
  {
    std::vector<std::thread> running;
    for (int t = 0; t < threads; ++t)
      running.emplace_back([&, t] {
        for (int i = 0; i < each; ++i) {
          report(*audit, t * each + i);
          if (i % 500 == 0) (void)audit->flush(0s);
        }
      });
    for (std::thread& thread : running) thread.join();
  }
  require_all(audit->flush(guard), threads * each);
  std::map<std::int64_t, std::int64_t> next;
  const Ids ids = ids_of(read_trail(dir / "audit.jsonl"));
  REQUIRE(ids.ids.size() == threads * each);
  for (const std::int64_t id : ids.ids) {
    const std::int64_t thread = id / each;
    if (id != thread * each + next[thread]++) FAIL("entry " << id << " is out of order");
  }
}

TEST_CASE("eight threads and a small queue: entries in the file and entries that are missing are all entries") {
  ScratchDir dir;
  RecordingLogger logger;
  auto audit = open_trail(dir / "audit.jsonl", {.queue_bytes = 64 << 10, .logger = &logger});
  constexpr int threads = 8, each = 2000;
  {
    std::vector<std::thread> running;
    for (int t = 0; t < threads; ++t)
      running.emplace_back([&] {
        for (int i = 0; i < each; ++i) report(*audit, i);
      });
    for (std::thread& thread : running) thread.join();
  }
  const AuditFlush flushed = audit->flush(guard);
  CHECK(flushed.pending == 0);
  CHECK(flushed.acknowledged + flushed.dropped == threads * each);
  const Ids ids = ids_of(read_trail(dir / "audit.jsonl"));
  CHECK(ids.ids.size() == flushed.acknowledged);
  CHECK(ids.missing == flushed.dropped);
}

TEST_CASE("a trail goes on where an earlier one ended; a new file is for its owner alone") {
  ScratchDir dir;
  const std::string path = dir / "audit.jsonl";
  for (int run = 0; run < 3; ++run) {
    auto audit = open_trail(path);
    for (int i = 0; i < 3; ++i) report(*audit, run * 3 + i);
  }
  CHECK(ids_of(read_trail(path)).ids == std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8});
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);

  const mode_t umask_before = ::umask(022);
  (void)open_trail(dir / "for_a_group", {.mode = 0660});
  ::umask(umask_before);
  REQUIRE(::stat((dir / "for_a_group").c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0640);
}

TEST_CASE("closing: what was reported is on the disk, later reports are counted, and again is nothing") {
  ScratchDir dir;
  auto audit = open_trail(dir / "audit.jsonl");
  Activity open = audit->start(Context(), "update", "user");
  for (int i = 0; i < 100; ++i) report(*audit, i);
  require_all(audit->close(guard), 100);
  open.report_change(1);
  report(*audit, 2);
  CHECK(audit->close(guard).dropped == 2);
  CHECK(audit->flush(guard).dropped == 2);
  CHECK(audit->stats().dropped_late == 2);
  const Result<void> reopened = audit->reopen();
  REQUIRE(!reopened);
  CHECK(reopened.error().code == std::errc::operation_not_permitted);
  CHECK(read_trail(dir / "audit.jsonl").size() == 100);
  open.end();
  (void)open_trail(dir / "audit.jsonl");  // the lock is free, even while the tracker is there
}

TEST_CASE("one file has one writer") {
  ScratchDir dir;
  const std::string path = dir / "audit.jsonl";
  auto audit = open_trail(path);
  report(*audit, 1);
  require_all(audit->flush(guard), 1);
  const auto second = AuditTracker::open(path);
  REQUIRE(!second);
  CHECK(second.error().code == std::errc::device_or_resource_busy);
  CHECK(second.error().message ==
        "the audit trail " + path + " is being written by another tracker; give each a file of its own, or end the other");
  audit.reset();
  report(*open_trail(path), 2);
  CHECK(ids_of(read_trail(path)).ids == std::vector<std::int64_t>{1, 2});
}

TEST_CASE("what is no regular file, or is no audit trail, is refused and left alone") {
  ScratchDir dir;
  const auto code_of = [](const std::string& path) -> std::error_code {
    const auto opened = AuditTracker::open(path);
    REQUIRE(!opened);
    CHECK((path.empty() || opened.error().message.find(path) != std::string::npos));
    return opened.error().code;
  };
  CHECK(code_of("") == std::errc::invalid_argument);
  CHECK(code_of(dir / "missing/audit.jsonl") == std::errc::no_such_file_or_directory);
  CHECK(code_of(dir.path()) == std::errc::not_supported);
  CHECK(code_of("/dev/null") == std::errc::not_supported);
  REQUIRE(::mkfifo((dir / "fifo").c_str(), 0600) == 0);
  CHECK(code_of(dir / "fifo") == std::errc::not_supported);
  auto listener = net::UnixListener::bind(dir / "socket");
  REQUIRE(listener);
  CHECK(code_of(dir / "socket") == std::errc::not_supported);
  std::filesystem::create_symlink("elsewhere", dir / "link");
  CHECK(code_of(dir / "link") == std::errc::not_supported);
  CHECK(!std::filesystem::exists(dir / "elsewhere"));
  CHECK(AuditTracker::open(dir / "small", {.queue_bytes = 1000}).error().code == std::errc::invalid_argument);

  for (const std::string& text :
       {std::string("Dear diary,\nall is well"), std::string("{}\n"), std::string("\n"), std::string("\0asm\1", 5),
        std::string(R"({"time":"2024-05-01T12:00:00Z","level":"INFO","msg":"x"})") + "\n" + R"({"time)",
        std::string(R"({"time":"2024-05-01T12:00:00Z","seq":0,"x":1})") + "\n",
        std::string(R"({"time":"2024-05-01T12:00:00Z","seq":1,"x":1)") + "\n", std::string(3 << 20, 'x')}) {
    write_file(dir / "other", text);
    CHECK(code_of(dir / "other") == std::errc::bad_message);
    CHECK(contents_of(dir / "other") == text);
  }
}

TEST_CASE("a line torn at any byte is cut off, and the trail goes on behind the line before it") {
  ScratchDir dir;
  const std::string path = dir / "audit.jsonl";
  for (int i = 1; i <= 3; ++i) report(*open_trail(path), i);
  const std::string whole = contents_of(path);
  const std::size_t last = whole.rfind('\n', whole.size() - 2) + 1;
  for (const std::string& before : {whole.substr(0, last), std::string()}) {
    const std::string line = before.empty() ? whole.substr(0, whole.find('\n') + 1) : whole.substr(last);
    for (std::size_t size = 0; size < line.size(); ++size) {
      INFO("torn after " << size << " bytes");
      write_file(path, before + line.substr(0, size));
      RecordingLogger logger;
      auto audit = open_trail(path, {.logger = &logger});
      CHECK(contents_of(path) == before);
      CHECK(logger.count("warning: the audit trail ended in what a crash had left") == (size == 0 ? 0 : 1));
      CHECK(logger.count("bytes=" + std::to_string(size)) == (size == 0 ? 0 : 1));
      report(*audit, 9);
      require_all(audit->flush(guard), 1);
      const std::vector<Json> entries = read_trail(path);
      REQUIRE(entries.size() == (before.empty() ? 1 : 3));
      CHECK(entries.back()["change_id"] == 9);
    }
  }
}

TEST_CASE("pages that a power failure left unwritten are cut off with all that is behind them") {
  ScratchDir dir;
  const std::string path = dir / "audit.jsonl";
  for (int i = 1; i <= 3; ++i) report(*open_trail(path), i);
  const std::string whole = contents_of(path);
  const std::size_t first = whole.find('\n') + 1;
  const std::string zeros(512, '\0');
  for (const std::string& left : {whole + zeros, whole + zeros + "\n" + whole, whole + zeros + whole.substr(0, 50),
                                  whole.substr(0, first + 20) + zeros + whole.substr(first + 20)}) {
    write_file(path, left);
    RecordingLogger logger;
    auto audit = open_trail(path, {.logger = &logger});
    CHECK(logger.size() == 1);
    CHECK((contents_of(path) == whole || contents_of(path) == whole.substr(0, first)));
    report(*audit, 4);
    require_all(audit->flush(guard), 1);
    (void)read_trail(path);
  }
  write_file(path, zeros + zeros);
  RecordingLogger logger;
  report(*open_trail(path, {.logger = &logger}), 1);
  CHECK(read_trail(path).size() == 1);
}

TEST_CASE("a long trail is opened by its end") {
  ScratchDir dir;
  const std::string path = dir / "audit.jsonl";
  {
    auto audit = open_trail(path, {.queue_bytes = 16 << 20});
    const std::string text(30'000, 'x');
    for (int i = 1; i <= 150; ++i) report(*audit, text);
    require_all(audit->flush(guard), 150);
  }
  REQUIRE(contents_of(path).size() > (4u << 20));
  REQUIRE(::truncate(path.c_str(), static_cast<off_t>(contents_of(path).size() - 10)) == 0);
  RecordingLogger logger;
  report(*open_trail(path, {.logger = &logger}), 1);
  CHECK(logger.size() == 1);
  CHECK(read_trail(path).size() == 150);
}

TEST_CASE("a full disk: nothing torn stays, the log says so once, and all is written when there is room") {
  ScratchDir dir;
  const std::string path = dir / "audit.jsonl";
  RecordingLogger logger;
  std::atomic<std::uint64_t> acknowledged{0};
  auto audit = open_trail(path, {.on_acknowledged = [&](const AuditAck& ack) { acknowledged = ack.last_seq; }, .logger = &logger});
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const rlimit full{4000, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &full) == 0);
  for (int i = 1; i <= 100; ++i) report(*audit, i);
  const bool failed = eventually([&] { return audit->stats().failures >= 3; });
  const std::vector<Json> during = read_trail(path);
  const std::uint64_t safe = acknowledged;
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  CHECK(failed);
  CHECK(during.size() > 10);
  CHECK(during.size() == safe);  // what was whole is there and acknowledged
  require_all(audit->flush(guard), 100);
  std::vector<std::int64_t> expected(100);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = static_cast<std::int64_t>(i + 1);
  CHECK(ids_of(read_trail(path)).ids == expected);
  REQUIRE(eventually([&] { return logger.size() == 2; }));
  CHECK(logger.count("error: the audit trail cannot be written; entries wait until the queue is full path=" + path + " what=write: ") == 1);
  CHECK(logger.count("info: the audit trail is written again") == 1);
}

TEST_CASE("a disk that stays full: closing gives up in time, and says what was lost") {
  ScratchDir dir;
  const std::string path = dir / "audit.jsonl";
  RecordingLogger logger;
  auto audit = open_trail(path, {.logger = &logger});
  report(*audit, 1);
  require_all(audit->flush(guard), 1);
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const rlimit full{static_cast<rlim_t>(contents_of(path).size() + 10), before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &full) == 0);
  report(*audit, 2);
  report(*audit, 3);
  const AuditFlush closed = audit->close(20ms);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  CHECK(closed.acknowledged == 1);
  CHECK(closed.pending == 0);
  CHECK(closed.dropped == 2);
  CHECK(audit->stats().dropped_closed == 2);
  CHECK(logger.count("error: the audit trail was closed before all of its entries were on the disk path=" + path + " dropped=2") == 1);
  CHECK(read_trail(path).size() == 1);
}

TEST_CASE("a file that is emptied while it is open is gone on with from its beginning") {
  ScratchDir dir;
  const std::string path = dir / "audit.jsonl";
  auto audit = open_trail(path);
  report(*audit, 1);
  require_all(audit->flush(guard), 1);
  REQUIRE(::truncate(path.c_str(), 0) == 0);
  report(*audit, 2);
  require_all(audit->flush(guard), 2);
  CHECK(ids_of(read_trail(path, 2)).ids == std::vector<std::int64_t>{2});
}

TEST_CASE("rotation: the moved file is complete, the new one goes on with the next seq") {
  ScratchDir dir;
  const std::string path = dir / "audit.jsonl", moved = dir / "audit.jsonl.1";
  auto audit = open_trail(path, {.queue_bytes = 64 << 20});
  report(*audit, 1);
  REQUIRE(audit->reopen(guard));  // it was not moved
  report(*audit, 2);
  require_all(audit->flush(guard), 2);
  REQUIRE(::rename(path.c_str(), moved.c_str()) == 0);
  report(*audit, 3);
  require_all(audit->flush(guard), 3);
  REQUIRE(audit->reopen(guard));
  CHECK(std::filesystem::exists(path));
  report(*audit, 4);
  require_all(audit->flush(guard), 4);
  CHECK(ids_of(read_trail(moved)).ids == std::vector<std::int64_t>{1, 2, 3});
  CHECK(ids_of(read_trail(path, 4)).ids == std::vector<std::int64_t>{4});
  (void)open_trail(moved);  // which is free now
  CHECK(!AuditTracker::open(path));
}

TEST_CASE("rotation while eight threads report loses nothing and repeats nothing") {
  ScratchDir dir;
  const std::string path = dir / "audit.jsonl";
  auto audit = open_trail(path, {.queue_bytes = 64 << 20});
  constexpr int threads = 8, each = 1000, rotations = 20;
  std::vector<std::thread> running;
  for (int t = 0; t < threads; ++t)
    running.emplace_back([&, t] {
      for (int i = 0; i < each; ++i) report(*audit, t * each + i);
    });
  for (int i = 0; i < rotations; ++i) {
    REQUIRE(::rename(path.c_str(), (path + "." + std::to_string(i)).c_str()) == 0);
    REQUIRE(audit->reopen(guard));
  }
  for (std::thread& thread : running) thread.join();
  require_all(audit->flush(guard), threads * each);
  std::vector<std::int64_t> all;
  std::uint64_t seq = 1;
  for (int i = 0; i <= rotations; ++i) {
    const std::vector<Json> entries = read_trail(i < rotations ? path + "." + std::to_string(i) : path, seq);
    seq += entries.size();
    for (const std::int64_t id : ids_of(entries).ids) all.push_back(id);
  }
  std::sort(all.begin(), all.end());
  REQUIRE(all.size() == threads * each);
  for (std::size_t i = 0; i < all.size(); ++i)
    if (all[i] != static_cast<std::int64_t>(i)) FAIL("entry " << i);
}

TEST_CASE("rotation onto another trail goes on behind its last line; one that fails leaves the old file in use") {
  ScratchDir dir;
  std::filesystem::create_directory(dir / "logs");
  const std::string path = dir / "logs/audit.jsonl";
  {
    auto other = open_trail(dir / "other");
    for (int i = 0; i < 10; ++i) report(*other, i);
  }
  auto audit = open_trail(path);
  report(*audit, 1);
  require_all(audit->flush(guard), 1);
  std::filesystem::rename(dir / "logs", dir / "moved");
  const Result<void> failed = audit->reopen(guard);
  REQUIRE(!failed);
  CHECK(failed.error().code == std::errc::no_such_file_or_directory);
  report(*audit, 2);
  require_all(audit->flush(guard), 2);
  CHECK(read_trail(dir / "moved/audit.jsonl").size() == 2);

  std::filesystem::create_directory(dir / "logs");
  std::filesystem::rename(dir / "other", path);
  REQUIRE(audit->reopen(guard));
  report(*audit, 3);
  require_all(audit->flush(guard), 3);
  CHECK(read_trail(path).size() == 11);
}

TEST_CASE("a relative path is the same file after a change of directory") {
  ScratchDir dir;
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(dir.path());
  auto audit = open_trail("audit.jsonl");
  std::filesystem::current_path(before);
  std::filesystem::rename(dir / "audit.jsonl", dir / "moved");
  REQUIRE(audit->reopen(guard));
  CHECK(std::filesystem::exists(dir / "audit.jsonl"));
}

TEST_CASE("a file that is removed is made anew, and nothing is acknowledged that nobody can find") {
  ScratchDir dir;
  std::filesystem::create_directory(dir / "logs");
  const std::string path = dir / "logs/audit.jsonl";
  RecordingLogger logger;
  auto audit = open_trail(path, {.logger = &logger});
  report(*audit, 1);
  require_all(audit->flush(guard), 1);
  std::filesystem::remove(path);
  report(*audit, 2);
  require_all(audit->flush(guard), 2);
  CHECK(ids_of(read_trail(path, 2)).ids == std::vector<std::int64_t>{2});
  CHECK(logger.count("warning: the file of the audit trail was removed") == 1);

  std::filesystem::remove_all(dir / "logs");
  report(*audit, 3);
  REQUIRE(eventually([&] { return audit->stats().failures >= 2; }));
  CHECK(audit->stats().pending == 1);
  std::filesystem::create_directory(dir / "logs");
  require_all(audit->flush(guard), 3);
  CHECK(ids_of(read_trail(path, 3)).ids == std::vector<std::int64_t>{3});
}

TEST_CASE("it works in a chain") {
  ScratchDir dir;
  auto audit = open_trail(dir / "audit.jsonl");
  ChainedTracker chain(noop_tracker(), *audit);
  chain.start(Context(), "update", "user").report_change(1, [] { return std::string("{}"); });
  require_all(audit->flush(guard), 1);
  CHECK(read_trail(dir / "audit.jsonl")[0]["change_data"].dump() == "{}");
}

TEST_CASE("a thread that is cancelled in the middle ends in its own code") {
  struct CancellableLogger final : Logger {
    void log(Level, std::string_view, std::span<const Attribute>) noexcept override { ::pthread_testcancel(); }
  };
  ScratchDir dir;
  CancellableLogger logger;
  Gate gate;
  auto audit = open_trail(dir / "audit.jsonl",
                          {.queue_bytes = 64 << 10, .on_acknowledged = [&](const AuditAck&) { gate.pass(); }, .logger = &logger});
  report(*audit, 0);
  gate.await();
  struct Work {
    AuditTracker& audit;
    bool returned = false;
  } work{*audit};
  pthread_t thread{};
  REQUIRE(::pthread_create(
              &thread, nullptr,
              [](void* argument) -> void* {
                Work& w = *static_cast<Work*>(argument);
                ::pthread_cancel(::pthread_self());
                const std::string large(30'000, 'x');
                for (int i = 0; i < 5; ++i) report(w.audit, large);  // the last ones are dropped, and logged
                (void)w.audit.flush(1ms);
                w.returned = true;
                ::pthread_testcancel();
                return nullptr;
              },
              &work) == 0);
  void* result = nullptr;
  REQUIRE(::pthread_join(thread, &result) == 0);
  CHECK(result == PTHREAD_CANCELED);
  CHECK(work.returned);
  CHECK(audit->stats().dropped_full == 3);
  gate.open();
}

#if !defined(WEIR_TESTS_TSAN)  // fork and ThreadSanitizer do not mix

TEST_CASE("the child of a fork writes nothing, counts what it reports, and ends") {
  ScratchDir dir;
  const std::string path = dir / "audit.jsonl";
  Gate gate;
  auto audit = open_trail(path, {.on_acknowledged = [&](const AuditAck&) { gate.pass(); }});
  report(*audit, 1);
  gate.await();
  report(*audit, 2);  // waits in the queue: the parent's
  Activity open = audit->start(Context(), "update", "user");
  const Child child = in_a_child([&] {
    open.report_change(3);
    report(*audit, 4);
    const AuditStats stats = audit->stats();
    if (stats.dropped_child != 2 || stats.dropped() != 2 || stats.accepted != 0 || stats.pending != 0) return 1;
    const AuditFlush flushed = audit->flush(guard);
    if (flushed.acknowledged != 0 || flushed.pending != 0 || flushed.dropped != 2) return 2;
    if (audit->reopen()) return 3;
    if (audit->close(guard).dropped != 2) return 4;
    open.end();
    audit.reset();
    if (AuditTracker::open(path)) return 5;  // the parent has it
    auto own = AuditTracker::open(dir / "child.jsonl");
    if (!own) return 6;
    report(**own, 5);
    return (*own)->flush(guard).acknowledged == 1 ? 0 : 7;
  });
  INFO(child.text);
  CHECK(child.code() == 0);
  gate.open();
  require_all(audit->flush(guard), 2);
  CHECK(ids_of(read_trail(path)).ids == std::vector<std::int64_t>{1, 2});
  CHECK(ids_of(read_trail(dir / "child.jsonl")).ids == std::vector<std::int64_t>{5});
}

TEST_CASE("a child that outlives a killed parent does not keep the file from the next writer") {
  ScratchDir dir;
  const std::string path = dir / "audit.jsonl";
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const Child parent = in_a_child([&] {
    const auto audit = AuditTracker::open(path);
    if (!audit) return 1;
    const pid_t pid = ::fork();
    if (pid == 0) {
      become_a_child(60);
      ::close(2);  // which the test reads to its end
      ::close(ends[1]);
      char byte;
      (void)!::read(ends[0], &byte, 1);  // until the test is done
      ::_exit(0);
    }
    ::kill(::getpid(), SIGKILL);
    return 2;
  });
  CHECK(parent.code() == 1000 + SIGKILL);
  CHECK(AuditTracker::open(path));
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_CASE("forks while threads report and files are opened neither hang nor lose what the parent reported") {
  ScratchDir dir;
  const std::string path = dir / "audit.jsonl";
  auto audit = open_trail(path, {.queue_bytes = 64 << 20});
  std::atomic<bool> stop{false};
  std::atomic<int> reported{0};
  std::vector<std::thread> running;
  for (int t = 0; t < 2; ++t)
    running.emplace_back([&] {
      while (!stop) {
        for (int i = 0; i < 20; ++i) report(*audit, reported++);
        (void)audit->flush(guard);
      }
    });
  running.emplace_back([&] {
    while (!stop) (void)open_trail(dir / "other");
  });
  for (int i = 0; i < 100; ++i) {
    const pid_t pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
      become_a_child(30);
      (void)audit->flush(guard);
      ::_exit(audit->stats().accepted == 0 ? 0 : 1);
    }
    int status = 0;
    REQUIRE(::waitpid(pid, &status, 0) == pid);
    REQUIRE(status == 0);
  }
  stop = true;
  for (std::thread& thread : running) thread.join();
  require_all(audit->flush(guard), static_cast<std::uint64_t>(reported));
  CHECK(read_trail(path).size() == static_cast<std::size_t>(reported));
}

#endif
