// Uses weir::http: what speaks HTTP.
#include <weir/telemetry/emitter.hpp>
#include <weir/telemetry/http_transport.hpp>
#include <weir/telemetry/telemetry.hpp>

int main() {
  auto telemetry = weir::Telemetry::create(weir::InstanceId::random());
  if (!telemetry || weir::HttpTransport::create("ftp://localhost/")) return 1;
  telemetry->increment("runs");
  weir::Emitter emitter{*telemetry, weir::UnixSocketTransport{"/nowhere/http.sock"}};
  if (!emitter.start()) return 1;
  emitter.stop();
  return telemetry->take().as_int("runs") == 1 ? 0 : 1;
}
