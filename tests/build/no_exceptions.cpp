// Compiled with -fno-exceptions -fno-rtti: these headers ask for neither.
#include "weir/activity/activity.hpp"
#include "weir/activity/tracker.hpp"
#include "weir/core/attribute.hpp"
#include "weir/core/clock.hpp"
#include "weir/core/context.hpp"
#include "weir/core/ids.hpp"
#include "weir/core/kind.hpp"
#include "weir/core/logger.hpp"
#include "weir/core/name.hpp"
#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"
#include "weir/core/version.hpp"
#include "weir/operation/observe.hpp"
#include "weir/operation/operation.hpp"
#include "weir/operation/wrap.hpp"
#include "weir/telemetry/telemetry.hpp"
#include "weir/trace/default_tracer.hpp"
#include "weir/trace/scoped_span.hpp"
#include "weir/trace/sender.hpp"
#include "weir/trace/tracer.hpp"

// Templates are only checked where they are used.
weir::Result<int> parse(bool good) {
  if (!good) return weir::system_error(22, "parse");
  return 1;
}

int use(const weir::Result<int>& result) {
  weir::StopSource stop;
  weir::StopCallback callback(stop.token(), [] {});
  weir::ContextScope scope(weir::Context::current());
  weir::stderr_logger().log(weir::Logger::Level::debug, weir::TraceId{}.hex());
  return weir::Context::current().wrap([&] { return result.value_or(stop.request_stop() ? 1 : 0); })();
}

struct Work {
  struct Args {
    int size;
  };
  struct Result {
    int done = 0;
  };
};

int operate() {
  weir::Root root;
  int seen = 0;
  root.on_finish<Work>([&seen](const Work::Result& result) { seen = result.done; });
  const auto handle = weir::start<Work>(weir::under(root), {1});
  weir::Op<Work> work{weir::under(root), {1}};
  work.finish({2});
  return seen;
}

int act(weir::ActivityTracker& tracker) {
  weir::Activity activity = tracker.start("count", "numbers", {{"size", 3}});
  activity.report_error("none");
  activity.report_change(1, [] { return std::string("{}"); });
  return activity.tracked() ? 1 : 0;
}

int trace(weir::Tracer& tracer) {
  weir::ScopedSpan span = tracer.enter("work", weir::SpanKind::sql);
  span.set("rows", 3);
  span.fail("no rows");
  return span.context().valid() ? 1 : 0;
}
