// What an emitter does with a spool directory.
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "support/audit_trail.hpp"
#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/eventually.hpp"
#include "support/scratch_dir.hpp"
#include "support/scripted_transport.hpp"
#include "support/virtual_pacer.hpp"
#include "weir/telemetry/emitter.hpp"
#include "weir/telemetry/payload.hpp"

using namespace weir;
using namespace weir::testing;
using namespace std::chrono_literals;

namespace {

constexpr auto soon = 5s;

struct Rig {
  ScratchDir dir;
  std::string spool = dir / "spool";
  RecordingLogger logger;
  Telemetry telemetry = Telemetry::create(InstanceId::random(), {.logger = &logger}).value();
  ScriptedTransport endpoint;
  std::shared_ptr<VirtualPacer> pacer = std::make_shared<VirtualPacer>();
  std::optional<Emitter> made;

  EmitterOptions options() {
    EmitterOptions options{.pauses = {}, .logger = &logger, .pacer = pacer};
    options.spool_directory = spool;
    return options;
  }
  Emitter& emitter() {
    if (!made) made.emplace(telemetry, endpoint, options());
    return *made;
  }
  void start() { REQUIRE(emitter().start()); }
  /// As after a restart of the program.
  void renew() {
    made.reset();
    telemetry = Telemetry::create(InstanceId::random(), {.logger = &logger}).value();
    endpoint = ScriptedTransport();
    pacer = std::make_shared<VirtualPacer>();
  }
  /// Names, without the lock.
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(spool))
      if (entry.path().filename() != "lock") names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }
};

std::string name_of(int sequence, const std::string& update_id, const std::string& ending = ".json") {
  std::string digits = std::to_string(sequence);
  return std::string(12 - digits.size(), '0') + digits + "-" + update_id + ending;
}

std::string stored_payload(const std::string& update_id, int n) {
  return R"({"instance_id":"6ba7b810-9dad-11d1-80b4-00c04fd430c8","timestamp":"2026-01-02T15:04:05Z","update_id":")" + update_id +
         R"(","data":{"n":)" + std::to_string(n) + "}}";
}

mode_t mode_of(const std::string& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777;
}

const std::string id_a(32, 'a'), id_b(32, 'b'), id_c(32, 'c'), id_d(32, 'd');

}  // namespace

TEST_CASE("a payload is in the spool before its first try, as it is sent, and gone when it is taken") {
  Rig rig;
  rig.telemetry.add("n", 3);
  rig.endpoint.hold();
  rig.start();
  const auto seen = rig.endpoint.seen(1);
  const std::vector<std::string> files = rig.files();
  REQUIRE(files == std::vector<std::string>{name_of(1, seen[0].update_id)});
  CHECK(contents_of(rig.spool + "/" + files[0]) == seen[0].body);
  CHECK(mode_of(rig.spool + "/" + files[0]) == 0600);
  CHECK(mode_of(rig.spool) == 0700);
  CHECK(rig.emitter().stats().spooled == 1);
  rig.endpoint.let_go();
  rig.pacer->waits(1);
  CHECK(rig.files().empty());
  CHECK(rig.emitter().stats().spooled == 0);
  CHECK(rig.logger.size() == 0);
}

TEST_CASE("each cycle's payload waits in the spool while the endpoint is away, and they are sent in order") {
  Rig rig;
  rig.endpoint.otherwise(no_connection());
  rig.telemetry.add("n", 1);
  rig.start();
  for (std::size_t cycle = 1; cycle <= 3; ++cycle) {
    rig.pacer->waits(cycle);
    CHECK(rig.files().size() == cycle);
    CHECK(rig.emitter().stats().spooled == cycle);
    CHECK(rig.endpoint.count() == cycle);  // the oldest, again and again
    rig.telemetry.add("n", static_cast<std::int64_t>(cycle) * 10);
    if (cycle < 3) rig.pacer->let_pass(1);
  }
  CHECK(rig.emitter().stats().merged_back == 0);
  rig.endpoint.otherwise(answer(200));
  rig.pacer->let_pass(1);
  rig.pacer->waits(4);
  const auto seen = rig.endpoint.seen(7);
  REQUIRE(seen.size() == 7);
  CHECK((seen[0] == seen[1] && seen[1] == seen[2] && seen[2] == seen[3]));
  CHECK(seen[3].data() == nlohmann::json{{"n", 1}});
  CHECK(seen[4].data() == nlohmann::json{{"n", 10}});
  CHECK(seen[5].data() == nlohmann::json{{"n", 20}});
  CHECK(seen[6].data() == nlohmann::json{{"n", 30}});
  CHECK(rig.files().empty());
  CHECK(rig.emitter().stats().updates == 4);
}

TEST_CASE("what is empty takes no place in the spool") {
  Rig rig;
  rig.endpoint.otherwise(answer(500));
  rig.start();
  rig.pacer->waits(1);
  CHECK(rig.files().empty());
  CHECK(rig.endpoint.count() == 1);
}

TEST_CASE("the payloads of an earlier run are sent first, the oldest first, as they were") {
  Rig rig;
  rig.endpoint.otherwise(answer(503));
  rig.telemetry.add("n", 1);
  rig.start();
  rig.pacer->waits(1);
  rig.telemetry.add("n", 2);
  CHECK_FALSE(rig.emitter().stop(soon));
  const auto before = rig.endpoint.seen(2);
  CHECK(rig.files().size() == 2);  // what the buffer held at the end, too
  CHECK(rig.telemetry.take().empty());

  rig.renew();
  rig.telemetry.add("n", 3);
  rig.start();
  rig.pacer->waits(1);
  const auto seen = rig.endpoint.seen(3);
  REQUIRE(seen.size() == 3);
  CHECK(seen[0] == before[0]);
  CHECK(seen[0].instance_id != rig.telemetry.instance_id().to_string());
  CHECK(seen[1].data() == nlohmann::json{{"n", 2}});
  CHECK(seen[2].data() == nlohmann::json{{"n", 3}});
  CHECK(seen[2].instance_id == rig.telemetry.instance_id().to_string());
  CHECK(rig.files().empty());
}

TEST_CASE("a stop whose time is over before it begins puts what the buffer holds into the spool") {
  Rig rig;
  rig.endpoint.hold();
  rig.telemetry.add("n", 1);
  rig.start();
  rig.endpoint.seen(1);
  rig.telemetry.add("n", 2);
  CHECK_FALSE(rig.emitter().stop(0s));
  CHECK(rig.endpoint.count() == 1);
  CHECK(rig.files().size() == 2);
  CHECK(rig.telemetry.take().empty());
}

TEST_CASE("a stop that delivers all leaves an empty spool, and the last sends are one try each") {
  Rig rig;
  rig.endpoint.otherwise(no_connection());
  rig.telemetry.add("n", 1);
  rig.start();
  rig.pacer->waits(1);
  rig.telemetry.add("n", 2);
  rig.pacer->let_pass(1);
  rig.pacer->waits(2);
  rig.telemetry.add("n", 4);
  rig.endpoint.otherwise(answer(200));
  CHECK(rig.emitter().stop(60s));
  CHECK(rig.files().empty());
  CHECK(rig.endpoint.count() == 2 + 3);
}

TEST_CASE("what the server does not want any more waits in the spool") {
  Rig rig;
  rig.telemetry.add("n", 1);
  rig.endpoint.then({answer(410)});
  rig.start();
  REQUIRE(eventually([&] { return !rig.emitter().stats().running; }));
  CHECK_FALSE(rig.emitter().stop(soon));
  CHECK(rig.files().size() == 1);
  rig.start();
  rig.pacer->waits(1);
  CHECK(rig.endpoint.seen(2)[1] == rig.endpoint.seen(2)[0]);
  CHECK(rig.files().empty());
}

TEST_CASE("beyond its bound the spool takes nothing, and payloads wait in memory") {
  Rig rig;
  EmitterOptions options = rig.options();
  options.max_spool_bytes = 400;
  rig.made.emplace(rig.telemetry, rig.endpoint, options);
  const std::string text(200, 'x');
  SECTION("and are merged back") {
    rig.endpoint.otherwise(no_connection());
    rig.telemetry.set("text", text);
    rig.start();
    rig.pacer->waits(1);
    CHECK(rig.files().size() == 1);
    for (std::size_t cycle = 2; cycle <= 3; ++cycle) {
      rig.telemetry.set("text", text);
      rig.telemetry.add("n", 1);
      rig.pacer->let_pass(1);
      rig.pacer->waits(cycle);
      CHECK(rig.files().size() == 1);
      CHECK(rig.emitter().stats().merged_back == cycle - 1);
    }
    CHECK(rig.logger.count("has no room") == 1);
    rig.endpoint.otherwise(answer(200));
    rig.pacer->let_pass(1);
    rig.pacer->waits(4);
    CHECK(rig.endpoint.seen(5)[4].data() == nlohmann::json{{"n", 2}, {"text", text}});
    CHECK(rig.logger.count("takes payloads again") == 1);
    CHECK(rig.files().empty());
  }
  SECTION("or kept, if they may have been taken") {
    rig.telemetry.set("text", text + text);
    rig.telemetry.add("n", 1);
    rig.endpoint.then({no_answer()});
    rig.start();
    rig.pacer->waits(1);
    CHECK(rig.files().empty());
    CHECK(rig.emitter().stats().kept == 1);
    rig.telemetry.add("n", 2);
    rig.pacer->let_pass(1);
    rig.pacer->waits(2);
    const auto seen = rig.endpoint.seen(3);
    REQUIRE(seen.size() == 3);
    CHECK(seen[1] == seen[0]);
    CHECK(seen[2].data() == nlohmann::json{{"n", 2}});
  }
}

TEST_CASE("a spool that cannot be written is reported once, and updates go on from memory") {
  Rig rig;
  rig.start();
  rig.pacer->waits(1);
  std::filesystem::remove_all(rig.spool);
  for (std::size_t cycle = 2; cycle <= 4; ++cycle) {
    rig.telemetry.add("n", static_cast<std::int64_t>(cycle));
    if (cycle == 3) rig.endpoint.then({no_connection()});
    rig.pacer->let_pass(1);
    rig.pacer->waits(cycle);
  }
  const auto seen = rig.endpoint.seen(4);
  REQUIRE(seen.size() == 4);
  CHECK(seen[1].data() == nlohmann::json{{"n", 2}});
  CHECK(seen[2].data() == nlohmann::json{{"n", 3}});
  CHECK(seen[3].data() == nlohmann::json{{"n", 7}});
  CHECK(rig.logger.count("payloads wait in memory") == 1);
}

TEST_CASE("files that are no payloads are set aside and reported, and foreign files are left alone") {
  Rig rig;
  REQUIRE(::mkdir(rig.spool.c_str(), 0700) == 0);
  const auto put = [&](const std::string& name, std::string_view text) { write_file(rig.spool + "/" + name, text); };
  const std::string whole = stored_payload(id_b, 7);
  put(name_of(3, id_a), whole.substr(0, whole.size() / 2));                                      // torn
  put(name_of(4, id_a), "");                                                                     // never written
  put(name_of(5, id_a), stored_payload(id_b, 1));                                                // another update
  put(name_of(6, id_a), R"({"instance_id":"nobody","update_id":")" + id_a + R"(","data":{}})");  // nobody's
  put(name_of(7, id_b), whole);
  put(name_of(8, id_c, ".json.tmp"), "{");  // somebody was killed here
  put(name_of(9, id_d) + ".bad", "bad");    // set aside before
  put("9-" + id_d + ".json", stored_payload(id_d, 1));
  put("notes.txt", "hello");
  put("000000000010-" + std::string(32, 'A') + ".json", "{}");
  REQUIRE(::symlink((rig.dir / "elsewhere").c_str(), (rig.spool + "/" + name_of(11, id_c)).c_str()) == 0);
  rig.telemetry.add("n", 2);
  rig.start();
  rig.pacer->waits(1);
  const auto seen = rig.endpoint.seen(2);
  REQUIRE(seen.size() == 2);
  CHECK(seen[0].update_id == id_b);
  CHECK(seen[0].body == whole);
  CHECK(seen[0].instance_id == "6ba7b810-9dad-11d1-80b4-00c04fd430c8");
  CHECK(seen[1].data() == nlohmann::json{{"n", 2}});
  CHECK(rig.logger.count("is not sent: it holds no payload of this update_id") == 4);
  CHECK(rig.logger.size() == 4);
  std::vector<std::string> expected{name_of(3, id_a) + ".bad",
                                    name_of(4, id_a) + ".bad",
                                    name_of(5, id_a) + ".bad",
                                    name_of(6, id_a) + ".bad",
                                    name_of(9, id_d) + ".bad",
                                    "9-" + id_d + ".json",
                                    "notes.txt",
                                    "000000000010-" + std::string(32, 'A') + ".json",
                                    name_of(11, id_c)};
  std::sort(expected.begin(), expected.end());
  CHECK(rig.files() == expected);
}

TEST_CASE("a file that somebody removed is not missed") {
  Rig rig;
  rig.endpoint.otherwise(no_connection());
  rig.telemetry.add("n", 1);
  rig.start();
  rig.pacer->waits(1);
  REQUIRE(rig.files().size() == 1);
  std::filesystem::remove(rig.spool + "/" + rig.files()[0]);
  rig.endpoint.otherwise(answer(200));
  rig.telemetry.add("n", 2);
  rig.pacer->let_pass(1);
  rig.pacer->waits(2);
  CHECK(rig.endpoint.seen(2)[1].data() == nlohmann::json{{"n", 2}});
  CHECK(rig.emitter().stats().spooled == 0);
}

TEST_CASE("a spool belongs to one emitter until it is stopped") {
  Rig rig;
  rig.start();
  Emitter other{rig.telemetry, InMemoryTransport(), rig.options()};
  const Result<void> second = other.start();
  REQUIRE_FALSE(second);
  CHECK(second.error().code == std::errc::device_or_resource_busy);
  CHECK(second.error().message ==
        "the telemetry spool " + rig.spool + " is used by another emitter; give each a directory of its own, or end the other");
  CHECK(rig.emitter().stop(soon));
  CHECK(other.start());
  CHECK_FALSE(rig.emitter().start());
  CHECK(other.stop(soon));
}

#ifndef __SANITIZE_THREAD__
TEST_CASE("the child of a fork does not keep the spool from others") {
  Rig rig;
  rig.start();
  rig.pacer->waits(1);
  std::array<int, 2> gate{};
  REQUIRE(::pipe(gate.data()) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    become_a_child(60);
    char go;
    if (::read(gate[0], &go, 1) != 1) ::_exit(2);
    ::_exit(rig.emitter().start() ? 1 : 0);
  }
  CHECK_FALSE(Emitter(rig.telemetry, InMemoryTransport(), rig.options()).start());
  SECTION("while it lives") {
    CHECK(rig.emitter().stop(soon));
    CHECK(Emitter(rig.telemetry, InMemoryTransport(), rig.options()).start());
    ::kill(child, SIGKILL);
  }
  SECTION("and does not get it") { REQUIRE(::write(gate[1], "x", 1) == 1); }
  int status = -1;
  CHECK(::waitpid(child, &status, 0) == child);
  CHECK((WIFSIGNALED(status) || WEXITSTATUS(status) == 0));
  ::close(gate[0]);
  ::close(gate[1]);
}

TEST_CASE("the child of a fork does not keep the spool of a parent that died without a word") {
  Rig rig;
  std::array<int, 2> gate{};
  REQUIRE(::pipe(gate.data()) == 0);
  const Child parent = in_a_child([&] {
    EmitterOptions options = rig.options();
    options.pacer = nullptr;
    Emitter emitter{rig.telemetry, InMemoryTransport(), options};
    if (!emitter.start()) return 1;
    const pid_t child = ::fork();
    if (child == 0) {
      ::close(2);  // whose end our caller waits for
      ::close(gate[1]);
      char nothing;
      ::_exit(static_cast<int>(::read(gate[0], &nothing, 1)));
    }
    ::_exit(child > 0 ? 0 : 2);
  });
  CHECK(parent.code() == 0);
  rig.start();
  ::close(gate[0]);
  ::close(gate[1]);
}
#endif

TEST_CASE("a directory that cannot be a spool is an error that says why") {
  Rig rig;
  const auto message = [&] {
    const Result<void> started = rig.emitter().start();
    REQUIRE_FALSE(started);
    CHECK_FALSE(rig.emitter().stats().running);
    return started.error().message;
  };
  SECTION("others may enter it") {
    REQUIRE(::mkdir(rig.spool.c_str(), 0700) == 0);
    REQUIRE(::chmod(rig.spool.c_str(), 0710) == 0);
    CHECK(message().find("may be entered by others; name one of mode 0700 that is your own") != std::string::npos);
    REQUIRE(::chmod(rig.spool.c_str(), 0700) == 0);
    rig.start();
  }
  SECTION("it is somebody else's") {
    if (::geteuid() != 0) return;
    REQUIRE(::mkdir(rig.spool.c_str(), 0700) == 0);
    REQUIRE(::chown(rig.spool.c_str(), 12345, 12345) == 0);
    CHECK(message().find("belongs to another user") != std::string::npos);
  }
  SECTION("it is a file") {
    write_file(rig.spool, "");
    CHECK(message().find("cannot open the directory") == 0);
  }
  SECTION("it is a symbolic link") {
    REQUIRE(::mkdir((rig.dir / "real").c_str(), 0700) == 0);
    REQUIRE(::symlink((rig.dir / "real").c_str(), rig.spool.c_str()) == 0);
    CHECK(message().find("cannot open the directory") == 0);
  }
  SECTION("what it lies in is missing") {
    rig.spool = rig.dir / "missing/spool";
    CHECK(message().find("cannot make the directory") == 0);
  }
  SECTION("its lock is a symbolic link") {
    REQUIRE(::mkdir(rig.spool.c_str(), 0700) == 0);
    REQUIRE(::symlink((rig.dir / "elsewhere").c_str(), (rig.spool + "/lock").c_str()) == 0);
    CHECK(message().find("cannot open") == 0);
    CHECK_FALSE(std::filesystem::exists(rig.dir / "elsewhere"));
  }
  SECTION("its path has a NUL") {
    rig.spool = std::string("a\0b", 3);
    CHECK(message().find("name a directory") != std::string::npos);
  }
}
