// Runs a command without some system calls: without NAME[,NAME…] COMMAND… Those that are named fail with EPERM in it, mmap only
// where it would share memory.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <map>
#include <sstream>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  const std::map<std::string, long> numbers{{"memfd_create", SYS_memfd_create},
                                            {"mmap", SYS_mmap},
                                            {"membarrier", SYS_membarrier},
                                            {"getsockopt", SYS_getsockopt},
                                            {"pidfd_open", SYS_pidfd_open},
                                            {"perf_event_open", SYS_perf_event_open},
                                            {"bpf", SYS_bpf}};
  if (argc < 3) return 98;
  const auto jump = [](unsigned short test, std::size_t value, unsigned char yes, unsigned char no) {
    return sock_filter{static_cast<unsigned short>(BPF_JMP | test | BPF_K), yes, no, static_cast<unsigned>(value)};
  };
  const auto load = [](std::size_t offset) { return sock_filter{BPF_LD | BPF_W | BPF_ABS, 0, 0, static_cast<unsigned>(offset)}; };
  const auto end = [](unsigned what) { return sock_filter{BPF_RET | BPF_K, 0, 0, what}; };
  std::vector<sock_filter> filter;
  std::istringstream names(argv[1]);
  for (std::string name; std::getline(names, name, ',');) {
    filter.push_back(load(offsetof(seccomp_data, nr)));
    if (name == "mmap") {
      filter.push_back(jump(BPF_JEQ, static_cast<std::size_t>(SYS_mmap), 0, 3));
      filter.push_back(load(offsetof(seccomp_data, args) + 3 * sizeof(__u64)));  // the low half: little-endian
      filter.push_back(jump(BPF_JEQ, MAP_SHARED, 0, 1));
    } else {
      filter.push_back(jump(BPF_JEQ, static_cast<std::size_t>(numbers.at(name)), 0, 1));
    }
    filter.push_back(end(SECCOMP_RET_ERRNO | EPERM));
  }
  filter.push_back(end(SECCOMP_RET_ALLOW));
  const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    std::perror("without");
    return 97;
  }
  ::execv(argv[2], argv + 2);
  return 99;
}
