// Operations as numbers: how many of each type, how long they took, how many failed.

#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <utility>
#include <weir/bridge/operations_to_metrics.hpp>
#include <weir/operation/wrap.hpp>
#include <weir/telemetry/payload.hpp>
#include <weir/telemetry/telemetry.hpp>

#include "service.hpp"

void run() {
  weir::Op<HandleRequest> request{{"GET /orders"}};
  weir::wrap<QuerySql>({"SELECT name FROM items"}, [] { return QuerySql::Result{.rows = 3}; });
  try {
    weir::wrap<QuerySql>({"SELECT nonsense"}, []() -> QuerySql::Result { throw std::runtime_error("no such column"); });
  } catch (const std::exception&) {
    request.finish({.status = 500});
  }
}

int main() {
  const auto telemetry = weir::Telemetry::create(weir::InstanceId::random());
  if (!telemetry) return std::fprintf(stderr, "%s\n", telemetry.error().message.c_str()), 1;
  weir::Root root;
  root.observe(std::make_shared<weir::OperationsToMetrics>(*telemetry));
  const weir::RootScope installed(std::move(root));
  run();
  std::printf("%s\n", telemetry->take().to_json().c_str());  // in a service an Emitter takes it, and sends it
}
