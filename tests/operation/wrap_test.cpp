#include "weir/operation/wrap.hpp"

#include <memory>
#include <stdexcept>
#include <string>

#include "support/catch.hpp"
#include "support/operations.hpp"

using namespace weir;
using namespace weir::testing;

namespace {
struct Heard {
  Heard() {
    root.on_start<Query>([this](const Query::Args& args) { log.push_back("start " + std::to_string(args.number)); });
    root.on_finish<Query>([this](Op<Query>& op, const Query::Result& result) {
      log.push_back(std::string(op.unwinding() ? "unwinding " : "finish ") + std::to_string(result.rows));
    });
  }
  Log log;
  Root root;
};
}  // namespace

TEST_CASE("wrap finishes the operation with the result of the call and returns it") {
  Heard heard;
  RootScope installed(std::move(heard.root));
  const Query::Result result = wrap<Query>({1}, [](Op<Query>& op) {
    CHECK(Operation::current() == &op);
    return Query::Result{3};
  });
  CHECK(result.rows == 3);
  CHECK(heard.log == Log{"start 1", "finish 3"});
  CHECK(Operation::current() == nullptr);
}

TEST_CASE("wrap takes calls without a parameter, calls that return nothing, and calls that return something else") {
  Heard heard;
  RootScope installed(std::move(heard.root));
  wrap<Query>({1}, [] {});
  CHECK(wrap<Query>({2}, [] { return 42; }) == 42);
  CHECK(*wrap<Query>({3}, [](Op<Query>& op) {
    op.finish({7});
    return std::make_unique<int>(5);
  }) == 5);
  CHECK(heard.log == Log{"start 1", "finish 0", "start 2", "finish 0", "start 3", "finish 7"});
}

TEST_CASE("an exception passes through wrap, and listeners can tell") {
  Heard heard;
  RootScope installed(std::move(heard.root));
  CHECK_THROWS_AS(wrap<Query>({1}, []() -> Query::Result { throw std::runtime_error("no"); }), std::runtime_error);
  CHECK(heard.log == Log{"start 1", "unwinding 0"});
  CHECK(Operation::current() == nullptr);
}

TEST_CASE("a wrapped call may finish its operation itself: the first finish counts") {
  Heard heard;
  RootScope installed(std::move(heard.root));
  wrap<Query>({1}, [](Op<Query>& op) {
    op.finish({1});
    return Query::Result{2};
  });
  CHECK(heard.log == Log{"start 1", "finish 1"});
}

TEST_CASE("wrap takes an explicit parent, and leaves the thread's current operation alone") {
  Heard heard;
  RootScope installed(std::move(heard.root));
  Op<Request> parent{{}};
  Op<Request> current{{}};
  const Query::Result result = wrap<Query>(under(parent), {5}, [&](Op<Query>& op) {
    CHECK(op.parent() == &parent);
    CHECK(Operation::current() == &current);
    return Query::Result{2};
  });
  CHECK(result.rows == 2);
  CHECK_THROWS_AS(wrap<Query>(under(parent), {6}, [] { throw std::runtime_error("no"); }), std::runtime_error);
  CHECK(heard.log == Log{"start 5", "finish 2", "start 6", "unwinding 0"});
}
