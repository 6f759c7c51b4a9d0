#include "weir/telemetry/process_metrics.hpp"
#include "weir/telemetry/payload.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "weir/telemetry/payload.hpp"

using namespace weir;

namespace {

nlohmann::json measured(const Telemetry& telemetry) { return nlohmann::json::parse(telemetry.take().to_json()).at("data").at("process"); }

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

}  // namespace

TEST_CASE("each payload says what the process uses") {
  const Telemetry telemetry = Telemetry::create(InstanceId::random()).value();
  telemetry.at_emit(process_metrics);
  std::thread([] {}).join();  // a sanitizer adds a thread of its own to the first
  const double before = cpu_seconds();
  const nlohmann::json first = measured(telemetry);
  const double after = cpu_seconds();
  CHECK(first.size() == 4);
  CHECK(first.at("cpu_seconds").get<double>() >= before);
  CHECK(first.at("cpu_seconds").get<double>() <= after);
  REQUIRE(first.at("threads").is_number_integer());
  REQUIRE(first.at("resident_bytes").is_number_integer());
  REQUIRE(first.at("file_descriptors").is_number_integer());

  std::mutex gate;
  std::unique_lock closed(gate);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back([&] { const std::lock_guard lock(gate); });
  std::vector<int> descriptors;
  for (int i = 0; i < 5; ++i) descriptors.push_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  constexpr std::int64_t size = 64 << 20;
  std::vector<char> memory(size);
  for (std::size_t i = 0; i < memory.size(); i += 1024) memory[i] = 'x';

  const nlohmann::json second = measured(telemetry);
  CHECK(second.at("threads").get<int>() == first.at("threads").get<int>() + 3);
  CHECK(second.at("file_descriptors").get<int>() == first.at("file_descriptors").get<int>() + 5);
  CHECK(second.at("resident_bytes").get<std::int64_t>() > first.at("resident_bytes").get<std::int64_t>() + size / 2);
  CHECK(second.at("resident_bytes").get<std::int64_t>() < first.at("resident_bytes").get<std::int64_t>() + 8 * size);
  CHECK(memory[1024] == 'x');
  closed.unlock();
  for (std::thread& thread : threads) thread.join();
  for (const int fd : descriptors) ::close(fd);
}

TEST_CASE("a process that may open nothing more still says what it can") {
  const Telemetry telemetry = Telemetry::create(InstanceId::random()).value();
  telemetry.at_emit(process_metrics);
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  rlimit none = before;
  none.rlim_cur = 0;
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
  const Payload payload = telemetry.take();
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
  const nlohmann::json process = nlohmann::json::parse(payload.to_json()).at("data").at("process");
  CHECK(process.contains("cpu_seconds"));
  CHECK(process.size() == 1);
}
