// Uses weir::core: headers and threads, nothing else.
#include <weir/core/context.hpp>
#include <weir/core/logger.hpp>

int main() {
  const weir::Context context(weir::TraceId{1, 2}, weir::SpanId{3});
  const bool inside = context.wrap([&] { return weir::Context::current() == context; })();
  const bool outside = !weir::Context::current().valid();
  if (!inside || !outside) weir::stderr_logger().log(weir::Logger::Level::error, "the context does not wrap");
  return inside && outside ? 0 : 1;
}
