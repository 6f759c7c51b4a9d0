// How many spans a second go from services to the collector's store, and what they cost on either side. Services are processes of
// their own; each takes as many spans as the collector does, so that none is dropped. The driver (bench/driver/pipeline.py)
// starts this once per figure.
//
//   pipeline --rows                       the rows, as JSON
//   pipeline ROW [--spans N]              one of them, as JSON
//   pipeline emit SOCKET native|json N    a service (internal)
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "weir/collect/collector.hpp"
#include "weir/trace/socket_sender.hpp"
#include "weir/trace/tracer.hpp"

namespace {

using Clock = std::chrono::steady_clock;

struct Row {
  const char* name;
  weir::Wire wire;
  int services;
  std::uint64_t spans;  // of all services
};
constexpr Row rows[] = {
    {"native, 1 service", weir::Wire::native, 1, 20'000'000},
    {"native, 2 services", weir::Wire::native, 2, 20'000'000},
    {"JSON lines, 1 service", weir::Wire::json, 1, 1'000'000},
    {"JSON lines, 2 services", weir::Wire::json, 2, 1'000'000},
};

void pin(int processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<std::size_t>(processor) % std::thread::hardware_concurrency(), &set);
  (void)::sched_setaffinity(0, sizeof set, &set);
}

double cpu_ns(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
}

/// What a service tells.
struct Report {
  std::atomic<int> connected, go;
  std::atomic<std::uint64_t> delivered, dropped;
  std::atomic<double> cpu;
};

int fail(const std::string& why) {
  std::fprintf(stderr, "pipeline: %s\n", why.c_str());
  return 1;
}

/// Traces of ten spans: nine with two short texts, most of them distinct, and a number, under a root.
void emit_trace(weir::Tracer& tracer, std::uint64_t i) {
  char user[16] = "user-", order[16] = "order-";
  std::snprintf(user + 5, 9, "%08x", static_cast<unsigned>(i));
  std::memcpy(order + 6, user + 7, 7);
  weir::ScopedSpan root = tracer.enter("GET /orders", weir::SpanKind::http);
  for (int child = 0; child < 9; ++child) {
    weir::ScopedSpan span = tracer.enter(child % 3 == 0 ? weir::Name("SELECT orders") : weir::Name("find"), weir::SpanKind::sql);
    span.set("user", std::string_view(user));
    span.set("order", std::string_view(order));
    span.set("row", child);
  }
}

int emit(Report& report, const std::string& socket, weir::Wire wire, std::uint64_t spans, int processor) {
  pin(processor);
  std::thread([] {
    for (;;) ::pause();
  }).detach();  // glibc drops lock prefixes in a process of one thread
  weir::SocketSenderOptions options;
  options.wire = wire;
  weir::Tracer tracer{weir::SocketSender{socket, options}, {.service_name = "bench"}};
  { weir::ScopedSpan first = tracer.enter("first"); }
  if (tracer.flush(std::chrono::seconds{60}).pending != 0) return 1;
  report.connected.fetch_add(1);
  while (report.go == 0) ::usleep(100);
  const double before = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
  constexpr std::uint64_t at_once = 50, most = 4000;  // of about 10,000 that a ring holds
  std::uint64_t allowed = 0;
  double waited = 0;
  for (std::uint64_t i = 0; i < spans / 10; ++i) {
    while (i * 10 >= allowed) {
      const double begin = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
      allowed = tracer.stats().delivered + most;
      if (i * 10 >= allowed) ::sched_yield();
      waited += cpu_ns(CLOCK_THREAD_CPUTIME_ID) - begin;
      if (i * 10 + at_once < allowed) break;
    }
    emit_trace(tracer, i);
  }
  const double cpu = cpu_ns(CLOCK_THREAD_CPUTIME_ID) - before - waited;
  if (tracer.stop(std::chrono::seconds{60}).pending != 0) return 1;
  report.delivered += tracer.stats().delivered;
  report.dropped += tracer.stats().dropped();
  report.cpu = report.cpu + cpu;
  return 0;
}

int run(const Row& row, std::uint64_t spans) {
  std::string directory = "/tmp/weir-bench-XXXXXX";
  if (::mkdtemp(directory.data()) == nullptr) return fail("cannot make a directory in /tmp");
  const std::string socket = directory + "/s";
  auto* report = static_cast<Report*>(::mmap(nullptr, sizeof(Report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  std::vector<pid_t> services;
  for (int i = 0; i < row.services; ++i) {
    services.push_back(::fork());
    if (services.back() == 0) {
      while (report->go.load() < 0) ::usleep(100);
      ::_exit(emit(*report, socket, row.wire, spans / static_cast<std::uint64_t>(row.services), i + 1));
    }
  }
  pin(0);
  weir::Collector collector{socket};
  if (const auto listening = collector.listen(); !listening) return fail(listening.error().message);
  weir::StopSource stop;
  std::atomic<double> collector_cpu{0};
  std::thread serving([&] {
    (void)collector.serve(stop.token());
    collector_cpu = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
  });
  while (report->connected < row.services) ::usleep(100);
  const double idle_cpu = cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
  const auto begin = Clock::now();
  report->go = 1;
  int failed = 0;
  for (const pid_t service : services) {
    int status = 0;
    ::waitpid(service, &status, 0);
    failed += status != 0;
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  const double cpu = cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - idle_cpu;
  stop.request_stop();
  serving.join();
  const weir::CollectorStats stats = collector.stats();
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  ::rmdir(directory.c_str());
  const auto all = static_cast<double>(spans);
  if (failed != 0) return fail("a service failed");
  if (stats.store.spans != report->delivered)
    return fail("the collector has " + std::to_string(stats.store.spans) + " spans of " + std::to_string(report->delivered));
  std::printf(
      R"({"spans_per_second": %.0f, "service_ns": %.2f, "collector_ns": %.2f, "dropped": %llu, "collector_peak_mib": %.1f, "store_mib": %.1f, "kept_traces": %zu})"
      "\n",
      all / seconds, report->cpu / all, cpu / all, static_cast<unsigned long long>(report->dropped),
      static_cast<double>(usage.ru_maxrss) / 1024, static_cast<double>(stats.store.bytes) / 1048576, stats.store.kept_traces);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view what = argc > 1 ? argv[1] : "";
  if (what == "--rows") {
    std::printf("[");
    for (const Row& row : rows) std::printf("%s\"%s\"", &row == rows ? "" : ", ", row.name);
    std::printf("]\n");
    return 0;
  }
  for (const Row& row : rows) {
    if (what == row.name)
      return run(row, argc > 3 && std::string_view(argv[2]) == "--spans" ? std::strtoull(argv[3], nullptr, 10) : row.spans);
  }
  return fail("no such row: " + std::string(what) + "; --rows lists them");
}
