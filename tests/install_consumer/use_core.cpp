// Uses weir::core: headers and threads, nothing else.
#include <weir/activity/activity.hpp>
#include <weir/core/context.hpp>
#include <weir/core/logger.hpp>
#include <weir/operation/operation.hpp>

struct Work {
  struct Args {};
  struct Result {
    int done = 0;
  };
};

/// Follows what is done.
class Ends : public weir::ActivityTracker {
 public:
  int ends = 0;

 private:
  struct Following : weir::Tracking {
    explicit Following(int& e) : ends(e) {}
    void ended() override { ++ends; }
    int& ends;
  };
  void started(weir::ActivityStart& start) override { start.follow<Following>(ends); }
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

  Ends ends;
  { weir::Activity activity = ends.start(context, "update", "user", {{"user_id", 42}}); }
  return inside && outside && done == 1 && ends.ends == 1 ? 0 : 1;
}
