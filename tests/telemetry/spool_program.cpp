// spool_program SPOOL FIRST: gives the numbers FIRST, FIRST + 1 and so on away, one with each payload, and sends that with a spool
// until somebody kills the process. Each try is a line on stdout, "UPDATE_ID BODY"; its answer is a line of stdin: a status.
#include <unistd.h>
#include <cstdio>
#include <iostream>
#include <string>

#include "weir/telemetry/emitter.hpp"

using namespace weir;
using namespace std::chrono_literals;

namespace {

class PipeTransport final : public Transport {
 public:
  Delivery send(const Update& update, const StopToken&) noexcept override {
    std::cout << update.update_id << ' ' << update.body << std::endl;
    std::string status;
    if (!std::getline(std::cin, status)) ::_exit(0);
    return Delivery::answered(json_answer(std::stoi(status), "{}"));
  }
  std::string endpoint() const override { return "pipe"; }
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const auto telemetry = Telemetry::create(InstanceId::random());
  if (!telemetry) return 1;
  EmitterOptions options;
  options.interval = 1ns;
  options.interval_jitter = 0s;
  options.pauses = {1ns};
  options.spool_directory = arguments[1];
  std::int64_t number = std::stoll(arguments[2]);
  telemetry->at_emit([&number](const Telemetry& buffer) { buffer.append("numbers", number++); });
  Emitter emitter{*telemetry, PipeTransport(), options};
  if (const Result<void> started = emitter.start(); !started) {
    std::fprintf(stderr, "%s\n", started.error().message.c_str());
    return 1;
  }
  for (;;) ::pause();
}
