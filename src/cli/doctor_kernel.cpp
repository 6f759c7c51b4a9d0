// The probes for what looking at other processes needs.
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <fstream>

#include "cli/doctor.hpp"
#include "instrument/detector_selftest.hpp"
#include "net/fd.hpp"

namespace weir::cli {

namespace {

using State = Finding::State;

Finding pidfd() {
  const net::Fd self(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  if (self) return {State::ok, "pidfd_open", ""};
  return {State::missing, "pidfd_open: " + error_text(errno), "It needs Linux 5.3, and pidfd_open(2) allowed here"};
}

// ── Process events ──

Finding detector(std::string_view name, std::string works) {
  for (const instrument::DetectorSelftest& test : instrument::detector_selftests()) {
    if (test.name != name) continue;
    const Result<void> tried = test.try_it();
    if (tried) return {State::ok, std::move(works), ""};
    return {State::missing, tried.error().message, "`weir agent` takes another way to see processes"};
  }
  return {State::missing, "this weir knows nothing of it", ""};
}

Finding process_events() { return detector("kernel events", "netlink connector: a child of our own was seen"); }
Finding ebpf_events() { return detector("eBPF", "a child of our own was seen"); }
Finding proc_scan() { return detector("/proc", "a child of our own was seen, and its end"); }

// ── perf, BPF, uprobes ──

net::Fd open_event(perf_event_attr& attributes, pid_t process, int cpu) {
  attributes.size = sizeof attributes;
  attributes.disabled = 1;
  return net::Fd(static_cast<int>(::syscall(SYS_perf_event_open, &attributes, process, cpu, -1, PERF_FLAG_FD_CLOEXEC)));
}

Finding perf() {
  const std::string paranoid = first_line("/proc/sys/kernel/perf_event_paranoid");
  const std::string setting = paranoid.empty() ? "" : " (perf_event_paranoid is " + paranoid + ")";
  const std::string advice = "Needs CAP_PERFMON, or sysctl kernel.perf_event_paranoid=0";
  perf_event_attr attributes{};
  attributes.type = PERF_TYPE_SOFTWARE;
  attributes.config = PERF_COUNT_SW_TASK_CLOCK;
  attributes.exclude_kernel = 1;
  if (!open_event(attributes, 0, -1)) return {State::missing, "perf_event_open: " + error_text(errno) + setting, advice};
  attributes.config = PERF_COUNT_SW_CPU_CLOCK;
  attributes.exclude_kernel = 0;
  if (!open_event(attributes, -1, 0)) return {State::limited, "own processes only: " + error_text(errno) + setting, advice};
  return {State::ok, "perf_event_open" + setting, ""};
}

Finding bpf() {
  const std::string disabled = first_line("/proc/sys/kernel/unprivileged_bpf_disabled");
  // r0 = 0; exit
  std::array<bpf_insn, 2> program{};
  program[0].code = BPF_ALU64 | BPF_MOV | BPF_K;
  program[1].code = BPF_JMP | BPF_EXIT;
  bpf_attr attributes{};
  attributes.prog_type = BPF_PROG_TYPE_KPROBE;
  attributes.insns = reinterpret_cast<std::uintptr_t>(program.data());
  attributes.insn_cnt = program.size();
  attributes.license = reinterpret_cast<std::uintptr_t>("GPL");
  const net::Fd loaded(static_cast<int>(::syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes)));
  if (loaded) return {State::ok, "a program for probes can be loaded", ""};
  return {State::missing,
          "loading a program: " + error_text(errno) + (disabled.empty() ? "" : " (unprivileged_bpf_disabled is " + disabled + ")"),
          "Needs CAP_BPF and CAP_PERFMON, and a kernel with CONFIG_BPF_SYSCALL"};
}

Finding btf() {
  constexpr std::uint16_t magic = 0xeb9f;
  const char* const path = "/sys/kernel/btf/vmlinux";
  const net::Fd file(::open(path, O_RDONLY | O_CLOEXEC));
  std::uint16_t begin = 0;
  if (file && ::read(file.get(), &begin, sizeof begin) == sizeof begin && begin == magic) return {State::ok, path, ""};
  return {State::missing, std::string(path) + ": " + (file ? "not BTF" : error_text(errno)), "Needs a kernel with CONFIG_DEBUG_INFO_BTF"};
}

Finding uprobes() {
  const std::string type = first_line("/sys/bus/event_source/devices/uprobe/type");
  perf_event_attr attributes{};
  if (std::from_chars(type.data(), type.data() + type.size(), attributes.type).ec != std::errc{}) {
    return {State::missing, "the kernel does not offer them", "Needs Linux 4.17 with CONFIG_UPROBE_EVENTS, and /sys"};
  }
  std::error_code ignored;
  const std::string self = std::filesystem::read_symlink("/proc/self/exe", ignored).string();
  attributes.uprobe_path = reinterpret_cast<std::uintptr_t>(self.c_str());
  attributes.probe_offset = 0;  // the head of the file, which nobody executes
  if (open_event(attributes, ::getpid(), -1)) return {State::ok, "a probe in our own program can be made", ""};
  return {State::missing, "perf_event_open: " + error_text(errno), "Needs CAP_PERFMON or root"};
}

// ── Other processes ──

Finding ptrace() {
  const std::string scope = first_line("/proc/sys/kernel/yama/ptrace_scope");
  if (scope.empty() || scope == "0") return {State::ok, scope.empty() ? "no Yama" : "ptrace_scope is 0", ""};
  const std::string found = "ptrace_scope is " + scope;
  const std::string advice = "Run as root, or sysctl kernel.yama.ptrace_scope=0";
  if (scope == "1") return {State::limited, found + ": what weir itself starts", advice};
  if (scope == "2") return {::geteuid() == 0 ? State::ok : State::limited, found + ": root alone", ::geteuid() == 0 ? "" : advice};
  return {State::missing, found + ": nobody, until the next boot", ""};
}

Finding cgroup() {
  struct statfs info {};
  constexpr auto cgroup2_magic = 0x63677270;
  if (::statfs("/sys/fs/cgroup", &info) != 0 || info.f_type != cgroup2_magic) {
    return {State::missing, "/sys/fs/cgroup is not that of version 2", "Boot with systemd.unified_cgroup_hierarchy=1, or mount it"};
  }
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("0::/")) continue;
    const std::string own = "/sys/fs/cgroup" + (line.size() > 4 ? line.substr(3) : std::string());
    if (::access(own.c_str(), W_OK) == 0) return {State::ok, own, ""};
    return {State::limited, own + " cannot be written: " + error_text(errno), "Groups of our own need root, or one delegated by systemd"};
  }
  return {State::limited, "our own group is unknown", ""};
}

}  // namespace

void add_kernel_probes(std::vector<Probe>& probes) {
  probes.insert(probes.end(), {{"pidfd", false, pidfd, "`weir agent`, which sees with it that a process ends"},
                               {"process events", false, process_events, "`weir agent --detector kernel-events`"},
                               {"eBPF events", false, ebpf_events, "`weir agent --detector ebpf`"},
                               {"/proc", false, proc_scan, "`weir agent --detector proc`"},
                               {"perf", false, perf, "`weir agent --detector ebpf`"},
                               {"BPF", false, bpf, "`weir agent --detector ebpf`"},
                               {"BTF", false, btf, "`weir agent --detector ebpf`"},
                               {"uprobes", false, uprobes, "factories of your own that probe functions, and for nothing of weir's"},
                               {"ptrace", false, ptrace, "factories of your own that look into processes, and for nothing of weir's"},
                               {"cgroup v2", false, cgroup, "`cgroup` in the file of `weir agent`, and in what `weir ps` says"}});
}

}  // namespace weir::cli
