#include "cli/doctor.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <CLI/Version.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>

#include "cli/commands.hpp"
#include "cli/output.hpp"
#include "cli/sessions.hpp"
#include "net/unix_socket.hpp"
#include "trace/socket_variable.hpp"
#include "weir/collect/collector.hpp"
#include "weir/core/clock.hpp"
#include "weir/trace/socket_path.hpp"
#include "weir/trace/socket_sender.hpp"
#include "weir/view/tree.hpp"

namespace weir::cli {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string error_text(int error) { return std::system_category().message(error); }

namespace {

using State = Finding::State;

std::string mebibytes(std::uint64_t bytes) { return std::to_string(bytes >> 20) + "MiB"; }

// ── The sockets ──

Finding socket_directory() {
  const std::string socket = default_socket_path(), view = view_socket_path(socket);
  const std::string source = detail::socket_variable() ? "WEIR_SOCKET" : "XDG_RUNTIME_DIR";
  if (view.size() > net::max_socket_path) {
    return {State::missing,
            "'" + view + "' has " + std::to_string(view.size()) + " bytes, and the path of a socket at most " +
                std::to_string(net::max_socket_path),
            "Set " + source + " to something shorter"};
  }
  const std::filesystem::path directory = std::filesystem::path(socket).parent_path();
  std::error_code ignored;
  const bool existed = std::filesystem::exists(directory, ignored);
  auto bound = net::UnixListener::bind((directory / ("d" + std::to_string(::getpid()))).string());
  if (bound) bound->close();
  struct stat status {};
  (void)::stat(directory.c_str(), &status);
  if (!existed) (void)::rmdir(directory.c_str());  // as we found it; stays if somebody else uses it already
  if (!bound) {
    return {State::missing, bound.error().message, "Or set " + source + " to another directory of your own"};
  }
  std::array<char, 8> mode{};
  std::snprintf(mode.data(), mode.size(), "%04o", static_cast<unsigned>(status.st_mode & 07777));
  const std::string found = directory.string() + ", mode " + mode.data() + (existed ? "" : ", is made when it is needed");
  if (const std::string ignored_variable = detail::socket_variable_complaint(); !ignored_variable.empty()) {
    return {State::limited, found + "; " + ignored_variable, "Set it to such a path, for services and weir"};
  }
  const char* const runtime = std::getenv("XDG_RUNTIME_DIR");
  if (detail::socket_variable() || (runtime != nullptr && *runtime == '/')) return {State::ok, found, ""};
  return {State::limited, found + "; XDG_RUNTIME_DIR is not set",
          "Set XDG_RUNTIME_DIR, or WEIR_SOCKET, to the same for services and weir: who has it set looks elsewhere"};
}

Finding collector() {
  const std::string socket = default_socket_path();
  if (net::is_live(socket)) return {State::ok, "one listens on " + socket, ""};
  const std::vector<std::string> others = live_sessions(default_socket_directory());
  if (others.empty())
    return {State::limited, "none listens on " + socket, "Start one with `weir collect`, or for one command with `weir run`"};
  return {State::limited, "none listens on " + socket + ", where services look; others can be viewed on " + others.front(),
          "Set WEIR_SOCKET for services, or start one with `weir collect`"};
}

Finding peer_credentials() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return {State::missing, "no Unix sockets: " + error_text(errno), "Allow socketpair(2) here"};
  }
  const net::Fd one(ends[0]), other(ends[1]);
  const Result<uid_t> uid = net::peer_uid(one);
  if (!uid) return {State::missing, uid.error().message, "Allow getsockopt(2) with SO_PEERCRED here: without it nobody is let in"};
  if (*uid != ::geteuid()) {
    return {State::missing, "SO_PEERCRED says uid " + std::to_string(*uid) + " of a socket of uid " + std::to_string(::geteuid()),
            "Run weir and the services in one user namespace"};
  }
  return {State::ok, "SO_PEERCRED says uid " + std::to_string(*uid), ""};
}

Finding open_files() {
  constexpr rlim_t reserve = 64;  // what the collector keeps for everything but connections
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return {State::limited, "the limit is unknown: " + error_text(errno), ""};
  const std::string found = "at most " + std::to_string(limit.rlim_cur);
  if (limit.rlim_cur <= reserve) return {State::missing, found + ": no service is let in", "Raise it with ulimit -n"};
  if (limit.rlim_cur - reserve < CollectorOptions{}.max_connections) {
    return {State::limited, found + ": " + std::to_string(limit.rlim_cur - reserve) + " services at a time", "Raise it with ulimit -n"};
  }
  return {State::ok, found, ""};
}

// ── Shared memory ──

const char* const over_the_socket = "Services send their spans over the socket instead, and a killed one loses more";

/// A sealed memfd of a page, as a service makes one.
Result<net::Fd> sealed_memory() {
  net::Fd fd(::memfd_create("weir-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return system_error(errno, "memfd_create");
  constexpr int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  if (::ftruncate(fd.get(), 4096) != 0) return system_error(errno, "ftruncate");
  if (::fcntl(fd.get(), F_ADD_SEALS, seals) != 0 || (::fcntl(fd.get(), F_GET_SEALS) & seals) != seals) {
    return system_error(errno, "sealing");
  }
  return fd;
}

Finding memfd() {
  const Result<net::Fd> memory = sealed_memory();
  if (!memory) return {State::limited, memory.error().message, over_the_socket};
  return {State::ok, "memfd_create, with seals", ""};
}

Finding mapping() {
  const Result<net::Fd> memory = sealed_memory();
  if (!memory) return {State::limited, "there is nothing to map", over_the_socket};
  void* const page = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, memory->get(), 0);
  if (page == MAP_FAILED) return {State::limited, "mapping it: " + error_text(errno), over_the_socket};
  ::munmap(page, 4096);
  return {State::ok, "a sealed memfd can be mapped", ""};
}

Finding file_size() {
  const std::uint64_t wanted = SocketSenderOptions{}.max_total_bytes * 2;  // rings, their headers, names
  rlimit limit{};
  if (::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return {State::ok, "no limit", ""};
  const std::string found = "at most " + mebibytes(limit.rlim_cur);
  if (limit.rlim_cur >= wanted) return {State::ok, found, ""};
  return {State::limited, found + ", and the rings of a service may need " + mebibytes(wanted),
          "Raise it with ulimit -f, or make less rings"};
}

/// The least of memory.max of our cgroup and those above it; 0: none.
std::uint64_t cgroup_memory() {
  std::ifstream file("/proc/self/cgroup");
  std::uint64_t least = 0;
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("0::/")) continue;
    for (std::filesystem::path at = line.substr(4);; at = at.parent_path()) {
      const std::string text = first_line((std::filesystem::path("/sys/fs/cgroup") / at / "memory.max").string());
      std::uint64_t bytes = 0;
      if (std::from_chars(text.data(), text.data() + text.size(), bytes).ec == std::errc{} && (least == 0 || bytes < least)) least = bytes;
      if (at.empty()) break;
    }
  }
  return least;
}

Finding memory() {
  const std::uint64_t wanted = TraceStoreOptions{}.max_bytes * 2;  // and what the rest of the process takes
  const std::uint64_t mapped = std::uint64_t{4} << 30;
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < mapped) {
    return {State::limited, "a process may map at most " + mebibytes(limit.rlim_cur) + ": the rings of few services",
            "Raise it with ulimit -v, or start the collector with --no-shared-memory"};
  }
  const std::uint64_t group = cgroup_memory();
  if (group != 0 && group < wanted) {
    return {State::limited, "this control group has at most " + mebibytes(group),
            "Start the collector with --max-memory " + mebibytes(group / 4)};
  }
  return {State::ok, group == 0 ? "no limit" : "at most " + mebibytes(group), ""};
}

// ── Speed ──

Finding membarrier() {
#if defined(SYS_membarrier)
  constexpr int private_expedited = 1 << 3, register_private_expedited = 1 << 4;
  if (::syscall(SYS_membarrier, register_private_expedited, 0, 0) == 0 && ::syscall(SYS_membarrier, private_expedited, 0, 0) == 0) {
    return {State::ok, "private, expedited", ""};
  }
  return {State::limited, error_text(errno), "Operations are slower without; allow membarrier(2) here"};
#else
  return {State::limited, "built without", "Operations are slower without"};
#endif
}

Finding clock() {
  const std::string source = first_line("/sys/devices/system/clocksource/clocksource0/current_clocksource");
  if (detail::tsc_trusted()) return {State::ok, "the time-stamp counter", ""};
  std::ifstream file("/proc/cpuinfo");
  bool invariant = false;
  for (std::string line; !invariant && std::getline(file, line);) {
    invariant = line.starts_with("flags") && line.find(" constant_tsc") != line.npos && line.find(" nonstop_tsc") != line.npos;
  }
  return {State::limited, "clock_gettime: the kernel's clock source is " + (source.empty() ? "unknown" : source),
          invariant ? "The counter of this processor is invariant; a span is cheaper with the kernel parameter clocksource=tsc" : ""};
}

// ── Libraries ──

Finding library(bool there, const std::string& without, const std::string& package) {
  if (there) return {State::ok, "built with it", ""};
  return {State::limited, "built without: no " + without, "Install " + package + " and build weir again"};
}

Finding cli11() { return {State::ok, "built with " CLI11_VERSION, ""}; }
Finding httplib() { return library(WEIR_HAVE_HTTPLIB, "`weir collect --http`", "libcpp-httplib-dev"); }
Finding sqlite() { return library(WEIR_HAVE_SQLITE3, "`weir collect --db`, no --telemetry-db", "libsqlite3-dev"); }
Finding curl() { return library(WEIR_HAVE_CURL, "HttpTransport", "libcurl4-openssl-dev"); }
Finding libbpf() { return library(WEIR_HAVE_BPF, "the eBPF detector of `weir agent`", "clang bpftool libbpf-dev"); }
#if WEIR_HAVE_SIMDJSON
Finding simdjson() { return library(true, "", ""); }
#endif

// ── What was found ──

std::string_view name_of(State state) {
  switch (state) {
    case State::ok: return "ok";
    case State::limited: return "limited";
    case State::missing: return "missing";
  }
  return "";
}

}  // namespace

const std::vector<Probe>& probes() {
  static const std::vector<Probe> all = [] {
    std::vector<Probe> made {
      {"socket directory", true, socket_directory, "a collector and services that find it"},
          {"peer credentials", true, peer_credentials, "telling who connects"},
          {"open files", true, open_files, "connections to a collector"}, {"collector", false, collector}, {"shared memory", false, memfd},
          {"mapping it", false, mapping}, {"file size", false, file_size}, {"memory", false, memory}, {"membarrier", false, membarrier},
          {"clock of spans", false, clock}, {"CLI11", false, cli11}, {"cpp-httplib", false, httplib}, {"SQLite", false, sqlite},
          {"curl", false, curl}, {"libbpf", false, libbpf},
#if WEIR_HAVE_SIMDJSON
          {"simdjson", false, simdjson},
#endif
    };
    add_kernel_probes(made);
    return made;
  }();
  return all;
}

int doctor(bool json) {
  std::size_t width = 0;
  for (const Probe& probe : probes()) width = std::max(width, probe.name.size());
  std::string text, broken;
  auto checks = nlohmann::ordered_json::array();
  for (const Probe& probe : probes()) {
    const Finding found = probe.look();
    if (probe.needed && found.state == State::missing) broken += (broken.empty() ? "" : ", ") + std::string(probe.name);
    checks.push_back({{"check", probe.name},
                      {"state", name_of(found.state)},
                      {"needed", probe.needed},
                      {"needed_for", probe.purpose},
                      {"reason", printable(found.reason)},
                      {"advice", printable(found.advice)}});
    std::string state(name_of(found.state)), name(probe.name);
    state.resize(9, ' ');
    name.resize(width + 2, ' ');
    const std::string purpose = found.state == State::missing ? ". Needed for " + std::string(probe.purpose) : "";
    text += state + name + printable(found.reason) + purpose + (found.advice.empty() ? "" : ". " + printable(found.advice)) + "\n";
  }
  text += broken.empty() ? "services can be traced here\n" : "services cannot be traced here: see " + broken + "\n";
  if (json) text = nlohmann::ordered_json{{"works", broken.empty()}, {"checks", checks}}.dump() + "\n";
  if (const int error = write_all(STDOUT_FILENO, text); error != 0) {
    return say("cannot write to stdout: " + error_text(error)), exit_failed;
  }
  return broken.empty() ? exit_ok : exit_failed;
}

}  // namespace weir::cli
