#pragma once
// What a family of benchmarks is written with: its rows, the loop that measures one, and what keeps the compiler honest.
//
//   static void format_a_line(benchmark::State& state) {
//     bench::measure(state, [](std::uint64_t i) { bench::use(format(i)); });
//   }
//   std::vector<bench::Row> bench::rows() {
//     return {{.name = "format a line", .run = format_a_line, .limit = "copy, a line", .goal_ns = 20},
//             {.name = "copy, a line", .run = copy_a_line, .role = bench::Role::limit}};
//   }

#include <benchmark/benchmark.h>

#include <cstdint>
#include <string>
#include <vector>

#include "support/allocations.hpp"
#include "support/process.hpp"

namespace bench {

enum class Role { weir, peer, limit };

/// A line of the report.
struct Row {
  /// No '/' and no '"'. What stands before the first comma is what the report calls it as a peer or limit of another row.
  std::string name{};
  /// nullptr: cannot be built here (the library is missing); the report says "not installed".
  void (*run)(benchmark::State&) = nullptr;
  Role role = Role::weir;
  /// The row that does the least that could do the job, in the same process. Empty: none.
  std::string limit{};
  /// Rows that do the same job, or as much of it as they can.
  std::vector<std::string> peers{};
  /// Goals of weir's rows, 0: none. In ns: on the machine on which the goals were set. As a ratio: to the limit.
  double goal_ns = 0;
  double goal_ratio = 0;
  /// Whether it may allocate. A row of weir's that does although it must not makes script/bench fail.
  bool may_allocate = false;
  /// 2: the row is run by two threads at once, and its figure is their throughput over that of the row `one_thread`.
  int threads = 1;
  std::string one_thread{};
  double goal_throughput = 0;  ///< at least
};

/// Defined by each program: its rows.
std::vector<Row> rows();

/// The loop: calls run(0), run(1), … and counts the allocations of the calling thread meanwhile.
template <class F>
void measure(benchmark::State& state, F&& run) {
  const std::uint64_t before = allocations();
  std::uint64_t i = 0;
  for (auto _ : state) run(i++);
  state.counters["allocations"] = {static_cast<double>(allocations() - before) / static_cast<double>(i), benchmark::Counter::kAvgThreads};
}

/// The same for what hands work to another thread: bursts of 1,000 runs, and after each catch_up(), which is not timed and
/// waits for that thread. Stopping the clock adds about half a nanosecond to each run.
template <class F, class G>
void measure_bursts(benchmark::State& state, F&& run, G&& catch_up) {
  constexpr int burst = 1000;
  std::uint64_t i = 0, allocated = 0;
  while (state.KeepRunningBatch(burst)) {
    const std::uint64_t before = allocations();
    for (int k = 0; k < burst; ++k) run(i++);
    allocated += allocations() - before;
    state.PauseTiming();
    catch_up();
    state.ResumeTiming();
  }
  state.counters["allocations"] = {static_cast<double>(allocated) / static_cast<double>(i), benchmark::Counter::kAvgThreads};
}

/// Uses a value without writing it to memory. Listeners that all add to one word measure how fast a processor forwards a
/// store to the next load, and nothing else.
[[gnu::always_inline]] inline void use(std::uint64_t value) { asm volatile("" : : "r"(value)); }

/// Lets the compiler think that somebody reads and writes what `pointer` points to.
[[gnu::always_inline]] inline void escape(const void* pointer) { asm volatile("" : : "r"(pointer) : "memory"); }

/// Hides where a value comes from, so that a call through it stays an indirect one.
template <class T>
[[gnu::always_inline]] inline T hide(T value) {
  asm volatile("" : "+r"(value));
  return value;
}

}  // namespace bench
