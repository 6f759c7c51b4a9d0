// `weir collect --http`, as services and people use it: the real program, real sockets, real signals, kill -9 among them.
#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/http_client.hpp"
#include "support/process.hpp"
#include "support/scratch_dir.hpp"
#include "weir/collect/telemetry_store.hpp"

using nlohmann::json;
using weir::testing::eventually;
using weir::testing::http_get;
using weir::testing::http_post;
using weir::testing::Process;
using weir::testing::ScratchDir;

namespace {

using Words = std::vector<std::string>;

const std::string id = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

/// A directory that the command takes for the user's runtime directory.
struct Place {
  ScratchDir dir;
  Process::Environment environment{{"XDG_RUNTIME_DIR", dir.path()}, {"WEIR_SOCKET", ""}};

  std::unique_ptr<Process> start(Words options) const {
    options.insert(options.begin(), {WEIR_COMMAND, "collect"});
    return std::make_unique<Process>(std::move(options), environment);
  }
};

/// The one line that a command that failed has left.
std::string complaint(Process& process, int code) {
  CHECK(process.wait() == code);
  INFO(process.err());
  CHECK(process.out().empty());
  CHECK(process.err().starts_with("weir: "));
  CHECK(std::count(process.err().begin(), process.err().end(), '\n') == 1);
  return process.err();
}

}  // namespace

TEST_CASE("wrong usage of the telemetry options exits 2 and says how to write them") {
  Place place;
  CHECK(complaint(*place.start({"--http", "here"}), 2).find("'here' is no address: write it as 4318") != std::string::npos);
  CHECK(complaint(*place.start({"--http", "unix:"}), 2).find("no address") != std::string::npos);
  CHECK(complaint(*place.start({"--telemetry-db", "x.db"}), 2).find("--http") != std::string::npos);
  CHECK(complaint(*place.start({"--telemetry-policy", "x.json"}), 2).find("--http") != std::string::npos);
}

#if WEIR_HAVE_HTTPLIB

namespace {

/// Where a collector that is ready serves telemetry.
std::string address_of(Process& process) {
  const std::string line = process.line_with(2, " http=");
  return line.substr(line.find(" http=") + 6);
}

std::string body_of(int number, const std::string& update_id, const std::string& instance = id) {
  return json{{"instance_id", instance}, {"update_id", update_id}, {"data", {{"n", number}}}}.dump();
}

json telemetry_counters(const std::string& err) {
  std::istringstream stream(err);
  std::string line, last;
  while (std::getline(stream, line)) last = line;
  const json counters = json::parse(last, nullptr, false);
  REQUIRE(counters.is_object());
  CHECK(counters.at("store").at("spans") == 0);
  CHECK(counters.contains("print"));
  return counters.at("telemetry");
}

}  // namespace

TEST_CASE("collect --http says where, takes updates, obeys its policy file, and counts at the end") {
  Place place;
  const std::string policy = place.dir / "policy.json";
  std::ofstream(policy) << R"({"next_update":"5m"})";
  auto collector = place.start({"--http", "0", "--telemetry-policy", policy});
  const std::string address = address_of(*collector);
  CHECK(address.starts_with("127.0.0.1:"));
  CHECK(http_post(address, "/v1/update/" + id, body_of(1, "a")).json()["next_update"] == 300'000'000'000);
  CHECK(http_post(address, "/v1/update/" + id, body_of(1, "a")).status == 200);
  CHECK(http_post(address, "/v1/update/" + id, "{}").status == 400);
  std::ofstream(policy) << R"({"stop":true})";
  CHECK(eventually([&] { return http_post(address, "/v1/update/" + id, body_of(1, "a")).json()["stop"] == true; }));
  CHECK(http_get(address, "/v1/instances").json()["instances"].size() == 1);
  collector->signal(SIGTERM);
  CHECK(collector->wait() == 0);
  const json counters = telemetry_counters(collector->err());
  CHECK(counters.at("updates") == 1);
  CHECK(counters.at("instances") == 1);
  CHECK(counters.at("rejected") == 1);
  CHECK(counters.at("duplicates").get<int>() >= 2);
  CHECK(counters.at("http").at("requests").get<int>() >= 5);
}

TEST_CASE("collect --http takes a Unix socket, whose path is said absolute") {
  Place place;
  const std::string path = place.dir / "http.sock";
  auto collector = place.start({"--http", "unix:" + std::filesystem::relative(path).string()});
  CHECK(address_of(*collector) == "unix:" + path);
  CHECK(http_get("unix:" + path, "/").status == 200);
  collector->signal(SIGTERM);
  CHECK(collector->wait() == 0);
  CHECK_FALSE(std::filesystem::exists(path));
}

TEST_CASE("without --http there is no telemetry") {
  Place place;
  auto collector = place.start({});
  CHECK(collector->line_with(2, "listening").find("http") == std::string::npos);
  collector->signal(SIGTERM);
  CHECK(collector->wait() == 0);
  CHECK(collector->err().find("telemetry") == std::string::npos);
}

TEST_CASE("what --http cannot have, or its files are not, exits 1 with one line") {
  Place place, other;
  auto first = place.start({"--http", "0"});
  const std::string address = address_of(*first);
  CHECK(complaint(*other.start({"--http", address}), 1).find("cannot listen on " + address + ": Address already in use") !=
        std::string::npos);
  const std::string policy = other.dir / "policy.json";
  std::ofstream(policy) << R"({"stop":"yes"})";
  CHECK(complaint(*other.start({"--http", "0", "--telemetry-policy", policy}), 1).find("member \"stop\" should be true or false") !=
        std::string::npos);
  CHECK(complaint(*other.start({"--http", "0", "--telemetry-db", policy}), 1).find("'" + policy + "'") != std::string::npos);
  first->signal(SIGTERM);
  CHECK(first->wait() == 0);
}

#if WEIR_HAVE_SQLITE3

TEST_CASE("what was answered 200 is there after kill -9, each once") {
  Place place;
  const std::string database = place.dir / "telemetry.db";
  constexpr int rounds = 8, clients = 3;
  std::mt19937 dice(std::random_device{}());
  std::mutex mutex;
  std::map<std::string, std::set<int>> answered;  // by instance; guarded by mutex
  int next[clients] = {};
  for (int round = 0; round < rounds; ++round) {
    auto collector = place.start({"--http", "0", "--telemetry-db", database});
    const std::string address = address_of(*collector);
    std::atomic<int> answers{0};
    std::atomic<bool> killed{false};
    std::vector<std::thread> threads;
    for (int c = 0; c < clients; ++c) {
      threads.emplace_back([&, c] {
        const std::string instance = "00000000-0000-4000-8000-00000000000" + std::to_string(c);
        while (!killed) {
          // One that was not answered is sent again under the same id, to the next collector.
          if (http_post(address, "/v1/update/" + instance, body_of(next[c], std::to_string(next[c]), instance)).status != 200) continue;
          {
            std::lock_guard lock(mutex);
            answered[instance].insert(next[c]);
          }
          ++next[c];
          ++answers;
        }
      });
    }
    const int enough = 1 + static_cast<int>(dice() % 60);
    CHECK(eventually([&] { return answers >= enough; }));
    collector->signal(SIGKILL);
    CHECK(collector->wait() == 1000 + SIGKILL);
    killed = true;
    for (auto& thread : threads) thread.join();
  }
  auto store = weir::TelemetryStore::open({.path = database});
  INFO((store ? "" : store.error().message));
  REQUIRE(store);
  CHECK(answered.size() == clients);
  for (const auto& [instance, sent] : answered) {
    const weir::InstanceId instance_id = weir::InstanceId::parse(instance);
    auto series = store->series(instance_id, "n", std::nullopt, 1'000'000);
    REQUIRE(series);
    std::set<int> stored;
    for (const auto& point : series->points) CHECK(stored.insert(static_cast<int>(std::get<std::int64_t>(point.number))).second);
    for (const int number : sent) CHECK(stored.contains(number));
    CHECK(stored.size() <= sent.size() + 1);  // one may have been stored and not answered
  }
}

#endif

#else

TEST_CASE("without cpp-httplib --http exits 1 and says which package turns it on") {
  Place place;
  CHECK(complaint(*place.start({"--http", "0"}), 1).find("libcpp-httplib-dev") != std::string::npos);
}

#endif
