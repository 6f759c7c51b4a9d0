// What a service says about itself, and the payload that comes of it.
//
//   telemetry_count

#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>
#include <weir/telemetry/payload.hpp>
#include <weir/telemetry/process_metrics.hpp>
#include <weir/telemetry/telemetry.hpp>

// Handles are for hot paths: make them once, and keep them.
class Requests {
 public:
  explicit Requests(const weir::Telemetry& telemetry)
      : telemetry_(telemetry), count_(telemetry.counter("requests")), latency_(telemetry.histogram("latency", "s")) {}

  void served(std::string_view user_agent, std::chrono::microseconds time) const {
    count_.increment();
    latency_.record(time);
    telemetry_.append_unique("user_agent", user_agent);  // a set that counts
  }

 private:
  weir::Telemetry telemetry_;
  weir::Counter count_;
  weir::Histogram latency_;
};

int main() {
  const auto telemetry = weir::Telemetry::create(weir::InstanceId::random(), {.disabled_keys = {"internal"}});
  if (!telemetry) return std::fprintf(stderr, "%s\n", telemetry.error().message.c_str()), 1;

  telemetry->set("version", "1.4.2");
  telemetry->set("limits", weir::Json{R"({"connections":200,"timeouts":[1,5]})"});
  telemetry->set_nested("cache", "bytes", 4096);
  telemetry->add("bytes_sent", 512);
  telemetry->append("certificate_errors", "expired: example.com");
  telemetry->increment("internal:retries");   // disabled: "internal" governs it
  telemetry->at_emit(weir::process_metrics);  // measured when a payload is taken

  const Requests requests(*telemetry);
  for (int i = 1; i <= 100; ++i) requests.served(i % 4 == 0 ? "curl/7.88.1" : "Mozilla/5.0", std::chrono::microseconds{i * 100});

  const weir::Payload payload = telemetry->take();
  std::printf("%s\n", payload.to_json().c_str());
  return payload.as_int("requests") == 100 ? 0 : 1;
}
