// Activities as numbers: how many of each kind, how long they took, how many failed or changed something.

#include <cstdio>
#include <weir/activity/metrics_tracker.hpp>
#include <weir/telemetry/payload.hpp>
#include <weir/telemetry/telemetry.hpp>

#include "service.hpp"

void use(weir::ActivityTracker& tracker) {
  Accounts accounts(tracker);
  for (const int amount : {30, 30, 30, 30}) (void)accounts.withdraw({}, 1, amount);  // the last one fails
}

int main() {
  const auto telemetry = weir::Telemetry::create(weir::InstanceId::random());
  if (!telemetry) return std::fprintf(stderr, "%s\n", telemetry.error().message.c_str()), 1;
  weir::MetricsTracker metrics(*telemetry);
  use(metrics);
  std::printf("%s\n", telemetry->take().to_json().c_str());  // in a service an Emitter takes it, and sends it
}
