// The server steers: an endpoint in the same program that does not want a key, says when it wants to hear more, and stops.
//
//   telemetry_steer

#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <weir/telemetry/emitter.hpp>
#include <weir/telemetry/payload.hpp>

/// What a server would answer to the first, second and third update.
class Endpoint {
 public:
  weir::Delivery answer(const weir::Update& update) {
    weir::Response response{.next_update = std::chrono::seconds{1}};
    if (++updates_ == 1) response.disable_keys = {"user_agent"};
    if (updates_ == 3) response.stop = true;
    const std::string body(update.body);
    std::printf("update %d, %s user agents\n", updates_, body.find("curl") != body.npos ? "with" : "without");
    return weir::Delivery::answered(weir::json_answer(200, response.to_json()));
  }

 private:
  int updates_ = 0;
};

int main() {
  const auto telemetry = weir::Telemetry::create(weir::InstanceId::random());
  if (!telemetry) return 1;
  // As at_emit is called before each update, this is what the service says meanwhile.
  telemetry->at_emit([](const weir::Telemetry& each) { each.append_unique("user_agent", "curl/7.88.1"); });

  Endpoint endpoint;
  weir::Emitter emitter{*telemetry, weir::InMemoryTransport{[&](const weir::Update& update) { return endpoint.answer(update); }}};
  if (const auto started = emitter.start(); !started) return 1;
  while (emitter.stats().running) std::this_thread::sleep_for(std::chrono::milliseconds{10});
  std::printf("ended: %s\n", emitter.stats().ended.c_str());
}
