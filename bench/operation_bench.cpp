// Operations, beside what else tells listeners that something happened (operation_peers.hpp).
//
// "Nothing listens" means: to that type, anywhere in the process, ever (the flag is sticky). Therefore every row has operation
// types of its own, and observers, who listen to every type, are in another program (observer_bench.cpp).

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>

#include "operation_peers.hpp"
#include "support/bench.hpp"
#include "weir/operation/operation.hpp"

namespace {

using bench::use;

/// The operation that is measured; the numbers make each row's type its own.
template <int depth, int listeners>
struct Work {
  struct Args {
    std::uint64_t value;
  };
  struct Result {
    std::uint64_t value = 0;
  };
};
/// What it runs inside of, and what has other listeners.
struct Outer : Work<0, 0> {};
struct Other : Work<0, 1> {};
template <int depth>
struct Tick {
  std::uint64_t value;
};

/// Installs the root that `prepare` has prepared while it lives. With several threads one of them does it for all: the
/// loops begin when all have come to them.
struct Installed {
  template <class F>
  Installed(const benchmark::State& state, F prepare) {
    if (state.thread_index() != 0) return;
    weir::Root root;
    prepare(root);
    scope = std::make_unique<weir::RootScope>(std::move(root));
  }
  std::unique_ptr<weir::RootScope> scope;
};

/// Runs `run` inside of so many operations.
template <int levels, class F>
void inside(F run) {
  if constexpr (levels == 0) {
    run();
  } else {
    weir::Op<Outer> outer{{0}};
    inside<levels - 1>(run);
  }
}

template <class T>
void listen(weir::Root& root) {
  root.on_start<T>([](weir::Op<T>&, const typename T::Args& args) { use(args.value); });
  root.on_finish<T>([](weir::Op<T>&, const typename T::Result& result) { use(result.value); });
}

/// One operation, start to finish, `depth` nodes below the top; so many start and as many finish listeners at the root.
template <int depth, int listeners>
void start_finish(benchmark::State& state) {
  using T = Work<depth, listeners>;
  const Installed installed(state, [](weir::Root& root) {
    for (int i = 0; i < listeners; ++i) listen<T>(root);
  });
  inside<depth - 1>([&] {
    bench::measure(state, [](std::uint64_t i) {
      weir::Op<T> operation{{i}};
      bench::escape(&operation);
      operation.finish({i});
    });
  });
}

void start_finish_others_heard(benchmark::State& state) {
  struct Unheard : Work<-1, 0> {};
  const Installed installed(state, listen<Other>);
  bench::measure(state, [](std::uint64_t i) {
    weir::Op<Unheard> operation{{i}};
    bench::escape(&operation);
    operation.finish({i});
  });
}

template <int depth>
void data(benchmark::State& state) {
  const Installed installed(state, [](weir::Root& root) { root.on_data<Tick<depth>>([](const Tick<depth>& tick) { use(tick.value); }); });
  inside<depth - 1>([&] {
    weir::Op<Outer> operation{{0}};
    bench::measure(state, [&](std::uint64_t i) { operation.emit(Tick<depth>{i}); });
  });
}

/// The time of registering alone. Stopping the clock twice for 1,000 registrations adds about half a nanosecond to each.
void register_many(benchmark::State& state) {
  constexpr int many = 1000;
  const std::uint64_t before = bench::allocations();
  std::uint64_t registered = 0;
  while (state.KeepRunningBatch(many)) {
    state.PauseTiming();
    {
      weir::Op<Outer> operation{{0}};
      state.ResumeTiming();
      for (int i = 0; i < many; ++i, ++registered) operation.on_data<Tick<0>>([registered] { use(registered); });
      state.PauseTiming();
    }
    state.ResumeTiming();
  }
  state.counters["allocations"] = static_cast<double>(bench::allocations() - before) / static_cast<double>(registered);
}

void register_and_finish(benchmark::State& state) {
  const Installed installed(state, [](weir::Root&) {});
  bench::measure(state, [](std::uint64_t i) {
    weir::Op<Outer> operation{{i}};
    operation.on_finish<Other>([i] { use(i); });
    operation.finish();
  });
}

void swap_root(benchmark::State& state) {
  const Installed installed(state, [](weir::Root&) {});
  bench::measure(state, [](std::uint64_t) { weir::swap_root(weir::Root{}); });
}

/// What replaces something that threads use without a shared write has to do at the least.
void heavy_barrier(benchmark::State& state) {
  ::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
  if (::syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) != 0) return state.SkipWithError("the kernel has no membarrier");
  bench::measure(state, [](std::uint64_t) { ::syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0); });
}

}  // namespace

std::vector<bench::Row> bench::rows() {
  using namespace bench::peers;
  const std::vector<std::string> for_1_1{"virtual call, 2", "std::function, 1+1", "Boost.Signals2, 1+1"};
  const std::vector<std::string> for_8_8{"bare array, 8+8", "std::function, 8+8", "Boost.Signals2, 8+8"};
  const std::vector<std::string> for_data{"virtual call, 1", "std::function, 1", "Boost.Signals2, 1"};
  return {
      {.name = "start + finish, no listener, depth 1", .run = start_finish<1, 0>, .limit = "bare node", .goal_ns = 4},
      {.name = "start + finish, no listener, depth 4", .run = start_finish<4, 0>, .limit = "bare node", .goal_ns = 4},
      {.name = "start + finish, no listener, depth 16", .run = start_finish<16, 0>, .limit = "bare node", .goal_ns = 4},
      {.name = "start + finish, listeners of other types", .run = start_finish_others_heard, .limit = "bare node", .goal_ns = 4},
      {.name = "start + finish, 1+1 listeners, depth 1",
       .run = start_finish<1, 1>,
       .limit = "bare array, 1+1, depth 1",
       .peers = for_1_1,
       .goal_ns = 11},
      // 1 ns for each further level
      {.name = "start + finish, 1+1 listeners, depth 4",
       .run = start_finish<4, 1>,
       .limit = "bare array, 1+1, depth 4",
       .peers = for_1_1,
       .goal_ns = 14},
      {.name = "start + finish, 1+1 listeners, depth 16",
       .run = start_finish<16, 1>,
       .limit = "bare array, 1+1, depth 16",
       .peers = for_1_1,
       .goal_ns = 26},
      {.name = "start + finish, 8+8 listeners",
       .run = start_finish<1, 8>,
       .limit = "indirect call, 16",
       .peers = for_8_8,
       .goal_ratio = 1.4},
      {.name = "start + finish, 1+1 listeners, 2 threads",
       .run = start_finish<1, 1>,
       .limit = "bare array, 1+1, 2 threads",
       .peers = {"Boost.Signals2, 1+1, 2 threads"},
       .threads = 2,
       .one_thread = "start + finish, 1+1 listeners, depth 1",
       .goal_throughput = 1.9},
      {.name = "data event, 1 listener, depth 1", .run = data<1>, .limit = "bare array, 1, depth 1", .peers = for_data, .goal_ns = 4},
      {.name = "data event, 1 listener, depth 16", .run = data<16>, .limit = "bare array, 1, depth 16", .peers = for_data, .goal_ns = 11},
      {.name = "register a listener", .run = register_many, .limit = "malloc + free", .goal_ns = 12, .may_allocate = true},
      {.name = "start, register a listener, finish",
       .run = register_and_finish,
       .limit = "malloc + free",
       .peers = {"std::function, register and drop", "Boost.Signals2, register and drop"},
       .goal_ns = 40,
       .may_allocate = true},
      {.name = "swap_root", .run = swap_root, .limit = "membarrier", .may_allocate = true},

      {.name = "bare node", .run = bare_node, .role = Role::limit},
      {.name = "bare array, 1, depth 1", .run = bare_array<1, 1, 1>, .role = Role::limit},
      {.name = "bare array, 1, depth 16", .run = bare_array<16, 1, 1>, .role = Role::limit},
      {.name = "bare array, 1+1, depth 1", .run = bare_array<1, 2, 1>, .role = Role::limit},
      {.name = "bare array, 1+1, depth 4", .run = bare_array<4, 2, 1>, .role = Role::limit},
      {.name = "bare array, 1+1, depth 16", .run = bare_array<16, 2, 1>, .role = Role::limit},
      {.name = "bare array, 1+1, 2 threads",
       .run = bare_array<1, 2, 1>,
       .role = Role::limit,
       .threads = 2,
       .one_thread = "bare array, 1+1, depth 1"},
      {.name = "indirect call, 16", .run = indirect_call<16>, .role = Role::limit},
      {.name = "malloc + free", .run = allocate, .role = Role::limit},
      {.name = "membarrier", .run = heavy_barrier, .role = Role::limit},

      {.name = "virtual call, 1", .run = virtual_call<1>, .role = Role::peer},
      {.name = "virtual call, 2", .run = virtual_call<2>, .role = Role::peer},
      {.name = "bare array, 8+8", .run = bare_array<1, 2, 8>, .role = Role::peer},
      {.name = "std::function, 1", .run = functions<1, 1>, .role = Role::peer},
      {.name = "std::function, 1+1", .run = functions<2, 1>, .role = Role::peer},
      {.name = "std::function, 8+8", .run = functions<2, 8>, .role = Role::peer},
      {.name = "std::function, register and drop", .run = register_function, .role = Role::peer},
      {.name = "Boost.Signals2, 1", .run = signals2<1, 1>, .role = Role::peer},
      {.name = "Boost.Signals2, 1+1", .run = signals2<2, 1>, .role = Role::peer},
      {.name = "Boost.Signals2, 8+8", .run = signals2<2, 8>, .role = Role::peer},
      {.name = "Boost.Signals2, 1+1, 2 threads",
       .run = signals2<2, 1>,
       .role = Role::peer,
       .threads = 2,
       .one_thread = "Boost.Signals2, 1+1"},
      {.name = "Boost.Signals2, register and drop", .run = register_with_signals2, .role = Role::peer},
  };
}
