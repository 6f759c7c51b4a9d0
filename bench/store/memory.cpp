// What the store keeps in memory, and that it stays at that: the rows of "memory".
//
//   bench.memory --rows                          the names of the rows, as JSON
//   bench.memory ROW [--spans N]                 one of them, as JSON: megabytes over what the process had at first
#include <unistd.h>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string_view>

#include "store/spans.hpp"

namespace {

using weir::detail::SpanStore;

struct Row {
  const char* name;
  std::uint64_t spans;
  weir::TraceStoreOptions options;
};

weir::TraceStoreOptions kept(std::size_t traces, std::size_t bytes) {
  weir::TraceStoreOptions options;
  options.max_traces = traces;
  options.max_bytes = bytes;
  options.settle = std::chrono::milliseconds{1};
  return options;
}

double resident() {
  std::ifstream file("/proc/self/statm");
  double all = 0, pages = 0;
  file >> all >> pages;
  return pages * static_cast<double>(::sysconf(_SC_PAGESIZE)) / 1e6;
}

int run(const Row& row, std::uint64_t spans) {
  SpanStore store(row.options);
  bench::Spans load(store);
  const std::uint32_t service = store.intern_service("checkout");
  SpanStore::TimePoint now{};
  const double before = resident();
  double early = 0, peak = 0, kept_bytes = 0;
  for (std::uint64_t i = 0; i < spans; ++i) {
    store.apply(load.next(), service, now += bench::per_span);
    if (i % 65'536 != 0 && i + 1 != spans) continue;
    peak = std::max(peak, resident() - before);
    kept_bytes = std::max(kept_bytes, static_cast<double>(store.stats().bytes) / 1e6);
    if (i < spans / 20) early = peak;
  }
  const weir::TraceStoreStats stats = store.stats();
  if (stats.spans != spans || stats.bytes > row.options.max_bytes) {
    std::fprintf(stderr, "memory: the store has %zu bytes of %zu\n", stats.bytes, row.options.max_bytes);
    return 1;
  }
  std::printf(R"({"peak_mb": %.2f, "early_mb": %.2f, "counted_mb": %.2f})"
              "\n",
              peak, early, kept_bytes);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const Row rows[] = {
      {"1 M spans kept", 1'000'000, kept(100'000, std::size_t{1} << 30)},
      {"100 M spans through a bound of 64 MiB", 100'000'000, kept(1'000'000'000, 64u << 20)},
  };
  const std::string_view what = argc > 1 ? argv[1] : "";
  if (what == "--rows") {
    std::printf("[\"%s\", \"%s\"]\n", rows[0].name, rows[1].name);
    return 0;
  }
  for (const Row& row : rows) {
    if (what == row.name)
      return run(row, argc > 3 && std::string_view(argv[2]) == "--spans" ? std::strtoull(argv[3], nullptr, 10) : row.spans);
  }
  std::fprintf(stderr, "memory: no such row; --rows lists them\n");
  return 1;
}
