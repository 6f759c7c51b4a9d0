// Uses weir::core: headers and threads, nothing else.
#include <weir/core/context.hpp>
#include <weir/core/logger.hpp>
#include <weir/operation/operation.hpp>

struct Work {
  struct Args {};
  struct Result {
    int done = 0;
  };
};

int main() {
  const weir::Context context(weir::TraceId{1, 2}, weir::SpanId{3});
  const bool inside = context.wrap([&] { return weir::Context::current() == context; })();
  const bool outside = !weir::Context::current().valid();
  if (!inside || !outside) weir::stderr_logger().log(weir::Logger::Level::error, "the context does not wrap");

  weir::Root root;
  int done = 0;
  root.on_finish<Work>([&done](const Work::Result& result) { done += result.done; });
  weir::Op<Work> work{weir::under(root), {}};
  work.finish({1});
  return inside && outside && done == 1 ? 0 : 1;
}
