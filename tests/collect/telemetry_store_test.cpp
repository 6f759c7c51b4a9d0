#include "weir/collect/telemetry_store.hpp"

#include <sys/resource.h>
#include <sys/stat.h>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "support/audit_trail.hpp"
#include "support/catch.hpp"
#include "support/scratch_dir.hpp"
#include "weir/trace/span.hpp"
#if WEIR_HAVE_SQLITE3
#include <sqlite3.h>
#endif

using nlohmann::json;
using weir::InstanceId;
using weir::Response;
using weir::TelemetryNumber;
using weir::TelemetryStore;
using weir::TelemetryStoreOptions;
using weir::Timestamp;
using weir::testing::RecordingLogger;
using weir::testing::ScratchDir;
using namespace std::chrono_literals;

namespace {

const InstanceId one = InstanceId::parse("6ba7b810-9dad-11d1-80b4-00c04fd430c8");
const InstanceId other = InstanceId::parse("00000000-0000-4000-8000-000000000001");
const Timestamp start{std::chrono::seconds{1'800'000'000}};

Response every(std::chrono::nanoseconds time) {
  Response response;
  response.next_update = time;
  return response;
}

std::string body_of(const InstanceId& id, json data, const std::string& update_id = "", const std::string& timestamp = "") {
  json body{{"instance_id", id.to_string()}, {"data", std::move(data)}};
  if (!update_id.empty()) body["update_id"] = update_id;
  if (!timestamp.empty()) body["timestamp"] = timestamp;
  return body.dump();
}

#if WEIR_HAVE_SQLITE3
constexpr bool kinds[] = {false, true};
#else
constexpr bool kinds[] = {false};
#endif

/// A store of either kind.
struct Place {
  ScratchDir dir;
  RecordingLogger logger;
  TelemetryStore open(bool file, TelemetryStoreOptions options = {}) {
    if (file) options.path = dir / "telemetry.db";
    options.logger = &logger;
    auto store = TelemetryStore::open(options);
    INFO((store ? "" : store.error().message));
    REQUIRE(store);
    return std::move(*store);
  }
};

int send(TelemetryStore& store, const InstanceId& id, json data, Timestamp now, const std::string& update_id = "") {
  return store.receive(id, body_of(id, std::move(data), update_id), every(1h), now).status;
}

std::vector<std::string> all_keys(const TelemetryStore& store, const InstanceId& id) { return store.keys(id, 1000).value(); }

std::vector<TelemetryNumber> numbers(const TelemetryStore& store, const InstanceId& id, const std::string& key) {
  std::vector<TelemetryNumber> numbers;
  auto series = store.series(id, key, std::nullopt, 1000);
  for (const auto& point : series->points) numbers.push_back(point.number);
  return numbers;
}

using Numbers = std::vector<TelemetryNumber>;
using Texts = std::vector<std::string>;
TelemetryNumber whole(std::int64_t number) { return number; }

#if WEIR_HAVE_SQLITE3
/// Everything that a store says, for comparing.
std::string told(const TelemetryStore& store) {
  std::string text = store.stats().to_json() + "\n";
  auto instances = store.instances(1000);
  for (const auto& instance : *instances) {
    text += instance.id.to_string() + " " + weir::format_time(instance.first_seen) + " " + weir::format_time(instance.last_seen) + " " +
            weir::format_time(instance.expect_next) + " " + std::to_string(instance.updates) + " " + std::to_string(instance.kept) + " " +
            std::to_string(instance.bytes) + "\n" + store.last_update(instance.id).value() + "\n";
    for (const auto& key : all_keys(store, instance.id)) {
      text += key + ":";
      auto series = store.series(instance.id, key, std::nullopt, 1000);
      for (const auto& point : series->points) {
        text += " " + weir::format_time(point.time) + "=";
        std::visit([&](auto number) { text += std::to_string(number); }, point.number);
      }
      text += "\n";
    }
  }
  return text;
}
#endif

}  // namespace

TEST_CASE("an update is kept as its JSON with expect_next, and as series of its numbers") {
  for (const bool file : kinds) {
    Place place;
    TelemetryStore store = place.open(file);
    const json data{{"requests", 12},
                    {"load", 0.5},
                    {"version", "1.4"},
                    {"ok", true},
                    {"memory", {{"rss", 7}, {"name", "x"}, {"deep", {{"er", 1}}}}},
                    {"latency", {{"count", 3}, {"sum", 1.5}, {"p50", 0.25}, {"p99", 0.75}}},
                    {"big", 18446744073709551615u},
                    {"list", {1, 2}}};
    Response response = every(90s);
    response.stop = true;
    response.disable_keys = {"user_agent"};
    const auto answer = store.receive(one, body_of(one, data, "u1", "2027-01-15T07:59:00.5+00:00"), response, start);
    CHECK(answer.status == 200);
    CHECK(json::parse(answer.body) == json{{"next_update", 90'000'000'000}, {"stop", true}, {"disable_keys", {"user_agent"}}});
    const json kept = json::parse(store.last_update(one).value());
    CHECK(kept["expect_next"] == "2027-01-15T08:01:30Z");
    CHECK(kept["data"] == data);
    CHECK(kept["update_id"] == "u1");
    CHECK(all_keys(store, one) ==
          Texts{"big", "latency.count", "latency.p50", "latency.p99", "latency.sum", "load", "memory.rss", "requests"});
    CHECK(numbers(store, one, "requests") == Numbers{whole(12)});
    CHECK(numbers(store, one, "latency.p99") == Numbers{0.75});
    CHECK(numbers(store, one, "big") == Numbers{18446744073709551615.0});
    CHECK(store.series(one, "requests", {}, 1)->points[0].time == *weir::parse_time("2027-01-15T07:59:00.5Z"));
    const auto about = store.instance(one).value();
    REQUIRE(about);
    CHECK(about->first_seen == start);
    CHECK(about->expect_next == start + 90s);
    CHECK(about->updates == 1);
    CHECK(about->kept == 1);
    CHECK_FALSE(store.instance(other).value());
    CHECK(store.last_update(other).value().empty());
    CHECK(all_keys(store, other).empty());
    CHECK(store.stats().updates == 1);
    CHECK(store.stats().instances == 1);
  }
}

TEST_CASE("an update that was seen before is answered in the same way and stored once, for each instance") {
  for (const bool file : kinds) {
    Place place;
    TelemetryStore store = place.open(file);
    const std::string body = body_of(one, {{"n", 1}}, "same");
    const std::string first = store.receive(one, body, every(1h), start).body;
    for (int i = 1; i < 4; ++i) {
      const auto answer = store.receive(one, body, every(1h), start + i * 1s);
      CHECK(answer.status == 200);
      CHECK(answer.body == first);
    }
    CHECK(send(store, other, {{"n", 2}}, start, "same") == 200);
    CHECK(send(store, one, {{"n", 3}}, start + 9s, "next") == 200);
    CHECK(send(store, one, {{"n", 4}}, start + 10s) == 200);
    CHECK(send(store, one, {{"n", 4}}, start + 11s) == 200);  // without an id, each is another
    CHECK(numbers(store, one, "n") == Numbers{whole(1), whole(3), whole(4), whole(4)});
    CHECK(numbers(store, other, "n") == Numbers{whole(2)});
    CHECK(store.stats().duplicates == 3);
    CHECK(store.stats().updates == 5);
    CHECK(store.instance(one).value()->updates == 4);
  }
}

TEST_CASE("what is no update is rejected, and the answer names the member") {
  const std::string id = one.to_string();
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", "the body is no JSON"},
      {"{", "the body is no JSON"},
      {"[]", "the body is no JSON object"},
      {"{\"instance_id\":\"" + id + "\"}x", "the body is no JSON"},
      {"{\"instance_id\":\"" + id + "\",\"data\":{\"a\":1e999}}", "the body is no JSON"},
      {"{}", "member \"instance_id\" should be there, and a string"},
      {"{\"instance_id\":7}", "member \"instance_id\" should be there, and a string"},
      {"{\"instance_id\":\"7\"}", "member \"instance_id\" should be a UUID"},
      {"{\"instance_id\":\"00000000-0000-0000-0000-000000000000\"}", "member \"instance_id\" should be a UUID"},
      {"{\"instance_id\":\"" + other.to_string() + "\"}", "member \"instance_id\" should be the id in the path"},
      {"{\"instance_id\":\"" + id + "\",\"timestamp\":1}", "member \"timestamp\" should be a time, as 2026-01-02T15:04:05Z"},
      {"{\"instance_id\":\"" + id + "\",\"timestamp\":\"now\"}", "member \"timestamp\" should be a time, as 2026-01-02T15:04:05Z"},
      {"{\"instance_id\":\"" + id + "\",\"update_id\":\"\"}", "member \"update_id\" should be a string of 1 to 64 bytes"},
      {"{\"instance_id\":\"" + id + "\",\"update_id\":\"" + std::string(65, 'x') + "\"}",
       "member \"update_id\" should be a string of 1 to 64 bytes"},
      {"{\"instance_id\":\"" + id + "\",\"data\":[]}", "member \"data\" should be an object"},
      {"{\"instance_id\":\"" + id + "\",\"data\":{\"a\":" + std::string(15, '[') + std::string(15, ']') + "}}",
       "the body is nested deeper than 16 levels"},
  };
  Place place;
  TelemetryStore store = place.open(false);
  for (const auto& [body, message] : cases) {
    INFO(body);
    const auto answer = store.receive(one, body, every(1h), start);
    CHECK(answer.status == 400);
    CHECK(json::parse(answer.body) == json{{"error", message}});
  }
  CHECK(store.stats().rejected == cases.size());
  CHECK(store.stats().instances == 0);
  CHECK(store
            .receive(one, "{\"instance_id\":\"" + id + "\",\"data\":{\"a\":" + std::string(14, '[') + std::string(14, ']') + "}}",
                     every(1h), start)
            .status == 200);
  CHECK(store.receive(one, "{\"instance_id\":\"" + id + "\",\"unknown\":1}", every(1h), start).status == 200);
}

TEST_CASE("text that is no UTF-8 is repaired") {
  for (const bool file : kinds) {
    Place place;
    TelemetryStore store = place.open(file);
    CHECK(store.receive(one, "{\"instance_id\":\"" + one.to_string() + "\",\"data\":{\"a\xff\":1,\"b\":\"\xc3\"}}", every(1h), start)
              .status == 200);
    CHECK(json::parse(store.last_update(one).value())["data"] == json{{"a\xef\xbf\xbd", 1}, {"b", "\xef\xbf\xbd"}});
    CHECK(all_keys(store, one) == Texts{"a\xef\xbf\xbd"});
  }
}

TEST_CASE("the numbers of an update are bounded, and what is not in series is counted") {
  for (const bool file : kinds) {
    Place place;
    TelemetryStore store = place.open(file, {.max_numbers = 3});
    CHECK(send(store, one, {{"a", 1}, {"b", 2}, {std::string(257, 'k'), 3}, {std::string(256, 'k'), 4}, {"x", 5}, {"y", 6}}, start) == 200);
    CHECK(all_keys(store, one).size() == 3);
    CHECK(store.stats().dropped_numbers == 3);
    CHECK(send(store, other, {{"m.r", 1}, {"m", {{"r", 2}}}}, start) == 200);  // one key of two
    CHECK(numbers(store, other, "m.r").size() == 1);
    CHECK(store.stats().dropped_numbers == 4);
  }
}

TEST_CASE("a series comes in pages, the oldest first, by the time of the update") {
  for (const bool file : kinds) {
    Place place;
    TelemetryStore store = place.open(file);
    for (const int i : {3, 1, 4, 0, 2}) {
      const std::string time = weir::format_time(start + i * 1s);
      CHECK(store.receive(one, body_of(one, {{"n", i}}, "", time), every(1h), start + 1h).status == 200);
    }
    const auto page = [&](std::optional<Timestamp> since, std::size_t limit) {
      const auto series = store.series(one, "n", since, limit).value();
      std::string text;
      for (const auto& point : series.points) {
        CHECK(point.time == start + std::get<std::int64_t>(point.number) * 1s);
        text += std::to_string(std::get<std::int64_t>(point.number));
      }
      return text + (series.more ? "+" : "");
    };
    CHECK(page({}, 10) == "01234");
    CHECK(page({}, 5) == "01234");
    CHECK(page({}, 2) == "34+");
    CHECK(page(start + 1s, 2) == "12+");
    CHECK(page(start + 3s, 2) == "34");
    CHECK(page(start + 5s, 2) == "");
    CHECK(store.series(one, "no", {}, 2)->points.empty());
    // A clock that is ahead, as one that is wrong may be, is not believed.
    CHECK(store.receive(other, body_of(other, {{"n", 1}}, "", "2200-01-01T00:00:00Z"), every(1h), start).status == 200);
    CHECK(store.series(other, "n", {}, 1)->points[0].time == start);
  }
}

TEST_CASE("beyond a bound the oldest leave, with their numbers and ids, and are counted") {
  for (const bool file : kinds) {
    const auto fill = [&](TelemetryStoreOptions options, int count, auto id_of) {
      auto place = std::make_unique<Place>();
      TelemetryStore store = place->open(file, options);
      for (int i = 0; i < count; ++i) CHECK(send(store, id_of(i), {{"n", i}}, start + i * 1s, "u" + std::to_string(i)) == 200);
      const auto stats = store.stats();
      CHECK(stats.updates == static_cast<std::uint64_t>(count));
      CHECK(stats.updates == stats.updates_kept + stats.evicted_updates);
      return std::pair(std::move(place), std::move(store));
    };
    const auto always_one = [](int) { return one; };
    const auto each = [](int i) { return InstanceId::parse("00000000-0000-4000-8000-00000000000" + std::to_string(i)); };
    {
      auto [place, store] = fill({.max_updates = 3}, 8, always_one);
      CHECK(numbers(store, one, "n") == Numbers{whole(5), whole(6), whole(7)});
      CHECK(store.stats().evicted_updates == 5);
      CHECK(send(store, one, {{"n", 0}}, start + 9s, "u0") == 200);  // forgotten
      CHECK(store.stats().duplicates == 0);
      CHECK(send(store, one, {{"n", 0}}, start + 9s, "u7") == 200);
      CHECK(store.stats().duplicates == 1);
    }
    {
      auto [place, store] = fill({.max_instance_bytes = 700}, 8, always_one);
      CHECK(store.instance(one).value()->bytes <= 700);
      CHECK(numbers(store, one, "n").back() == whole(7));
      CHECK(store.stats().evicted_updates > 0);
    }
    {
      auto [place, store] = fill({.max_bytes = 700}, 8, each);
      CHECK(store.stats().bytes <= 700);
      CHECK(numbers(store, each(0), "n").empty());
      CHECK(numbers(store, each(7), "n") == Numbers{whole(7)});
      CHECK(store.stats().instances == 8);
      CHECK(store.last_update(each(0)).value().empty());
    }
    {
      auto [place, store] = fill({.max_instances = 2}, 8, each);
      CHECK(store.stats().instances == 2);
      CHECK(store.stats().evicted_instances == 6);
      CHECK(store.instances(10)->at(0).id == each(7));
      CHECK(store.instances(10)->at(1).id == each(6));
      CHECK(all_keys(store, each(5)).empty());
    }
    {
      auto [place, store] = fill({.max_age = 3s}, 8, each);
      CHECK(store.stats().instances == 4);
      CHECK(store.stats().evicted_updates == 4);
    }
    {
      Place place;
      TelemetryStore store = place.open(file, {.max_instance_bytes = 400});
      const auto answer = store.receive(one, body_of(one, {{"text", std::string(400, 'x')}}), every(1h), start);
      CHECK(answer.status == 413);
      CHECK(store.stats().rejected == 1);
      CHECK(store.stats().instances == 0);
    }
  }
}

TEST_CASE("bounds that keep nothing are an error") {
  for (const TelemetryStoreOptions& options : {TelemetryStoreOptions{.max_instances = 0}, TelemetryStoreOptions{.max_updates = 0},
                                               TelemetryStoreOptions{.max_bytes = 0}, TelemetryStoreOptions{.max_age = 0s}})
    CHECK_FALSE(TelemetryStore::open(options));
}

TEST_CASE("updates from several threads are each stored once") {
  for (const bool file : kinds) {
    Place place;
    TelemetryStore store = place.open(file);
    constexpr int threads = 4, updates = 25;
    std::vector<std::thread> senders;
    for (int t = 0; t < threads; ++t) {
      senders.emplace_back([&store] {
        for (int i = 0; i < updates; ++i) (void)send(store, i % 2 == 0 ? one : other, {{"n", i}}, start, "u" + std::to_string(i));
      });
    }
    for (auto& sender : senders) sender.join();
    const auto stats = store.stats();
    CHECK(stats.updates == updates);
    CHECK(stats.duplicates == (threads - 1) * updates);
    CHECK(numbers(store, one, "n").size() + numbers(store, other, "n").size() == updates);
  }
}

#if WEIR_HAVE_SQLITE3

TEST_CASE("a database and memory say the same, whatever comes") {
  std::mt19937 dice(7);
  const auto roll = [&](int sides) { return static_cast<int>(dice() % static_cast<unsigned>(sides)); };
  for (int round = 0; round < 4; ++round) {
    const TelemetryStoreOptions options{
        .max_instances = 4, .max_updates = 6, .max_instance_bytes = 1500, .max_bytes = 4000, .max_age = 40s};
    Place place;
    TelemetryStore memory = place.open(false, options), file = place.open(true, options);
    Timestamp now = start;
    for (int i = 0; i < 120; ++i) {
      now += std::chrono::milliseconds{roll(3000) - 500};  // a clock may be set back
      const InstanceId id = InstanceId::parse("00000000-0000-4000-8000-00000000000" + std::to_string(roll(7)));
      json data;
      for (int k = roll(4); k > 0; --k) data["k" + std::to_string(roll(5))] = roll(2) == 0 ? json(roll(100)) : json{{"x", roll(100) / 8.0}};
      if (data.is_null()) data = json::object();
      const std::string body = body_of(id, data, roll(3) == 0 ? "" : "u" + std::to_string(roll(6)));
      const auto a = memory.receive(id, body, every(1h), now), b = file.receive(id, body, every(1h), now);
      REQUIRE(a.status == b.status);
      REQUIRE(told(memory) == told(file));
    }
    CHECK(memory.stats().evicted_instances > 0);
    CHECK(memory.stats().evicted_updates > 0);
    CHECK(memory.stats().duplicates > 0);
  }
}

TEST_CASE("a database that is opened again holds what it held, and knows what it has seen") {
  Place place;
  std::string before;
  {
    TelemetryStore store = place.open(true);
    CHECK(send(store, one, {{"n", 1}}, start, "u1") == 200);
    CHECK(send(store, other, {{"n", 2}}, start + 1s, "u1") == 200);
    before = told(store);
    before.erase(0, before.find('\n'));
  }
  struct stat status {};
  REQUIRE(::stat((place.dir / "telemetry.db").c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0600);
  TelemetryStore store = place.open(true);
  std::string after = told(store);
  after.erase(0, after.find('\n'));
  CHECK(after == before);
  CHECK(send(store, one, {{"n", 1}}, start + 2s, "u1") == 200);
  CHECK(store.stats().duplicates == 1);
  CHECK(store.stats().updates_kept == 2);
  CHECK(store.stats().instances == 2);
}

TEST_CASE("a file that is not ours is refused by name, and left as it is") {
  ScratchDir dir;
  const std::string path = dir / "some.db";
  const auto error = [&] {
    const auto store = TelemetryStore::open({.path = path});
    REQUIRE_FALSE(store);
    CHECK(store.error().message.find("'" + path + "'") != std::string::npos);
    return store.error().message;
  };
  const auto run = [&](const char* sql) {
    sqlite3* database = nullptr;
    REQUIRE(::sqlite3_open(path.c_str(), &database) == SQLITE_OK);
    REQUIRE(::sqlite3_exec(database, sql, nullptr, nullptr, nullptr) == SQLITE_OK);
    ::sqlite3_close(database);
  };
  const auto content = [&] {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  SECTION("no database") {
    const std::string text(5000, 'x');
    std::ofstream(path) << text;
    CHECK(error().find("it is no SQLite database") != std::string::npos);
    CHECK(content() == text);
  }
  SECTION("another program's") {
    run("CREATE TABLE recipes(name)");
    const std::string before = content();
    CHECK(error().find("it is another program's") != std::string::npos);
    CHECK(content() == before);
  }
  SECTION("of another version") {
    { REQUIRE(TelemetryStore::open({.path = path})); }
    run("PRAGMA user_version = 9");
    CHECK(error().find("its schema is version 9, and this weir knows 1") != std::string::npos);
  }
  SECTION("damaged") {
    {
      auto store = TelemetryStore::open({.path = path});
      REQUIRE(store);
      for (int i = 0; i < 50; ++i) (void)send(*store, one, {{"n", i}, {"text", std::string(500, 'x')}}, start);
    }
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(8192);
    file << std::string(20'000, '\x5a');
    file.close();
    CHECK(error().find("damaged") != std::string::npos);
  }
  SECTION("in no directory") {
    std::filesystem::create_directory(path);
    CHECK(error().find("Is a directory") != std::string::npos);
  }
  SECTION("written by somebody else") {
    { REQUIRE(TelemetryStore::open({.path = path})); }
    sqlite3* database = nullptr;
    REQUIRE(::sqlite3_open(path.c_str(), &database) == SQLITE_OK);
    REQUIRE(::sqlite3_exec(database, "BEGIN EXCLUSIVE", nullptr, nullptr, nullptr) == SQLITE_OK);
    CHECK(error().find("another process is using it") != std::string::npos);
    ::sqlite3_close(database);
  }
}

TEST_CASE("a name that means something to SQLite is a file's") {
  const std::filesystem::path before = std::filesystem::current_path();
  ScratchDir dir;
  std::filesystem::current_path(dir.path());
  CHECK(TelemetryStore::open({.path = ":memory:"}));
  CHECK(std::filesystem::exists(dir / ":memory:"));
  std::filesystem::current_path(before);
}

TEST_CASE("while the disk is full updates are answered 503, which is said once, and then they are stored again") {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  Place place;
  TelemetryStore store = place.open(true);
  CHECK(send(store, one, {{"n", 0}}, start, "first") == 200);
  // What a file may have is as good a limit as what a disk has, for who writes it.
  rlimit limit = before;
  limit.rlim_cur = 128 * 1024;
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  int stored = 0, refused = 0;
  std::string last;
  for (int i = 0; i < 100 && refused < 3; ++i) {
    last = "u" + std::to_string(i);
    const auto answer = store.receive(one, body_of(one, {{"n", i}, {"text", std::string(10'000, 'x')}}, last), every(1h), start + i * 1s);
    if (answer.status == 200) {
      ++stored;
      continue;
    }
    ++refused;
    CHECK(answer.status == 503);
    CHECK(answer.retry_after == 60s);
    CHECK(json::parse(answer.body).contains("error"));
  }
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  CHECK(refused == 3);
  CHECK(place.logger.count("cannot write to the telemetry database") == 1);
  CHECK(send(store, one, {{"n", 1}}, start + 200s, last) == 200);
  CHECK(place.logger.count("stored again") == 1);
  CHECK(store.stats().failed == 3);
  CHECK(store.stats().duplicates == 0);
  CHECK(store.stats().updates_kept == static_cast<std::uint64_t>(stored) + 2);
  CHECK(numbers(store, one, "n").size() == static_cast<std::size_t>(stored) + 2);
}

#else

TEST_CASE("without SQLite a file is an error that says what is missing") {
  const auto store = TelemetryStore::open({.path = "/telemetry.db"});
  REQUIRE_FALSE(store);
  CHECK(store.error().message.find("libsqlite3-dev") != std::string::npos);
}

#endif
