#include "support/process.hpp"

#include <sched.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace bench {
namespace {

/// The processors this process may use, at most one of each core.
std::vector<int> processors() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  std::vector<int> found;
  std::set<std::string> cores;
  if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) return found;
  for (int processor = 0; processor < CPU_SETSIZE; ++processor) {
    if (!CPU_ISSET(processor, &allowed)) continue;
    const std::string number = std::to_string(processor);
    std::ifstream file("/sys/devices/system/cpu/cpu" + number + "/topology/thread_siblings_list");
    std::string core;
    if (!std::getline(file, core)) core = number;
    if (cores.insert(core).second) found.push_back(processor);
  }
  return found;
}

}  // namespace

void start_parked_thread() {
  std::thread([] {
    while (true) ::pause();
  }).detach();
}

bool pin(int n) {
  static const std::vector<int> available = processors();
  if (n < 0 || static_cast<std::size_t>(n) >= available.size()) return false;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(available[static_cast<std::size_t>(n)], &one);
  return ::sched_setaffinity(0, sizeof one, &one) == 0;
}

}  // namespace bench
