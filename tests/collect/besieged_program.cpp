// A collector with narrow bounds: besieged_program SOCKET. Says "ready" when it listens, serves until its input ends, and says as one
// line of JSON what came of it. Spans named "honest …" have a number, and are to come in order.
#include <unistd.h>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "weir/collect/collector.hpp"

namespace {

class SilentLogger final : public weir::Logger {
 public:
  void log(Level, std::string_view, std::span<const weir::Attribute>) noexcept override {}
} silent;

/// A line of /proc/self/status, in KiB.
std::uint64_t status_of(const std::string& name) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(name + ":")) return std::stoull(line.substr(name.size() + 1));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  weir::CollectorOptions options;
  options.store.max_bytes = 12u << 20;
  options.store.settle = std::chrono::milliseconds{50};
  options.max_buffered = 4u << 20;
  options.max_connections = 100;
  options.idle_limit = std::chrono::milliseconds{100};
  options.max_ring_bytes = 8u << 20;
  options.logger = &silent;
  weir::Collector collector(argv[1], options);

  std::map<std::string, std::uint64_t> honest;
  std::uint64_t spans = 0, disorder = 0;
  std::size_t largest = 0;
  collector.on_span_complete([&](std::string_view, const weir::Span& span) {
    if (++spans % 64 == 0) largest = std::max(largest, collector.stats().store.bytes);
    if (!span.name.starts_with("honest ")) return;
    const auto number = span.attrs.find("n");
    if (number == span.attrs.end() || number->second != std::to_string(honest[span.name]++) || span.unfinished()) ++disorder;
  });
  if (const auto listening = collector.listen(); !listening) return 1;
  const std::uint64_t start = status_of("VmRSS");
  std::puts("ready");
  std::fflush(stdout);
  weir::StopSource stop;
  bool served = false;
  std::thread server([&] { served = collector.serve(stop.token()).has_value(); });
  for (char byte = 0; ::read(0, &byte, 1) > 0;) {}
  const nlohmann::json during = nlohmann::json::parse(collector.stats().to_json());
  stop.request_stop();
  server.join();
  const nlohmann::json result = {{"served", served},
                                 {"start_kib", start},
                                 {"peak_kib", status_of("VmHWM")},
                                 {"max_bytes", options.store.max_bytes},
                                 {"largest_bytes", largest},
                                 {"spans", spans},
                                 {"disorder", disorder},
                                 {"honest", honest},
                                 {"during", during},
                                 {"stats", nlohmann::json::parse(collector.stats().to_json())}};
  std::puts(result.dump().c_str());
  return 0;
}
