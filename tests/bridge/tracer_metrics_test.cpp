#include "weir/bridge/tracer_metrics.hpp"

#include <memory>
#include <string>
#include <thread>

#include "support/catch.hpp"
#include "support/scratch_dir.hpp"
#include "support/telemetry.hpp"
#include "weir/init.hpp"
#include "weir/trace/in_memory_sender.hpp"
#include "weir/trace/socket_sender.hpp"

using nlohmann::json;
using weir::InMemorySender;
using weir::Sampler;
using weir::ScopedSpan;
using weir::SocketSender;
using weir::Telemetry;
using weir::Tracer;

namespace {

json data_of(const Telemetry& telemetry) { return json::parse(telemetry.take().to_json()).at("data"); }

void spans(Tracer& tracer, int count) {
  for (int i = 0; i < count; ++i) ScopedSpan span = tracer.enter("x");
}

}  // namespace

TEST_CASE("each payload has what became of the spans since the last") {
  const Telemetry telemetry = weir::testing::buffer();
  auto sender = std::make_shared<InMemorySender>();
  Tracer tracer{sender};
  telemetry.at_emit(weir::tracer_metrics(tracer));
  spans(tracer, 3);
  CHECK(data_of(telemetry) ==
        json{{"otel.sdk.processor.span.processed", 0}, {"otel.sdk.exporter.span.exported", 0}, {"otel.sdk.processor.span.queue.size", 3}});
  CHECK(tracer.flush().pending == 0);
  CHECK(data_of(telemetry) ==
        json{{"otel.sdk.processor.span.processed", 3}, {"otel.sdk.exporter.span.exported", 3}, {"otel.sdk.processor.span.queue.size", 0}});
  tracer.set_sampler(Sampler::never());
  spans(tracer, 5);
  const json data = data_of(telemetry);
  CHECK(data["weir.traces.not_sampled"] == 5);
  CHECK(data["otel.sdk.exporter.span.exported"] == 0);
}

TEST_CASE("dropped spans are counted by reason, and add up") {
  const weir::testing::ScratchDir dir;
  const Telemetry telemetry = weir::testing::buffer();
  Tracer tracer{SocketSender{dir / "nobody", {.ring_bytes = 4096, .max_rings = 1}}};
  telemetry.at_emit(weir::tracer_metrics(tracer));
  spans(tracer, 1000);
  std::thread([&] { spans(tracer, 10); }).join();
  (void)tracer.stop();
  spans(tracer, 7);
  const json data = data_of(telemetry);
  INFO(data);
  const auto stats = tracer.stats();
  CHECK(data["otel.sdk.processor.span.processed:queue_full"] == stats.dropped_full);
  CHECK(data["otel.sdk.processor.span.processed:no_ring"] == 10);
  CHECK(data["otel.sdk.processor.span.processed:shutdown"] == stats.dropped_stopped);
  CHECK(data["otel.sdk.processor.span.processed"] == 1017);
  CHECK(data["otel.sdk.exporter.span.exported"] == 0);
}

TEST_CASE("init counts the spans of its session, and lets go of them with it") {
  auto sender = std::make_shared<InMemorySender>();
  {
    auto session = weir::init({.service = "counted", .sender = sender});
    REQUIRE(session);
    spans(weir::tracer(), 4);
    CHECK(session.flush().pending == 0);
    CHECK(data_of(weir::telemetry())["otel.sdk.exporter.span.exported"] == 4);
  }
  CHECK_FALSE(data_of(weir::telemetry()).contains("otel.sdk.exporter.span.exported"));
}
