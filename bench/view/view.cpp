// Spans from a view server to its viewers, one of whom reads nothing, beside the same bytes through bare sockets.
//
//   this process: broadcast() on one thread, serve() on another      a second one: reads from all sockets but one
//
//   bench.view --rows                          the names of the rows, as JSON
//   bench.view ROW [--spans N]                 one of them, as JSON
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "weir/view/view_server.hpp"

namespace {

using Clock = std::chrono::steady_clock;

struct Row {
  const char* name;
  bool bare;
  std::size_t viewers;  // that read; one more does not
  std::uint64_t spans;
};
constexpr Row rows[] = {
    {"broadcast, 1 viewer", false, 1, 2'000'000},    {"broadcast, 8 viewers", false, 8, 1'000'000},
    {"broadcast, 64 viewers", false, 64, 200'000},   {"bare sockets, 1 viewer", true, 1, 2'000'000},
    {"bare sockets, 8 viewers", true, 8, 1'000'000}, {"bare sockets, 64 viewers", true, 64, 200'000},
};
constexpr std::size_t max_viewers = 64;
constexpr std::size_t ahead = 512u << 10;  // bytes that the slowest reader may be behind: half of what is queued for it
constexpr std::size_t block = 64u << 10;   // written to a bare socket at once
constexpr auto patience = std::chrono::seconds{10};

/// What the process of the viewers tells.
struct Report {
  std::atomic<std::uint64_t> received[max_viewers];  // bytes
  std::atomic<bool> connected;
};

double cpu_ns(clockid_t clock = CLOCK_PROCESS_CPUTIME_ID) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
}

int fail(const std::string& why) {
  std::fprintf(stderr, "view: %s\n", why.c_str());
  return 1;
}

weir::Span example() {
  weir::Span span;
  span.id = "0000000000000000";
  span.trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
  span.parent_id = "00f067aa0ba902b7";
  span.name = "SELECT orders";
  span.kind = weir::SpanKind::sql;
  span.start_time = weir::Timestamp{std::chrono::nanoseconds{1'700'000'000'123'456'789}};
  span.end_time = weir::Timestamp{std::chrono::nanoseconds{1'700'000'000'123'556'789}};
  span.attrs = {{"order", "order-123456"}, {"rows", "17"}, {"user", "user-01234567"}};
  return span;
}

/// A span of its own, as long as all others.
void number(weir::Span& span, std::uint64_t i) {
  for (std::size_t at = 16; at-- > 0; i >>= 4) span.id[at] = "0123456789abcdef"[i & 15];
}

std::size_t line_bytes() { return to_json(example()).size() + 1; }

/// Reads from all of `sockets` until they end.
void read_all(Report& report, std::vector<pollfd> sockets) {
  static char buffer[256u << 10];
  for (std::size_t open = sockets.size(); open > 0;) {
    if (::poll(sockets.data(), sockets.size(), -1) < 0) continue;
    for (std::size_t i = 0; i < sockets.size(); ++i) {
      if (sockets[i].revents == 0) continue;
      const ssize_t size = ::recv(sockets[i].fd, buffer, sizeof buffer, MSG_DONTWAIT);
      if (size > 0) {
        report.received[i].fetch_add(static_cast<std::uint64_t>(size), std::memory_order_release);
      } else if (size == 0 || errno != EAGAIN) {
        sockets[i].fd = -1;
        --open;
      }
    }
  }
}

std::uint64_t slowest(const Report& report, std::size_t viewers) {
  std::uint64_t least = UINT64_MAX;
  for (std::size_t i = 0; i < viewers; ++i) least = std::min(least, report.received[i].load(std::memory_order_acquire));
  return least;
}

/// Waits until the slowest viewer has `bytes`. False: it does not get on, for it has lost lines. `waited`: grows by the processor time.
bool wait_for(const Report& report, std::size_t viewers, std::uint64_t bytes, double& waited) {
  const double before_wait = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
  auto last = Clock::now();
  for (std::uint64_t before = 0, now; (now = slowest(report, viewers)) < bytes; before = now) {
    if (now != before) last = Clock::now();
    if (Clock::now() - last > patience) return false;
    ::usleep(20);
  }
  waited += cpu_ns(CLOCK_THREAD_CPUTIME_ID) - before_wait;
  return true;
}

void print(const Row& row, std::uint64_t spans, double seconds, double cpu) {
  std::printf(R"({"spans_per_second": %.0f, "ns_per_line": %.2f})"
              "\n",
              static_cast<double>(spans) / seconds, cpu / static_cast<double>(spans * row.viewers));
}

int connected_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  if (fd < 0 || ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) ::_exit(1);
  return fd;
}

int run_server(const Row& row, Report& report, std::uint64_t spans) {
  std::string directory = "/tmp/weir-bench-XXXXXX";
  if (::mkdtemp(directory.data()) == nullptr) return fail("cannot make a directory in /tmp");
  weir::ViewServer view{directory + "/v", {.stall_limit = std::chrono::hours{1}}};
  if (const auto listening = view.listen(); !listening) return fail(listening.error().message);
  const pid_t viewers = ::fork();
  if (viewers == 0) {
    std::vector<pollfd> sockets;
    for (std::size_t i = 0; i < row.viewers; ++i) sockets.push_back({connected_to(view.socket_path()), POLLIN, 0});
    (void)connected_to(view.socket_path());  // and never read
    report.connected = true;
    read_all(report, std::move(sockets));
    ::_exit(0);
  }
  weir::StopSource stop;
  std::thread serving([&] { (void)view.serve(stop.token()); });
  while (view.conn_count() < row.viewers + 1) ::usleep(100);

  weir::Span span = example();
  const std::uint64_t bytes = line_bytes();
  bool good = true;
  double waited = 0;
  const double cpu = cpu_ns();
  const auto begin = Clock::now();
  for (std::uint64_t i = 0; i < spans && good; ++i) {
    if (i % 64 == 0 && i * bytes > ahead) good = wait_for(report, row.viewers, i * bytes - ahead, waited);
    number(span, i);
    view.broadcast(span);
  }
  good = good && wait_for(report, row.viewers, spans * bytes, waited);
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count(), used = cpu_ns() - cpu - waited;
  stop.request_stop();
  serving.join();
  ::waitpid(viewers, nullptr, 0);
  ::rmdir(directory.c_str());
  if (!good) return fail("a viewer misses spans; " + view.stats().to_json());
  print(row, spans, seconds, used);
  return 0;
}

int run_bare(const Row& row, Report& report, std::uint64_t spans) {
  std::vector<pollfd> readers, writers;
  for (std::size_t i = 0; i < row.viewers; ++i) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return fail("no sockets");
    readers.push_back({ends[0], POLLIN, 0});
    writers.push_back({ends[1], POLLOUT, 0});
  }
  const pid_t viewers = ::fork();
  if (viewers == 0) {
    for (const pollfd& writer : writers) ::close(writer.fd);
    read_all(report, std::move(readers));
    ::_exit(0);
  }
  static char buffer[block];
  const std::uint64_t all = spans * line_bytes();
  std::vector<std::uint64_t> left(row.viewers, all);
  const double cpu = cpu_ns();
  const auto begin = Clock::now();
  for (std::size_t open = row.viewers; open > 0;) {
    if (::poll(writers.data(), writers.size(), -1) < 0) continue;
    for (std::size_t i = 0; i < writers.size(); ++i) {
      if (writers[i].revents == 0) continue;
      const ssize_t sent = ::send(writers[i].fd, buffer, std::min<std::uint64_t>(sizeof buffer, left[i]), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0 && errno != EAGAIN) return fail("a socket ended");
      if (sent > 0) left[i] -= static_cast<std::uint64_t>(sent);
      if (left[i] == 0) writers[i].fd = -1, --open;
    }
  }
  double waited = 0;
  const bool good = wait_for(report, row.viewers, all, waited);
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count(), used = cpu_ns() - cpu - waited;
  ::kill(viewers, SIGKILL);
  ::waitpid(viewers, nullptr, 0);
  if (!good) return fail("a reader hangs");
  print(row, spans, seconds, used);
  return 0;
}

int run(const Row& row, std::uint64_t spans) {
  void* const memory = ::mmap(nullptr, sizeof(Report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return fail("no memory");
  auto& report = *static_cast<Report*>(memory);
  return row.bare ? run_bare(row, report, spans) : run_server(row, report, spans);
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
