// A program of benchmarks: takes Google Benchmark's options, and --rows, which prints what the driver (bench/driver) has to
// know of its rows as JSON.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iomanip>
#include <iostream>
#include <memory>

#include "support/bench.hpp"

namespace {

using bench::Role;
using bench::Row;

void print(const Row& row) {
  const char* role = row.role == Role::weir ? "weir" : row.role == Role::peer ? "peer" : "limit";
  std::cout << "{\"name\": " << std::quoted(row.name) << ", \"role\": \"" << role << "\", \"installed\": " << (row.run != nullptr)
            << ", \"limit\": " << std::quoted(row.limit) << ", \"peers\": [";
  for (std::size_t i = 0; i < row.peers.size(); ++i) std::cout << (i != 0 ? ", " : "") << std::quoted(row.peers[i]);
  std::cout << "], \"goal_ns\": " << row.goal_ns << ", \"goal_ratio\": " << row.goal_ratio
            << ", \"goal_throughput\": " << row.goal_throughput << ", \"may_allocate\": " << row.may_allocate
            << ", \"threads\": " << row.threads << ", \"one_thread\": " << std::quoted(row.one_thread) << "}";
}

void print_rows() {
  std::cout << std::boolalpha << "[";
  const char* separator = "\n";
  for (const Row& row : bench::rows()) {
    std::cout << separator;
    print(row);
    separator = ",\n";
  }
  std::cout << "\n]\n";
}

/// Each thread on a processor of its own, also those that Google Benchmark starts.
void run_pinned(benchmark::State& state, void (*run)(benchmark::State&)) {
  if (!bench::pin(state.thread_index())) {
    state.SkipWithError("there are fewer processors than threads");
    return;
  }
  run(state);
}

bool counts_allocations() {
  const std::uint64_t before = bench::allocations();
  for (auto make : {+[] { bench::escape(std::make_unique<int>(1).get()); }, +[] { std::free(bench::hide(std::malloc(1))); }}) make();
  return bench::allocations() - before == 2;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--rows") == 0) {
    print_rows();
    return 0;
  }
  if (!counts_allocations()) {
    std::fputs("bench: allocations are not counted; is another malloc loaded?\n", stderr);
    return 1;
  }
  bench::start_parked_thread();
  for (const Row& row : bench::rows()) {
    if (row.run == nullptr) continue;
    auto* registered = benchmark::RegisterBenchmark(row.name.c_str(), run_pinned, row.run);
    // Of these the best repetition counts: many short ones, so that both processors are free during some.
    if (row.threads > 1) registered->Threads(row.threads)->UseRealTime()->MinTime(0.01)->Repetitions(15);
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
