// How many spans a second go from services to the collector's store, and what they cost on either side. Services are processes of
// their own; each goes on as the collector takes its spans, so that none is dropped. Beside them, the same bytes through a bare
// ring and a bare socket. And how long a span takes services whose collector is killed again and again. The driver
// (bench/driver/pipeline.py) starts this once per figure.
//
//   pipeline --rows                the rows, as JSON
//   pipeline ROW [--spans N]       one of them, as JSON
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <algorithm>
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
  enum class Kind { native, json, ring, socket, killed } kind;
  int services;
  std::uint64_t spans;  // of all services; of `killed`: that the collectors have received in all before the last is killed
};
constexpr Row rows[] = {
    {"native, 1 service", Row::Kind::native, 1, 20'000'000},
    {"native, 2 services", Row::Kind::native, 2, 20'000'000},
    {"JSON lines, 1 service", Row::Kind::json, 1, 1'000'000},
    {"JSON lines, 2 services", Row::Kind::json, 2, 1'000'000},
    {"collector killed, 2 services", Row::Kind::killed, 2, 2'000'000},
    {"bare ring", Row::Kind::ring, 1, 50'000'000},
    {"bare socket", Row::Kind::socket, 1, 5'000'000},
};
constexpr std::size_t record_bytes = 128, lines_bytes = 430;  // of a span as below, in a ring and as two lines

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

/// So that who waits does not take the line from who writes.
void pause() {
  for (int i = 0; i < 100; ++i) __builtin_ia32_pause();
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

int emit(Report& report, const std::string& socket, Row::Kind kind, std::uint64_t spans, int processor) {
  pin(processor);
  std::thread([] {
    for (;;) ::pause();
  }).detach();  // glibc drops lock prefixes in a process of one thread
  weir::SocketSenderOptions options;
  options.wire = kind == Row::Kind::native ? weir::Wire::native : weir::Wire::json;
  weir::Tracer tracer{weir::SocketSender{socket, options}, {.service_name = "bench"}};
  { weir::ScopedSpan first = tracer.enter("first"); }
  if (tracer.flush(std::chrono::seconds{60}).pending != 0) return 1;
  report.connected.fetch_add(1);
  while (report.go == 0) ::usleep(100);
  const double before = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
  constexpr std::uint64_t most = 7000, enough = 2500;  // spans on their way; a ring holds 8,600
  double waited = 0;
  for (std::uint64_t i = 0, allowed = most; i < spans / 10; ++i) {
    if (i * 10 >= allowed) {
      const double begin = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
      do {
        if (kind == Row::Kind::json) {
          ::usleep(50);  // the sender's thread, on the same processor, writes the lines
        } else {
          pause();
        }
        allowed = tracer.stats().delivered + most;
      } while (i * 10 + enough >= allowed);
      waited += cpu_ns(CLOCK_THREAD_CPUTIME_ID) - begin;
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

void print(std::uint64_t spans, double seconds, double service_cpu, double collector_cpu, std::uint64_t dropped) {
  const auto all = static_cast<double>(spans);
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  std::printf(R"({"spans_per_second": %.0f, "service_ns": %.2f, "collector_ns": %.2f, "dropped": %llu, "collector_peak_mib": %.1f})"
              "\n",
              all / seconds, service_cpu / all, collector_cpu / all, static_cast<unsigned long long>(dropped),
              static_cast<double>(usage.ru_maxrss) / 1024);
}

/// What each writes to the other: whole records through a ring of the usual size.
struct BareRing {
  static constexpr std::uint64_t capacity = 1u << 20;
  alignas(128) std::atomic<std::uint64_t> head;
  alignas(128) std::atomic<std::uint64_t> tail;
  alignas(128) char data[capacity];
};

int run_ring(std::uint64_t spans) {
  void* const memory = ::mmap(nullptr, sizeof(BareRing), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return fail("no memory");
  auto& ring = *static_cast<BareRing*>(memory);
  const std::uint64_t end = spans * record_bytes;
  const pid_t writer = ::fork();
  if (writer == 0) {
    pin(1);
    char record[record_bytes] = {};
    std::uint64_t seen = 0;
    for (std::uint64_t at = 0; at < end; at += record_bytes) {
      while (at + record_bytes - seen > BareRing::capacity) {
        pause();
        seen = ring.tail.load(std::memory_order_acquire);
      }
      std::memcpy(record, &at, sizeof at);
      std::memcpy(ring.data + at % BareRing::capacity, record, sizeof record);
      ring.head.store(at + record_bytes, std::memory_order_release);
    }
    ::_exit(0);
  }
  pin(0);
  static char block[16 * 1024];
  const auto begin = Clock::now();
  const double cpu = cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
  for (std::uint64_t at = 0; at < end;) {
    std::uint64_t size = ring.head.load(std::memory_order_acquire) - at;
    if (size == 0) {
      pause();
      continue;
    }
    size = std::min({size, std::uint64_t{sizeof block}, BareRing::capacity - at % BareRing::capacity});
    std::memcpy(block, ring.data + at % BareRing::capacity, size);
    asm volatile("" : : "r"(block) : "memory");
    at += size;
    ring.tail.store(at, std::memory_order_release);
  }
  print(spans, std::chrono::duration<double>(Clock::now() - begin).count(), 0, cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu, 0);
  ::waitpid(writer, nullptr, 0);
  return 0;
}

int run_socket(std::uint64_t spans) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return fail("no sockets");
  const std::uint64_t all = spans * lines_bytes;
  static char buffer[64 * 1024];
  const pid_t writer = ::fork();
  if (writer == 0) {
    pin(1);
    for (std::uint64_t at = 0; at < all;) {
      const ssize_t sent = ::send(ends[1], buffer, std::min<std::uint64_t>(sizeof buffer, all - at), MSG_NOSIGNAL);
      if (sent <= 0) ::_exit(1);
      at += static_cast<std::uint64_t>(sent);
    }
    ::_exit(0);
  }
  pin(0);
  const auto begin = Clock::now();
  const double cpu = cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
  for (std::uint64_t at = 0; at < all;) {
    const ssize_t received = ::recv(ends[0], buffer, sizeof buffer, 0);
    if (received <= 0) return fail("the socket ended");
    at += static_cast<std::uint64_t>(received);
  }
  print(spans, std::chrono::duration<double>(Clock::now() - begin).count(), 0, cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu, 0);
  ::waitpid(writer, nullptr, 0);
  return 0;
}

/// What two services and their collectors tell.
struct Life {
  static constexpr std::uint64_t bucket_ns = 10, buckets = 10'000;  // the last: longer than all others
  std::atomic<std::uint64_t> received;                              // by the collector there is
  std::atomic<std::uint64_t> emitted, dropped, connects;
  std::atomic<int> over, misread;
  std::atomic<std::uint64_t> counts[buckets];  // of spans, by the time they took
};

class Silence final : public weir::Logger {
 public:
  void log(Level, std::string_view, std::span<const weir::Attribute>) noexcept override {}
} silence;

/// A span each 20 microseconds, whoever listens.
int emit_always(Life& life, const std::string& socket, int processor) {
  pin(processor);
  weir::SocketSenderOptions options;
  options.logger = &silence;
  weir::Tracer tracer{weir::SocketSender{socket, options}, {.service_name = "bench"}};
  std::vector<std::uint64_t> counts(Life::buckets);
  for (std::uint64_t i = 0; life.over == 0; ++i) {
    const auto begin = Clock::now();
    {
      weir::ScopedSpan span = tracer.enter("find", weir::SpanKind::sql);
      span.set("user", "user-0017");
      span.set("order", "order-17");
      span.set("row", static_cast<std::int64_t>(i));
    }
    const auto took = static_cast<std::uint64_t>(std::chrono::nanoseconds(Clock::now() - begin).count());
    ++counts[std::min(took / Life::bucket_ns, Life::buckets - 1)];
    while (Clock::now() - begin < std::chrono::microseconds{20}) pause();
  }
  if (tracer.stop(std::chrono::seconds{10}).pending != 0) return 1;
  const weir::TracerStats stats = tracer.stats();
  if (stats.emitted != stats.delivered + stats.dropped()) return 1;
  life.emitted += stats.emitted;
  life.dropped += stats.dropped();
  life.connects += stats.connects;
  for (std::uint64_t i = 0; i < Life::buckets; ++i) life.counts[i] += counts[i];
  return 0;
}

int collect_until_killed(Life& life, const std::string& socket) {
  weir::CollectorOptions options;
  options.logger = &silence;
  weir::Collector collector{socket, options};
  if (const auto listening = collector.listen(); !listening) return fail(listening.error().message);
  weir::StopSource stop;
  std::thread serving([&] { (void)collector.serve(stop.token()); });
  while (life.over < 2) {
    const weir::CollectorStats stats = collector.stats();
    life.received = stats.store.spans;
    if (stats.broken_rings + stats.rejected_records + stats.rejected_malformed != 0) life.misread = 1;
    ::usleep(200);
  }
  stop.request_stop();
  serving.join();
  return 0;
}

int run_killed(int services, std::uint64_t spans) {
  constexpr int kills = 100;
  std::string directory = "/tmp/weir-bench-XXXXXX";
  if (::mkdtemp(directory.data()) == nullptr) return fail("cannot make a directory in /tmp");
  const std::string socket = directory + "/s";
  auto* const life = static_cast<Life*>(::mmap(nullptr, sizeof(Life), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  if (life == MAP_FAILED) return fail("no memory");
  std::vector<pid_t> emitters;
  for (int i = 0; i < services; ++i) {
    emitters.push_back(::fork());
    if (emitters.back() == 0) ::_exit(emit_always(*life, socket, i));
  }
  bool served = true;
  for (int round = 0; served && round <= kills; ++round) {
    life->received = 0;
    const pid_t collector = ::fork();
    if (collector == 0) ::_exit(collect_until_killed(*life, socket));
    const auto begin = Clock::now();
    while (served && life->received < spans / kills) {
      ::usleep(500);
      served = Clock::now() - begin < std::chrono::seconds{30};
    }
    if (round == kills || !served) {  // the last one takes what there is
      life->over = 1;
      for (const pid_t emitter : emitters) {
        int status = 0;
        ::waitpid(emitter, &status, 0);
        served = served && status == 0;
      }
      life->over = 2;
    } else {
      ::kill(collector, SIGKILL);
    }
    ::waitpid(collector, nullptr, 0);
  }
  ::unlink(socket.c_str());
  ::rmdir(directory.c_str());
  if (!served) return fail("a service was not served, or lost count");
  if (life->misread != 0) return fail("a collector misread something");
  std::uint64_t all = 0, seen = 0, slowest = 0;
  for (const auto& count : life->counts) all += count;
  while (seen < all - all / 1000) seen += life->counts[slowest++];
  std::printf(R"({"p999_ns": %llu, "spans": %llu, "dropped": %llu, "connects": %llu})"
              "\n",
              static_cast<unsigned long long>(slowest * Life::bucket_ns), static_cast<unsigned long long>(life->emitted),
              static_cast<unsigned long long>(life->dropped), static_cast<unsigned long long>(life->connects));
  return 0;
}

int run(const Row& row, std::uint64_t spans) {
  if (row.kind == Row::Kind::ring) return run_ring(spans);
  if (row.kind == Row::Kind::socket) return run_socket(spans);
  if (row.kind == Row::Kind::killed) return run_killed(row.services, spans);
  std::string directory = "/tmp/weir-bench-XXXXXX";
  if (::mkdtemp(directory.data()) == nullptr) return fail("cannot make a directory in /tmp");
  const std::string socket = directory + "/s";
  auto* report = static_cast<Report*>(::mmap(nullptr, sizeof(Report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  std::vector<pid_t> services;
  for (int i = 0; i < row.services; ++i) {
    services.push_back(::fork());
    if (services.back() == 0) {
      ::_exit(emit(*report, socket, row.kind, spans / static_cast<std::uint64_t>(row.services), i + 1));
    }
  }
  pin(0);
  weir::Collector collector{socket};
  if (const auto listening = collector.listen(); !listening) return fail(listening.error().message);
  weir::StopSource stop;
  std::thread serving([&] { (void)collector.serve(stop.token()); });
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
  ::rmdir(directory.c_str());
  if (failed != 0) return fail("a service failed");
  if (stats.store.spans != report->delivered) {
    return fail("the collector has " + std::to_string(stats.store.spans) + " spans of " + std::to_string(report->delivered));
  }
  print(spans, seconds, report->cpu, cpu, report->dropped);
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
