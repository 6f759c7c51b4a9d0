#include "weir/collect/telemetry_policy.hpp"

#include <sys/stat.h>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "support/audit_trail.hpp"
#include "support/catch.hpp"
#include "support/scratch_dir.hpp"

using weir::InstanceId;
using weir::Response;
using weir::TelemetryPolicy;
using weir::TelemetryPolicyFile;
using weir::testing::RecordingLogger;
using weir::testing::ScratchDir;
using namespace std::chrono_literals;
using Keys = std::vector<std::string>;

namespace {

const InstanceId one = InstanceId::parse("6ba7b810-9dad-11d1-80b4-00c04fd430c8");
const InstanceId other = InstanceId::parse("00000000-0000-4000-8000-000000000001");

void write(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::trunc) << text; }

std::string error_of(const std::string& text) {
  const auto policy = TelemetryPolicy::parse(text);
  return policy ? "" : policy.error().message;
}

}  // namespace

TEST_CASE("without a word, an instance is asked for an update each hour") {
  for (const auto& policy : {TelemetryPolicy(), *TelemetryPolicy::parse("{}"), *TelemetryPolicy::parse(R"({"instances":{}})")}) {
    const Response response = policy.response(one);
    CHECK(response.next_update == 1h);
    CHECK_FALSE(response.stop);
    CHECK(response.disable_keys.empty());
    CHECK(response.enable_keys.empty());
    CHECK(response.error.empty());
  }
}

TEST_CASE("what is said of one instance replaces, member by member, what is said for all") {
  const auto policy = TelemetryPolicy::parse(R"({
    "next_update": "5m", "disable_keys": ["a", "b"], "enable_keys": ["c"],
    "instances": {"6BA7B810-9dad-11d1-80b4-00c04fd430c8": {"stop": true, "disable_keys": []}}})");
  REQUIRE(policy);
  CHECK(policy->response(other).next_update == 5min);
  CHECK(policy->response(other).disable_keys == Keys{"a", "b"});
  CHECK_FALSE(policy->response(other).stop);
  const Response response = policy->response(one);
  CHECK(response.next_update == 5min);
  CHECK(response.disable_keys.empty());
  CHECK(response.enable_keys == Keys{"c"});
  CHECK(response.stop);
}

TEST_CASE("an error names the line or the member") {
  CHECK(error_of("{\n\"stop\": yes\n}").find("line 2") != std::string::npos);
  CHECK(error_of("").find("line 1") != std::string::npos);
  CHECK(error_of("{\"disable_keys\": [\"\xff\"]}").find("line 1") != std::string::npos);
  CHECK(error_of("[]") == "a policy is a JSON object");
  CHECK(error_of(R"({"next_update": 60})") == "member \"next_update\" should be a duration in quotes, as \"30s\", \"5m\" or \"1h\"");
  CHECK(error_of(R"({"next_update": "soon"})") == "member \"next_update\": 'soon' is not a duration: write it as 500ms, 60s, 5m or 1h");
  CHECK(error_of(R"({"next_update": "999ms"})") == "member \"next_update\" should be from 1s to 720h");
  CHECK(error_of(R"({"next_update": "721h"})") == "member \"next_update\" should be from 1s to 720h");
  CHECK(error_of(R"({"stop": 1})") == "member \"stop\" should be true or false");
  CHECK(error_of(R"({"disable_keys": "a"})") == "member \"disable_keys\" should be a list of keys");
  CHECK(error_of(R"({"enable_keys": ["a", 1]})") == "member \"enable_keys\" should be a list of keys, each in quotes");
  CHECK(error_of(R"({"interval": "1h"})").find("member \"interval\" is not known") == 0);
  CHECK(error_of(R"({"instances": []})") == "member \"instances\" should be an object whose members are instance ids");
  CHECK(error_of(R"({"instances": {"me": {}}})").find("member \"instances.me\" is no instance id") == 0);
  const std::string id = one.to_string();
  CHECK(error_of("{\"instances\": {\"" + id + "\": 1}}") == "member \"instances." + id + "\" should be an object");
  CHECK(error_of("{\"instances\": {\"" + id + "\": {\"stop\": null}}}") == "member \"instances." + id + ".stop\" should be true or false");
  CHECK(error_of("{\"instances\": {\"" + id + "\": {\"instances\": {}}}}").find("member \"instances." + id + ".instances\" is not known") ==
        0);
  CHECK(error_of(std::string(17, '[')).find("nested deeper than 16") == 0);
}

TEST_CASE("the shortest and the longest interval are taken") {
  CHECK(TelemetryPolicy::parse(R"({"next_update": "1s"})")->response(one).next_update == 1s);
  CHECK(TelemetryPolicy::parse(R"({"next_update": "720h"})")->response(one).next_update == 720h);
}

TEST_CASE("a policy file that cannot be read, or is wrong, is an error that names it") {
  ScratchDir dir;
  const auto error = [&](const std::string& path) {
    const auto file = TelemetryPolicyFile::open(path);
    REQUIRE_FALSE(file);
    return file.error().message;
  };
  const std::string path = dir / "policy.json";
  CHECK(error(path).find("'" + path + "': No such file") != std::string::npos);
  CHECK(error(dir.path()).find("'" + dir.path() + "'") != std::string::npos);
  write(path, "{\"stop\": 1}");
  CHECK(error(path) == "the telemetry policy '" + path + "' is wrong: member \"stop\" should be true or false");
  write(path, std::string(TelemetryPolicyFile::max_bytes + 1, ' '));
  CHECK(error(path) == "cannot read the telemetry policy '" + path + "': it is larger than 1 MiB");
  REQUIRE(::mkfifo((dir / "fifo").c_str(), 0600) == 0);
  CHECK(error(dir / "fifo").find("it is not a file") != std::string::npos);
}

TEST_CASE("a policy file is read again when it has changed, at most once a second") {
  ScratchDir dir;
  const std::string path = dir / "policy.json";
  write(path, R"({"next_update": "1m"})");
  auto file = TelemetryPolicyFile::open(path);
  REQUIRE(file);
  const auto start = TelemetryPolicyFile::Clock::time_point{} + 1h;
  CHECK(file->response(one, start).next_update == 1min);
  write(path, R"({"next_update": "2m"})");
  CHECK(file->response(one, start + 999ms).next_update == 1min);
  CHECK(file->response(one, start + 1s).next_update == 2min);
}

TEST_CASE("a policy that has become wrong, or is gone, is reported once, and the one from before stays") {
  ScratchDir dir;
  RecordingLogger logger;
  const std::string path = dir / "policy.json";
  write(path, R"({"next_update": "1m"})");
  auto file = TelemetryPolicyFile::open(path, logger);
  REQUIRE(file);
  auto now = TelemetryPolicyFile::Clock::time_point{} + 1h;
  const auto look = [&] { return file->response(one, now += 1s).next_update; };
  write(path, R"({"next_update": "2m", "stop": 1})");
  for (int i = 0; i < 3; ++i) CHECK(look() == 1min);
  CHECK(logger.count("stop") == 1);
  std::filesystem::remove(path);
  for (int i = 0; i < 3; ++i) CHECK(look() == 1min);
  CHECK(logger.count("No such file") == 1);
  write(path, R"({"next_update": "1m"})");  // as before
  CHECK(look() == 1min);
  std::filesystem::remove(path);
  CHECK(look() == 1min);
  CHECK(logger.count("No such file") == 2);
  write(path, R"({"next_update": "3m"})");
  CHECK(look() == 3min);
}
