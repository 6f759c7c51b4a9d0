// System calls that fail, and memory that there is none of. For each call and each n, the n-th one of it fails once while a service
// traces to a native collector and stops; nothing crashes or hangs, and the counts add up.
#include "support/catch.hpp"
#include "support/sanitizers.hpp"

#if !defined(WEIR_TESTS_TSAN)  // which stands in the place of these calls itself
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <new>
#include <string>
#include <system_error>
#include <thread>

#include "support/eventually.hpp"
#include "support/running_collector.hpp"
#include "support/scratch_dir.hpp"
#include "weir/collect/collector.hpp"
#include "weir/trace/socket_sender.hpp"
#include "weir/trace/tracer.hpp"

using namespace std::chrono_literals;
using namespace weir;
using weir::testing::eventually;
using weir::testing::ScratchDir;
using weir::testing::silent;

namespace {

/// Which call fails next, and how.
struct Fault {
  const char* call = nullptr;
  std::atomic<long> countdown{-1};  // 0: it failed
  int error = 0;                    // of `new`: none
} fault;

bool fails(std::string_view call) {
  if (fault.call == nullptr || call != fault.call || fault.countdown.load() <= 0 || fault.countdown.fetch_sub(1) != 1) return false;
  errno = fault.error;
  return true;
}

template <class F>
F* next(const char* name) {
  return reinterpret_cast<F*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

#define WEIR_FAILING(result, name, parameters, arguments)           \
  extern "C" result name parameters {                               \
    static auto* const real = next<result parameters>(#name);       \
    return fails(#name) ? static_cast<result>(-1) : real arguments; \
  }
WEIR_FAILING(ssize_t, send, (int fd, const void* data, std::size_t size, int flags), (fd, data, size, flags))
WEIR_FAILING(ssize_t, sendmsg, (int fd, const msghdr* message, int flags), (fd, message, flags))
WEIR_FAILING(ssize_t, recv, (int fd, void* data, std::size_t size, int flags), (fd, data, size, flags))
WEIR_FAILING(ssize_t, recvmsg, (int fd, msghdr* message, int flags), (fd, message, flags))
WEIR_FAILING(int, socket, (int domain, int type, int protocol), (domain, type, protocol))
WEIR_FAILING(int, connect, (int fd, const sockaddr* address, socklen_t size), (fd, address, size))
WEIR_FAILING(int, accept4, (int fd, sockaddr* address, socklen_t* size, int flags), (fd, address, size, flags))
WEIR_FAILING(int, getsockopt, (int fd, int level, int name, void* value, socklen_t* size) noexcept, (fd, level, name, value, size))
WEIR_FAILING(int, epoll_wait, (int fd, epoll_event* events, int size, int timeout), (fd, events, size, timeout))
WEIR_FAILING(int, epoll_ctl, (int fd, int operation, int other, epoll_event* event) noexcept, (fd, operation, other, event))
WEIR_FAILING(int, poll, (pollfd * fds, nfds_t count, int timeout), (fds, count, timeout))
WEIR_FAILING(int, ppoll, (pollfd * fds, nfds_t count, const timespec* timeout, const sigset_t* mask), (fds, count, timeout, mask))
WEIR_FAILING(int, eventfd, (unsigned value, int flags) noexcept, (value, flags))
WEIR_FAILING(int, memfd_create, (const char* name, unsigned flags) noexcept, (name, flags))
WEIR_FAILING(int, ftruncate, (int fd, off_t size) noexcept, (fd, size))
WEIR_FAILING(int, madvise, (void* at, std::size_t size, int advice) noexcept, (at, size, advice))
WEIR_FAILING(int, fstat, (int fd, struct stat* status) noexcept, (fd, status))
WEIR_FAILING(ssize_t, read, (int fd, void* data, std::size_t size), (fd, data, size))

extern "C" void* mmap(void* at, std::size_t size, int protection, int flags, int fd, off_t offset) noexcept {
  static auto* const real = next<void*(void*, std::size_t, int, int, int, off_t)>("mmap");
  // Those of shared memory only: the others are the allocator's.
  return fd >= 0 && fails("mmap") ? MAP_FAILED : real(at, size, protection, flags, fd, offset);
}
extern "C" int fcntl64(int fd, int command, ...) {
  static auto* const real = next<int(int, int, ...)>("fcntl64");
  va_list arguments;
  va_start(arguments, command);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  return fails("fcntl") ? -1 : real(fd, command, argument);
}
extern "C" int fcntl(int fd, int command, ...) {
  static auto* const real = next<int(int, int, ...)>("fcntl");
  va_list arguments;
  va_start(arguments, command);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  return fails("fcntl") ? -1 : real(fd, command, argument);
}
/// Fails in the thread that sends, and in the one that serves.
void* operator new(std::size_t size) {
  if (fault.call != nullptr && std::string_view(fault.call).starts_with("weir-")) {
    char name[16] = {};
    ::pthread_getname_np(::pthread_self(), name, sizeof name);
    if (fails(name)) throw std::bad_alloc();
  }
  if (void* const memory = std::malloc(size != 0 ? size : 1)) return memory;
  throw std::bad_alloc();
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  try {
    return operator new(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*), void* argument) noexcept {
  static auto* const real = next<int(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*)>("pthread_create");
  return fails("pthread_create") ? EAGAIN : real(thread, attributes, body, argument);
}

namespace {

/// A service that traces to a collector beside it. `fault` may strike at any moment of the tracer's life.
void trace_and_stop(const std::string& directory, Wire wire, const char* call) {
  CollectorOptions quiet;
  quiet.logger = &silent;
  const std::string path = directory + "/s";
  Collector collector{path, quiet};
  REQUIRE(collector.listen());
  StopSource stop;
  std::atomic<bool> serving{true};
  std::thread thread([&] {
    ::pthread_setname_np(::pthread_self(), "weir-serve");
    // A kernel that refuses to wait, or to give memory for a connection, ends a serve; whoever runs a collector starts it again.
    while (!collector.serve(stop.token()) && !stop.stop_requested()) {
      if (!collector.listen()) break;
    }
    serving = false;
  });
  {
    SocketSenderOptions options;
    options.wire = wire;
    options.logger = &silent;
    fault.call = call;
    Tracer tracer{SocketSender{path, options}};
    for (int i = 0; i < 20; ++i) ScopedSpan span = tracer.enter("x");
    const auto more = [&] {
      for (int i = 0; i < 20; ++i) ScopedSpan span = tracer.enter("of a thread");
    };
    try {
      std::thread(more).join();
    } catch (const std::system_error&) {  // it was this thread that could not be
      more();
    }
    (void)tracer.flush(2s);
    for (int i = 0; i < 20; ++i) ScopedSpan span = tracer.enter("y");
    (void)tracer.stop(2s);
    const TracerStats stats = tracer.stats();
    CHECK(stats.emitted == 60);
    CHECK(stats.emitted == stats.delivered + stats.dropped() + stats.in_flight);
  }
  fault.call = nullptr;
  stop.request_stop();
  thread.join();
  // What comes later finds everything in order.
  Collector again{path, quiet};
  REQUIRE(again.listen());
  StopSource stop_again;
  std::thread second([&] { (void)again.serve(stop_again.token()); });
  {
    Tracer tracer{SocketSender{path, {.wire = wire, .logger = &silent}}};
    for (int i = 0; i < 5; ++i) ScopedSpan span = tracer.enter("after");
    CHECK(tracer.stop(60s).pending == 0);
    CHECK(tracer.stats().delivered == 5);
  }
  stop_again.request_stop();
  second.join();
}

}  // namespace

TEST_CASE("whatever call fails, at whatever moment, the service goes on and the counts add up") {
  struct Case {
    const char* call;
    int error;
  };
  const Case cases[] = {{"send", ENOBUFS},          {"send", EPIPE},       {"sendmsg", ECONNRESET},   {"sendmsg", ETOOMANYREFS},
                        {"recv", ECONNRESET},       {"recvmsg", ENOMEM},   {"socket", EMFILE},        {"connect", EAGAIN},
                        {"connect", EINTR},         {"accept4", EMFILE},   {"accept4", ECONNABORTED}, {"getsockopt", ENOBUFS},
                        {"epoll_ctl", ENOSPC},      {"epoll_wait", EINTR}, {"poll", EINTR},           {"poll", ENOMEM},
                        {"ppoll", EINTR},           {"eventfd", EMFILE},   {"memfd_create", ENOSYS},  {"ftruncate", ENOSPC},
                        {"madvise", EINVAL},        {"fstat", EIO},        {"mmap", ENOMEM},          {"fcntl", EPERM},
                        {"pthread_create", EAGAIN}, {"weir-send", 0},      {"weir-serve", 0}};
  ScratchDir dir;
  for (const Case& one : cases) {
    for (const Wire wire : {Wire::automatic, Wire::json}) {
      for (long n = 1; n <= 60; ++n) {
        CAPTURE(one.call, one.error, n, static_cast<int>(wire));
        fault.error = one.error;
        fault.countdown = n;
        trace_and_stop(dir.path(), wire, one.call);
        if (fault.countdown > 0) break;  // there are not that many
      }
    }
  }
}
#endif
