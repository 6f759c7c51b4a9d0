// An observer at the root. It listens to every type there is, which is why it has a process of its own.

#include <memory>

#include "operation_peers.hpp"
#include "support/bench.hpp"
#include "weir/operation/operation.hpp"

namespace {

struct Work {
  struct Args {
    std::uint64_t value;
  };
  struct Result {
    std::uint64_t value = 0;
  };
};

struct Hears : weir::Observer {
  void started(weir::Operation& operation, const weir::EventView& args) override {
    bench::escape(&operation);
    bench::use(args.has_value());
  }
  void finished(weir::Operation& operation, const weir::EventView& result) override { started(operation, result); }
};

void start_finish(benchmark::State& state) {
  weir::Root root;
  root.observe(std::make_shared<Hears>());
  const weir::RootScope installed(std::move(root));
  bench::measure(state, [](std::uint64_t i) {
    weir::Op<Work> operation{{i}};
    bench::escape(&operation);
    operation.finish({i});
  });
}

}  // namespace

std::vector<bench::Row> bench::rows() {
  using namespace bench::peers;
  return {
      {.name = "start + finish, an observer", .run = start_finish, .limit = "bare array, 1+1", .peers = {"virtual call, 2"}},
      {.name = "bare array, 1+1", .run = bare_array<1, 2, 1>, .role = Role::limit},
      {.name = "virtual call, 2", .run = virtual_call<2>, .role = Role::peer},
  };
}
